package api

import (
	"encoding/json"
	"math"

	"github.com/docket-project/docket/internal/compare"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// Comparison is in what two decisions differ.
type Comparison struct {
	A           Decision     `json:"a"`
	B           Decision     `json:"b"`
	Differences []Difference `json:"differences"`
	// Complete is false where there are more differences than compare.MaxDifferences.
	Complete bool `json:"complete"`
}

// Difference is one value that differs. Field is how a query asks for it. Noise is what decisions of one kind nearly
// always differ in.
type Difference struct {
	Field  string          `json:"field"`
	Change string          `json:"change"`
	Noise  bool            `json:"noise"`
	A      json.RawMessage `json:"a,omitempty"`
	B      json.RawMessage `json:"b,omitempty"`
}

// What became of a value from a to b.
const (
	Changed = "changed"
	Added   = "added"
	Removed = "removed"
)

// SpellComparison makes the JSON of a Comparison, the values with every byte as sent.
func SpellComparison(a, b domain.Decision) []byte {
	differences, complete := compare.Events(a.Event, b.Event)
	spelled := With(Marshal(struct {
		Complete bool `json:"complete"`
	}{complete}), "a", Marshal(DecisionOf(a)))
	spelled = With(spelled, "b", Marshal(DecisionOf(b)))
	list := []byte{'['}
	for i, d := range differences {
		line := Difference{Field: search.FieldAt(d.Path), Change: Changed, Noise: d.Noise()}
		switch {
		case d.A == nil:
			line.Change = Added
		case d.B == nil:
			line.Change = Removed
		}
		object := Marshal(line)
		if d.A != nil {
			object = With(object, "a", d.A)
		}
		if d.B != nil {
			object = With(object, "b", d.B)
		}
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, object...)
	}
	return With(spelled, "differences", append(list, ']'))
}

// LastAllowed is the last allowed decision like another one.
type LastAllowed struct {
	Decision *Decision `json:"decision"`
	// Relaxed are the fields that it may not have in common with the other one.
	Relaxed []domain.Field `json:"relaxed"`
	// Complete is false where there was no time to look for a closer one, or a newer.
	Complete bool `json:"complete"`
}

// LastAllowedOf is what was found.
func LastAllowedOf(a compare.Allowed) LastAllowed {
	out := LastAllowed{Relaxed: append([]domain.Field{}, a.Relaxed...), Complete: a.Complete}
	if a.Decision != nil {
		d := DecisionOf(*a.Decision)
		out.Decision = &d
	}
	return out
}

// Contrast is what tells one set of decisions from another.
type Contrast struct {
	Items []Trait      `json:"items"`
	A     ContrastSide `json:"a"`
	B     ContrastSide `json:"b"`
	// Complete is false where a sample is smaller than it could be, or has more values than are told apart.
	Complete bool `json:"complete"`
}

// ContrastSide is what was looked at on one side: the newest decisions that fit a query. More says that there are
// others.
type ContrastSide struct {
	Query     string  `json:"q"`
	Since     Instant `json:"since"`
	Decisions int     `json:"decisions"`
	More      bool    `json:"more"`
}

// Trait is a value that one side has more often; null is that there is none. A and B are how many decisions of each
// side have it, and Difference is the part of a less the part of b, from -1 to 1.
type Trait struct {
	Field      string  `json:"field"`
	Value      *string `json:"value"`
	A          int     `json:"a"`
	B          int     `json:"b"`
	Difference float64 `json:"difference"`
}

// ContrastOf is what was found.
func ContrastOf(c compare.Contrast) Contrast {
	side := func(s compare.Side) ContrastSide {
		return ContrastSide{search.String(s.Filter), At(s.Filter.Since), s.Decisions, s.More}
	}
	out := Contrast{
		Items: make([]Trait, 0, len(c.Traits)), A: side(c.A), B: side(c.B),
		Complete: c.Complete && c.A.Complete && c.B.Complete,
	}
	const thousandths = 1000
	for _, t := range c.Traits {
		item := Trait{Field: t.Field, A: t.A, B: t.B, Difference: math.Round(t.Difference*thousandths) / thousandths}
		if t.Value.There {
			item.Value = &t.Value.Text
		}
		out.Items = append(out.Items, item)
	}
	return out
}
