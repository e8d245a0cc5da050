package domain

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Projector turns log records into rows. It is safe for concurrent use.
type Projector struct {
	mappings []Mapping
	plans    []*plan // of the mappings
	fallback *plan
	captures sync.Pool
}

// NewProjector compiles the mappings; the first that matches an event's path serves it.
func NewProjector(mappings []Mapping) (*Projector, error) {
	p := &Projector{mappings: mappings, fallback: newPlan(Mapping{})}
	for _, m := range mappings {
		if err := m.validate(); err != nil {
			return nil, Errorf(Misconfigured, "%w", err)
		}
		p.plans = append(p.plans, newPlan(m))
	}
	p.captures.New = func() any { return new(capture) }
	return p, nil
}

// Project makes the row of a record. It cannot fail: what an event does not have, or has in an unreadable form, is
// absent from the row, and the row keeps every byte. The row shares rec.Value.
func (p *Projector) Project(rec Record) Decision {
	c := p.captures.Get().(*capture)
	defer func() {
		clear(c.values) // they alias the event
		p.captures.Put(c)
	}()
	c.read(p.fallback, rec.Value)
	d := Decision{
		Tenant:     rec.Headers.Owner(),
		ReceivedAt: rec.received().UTC().Truncate(time.Microsecond),
		LoggedAt:   rec.FirstLogged(),
		Event:      rec.Value,
		SHA256:     sha256.Sum256(rec.Value),
	}
	d.Path = strings.TrimLeft(c.scalar(p.fallback.path), "/")
	for i, m := range p.mappings {
		if m.matches(d.Path) {
			altered := c.altered
			c.read(p.plans[i], rec.Value)
			c.altered = altered
			break
		}
	}
	if d.ID = givenID(c.value(c.plan.id)); d.ID == "" {
		d.ID = spellHash(d.SHA256)
	}
	d.Timestamp = c.instant(c.plan.timestamp)
	d.Outcome = c.outcome()
	d.Reason = c.first(c.plan.reason, "; ", true)
	d.Principal = c.first(c.plan.principal, ", ", false)
	d.Action = c.first(c.plan.action, ", ", false)
	d.Resource = c.first(c.plan.resource, "/", false)
	d.OPA = c.scalar(c.plan.opa)
	d.App = c.scalar(c.plan.app)
	d.TraceID = c.scalar(c.plan.traceID)
	d.RequestedBy = c.scalar(c.plan.requestedBy)
	d.Error = c.errorText()
	d.Bundles = c.bundles()
	d.Sanitised = c.altered
	d.Unsearchable = unsearchable(rec.Value)
	return d
}

// capture is one event's values at the pointers of a plan. The values alias the event.
type capture struct {
	plan    *plan
	values  []jsontext.Value
	altered bool
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
	c.walk(d, p.root)
}

// walk reads one value and keeps what the node wants of it; false means that the event is no JSON.
func (c *capture) walk(d *decoder, n *node) bool {
	clear(c.values[n.lo:n.hi])
	if n.slot >= 0 {
		v, err := d.ReadValue()
		if err != nil {
			return false
		}
		c.values[n.slot] = v
		if len(n.children) == 0 || (v.Kind() != '{' && v.Kind() != '[') {
			return true
		}
		inner := decode(v)
		defer inner.release()
		return c.members(inner, n)
	}
	return c.members(d, n)
}

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
	s, err := jsontext.AppendUnquote(nil, v) // an error is a lone surrogate, which is U+FFFD in s by now
	clean, altered := cleanText(string(s), maxText)
	c.altered = c.altered || altered || err != nil
	return clean
}

// scalar spells a string, a number or a boolean; anything else is absent.
func (c *capture) scalar(slot int) string { return c.spell(c.value(slot)) }

func (c *capture) spell(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		return c.text(v)
	case '0', 't', 'f':
		clean, altered := cleanText(string(v), maxText)
		c.altered = c.altered || altered
		return clean
	default:
		return ""
	}
}

// first returns the first of the slots that holds text: a scalar, or an array of scalars joined by sep. For a reason,
// prose also takes objects as compact JSON and leaves booleans out.
func (c *capture) first(slots []int, sep string, prose bool) string {
	for _, slot := range slots {
		v := c.value(slot)
		var s string
		switch kind := v.Kind(); {
		case v == nil, prose && (kind == 't' || kind == 'f'):
		case kind == '[':
			s = c.joined(v, sep, prose)
		case kind == '{' && prose && len(v) > len("{}"):
			s = c.compact(v)
		default:
			s = c.spell(v)
		}
		if s != "" {
			return s
		}
	}
	return ""
}

// joined spells an array of scalars; with prose, objects as well. An array of anything else is absent.
func (c *capture) joined(v jsontext.Value, sep string, prose bool) string {
	d := decode(v)
	defer d.release()
	if _, err := d.ReadToken(); err != nil {
		return ""
	}
	var b strings.Builder
	for d.PeekKind() != ']' && b.Len() <= maxText {
		e, err := d.ReadValue()
		if err != nil {
			return ""
		}
		s := c.spell(e)
		if s == "" && prose && e.Kind() == '{' {
			s = c.compact(e)
		}
		if s == "" && e.Kind() != '"' {
			return ""
		}
		if b.Len() > 0 {
			b.WriteString(sep)
		}
		b.WriteString(s)
	}
	clean, altered := cleanText(b.String(), maxText)
	c.altered = c.altered || altered
	return clean
}

