package domain

import (
	"bytes"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"
)

// mostLevels is how deep an element may nest for jsontext to read it: 10,000 levels, and the array is the first. Beyond
// that it cannot go on.
const mostLevels = 10_000 - 1

// nestsBeyond reports whether the JSON value that b begins with nests beyond depth. Most events have fewer brackets in
// all.
func nestsBeyond(b []byte, depth int) bool {
	if bytes.Count(b, []byte("{"))+bytes.Count(b, []byte("[")) <= depth {
		return false
	}
	d := decode(trimSeparator(b))
	defer d.release()
	for {
		kind := d.PeekKind()
		if d.StackDepth() == depth && (kind == '{' || kind == '[') {
			return true
		}
		if _, err := d.ReadToken(); err != nil || d.StackDepth() == 0 {
			return false
		}
	}
}

// separated reports that exactly one comma stands between the last element and what begins behind an offset, or nothing
// in front of the first.
func (s *splitter) separated(start int) bool {
	rest := s.body[start:]
	between := string(bytes.Trim(rest[:len(rest)-len(trimSeparator(rest))], space))
	return between == "" && s.seen == 0 || between == "," && s.seen > 0
}

// splitDeep splits the rest of the array from an element on that nests deeper than jsontext reads. gjson finds where an
// element ends by its brackets alone, at one pace whatever the depth; what jsontext can read is read by it as ever.
func (s *splitter) splitDeep(start int) Cause {
	// What stands in front of the element is read already, and parted from it: the rest becomes an array of its own.
	separator := bytes.LastIndexAny(s.body[:len(s.body)-len(trimSeparator(s.body[start:]))], "[,")
	rest := s.body[separator:]
	rest[0] = '['
	end, cause := 1, Cause("")
	var last []byte                                          // it counts once something follows
	text := unsafe.String(unsafe.SliceData(rest), len(rest)) // nobody writes to it from here on
	gjson.Result{Type: gjson.JSON, Raw: text}.ForEach(func(_, v gjson.Result) bool {
		between := strings.Trim(text[end:v.Index], space)
		switch {
		case s.ctx.Err() != nil:
			return false
		case last != nil && !s.complete(last, &cause):
			return false
		case last != nil && between != ",", last == nil && between != "", !strings.HasPrefix(text[v.Index:], v.Raw):
			last, cause = nil, BrokenJSON
			return false
		case s.seen == s.lim.Events:
			last, cause = nil, TooManyEvents
			return false
		}
		end = v.Index + len(v.Raw)
		last = rest[v.Index:end:end]
		return true
	})
	if cause != "" {
		return cause
	}
	tail := bytes.TrimLeft(rest[end:], space)
	switch {
	case len(tail) == 0:
		return Truncated // in the element, or behind it
	case last != nil && !s.complete(last, &cause):
		return cause
	case tail[0] != ']':
		return BrokenJSON
	}
	return behind(tail[1:])
}

// complete takes an element whose end is known. It returns false, and the cause, for one that is no JSON.
func (s *splitter) complete(raw []byte, cause *Cause) bool {
	if nestsBeyond(raw, s.lim.Depth) {
		s.quarantine(TooDeep, raw)
		return true
	}
	d := decode(raw)
	defer d.release()
	kind := d.PeekKind()
	id, err := s.element(d, kind)
	if err != nil || int(d.InputOffset()) != len(raw) {
		*cause = BrokenJSON
		return false
	}
	s.add(id, kind, raw)
	return true
}
