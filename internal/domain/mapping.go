package domain

import (
	"fmt"
	"strings"
)

// Mapping says what the events of one policy path mean and where they keep what people search by. Every list holds JSON
// pointers (RFC 6901) into the event, tried in order before the built-in ones; the first that leads to a usable value
// stands.
type Mapping struct {
	// Path is a policy path without leading slash, or a prefix of paths when it ends in "*".
	Path string
	// Denied are conditions of which any that holds makes a decision denied. After them the first condition of Allowed
	// that leads to something it can judge decides. Where there are none of these, and no condition of Denied holds
	// although one could be judged, the decision is allowed.
	Allowed, Denied []Condition
	// Undefined is what a decision without a result counts as: OutcomeAllowed or OutcomeDenied; "" leaves it undefined.
	Undefined Outcome
	// Reason, Principal, Action and Resource lead to text, a number, or an array of these.
	Reason    []string
	Principal []string
	Action    []string
	Resource  []string
}

// Condition is a pointer with what is expected there.
type Condition struct {
	Pointer string
	When    When
	// Equals is the text, number or boolean that WhenEquals compares with, as text.
	Equals string
}

// When is what a condition expects.
type When string

// What conditions expect. A boolean that is the other one, and something that is empty, say the opposite of the
// condition; another value than Equals says nothing, and neither does a value of another kind.
const (
	WhenTrue     When = "true"
	WhenFalse    When = "false"
	WhenNonEmpty When = "non_empty"
	// WhenFilled is true, or not empty, whichever the value can be.
	WhenFilled When = "filled"
	WhenEquals When = "equals"
)

// Whens lists what conditions may expect.
var Whens = []When{WhenTrue, WhenFalse, WhenNonEmpty, WhenFilled, WhenEquals}

// CheckPointer reports a text that is no JSON pointer below the event.
func CheckPointer(p string) error {
	rest := strings.NewReplacer("~0", "", "~1", "").Replace(p)
	if strings.HasPrefix(p, "/") && !strings.Contains(rest, "~") {
		return nil
	}
	return fmt.Errorf("%q is no JSON pointer: it begins with a slash, like /input/user, and spells ~ as ~0 and / as ~1", p)
}

// CheckPath reports a path that no policy can have.
func CheckPath(path string) error {
	switch star := strings.IndexByte(path, '*'); {
	case strings.Trim(path, "/") == "":
		return fmt.Errorf("a mapping needs a path, such as http/authz/allow or http/*")
	case star >= 0 && star != len(path)-1:
		return fmt.Errorf("path %s: a * stands for the rest of a path, so only the last character can be one", path)
	}
	return nil
}

// validate reports the first thing that is wrong.
func (m Mapping) validate() error {
	if err := CheckPath(m.Path); err != nil {
		return err
	}
	var pointers []string
	for _, c := range append(append([]Condition(nil), m.Allowed...), m.Denied...) {
		pointers = append(pointers, c.Pointer)
		switch c.When {
		case WhenTrue, WhenFalse, WhenNonEmpty, WhenFilled, WhenEquals:
		default:
			return fmt.Errorf("mapping %s: no condition expects %q: it is one of %v", m.Path, c.When, Whens)
		}
	}
	for _, list := range [][]string{m.Reason, m.Principal, m.Action, m.Resource} {
		pointers = append(pointers, list...)
	}
	for _, p := range pointers {
		if err := CheckPointer(p); err != nil {
			return fmt.Errorf("mapping %s: %w", m.Path, err)
		}
	}
	switch m.Undefined {
	case "", OutcomeAllowed, OutcomeDenied:
		return nil
	default:
		return fmt.Errorf("mapping %s: undefined is %q: it can be allowed or denied", m.Path, m.Undefined)
	}
}

// matches reports whether the mapping is for a policy path.
func (m Mapping) matches(path string) bool {
	want := strings.TrimLeft(m.Path, "/")
	if prefix, ok := strings.CutSuffix(want, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return path == want
}
