package console

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// How much of a value a page shows: nodes of one part, how deep they nest, members of one of them, and characters of a
// text. What is cut is told, and stands in the event as it was sent.
const (
	maxNodes   = 600
	maxNesting = 24
	maxMembers = 200
	maxText    = 400
)

// node is a value of an event as a page shows it.
type node struct {
	key  string
	kind jsontext.Kind
	// text is a leaf's value. cut is how many characters of it are left out.
	text string
	cut  int
	// term asks for decisions that have this value here; nil for one that a search cannot ask for.
	term *domain.Expr
	// mask says what a mask of OPA's did here: "masked", "erased", or "".
	mask     string
	children []node
	// more is how many members are left out.
	more int
}

// tree reads values of events.
type tree struct {
	left           int
	masked, erased map[string]bool
	stars          [][]string // of masked, with a * in them
}

// newTree makes a reader of one event's values.
func newTree(event []byte) *tree {
	t := &tree{masked: map[string]bool{}, erased: map[string]bool{}}
	for name, into := range map[string]map[string]bool{"masked": t.masked, "erased": t.erased} {
		domain.Elements(domain.ValueAt(event, []string{name}), func(v jsontext.Value) bool {
			if pointer, ok := domain.TextOf(v); ok {
				steps := domain.MaskSteps(pointer)
				into[keyOf(steps)] = true
				if name == "masked" && slices.Contains(steps, "*") {
					t.stars = append(t.stars, steps)
				}
			}
			return len(into) < maxMembers
		})
	}
	return t
}

// at reads the value at a path of an event; false where there is none, and nothing was erased.
func (t *tree) at(event []byte, path ...string) (node, bool) {
	v := domain.ValueAt(event, path)
	if v == nil && !t.erased[keyOf(path)] {
		return node{}, false
	}
	return t.whole(path[len(path)-1], path, v), true
}

// whole reads a value that a page shows by itself.
func (t *tree) whole(key string, path []string, v jsontext.Value) node {
	t.left = maxNodes
	return t.read(key, path, v, false)
}

func (t *tree) read(key string, path []string, v jsontext.Value, inArray bool) node {
	t.left--
	n := node{key: key, kind: v.Kind(), mask: t.mask(path)}
	switch n.kind {
	case '{', '[':
		t.members(&n, path, v)
	case 0: // it was erased
	default:
		n.text = string(v)
		if text, ok := domain.TextOf(v); ok {
			n.text = text
		}
		at := path
		if inArray { // any element of it is meant
			at = path[:len(path)-1]
		}
		n.term = termAt(at, n.text, n.kind)
		n.text, n.cut = cut(n.text)
	}
	return n
}

// members reads those of an object or an array, and what was erased from it.
func (t *tree) members(n *node, path []string, v jsontext.Value) {
	i := 0
	add := func(key string, value jsontext.Value) {
		i++
		if len(n.children) >= maxMembers || t.left <= 0 || len(path) >= maxNesting {
			n.more++
			return
		}
		n.children = append(n.children, t.read(key, append(slices.Clone(path), key), value, n.kind == '['))
	}
	if n.kind == '{' {
		domain.Members(v, func(key string, value jsontext.Value) bool {
			add(key, value)
			return true
		})
		t.gone(n, path)
		return
	}
	domain.Elements(v, func(value jsontext.Value) bool {
		add(strconv.Itoa(i), value)
		return true
	})
}

// gone adds what a mask took out of an object.
func (t *tree) gone(n *node, path []string) {
	prefix := keyOf(path) + stepMark
	for _, where := range slices.Sorted(maps.Keys(t.erased)) {
		key, under := strings.CutPrefix(where, prefix)
		if !under || strings.Contains(key, stepMark) || len(n.children) >= maxMembers {
			continue
		}
		if !slices.ContainsFunc(n.children, func(c node) bool { return c.key == key }) {
			n.children = append(n.children, node{key: key, mask: "erased"})
		}
	}
}

func (t *tree) mask(path []string) string {
	switch where := keyOf(path); {
	case t.erased[where]:
		return "erased"
	case t.masked[where], slices.ContainsFunc(t.stars, func(p []string) bool { return domain.LeadsTo(p, path) }):
		return "masked"
	}
	return ""
}

// stepMark stands between the steps of a path in a key. No step has a NUL in it that a store would have taken.
const stepMark = "\x00"

func keyOf(path []string) string { return strings.Join(path, stepMark) }

// maxTerm bounds the value of a term that a page offers, in bytes.
const maxTerm = 300

// termAt asks for a value at a path.
func termAt(path []string, text string, kind jsontext.Kind) *domain.Expr {
	if len(text) > maxTerm || len(path) == 0 {
		return nil
	}
	term := domain.Expr{
		Op: domain.OpEqual, Field: domain.FieldEvent, Path: slices.Clone(path), Value: text,
		// A string that looks like a number would find the number as well.
		Quoted: kind == '"' && json.Valid([]byte(text)),
	}
	// What a query cannot spell is not offered.
	if _, err := search.ParseField(search.FieldName(term)); err != nil || strings.ContainsRune(text, 0) ||
		!utf8.ValidString(text) {
		return nil
	}
	return &term
}

// cut shortens a text to what a page shows.
func cut(text string) (shown string, left int) {
	if len(text) <= maxText {
		return text, 0
	}
	n := 0
	for i := range text {
		if n == maxText {
			return text[:i], utf8.RuneCountInString(text[i:])
		}
		n++
	}
	return text, 0
}

// about says how many members a node has.
func (n *node) about() string {
	of := len(n.children) + n.more
	if n.kind == '[' {
		return fmt.Sprintf("[%d]", of)
	}
	return fmt.Sprintf("{%d}", of)
}

// leaf reports that a node has no members, and cannot have any.
func (n *node) leaf() bool { return n.kind != '{' && n.kind != '[' }

// kindName names a leaf's kind for the style sheet.
func (n *node) kindName() string {
	switch n.kind {
	case '"':
		return "string"
	case '0':
		return "number"
	default:
		return "word"
	}
}
