package domain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"runtime"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits caps one upload. A zero field admits nothing: callers start from DefaultLimits.
type Limits struct {
	// Inflated is the most bytes a body may inflate to.
	Inflated int
	// Events is the most elements of the array.
	Events int
	// Depth is how deep an event's objects and arrays may nest, the event itself being the first level.
	Depth int
	// Event is the most bytes of one event.
	Event int
}

// DefaultLimits are the caps docket ships: 64 MiB, 50,000 events, depth 64, 4 MiB an event.
var DefaultLimits = Limits{Inflated: 64 << 20, Events: 50_000, Depth: 64, Event: 4 << 20}

// MaxQuarantined is the longest element that is quarantined with its own bytes; a longer one is quarantined with the
// upload's wire bytes, so that the record fits the dead-letter topic.
const MaxQuarantined = 8 << 20

// Event is one accepted element of an upload.
type Event struct {
	// ID identifies the decision, and Named says that it is the event's own decision_id; otherwise it is HashID of Raw.
	ID    string
	Named bool
	// Raw is the element exactly as sent. It aliases the body that ParseBatch read, which nothing writes to again.
	Raw []byte
	// Path is the JSON value of "path"; nil without.
	Path []byte
}

// Quarantined is one element, or one body, that was quarantined.
type Quarantined struct {
	// Cause says why.
	Cause Cause
	// Raw is the element as sent, or nil where the upload's wire bytes stand for it.
	Raw []byte
}

// Batch is an upload, split.
type Batch struct {
	// Events are the accepted elements in order.
	Events []Event
	// Quarantined are the others, at most one of them (the last) for the body as a whole.
	Quarantined []Quarantined
	// Senders are the OPAs that the accepted events name, in order, neighbours of the same OPA together. OPA itself
	// uploads its own events only; whatever collects for several may mix them.
	Senders []Sender
	// Bytes is the body's length, inflated, as far as it was read.
	Bytes int
}

// Sender is a run of events with the same labels.
type Sender struct {
	// Labels is the JSON value of "labels", which name the OPA; nil without.
	Labels []byte
	Events int
}

// ParseBatch reads a body to its end or its cap and splits it. Content is never an error: what cannot be accepted is in
// Quarantined. An error of r other than io.EOF and *BodyError is returned as it is, and so is that of ctx, which is
// looked at all the way; then nothing of the body counts.
//
// sizeHint is the expected length; 0 is fine. The batch owns the bytes it read and shares them with its events.
func ParseBatch(ctx context.Context, r io.Reader, sizeHint int, lim Limits) (Batch, error) {
	body, cut, err := readBody(ctx, r, sizeHint, lim.Inflated)
	if err != nil {
		return Batch{}, err
	}
	s := splitter{ctx: ctx, lim: lim, batch: Batch{Bytes: len(body)}}
	s.body = bytes.TrimPrefix(body, []byte("\xEF\xBB\xBF"))
	s.valid = utf8.Valid(s.body)
	cause := s.split()
	if err := ctx.Err(); err != nil {
		return Batch{}, err
	}
	if cut != "" && (cause == "" || cause == Truncated || cause == TooDeep || cut == BadGzip) {
		cause = cut // the body broke off there, whatever the JSON in front of it looked like
	}
	if cause != "" {
		s.batch.Quarantined = append(s.batch.Quarantined, Quarantined{Cause: cause})
	}
	s.detach()
	return s.batch, nil
}

// detach copies the events out of a body that is mostly something else, so that a small event does not keep a large
// body in memory for as long as the log needs it.
func (s *splitter) detach() {
	const slack = 64 << 10
	kept := 0
	for _, e := range s.batch.Events {
		kept += len(e.Raw)
	}
	for _, q := range s.batch.Quarantined {
		kept += len(q.Raw)
	}
	if cap(s.body) <= 4*kept+slack {
		return
	}
	for i, e := range s.batch.Events {
		s.batch.Events[i].Raw, s.batch.Events[i].Path = bytes.Clone(e.Raw), bytes.Clone(e.Path)
	}
	for i, q := range s.batch.Quarantined {
		s.batch.Quarantined[i].Raw = bytes.Clone(q.Raw)
	}
	for i, from := range s.batch.Senders {
		s.batch.Senders[i].Labels = bytes.Clone(from.Labels)
	}
}

