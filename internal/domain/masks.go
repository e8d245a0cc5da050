package domain

import (
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// masks are the pointers to what OPA's masking policy removed from an event, and to what it replaced, as steps
// (https://www.openpolicyagent.org/docs/management-decision-logs#masking-sensitive-data).
type masks struct{ erased, masked [][]string }

// readMasks reads both lists of the event.
func (c *capture) readMasks() {
	c.masks = masks{
		erased: c.maskedSteps(c.value(c.plan.erased)), masked: c.maskedSteps(c.value(c.plan.masked)),
	}
}

// Bounds of what is read of masks. Beyond them it is as if the whole event was hidden: nothing is allowed.
const (
	maxMasks     = 1000
	maxMaskBytes = 4096
	maxMaskSteps = 64
)

// maskedSteps reads a list of pointers, whose steps OPA spells percent-encoded. Those that lead elsewhere than docket
// looks are left out.
func (c *capture) maskedSteps(list jsontext.Value) (out [][]string) {
	if list.Kind() != '[' {
		return nil
	}
	each(list, func(_, v jsontext.Value) bool {
		if v.Kind() != '"' {
			return true
		}
		if len(v) > maxMaskBytes || len(out) == maxMasks {
			out = [][]string{{}}
			return false
		}
		pointer := unquoted(v)
		if first, _, _ := strings.Cut(strings.Trim(pointer, "/"), "/"); first != "" && c.plan.root.children[first] == nil {
			return true
		}
		out = append(out, MaskSteps(pointer))
		return true
	})
	return out
}

// MaskSteps is where a pointer of OPA's masks leads, step by step; nil is the whole event.
func MaskSteps(pointer string) (steps []string) {
	if pointer = strings.Trim(pointer, "/"); pointer != "" {
		steps = strings.SplitN(pointer, "/", maxMaskSteps)
	}
	for i, step := range steps {
		if plain, err := url.PathUnescape(step); err == nil {
			steps[i] = plain
		}
	}
	return steps
}

// covered reports that one of the pointers leads to a value, or to something around it.
func covered(pointers [][]string, steps ...string) bool {
	return slices.ContainsFunc(pointers, func(p []string) bool {
		return len(p) <= len(steps) && slices.EqualFunc(p, steps[:len(p)], isStep)
	})
}

// inside reports that one of the pointers leads to something within a value.
func inside(pointers [][]string, steps ...string) bool {
	return slices.ContainsFunc(pointers, func(p []string) bool {
		return len(p) > len(steps) && slices.EqualFunc(p[:len(steps)], steps, isStep)
	})
}

// isStep compares a step of a pointer with a step to a value. docket's own masks say * for keys that they do not name.
func isStep(pointer, step string) bool { return pointer == step || pointer == "*" }

// LeadsTo reports that the steps of a mask's pointer lead to a value.
func LeadsTo(pointer, steps []string) bool { return slices.EqualFunc(pointer, steps, isStep) }

// hides reports that a value is not the policy's any more.
func (m masks) hides(steps ...string) bool {
	return covered(m.erased, steps...) || covered(m.masked, steps...)
}

// touches reports that a text was replaced, around it or within it.
func (m masks) touches(steps ...string) bool {
	return covered(m.masked, steps...) || inside(m.masked, steps...)
}