// compact spells any value without white space.
func (c *capture) compact(v jsontext.Value) string {
	v = slices.Clone(v)
	if err := v.Compact(lenient, anyUTF8); err != nil {
		return ""
	}
	clean, altered := cleanText(string(v), maxText)
	c.altered = c.altered || altered
	return clean
}

// instant reads an RFC 3339 time, to microseconds in UTC; zero where it is absent or unreadable.
func (c *capture) instant(slot int) time.Time {
	v := c.value(slot)
	if v.Kind() != '"' {
		return time.Time{}
	}
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return time.Time{}
	}
	return instantOf(string(s)).Truncate(time.Microsecond)
}

// outcome decides in the order error, undefined, mapping, default.
func (c *capture) outcome() Outcome {
	if c.failed() {
		return OutcomeError
	}
	result := c.value(c.plan.result)
	if result == nil {
		return OutcomeUndefined
	}
	mapped := len(c.plan.allowed) - len(builtin.Allowed)
	if o := c.boolean(c.plan.allowed[:mapped]); o != OutcomeUnknown {
		return o
	}
	if o := verdict(result); o != OutcomeUnknown {
		return o
	}
	return c.boolean(c.plan.allowed[mapped:])
}

// boolean reads the first slot that holds one.
func (c *capture) boolean(slots []int) Outcome {
	for _, slot := range slots {
		if o := verdict(c.value(slot)); o != OutcomeUnknown {
			return o
		}
	}
	return OutcomeUnknown
}

// verdict reads a boolean.
func verdict(v jsontext.Value) Outcome {
	switch v.Kind() {
	case 't':
		return OutcomeAllowed
	case 'f':
		return OutcomeDenied
	default:
		return OutcomeUnknown
	}
}

// failed reports whether the event has an error: whatever it is, an empty object included, because that is how OPA
// spells a Go error without exported fields.
func (c *capture) failed() bool { return c.value(c.plan.err) != nil }

// errorText spells the error: its text, or "code: message" of OPA's structured ones, or its compact JSON.
func (c *capture) errorText() string {
	if !c.failed() {
		return ""
	}
	v := c.value(c.plan.err)
	if s := c.spell(v); s != "" {
		return s
	}
	if v.Kind() == '{' {
		inner := capture{}
		inner.read(errorPlan, v)
		code, message := inner.scalar(errorPlan.path), inner.scalar(errorPlan.result)
		if code != "" && message != "" {
			code += ": "
		}
		if s := code + message; s != "" {
			clean, altered := cleanText(s, maxText)
			c.altered = c.altered || altered || inner.altered
			return clean
		}
	}
	return c.compact(v)
}

// errorPlan reads OPA's topdown errors; the slots of path and result serve for code and message.
var errorPlan = func() *plan {
	p := &plan{root: &node{slot: -1}}
	p.root.at("/code").slot = 0
	p.root.at("/message").slot = 0
	p.slots = p.root.number(0)
	p.path, p.result = p.root.at("/code").slot, p.root.at("/message").slot
	return p
}()

// maxBundles bounds the bundles that are projected; an OPA with more keeps them in the event.
const maxBundles = 64

// bundles reads {"name":{"revision":"…"}}, or the deprecated revision of an OPA without named bundles.
func (c *capture) bundles() []Bundle {
	var out []Bundle
	if v := c.value(c.plan.bundles); v.Kind() == '{' {
		d := decode(v)
		defer d.release()
		if _, err := d.ReadToken(); err != nil {
			return nil
		}
		for d.PeekKind() != '}' {
			if len(out) == maxBundles {
				c.altered = true // whoever reads the row is told that there were more
				break
			}
			quoted, err := d.ReadValue()
			if err != nil {
				return out
			}
			b := Bundle{Name: c.text(quoted)}
			v, err := d.ReadValue()
			if err != nil {
				return out
			}
			inner := capture{}
			inner.read(revisionPlan, v)
			b.Revision = inner.scalar(revisionPlan.revision)
			c.altered = c.altered || inner.altered
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		if r := c.scalar(c.plan.revision); r != "" {
			out = append(out, Bundle{Revision: r})
		}
	}
	return out
}

var revisionPlan = func() *plan {
	p := &plan{root: &node{slot: -1}}
	p.root.at("/revision").slot = 0
	p.slots = p.root.number(0)
	p.revision = p.root.at("/revision").slot
	return p
}()

// unsearchable reports whether a string inside a valid JSON value cannot be de-escaped to text without NUL.
func unsearchable(event []byte) bool {
	if !bytes.Contains(event, []byte(`\u`)) {
		return false
	}
	if !bytes.Contains(event, []byte(`\u0000`)) && !bytes.Contains(event, []byte(`\ud`)) &&
		!bytes.Contains(event, []byte(`\uD`)) {
		return false
	}
	d := decode(event)
	defer d.release()
	var text []byte
	for {
		if kind := d.PeekKind(); kind == '"' {
			v, err := d.ReadValue()
			if err != nil {
				return true
			}
			if text, err = jsontext.AppendUnquote(text[:0], v); err != nil || bytes.IndexByte(text, 0) >= 0 {
				return true
			}
		} else if kind == 0 {
			return false
		} else if _, err := d.ReadToken(); err != nil {
			return true
		}
	}
}
