package domain

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// capture is one event's values at the pointers of a plan. The values alias the event.
type capture struct {
	plan    *plan
	values  []jsontext.Value
	result  members
	altered bool
	masks   masks
	depth   int // of messages within each other
}

// forget drops what aliases the event.
func (c *capture) forget() {
	clear(c.values)
	if c.result.used {
		c.result = members{}
	}
	c.masks = masks{}
}

// read walks an event once. Where a key repeats, the last one stands.
func (c *capture) read(p *plan, event []byte) {
	c.plan, c.altered = p, false
	if cap(c.values) < p.slots {
		c.values = make([]jsontext.Value, p.slots)
	}
	c.values = c.values[:p.slots]
	clear(c.values)
	d := decode(event)
	defer d.release()
	c.members(d, p.root)
}

// walk reads one value and keeps what the node wants of it; false means that the event is no JSON.
func (c *capture) walk(d *decoder, n *node) bool {
	clear(c.values[n.lo:n.hi])
	if n.seen {
		if d.PeekKind() != 'n' {
			c.values[n.slot] = there
		}
	} else if kind := d.PeekKind(); n.slot >= 0 && (len(n.children) == 0 || kind != '{' && kind != '[') {
		v, err := d.ReadValue()
		c.values[n.slot] = v
		return err == nil
	}
	start := d.InputOffset()
	if !c.members(d, n) {
		return false
	}
	if n.slot >= 0 && !n.seen { // it was read on the way
		c.values[n.slot] = bytes.TrimLeft(d.all[start:d.InputOffset()], ":, \t\r\n")
	}
	return true
}

// there stands for a value of which only its presence counts.
var there = jsontext.Value("true")

// members visits the members of an object, or the elements of an array, that the node has children for.
func (c *capture) members(d *decoder, n *node) bool {
	kind := d.PeekKind()
	if kind != '{' && kind != '[' {
		return d.SkipValue() == nil
	}
	if _, err := d.ReadToken(); err != nil {
		return false
	}
	for i := 0; d.PeekKind() != '}' && d.PeekKind() != ']'; i++ {
		var child *node
		if kind == '{' {
			name, err := d.ReadValue()
			if err != nil {
				return false
			}
			child = n.child(name)
		} else {
			child = n.children[strconv.Itoa(i)]
		}
		if child == nil {
			if _, err := d.ReadValue(); err != nil {
				return false
			}
		} else if !c.walk(d, child) {
			return false
		}
	}
	_, err := d.ReadToken()
	return err == nil
}

// child finds the child of a quoted name.
func (n *node) child(quoted []byte) *node {
	if len(quoted) < 2 {
		return nil
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return n.children[string(quoted[1:len(quoted)-1])]
	}
	name, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil {
		return nil
	}
	return n.children[string(name)]
}

func (c *capture) value(slot int) jsontext.Value { return c.values[slot] }

// text spells a string, cut and cleaned.
func (c *capture) text(v jsontext.Value) string {
	if bytes.IndexByte(v, '\\') < 0 {
		return c.clean(string(v[1:len(v)-1]), false)
	}
	s, err := jsontext.AppendUnquote(nil, v) // an error is a lone surrogate, which is U+FFFD in s by now
	return c.clean(string(s), err != nil)
}

// clean cuts and cleans a text, and remembers whether that altered it.
func (c *capture) clean(s string, altered bool) string {
	clean, cut := cleanText(s, maxText)
	c.altered = c.altered || cut || altered
	return clean
}

// scalar spells a string, a number or a boolean; anything else is absent.
func (c *capture) scalar(slot int) string { return c.spell(c.value(slot)) }

func (c *capture) spell(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		return c.text(v)
	case '0', 't', 'f':
		return c.clean(string(v), false)
	default:
		return ""
	}
}

// first returns the first of the sources that leads to text, and its number among them, or -1.
func (c *capture) first(sources []planned, sep string) (string, int) {
	for i := range sources {
		s := &sources[i]
		if c.values[s.needs] == nil { // of most
			continue
		}
		if text := c.found(s, sep); text != "" {
			return text, i
		}
	}
	return "", -1
}

// found is what a source leads to: a scalar, or an array of scalars joined by sep; several pointers are joined by the
// source's own separator.
func (c *capture) found(s *planned, sep string) string {
	if s.read != nil {
		return s.read(c, c.value(s.parts[0].slot))
	}
	if len(s.parts) == 1 {
		return c.scalars(c.value(s.parts[0].slot), sep)
	}
	var b strings.Builder
	for _, part := range s.parts {
		text := c.scalars(c.value(part.slot), sep)
		if text == "" && !part.optional {
			return ""
		}
		if b.Len() > 0 && text != "" {
			b.WriteString(s.join)
		}
		b.WriteString(text)
	}
	return c.clean(b.String(), false)
}

// scalars spells a scalar, or an array of them.
func (c *capture) scalars(v jsontext.Value, sep string) string {
	if v.Kind() != '[' {
		return c.spell(v)
	}
	var b strings.Builder
	other := false
	each(v, func(_, e jsontext.Value) bool {
		text := c.spell(e)
		if other = text == "" && e.Kind() != '"'; other {
			return false
		}
		if b.Len() > 0 {
			b.WriteString(sep)
		}
		b.WriteString(text)
		return b.Len() <= maxText
	})
	if other {
		return ""
	}
	return c.clean(b.String(), false)
}

// compact spells any value without white space.
func (c *capture) compact(v jsontext.Value) string {
	v = slices.Clone(v)
	if err := v.Compact(lenient, anyUTF8); err != nil {
		return ""
	}
	return c.clean(string(v), false)
}

// instant reads an RFC 3339 time, to microseconds in UTC; zero where it is absent or unreadable.
func (c *capture) instant(slot int) time.Time {
	v := c.value(slot)
	if v.Kind() != '"' {
		return time.Time{}
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return instantOf(string(v[1 : len(v)-1])).Truncate(time.Microsecond)
	}
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return time.Time{}
	}
	return instantOf(string(s)).Truncate(time.Microsecond)
}

// each visits the members of an object, with their quoted names, or the elements of an array, until visit returns
// false. Anything else has none.
func each(v jsontext.Value, visit func(name, value jsontext.Value) bool) {
	kind := v.Kind()
	if kind != '{' && kind != '[' {
		return
	}
	d := decode(v)
	defer d.release()
	if _, err := d.ReadToken(); err != nil {
		return
	}
	for d.PeekKind() != '}' && d.PeekKind() != ']' {
		var name jsontext.Value
		var err error
		if kind == '{' {
			if name, err = d.ReadValue(); err != nil {
				return
			}
		}
		value, err := d.ReadValue()
		if err != nil || !visit(name, value) {
			return
		}
	}
}

// isEmpty reports an object or an array without content.
func isEmpty(v jsontext.Value) bool { return len(bytes.Trim(v[1:len(v)-1], space)) == 0 }

// unquoted is the text of a quoted name or string.
func unquoted(quoted jsontext.Value) string {
	text, _ := jsontext.AppendUnquote(nil, quoted)
	return string(text)
}
