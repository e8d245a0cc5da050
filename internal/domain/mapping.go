package domain

import (
	"fmt"
	"strings"
)

// Mapping says where the events of one policy path keep what people search by. Every list holds JSON pointers (RFC
// 6901) into the event, tried in order before the built-in ones; the first that leads to a usable value stands.
type Mapping struct {
	// Path is a policy path without leading slash, or a prefix of paths when it ends in "*".
	Path string
	// Allowed leads to a boolean.
	Allowed []string
	// Reason, Principal, Action and Resource lead to text, a number, or an array of these.
	Reason    []string
	Principal []string
	Action    []string
	Resource  []string
}

// builtin covers the usual shapes: OPA's tutorials, Envoy's external authorization and Kubernetes admission reviews.
var builtin = Mapping{
	Allowed: []string{"/result/allow", "/result/allowed"},
	Reason: []string{
		"/result/reason", "/result/reasons", "/result/message", "/result/messages", "/result/msg", "/result/deny",
		"/result/denials", "/result/violations", "/result/response/status/message", "/result/status/reason",
	},
	Principal: []string{
		"/input/user", "/input/subject", "/input/principal", "/input/user/id", "/input/user/name", "/input/user/email",
		"/input/subject/id", "/input/subject/name", "/input/subject/user", "/input/principal/id", "/input/principal/name",
		"/input/username", "/input/identity", "/input/token/sub", "/input/request/userInfo/username",
		"/input/attributes/source/principal",
	},
	Action: []string{
		"/input/action", "/input/method", "/input/action/name", "/input/operation", "/input/verb",
		"/input/request/operation", "/input/request/method", "/input/attributes/request/http/method",
	},
	Resource: []string{
		"/input/resource", "/input/path", "/input/resource/id", "/input/resource/name", "/input/resource/type",
		"/input/object", "/input/request/path", "/input/request/name", "/input/request/kind/kind",
		"/input/attributes/request/http/path",
	},
}

// validate reports the first pointer that is none, or an empty path.
func (m Mapping) validate() error {
	if strings.Trim(m.Path, "/") == "" {
		return fmt.Errorf("a mapping needs a path, such as http/authz/allow or http/*")
	}
	for field, pointers := range map[string][]string{
		"allowed": m.Allowed, "reason": m.Reason, "principal": m.Principal, "action": m.Action, "resource": m.Resource,
	} {
		for _, p := range pointers {
			if rest := strings.NewReplacer("~0", "", "~1", "").Replace(p); !strings.HasPrefix(p, "/") ||
				strings.Contains(rest, "~") {
				return fmt.Errorf(
					"mapping %s: %s: %q is no JSON pointer: it begins with a slash, like /input/user, and spells ~ as ~0 and / as ~1",
					m.Path, field, p,
				)
			}
		}
	}
	return nil
}

// matches reports whether the mapping is for a policy path.
func (m Mapping) matches(path string) bool {
	want := strings.TrimLeft(m.Path, "/")
	if prefix, ok := strings.CutSuffix(want, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return path == want
}

// plan is a mapping made ready: a tree of the pointers, each ending in a numbered slot, and for every field the slots
// to look into, in order.
type plan struct {
	root  *node
	slots int

	path, timestamp, id, err, result, traceID, requestedBy, opa, app, bundles, revision int

	allowed, reason, principal, action, resource []int
}

// node is one step of the pointers that share it. Its slots are those from lo up to hi; its own is slot, or -1.
type node struct {
	children map[string]*node
	slot     int
	lo, hi   int
}

func newPlan(m Mapping) *plan {
	p := &plan{root: &node{slot: -1}}
	fixed := []struct {
		slot    *int
		pointer string
	}{
		{&p.path, "/path"}, {&p.timestamp, "/timestamp"}, {&p.id, "/decision_id"}, {&p.err, "/error"},
		{&p.result, "/result"}, {&p.traceID, "/trace_id"}, {&p.requestedBy, "/requested_by"},
		{&p.opa, "/labels/id"}, {&p.app, "/labels/app"}, {&p.bundles, "/bundles"}, {&p.revision, "/revision"},
	}
	lists := []struct {
		slots    *[]int
		pointers []string
	}{
		{&p.allowed, append(m.Allowed, builtin.Allowed...)}, {&p.reason, append(m.Reason, builtin.Reason...)},
		{&p.principal, append(m.Principal, builtin.Principal...)}, {&p.action, append(m.Action, builtin.Action...)},
		{&p.resource, append(m.Resource, builtin.Resource...)},
	}
	for _, f := range fixed {
		p.root.at(f.pointer).slot = 0
	}
	for _, l := range lists {
		for _, pointer := range l.pointers {
			p.root.at(pointer).slot = 0
		}
	}
	p.slots = p.root.number(0)
	for _, f := range fixed {
		*f.slot = p.root.at(f.pointer).slot
	}
	for _, l := range lists {
		for _, pointer := range l.pointers {
			*l.slots = append(*l.slots, p.root.at(pointer).slot)
		}
	}
	return p
}

// at returns the node of a pointer, making the steps to it.
func (n *node) at(pointer string) *node {
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
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
