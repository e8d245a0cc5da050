package domain

import (
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// plan is a mapping made ready: a tree of the pointers, each ending in a numbered slot, and for every field the sources
// to look into, in order.
type plan struct {
	root  *node
	slots int

	path, query, timestamp, id, err, result, input, traceID, batchID, requestedBy, opa, app, bundles, revision int

	customType, erased, masked, semantic int

	// mapping is what the plan was made of; the zero Mapping for the fallback.
	mapping         Mapping
	allowed, denied []*placed // in the order of the mapping
	reason          []*placed
	columns         [3][]planned // by principal, action and resource
}

// node is one step of the pointers that share it. Its slots are those from lo up to hi; its own is slot, or -1.
type node struct {
	children map[string]*node
	slot     int
	lo, hi   int
	// seen asks only whether something is there, other than null: its value is not read for its own sake.
	seen bool
}

// placed is a pointer with its slot.
type placed struct {
	pointer string
	steps   []string
	slot    int
	// optional is meant of a part of several: they are something without it.
	optional bool
}

// planned is a source with its slots.
type planned struct {
	parts []*placed
	// needs is the slot without which there is nothing.
	needs int
	join  string
	read  func(*capture, jsontext.Value) string
}

func newPlan(m Mapping) *plan {
	p := &plan{root: &node{slot: -1}, mapping: m}
	var all []*placed
	place := func(pointer string, optional bool) *placed {
		at := &placed{pointer: pointer, steps: Steps(pointer), optional: optional}
		n := p.root.at(at.steps)
		n.slot, n.seen = 0, false
		all = append(all, at)
		return at
	}
	fixed := map[*int]*placed{
		&p.path: place("/path", false), &p.query: place("/query", false), &p.timestamp: place("/timestamp", false),
		&p.id: place("/decision_id", false), &p.err: place("/error", false), &p.result: place("/result", false),
		&p.traceID:     place("/trace_id", false),
		&p.batchID:     place("/batch_decision_id", false),
		&p.requestedBy: place("/requested_by", false), &p.opa: place("/labels/id", false),
		&p.app: place("/labels/app", false), &p.bundles: place("/bundles", false), &p.revision: place("/revision", false),
		&p.customType: place("/custom/type", false), &p.erased: place("/erased", false), &p.masked: place("/masked", false),
		&p.semantic: place("/input/options/evaluations_semantic", false),
	}
	for _, c := range m.Allowed {
		p.allowed = append(p.allowed, place(c.Pointer, false))
	}
	for _, c := range m.Denied {
		p.denied = append(p.denied, place(c.Pointer, false))
	}
	for _, pointer := range m.Reason {
		p.reason = append(p.reason, place(pointer, false))
	}
	for i, mapped := range [][]string{m.Principal, m.Action, m.Resource} {
		var sources []source
		for _, pointer := range mapped {
			sources = append(sources, source{pointers: []string{pointer}})
		}
		for _, s := range append(sources, builtin[i]...) {
			to := planned{join: s.join, read: s.read}
			for _, pointer := range s.pointers {
				bare, optional := strings.CutSuffix(pointer, "?")
				if len(s.pointers) == 1 { // a mapping's pointer may end so
					bare, optional = pointer, false
				}
				to.parts = append(to.parts, place(bare, optional))
			}
			p.columns[i] = append(p.columns[i], to)
		}
	}
	if n := p.root.at([]string{"input"}); n.slot < 0 {
		n.slot, n.seen = 0, true
	}
	p.slots = p.root.number(0)
	p.input = p.root.at([]string{"input"}).slot
	for _, at := range all {
		at.slot = p.root.at(at.steps).slot
	}
	for slot, at := range fixed {
		*slot = at.slot
	}
	for _, sources := range p.columns {
		for i, s := range sources {
			for _, part := range s.parts {
				if sources[i].needs = part.slot; !part.optional {
					break
				}
			}
		}
	}
	return p
}

// Steps are those of a JSON pointer (RFC 6901), as ValueAt takes them.
func Steps(pointer string) []string {
	steps := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, step := range steps {
		steps[i] = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
	}
	return steps
}

// at returns the node of a pointer, making the steps to it.
func (n *node) at(steps []string) *node {
	for _, step := range steps {
		next := n.children[step]
		if next == nil {
			next = &node{slot: -1}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[step] = next
		}
		n = next
	}
	return n
}

// number gives the slots of a subtree consecutive numbers from first and returns the next free one.
func (n *node) number(first int) int {
	n.lo = first
	if n.slot >= 0 {
		n.slot = first
		first++
	}
	for _, child := range n.children {
		first = child.number(first)
	}
	n.hi = first
	return first
}
