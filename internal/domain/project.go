package domain

import (
	"bytes"
	"crypto/sha256"
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
	bundles  bundleMemory
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
	d, _ := p.project(rec, false)
	return d
}

// Explain is Project with the rule that decided about the outcome.
func (p *Projector) Explain(rec Record) (Decision, Rule) { return p.project(rec, true) }

func (p *Projector) project(rec Record, explain bool) (d Decision, rule Rule) {
	c := p.captures.Get().(*capture)
	defer func() {
		c.forget()
		p.captures.Put(c)
	}()
	c.read(p.fallback, rec.Value)
	d = Decision{
		Tenant:     rec.Headers.Owner(),
		ReceivedAt: rec.received().UTC().Truncate(time.Microsecond),
		LoggedAt:   rec.FirstLogged(),
		Redacted:   rec.Headers.Masked,
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
	if c.value(c.plan.erased) != nil || c.value(c.plan.masked) != nil {
		c.readMasks()
	}
	if d.ID = givenID(c.value(c.plan.id)); d.ID == "" {
		d.ID = spellHash(d.SHA256)
	}
	d.Timestamp = c.instant(c.plan.timestamp)
	v := c.outcome(c.nameOf(d.Path))
	d.Outcome = v.outcome
	c.columns(&d, v)
	d.OPA = c.scalar(c.plan.opa)
	d.App = c.scalar(c.plan.app)
	d.TraceID = c.scalar(c.plan.traceID)
	d.BatchID = c.scalar(c.plan.batchID)
	d.RequestedBy = c.scalar(c.plan.requestedBy)
	d.Error = c.errorText()
	d.Bundles = c.rememberedBundles(&p.bundles)
	d.Sanitised = c.altered
	d.Unsearchable = unsearchable(rec.Value)
	if explain {
		rule = c.rule(v)
	}
	return d, rule
}

// columns fills in what people search by, and which of it a mask replaced.
func (c *capture) columns(d *Decision, v verdict) {
	var masked []string
	reason, from := c.reasonOf(v)
	d.Reason = reason
	if len(c.masks.masked) > 0 && reason != "" && c.masks.touches(from()...) {
		masked = append(masked, "reason")
	}
	for i, to := range [...]*string{
		columnPrincipal: &d.Principal, columnAction: &d.Action, columnResource: &d.Resource,
	} {
		text, from := c.first(c.plan.columns[i], separators[i])
		*to = text
		if from < 0 || len(c.masks.masked) == 0 {
			continue
		}
		for _, part := range c.plan.columns[i][from].parts {
			if c.masks.touches(part.steps...) {
				masked = append(masked, columnNames[i])
				break
			}
		}
	}
	d.Masked = strings.Join(masked, ", ")
}

// reasonOf is the first reason of the mapping, or that of the result. from are the steps that lead to it.
func (c *capture) reasonOf(v verdict) (text string, from func() []string) {
	for _, p := range c.plan.reason {
		if text := c.says(c.value(p.slot)); text != "" {
			return text, func() []string { return p.steps }
		}
	}
	text, name := c.reason(c.value(c.plan.result), v)
	return text, func() []string {
		if name == nil {
			return []string{"result"}
		}
		return []string{"result", unquoted(name)}
	}
}

// errorText spells the error: its text, or "code: message" of OPA's structured ones, or its compact JSON.
func (c *capture) errorText() string {
	v := c.value(c.plan.err) // an empty object is how OPA spells a Go error without exported fields
	if v == nil {
		return ""
	}
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
			return c.clean(s, inner.altered)
		}
	}
	return c.compact(v)
}

// errorPlan reads OPA's topdown errors; the slots of path and result serve for code and message.
var errorPlan = func() *plan {
	p := &plan{root: &node{slot: -1}}
	code, message := p.root.at([]string{"code"}), p.root.at([]string{"message"})
	code.slot, message.slot = 0, 0
	p.slots = p.root.number(0)
	p.path, p.result = code.slot, message.slot
	return p
}()

// maxBundles bounds the bundles that are projected; an OPA with more keeps them in the event.
const maxBundles = 64

// rememberedBundles is bundles, once for all events that have the same.
func (c *capture) rememberedBundles(m *bundleMemory) []Bundle {
	raw := c.value(c.plan.bundles)
	if raw.Kind() != '{' {
		return c.bundles()
	}
	r, known := m.find(raw)
	if !known {
		before := c.altered
		c.altered = false
		r = remembered{c.bundles(), false}
		r.altered, c.altered = c.altered, before || c.altered
		// An empty object leaves the word to the event's own revision.
		if len(r.bundles) > 0 && r.bundles[0].Name != "" {
			m.keep(raw, r)
		}
	}
	c.altered = c.altered || r.altered
	return r.bundles
}

// bundles reads {"name":{"revision":"…"}}, or the deprecated revision of an OPA without named bundles.
func (c *capture) bundles() []Bundle {
	var out []Bundle
	if v := c.value(c.plan.bundles); v.Kind() == '{' {
		each(v, func(name, bundle jsontext.Value) bool {
			if len(out) == maxBundles {
				c.altered = true // whoever reads the row is told that there were more
				return false
			}
			var inner capture
			b := Bundle{Name: c.text(name)}
			inner.read(revisionPlan, bundle)
			b.Revision = inner.scalar(revisionPlan.revision)
			c.altered = c.altered || inner.altered
			out = append(out, b)
			return true
		})
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
	revision := p.root.at([]string{"revision"})
	revision.slot = 0
	p.slots = p.root.number(0)
	p.revision = revision.slot
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
