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
	c.masks = masks{erased: maskedSteps(c.value(c.plan.erased)), masked: maskedSteps(c.value(c.plan.masked))}
}

// maskedSteps reads a list of pointers, whose steps OPA spells percent-encoded.
func maskedSteps(list jsontext.Value) (out [][]string) {
	if list.Kind() != '[' {
		return nil
	}
	each(list, func(_, v jsontext.Value) bool {
		if v.Kind() != '"' {
			return true
		}
		var steps []string
		if pointer := strings.Trim(unquoted(v), "/"); pointer != "" {
			steps = strings.Split(pointer, "/")
		}
		for i, step := range steps {
			if plain, err := url.PathUnescape(step); err == nil {
				steps[i] = plain
			}
		}
		out = append(out, steps)
		return true
	})
	return out
}

// covered reports that one of the pointers leads to a value, or to something around it.
func covered(pointers [][]string, steps ...string) bool {
	return slices.ContainsFunc(pointers, func(p []string) bool {
		return len(p) <= len(steps) && slices.Equal(p, steps[:len(p)])
	})
}

// inside reports that one of the pointers leads to something within a value.
func inside(pointers [][]string, steps ...string) bool {
	return slices.ContainsFunc(pointers, func(p []string) bool {
		return len(p) > len(steps) && slices.Equal(p[:len(steps)], steps)
	})
}

// hides reports that a value is not the policy's any more.
func (m masks) hides(steps ...string) bool {
	return covered(m.erased, steps...) || covered(m.masked, steps...)
}

// touches reports that a text was replaced, around it or within it.
func (m masks) touches(steps ...string) bool {
	return covered(m.masked, steps...) || inside(m.masked, steps...)
}
