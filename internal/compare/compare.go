// Package compare tells in what two decisions differ, and finds the last decision of its kind that was allowed. It
// looks at what was decided about (input), what came of it (result) and by which policies (bundles). It leaves who may
// see what to the store's scope, and how it is shown to its caller.
package compare

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// Limits of a comparison. What nests deeper than maxDepth is compared as a whole.
const (
	MaxDifferences = 1000
	maxDepth       = 32
)

// parts are the members of an event that are compared.
var parts = []string{"input", "result", "bundles"}

// Difference is one value that two events do not have in common.
type Difference struct {
	// Path is where it is, step by step from the event's root. An array's element stands under its index. Elements are
	// compared from both ends; where one array is longer, those in between are under the index that they have there.
	Path []string
	// A and B are the values with every byte as sent, nil where there is none. They share the events' bytes.
	A, B jsontext.Value
}

// Events tells in what two events differ, in their order. Numbers are the same however they are spelled, strings
// whatever is escaped in them, objects whatever order their members have. complete is false beyond MaxDifferences.
func Events(a, b []byte) (found []Difference, complete bool) {
	c := comparison{}
	for _, part := range parts {
		c.values([]string{part}, domain.ValueAt(a, []string{part}), domain.ValueAt(b, []string{part}))
	}
	return c.found, !c.more
}

type comparison struct {
	found []Difference
	more  bool
}

func (c *comparison) values(path []string, a, b jsontext.Value) {
	if c.more || bytes.Equal(a, b) {
		return
	}
	kind := a.Kind()
	switch nests := len(path) < maxDepth && len(a) > 0 && kind == b.Kind(); {
	case nests && kind == '{':
		c.objects(path, a, b)
	case nests && kind == '[':
		c.arrays(path, a, b)
	case !equal(a, b):
		c.add(path, a, b)
	}
}

func (c *comparison) add(path []string, a, b jsontext.Value) {
	if len(c.found) == MaxDifferences {
		c.more = true
		return
	}
	c.found = append(c.found, Difference{slices.Clone(path), a, b})
}

// equal compares values that do not nest, or too deep.
func equal(a, b jsontext.Value) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	if search.EqualNumbers(a, b) {
		return true
	}
	x, isText := domain.TextOf(a)
	y, areTexts := domain.TextOf(b)
	return isText && areTexts && x == y || bytes.Equal(a, b)
}

// objects compares member by member: in a's order, and then what only b has. Of a key that repeats the last value
// stands.
func (c *comparison) objects(path []string, a, b jsontext.Value) {
	inA, namesA := members(a)
	inB, namesB := members(b)
	for _, name := range namesA {
		c.values(append(path, name), inA[name], inB[name])
	}
	for _, name := range namesB {
		if _, both := inA[name]; !both {
			c.values(append(path, name), nil, inB[name])
		}
	}
}

func members(v jsontext.Value) (values map[string]jsontext.Value, names []string) {
	values = map[string]jsontext.Value{}
	domain.Members(v, func(key string, value jsontext.Value) bool {
		if _, known := values[key]; !known {
			names = append(names, key)
		}
		values[key] = value
		return true
	})
	return values, names
}

// arrays compares element by element, what both begin and end with left out.
func (c *comparison) arrays(path []string, a, b jsontext.Value) {
	as, bs := elements(a), elements(b)
	first := 0
	for first < min(len(as), len(bs)) && bytes.Equal(as[first], bs[first]) {
		first++
	}
	endA, endB := len(as), len(bs)
	for endA > first && endB > first && bytes.Equal(as[endA-1], bs[endB-1]) {
		endA, endB = endA-1, endB-1
	}
	for i := first; i < max(endA, endB); i++ {
		var x, y jsontext.Value
		if i < endA {
			x = as[i]
		}
		if i < endB {
			y = bs[i]
		}
		c.values(append(path, strconv.Itoa(i)), x, y)
	}
}

func elements(v jsontext.Value) (out []jsontext.Value) {
	domain.Elements(v, func(element jsontext.Value) bool {
		out = append(out, element)
		return true
	})
	return out
}