// A body that is large, or of many events, lets other uploads go ahead after so many bytes or events, each a few tenths
// of a millisecond. Go would let it work for 10 ms at a time, at each step of every other upload.
const (
	workBytes  = 256 << 10
	workEvents = 512
)

// readBody reads at most limit bytes into a buffer of its own. cut says why the body is not whole.
func readBody(ctx context.Context, r io.Reader, sizeHint, limit int) (body []byte, cut Cause, err error) {
	const margin = 512 // so that a right hint meets io.EOF without growing
	buf, worked := make([]byte, 0, min(max(sizeHint, 0), limit)+margin), 0
	for {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		if len(buf) == cap(buf) { // append would grow by less and leave more behind
			grown := make([]byte, len(buf), min(2*cap(buf), limit+margin))
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if worked += n; worked >= workBytes {
			worked = 0
			runtime.Gosched()
		}
		if len(buf) > limit {
			return buf[:limit], BodyTooLarge, nil
		}
		var be *BodyError
		switch {
		case err == nil:
		case err == io.EOF:
			return buf, "", nil
		case errors.As(err, &be):
			return buf, be.Cause, nil
		default:
			return nil, "", err
		}
	}
}

// decoder is a pooled jsontext decoder over bytes that it does not copy.
type decoder struct {
	jsontext.Decoder
	src bytes.Buffer
	all []byte
}

// Duplicate names are storable, and UTF-8 is checked by us so that one bad event does not end the decoder.
var lenient = jsontext.AllowDuplicateNames(true)
var anyUTF8 = jsontext.AllowInvalidUTF8(true)

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// decode lends a decoder over b; release it before b goes out of reach.
func decode(b []byte) *decoder {
	d := decoders.Get().(*decoder)
	d.all, d.src = b, *bytes.NewBuffer(b)
	d.Reset(&d.src, lenient, anyUTF8)
	return d
}

func (d *decoder) release() {
	d.all, d.src = nil, bytes.Buffer{}
	d.Reset(&d.src, lenient, anyUTF8) // forget the bytes
	decoders.Put(d)
}

// splitter walks one body.
type splitter struct {
	ctx   context.Context
	lim   Limits
	body  []byte
	valid bool // the whole body is UTF-8
	batch Batch
	seen  int
	// labels and path of the element in hand
	labels, path []byte
}

// split returns why the body as a whole has to be quarantined, or "". It stops early once the context is done.
func (s *splitter) split() Cause {
	if len(bytes.TrimLeft(s.body, space)) == 0 {
		return ""
	}
	d := decode(s.body)
	defer d.release()
	if d.PeekKind() != '[' {
		if err := d.SkipValue(); err != nil {
			return syntaxCause(err)
		}
		return NotArray
	}
	if _, err := d.ReadToken(); err != nil {
		return syntaxCause(err)
	}
	for s.ctx.Err() == nil {
		kind := d.PeekKind()
		if kind == ']' {
			break
		}
		if s.seen == s.lim.Events && kind > 0 {
			return TooManyEvents
		}
		if s.seen%workEvents == workEvents-1 {
			runtime.Gosched()
		}
		start := int(d.InputOffset())
		id, err := s.element(d, kind)
		end := int(d.InputOffset())
		switch {
		case err == nil:
			s.add(id, kind, trimSeparator(s.body[start:end]))
		case s.separated(start) && nestsBeyond(s.body[start:], mostLevels):
			return s.splitDeep(start)
		default:
			return syntaxCause(err)
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return syntaxCause(err)
	}
	return behind(s.body[d.InputOffset():])
}

// space is what JSON takes for white space (RFC 8259 section 2).
const space = " \t\r\n"

// behind is the cause of what stands behind the array.
func behind(rest []byte) Cause {
	if len(bytes.TrimLeft(rest, space)) != 0 {
		return TrailingBytes
	}
	return ""
}

// element reads one element and returns the identity of an object.
func (s *splitter) element(d *decoder, kind jsontext.Kind) (id string, err error) {
	s.labels, s.path = nil, nil
	if kind != '{' {
		_, err := d.ReadValue()
		return "", err
	}
	if _, err := d.ReadToken(); err != nil {
		return "", err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadValue()
		if err != nil {
			return "", err
		}
		switch {
		case isName(name, `"decision_id"`):
			v, err := d.ReadValue()
			if err != nil {
				return "", err
			}
			id = givenID(v)
		case isName(name, `"labels"`):
			if s.labels, err = d.ReadValue(); err != nil {
				return "", err
			}
		case isName(name, `"path"`):
			if s.path, err = d.ReadValue(); err != nil {
				return "", err
			}
		default:
			if _, err := d.ReadValue(); err != nil {
				return "", err
			}
		}
	}
	_, err = d.ReadToken()
	return id, err
}

// add accepts an element or quarantines it.
func (s *splitter) add(id string, kind jsontext.Kind, raw []byte) {
	switch {
	case kind != '{':
		s.quarantine(NotObject, raw)
	case len(raw) > s.lim.Event:
		s.quarantine(EventTooLarge, raw)
	case !s.valid && !utf8.Valid(raw):
		s.quarantine(InvalidUTF8, raw)
	case nestsBeyond(raw, s.lim.Depth):
		s.quarantine(TooDeep, raw)
	default:
		s.seen++
		named := id != ""
		if !named {
			id = spellHash(sha256.Sum256(raw))
		}
		if s.batch.Events == nil {
			s.batch.Events = make([]Event, 0, max(1, min(s.lim.Events, len(s.body)/max(len(raw), 1)+1)))
		}
		s.batch.Events = append(s.batch.Events, Event{
			ID: id, Named: named, Raw: raw[:len(raw):len(raw)], Path: s.path,
		})
		if n := len(s.batch.Senders); n == 0 || !bytes.Equal(s.batch.Senders[n-1].Labels, s.labels) {
			s.batch.Senders = append(s.batch.Senders, Sender{Labels: s.labels})
		}
		s.batch.Senders[len(s.batch.Senders)-1].Events++
	}
}

// quarantine keeps an element's bytes, or leaves it to the upload's wire bytes.
func (s *splitter) quarantine(cause Cause, raw []byte) {
	s.seen++
	if len(raw) > MaxQuarantined {
		raw = nil
	}
	s.batch.Quarantined = append(s.batch.Quarantined, Quarantined{Cause: cause, Raw: raw})
}

// trimSeparator drops the comma and white space that stand between the previous element and this one.
func trimSeparator(raw []byte) []byte { return bytes.TrimLeft(raw, ", \t\r\n") }

// syntaxCause tells a body that ends too early from one that is wrong.
func syntaxCause(err error) Cause {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return Truncated
	}
	return BrokenJSON
}

// isName compares a quoted JSON name with a quoted literal, escapes included.
func isName(name []byte, want string) bool {
	if string(name) == want {
		return true
	}
	if bytes.IndexByte(name, '\\') < 0 {
		return false
	}
	text, err := jsontext.AppendUnquote(nil, name)
	return err == nil && string(text) == want[1:len(want)-1]
}

// maxIDBytes is the longest decision_id that stands as it is.
const maxIDBytes = 512

// givenID returns the decision_id that a JSON value spells, or "" where it cannot serve: only a string of 1 to 512
// bytes without NUL and without lone surrogates can.
func givenID(v []byte) string {
	if len(v) < 2 || v[0] != '"' {
		return ""
	}
	text := v[1 : len(v)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		var err error
		if text, err = jsontext.AppendUnquote(nil, v); err != nil {
			return ""
		}
	}
	if len(text) > maxIDBytes || bytes.IndexByte(text, 0) >= 0 {
		return ""
	}
	return string(text)
}

// HashID is the identity of bytes that bring none of their own.
func HashID(raw []byte) string { return spellHash(sha256.Sum256(raw)) }

// spellHash is the identity of an event that brings none of its own.
func spellHash(sum [sha256.Size]byte) string { return "sha256:" + hex.EncodeToString(sum[:]) }
