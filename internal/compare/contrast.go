package compare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// Limits of a contrast: decisions of each side, the newest ones; how long they are read; what is told apart in one of
// them and in all; and traits of one field.
const (
	SampleSize    = 2000
	contrastTime  = 8 * time.Second
	maxLeaves     = 1000
	maxLeafDepth  = 32
	maxTraits     = 300_000
	maxFields     = 50_000
	maxFieldName  = 512
	traitsOfField = 3
	DefaultTraits = 50
	MaxTraits     = 1000
)

// ContrastRequest asks what tells decisions that fit A from those that fit B.
type ContrastRequest struct {
	A, B domain.Filter
	// Most is how many traits are wanted at most.
	Most int
}

// Side is what was looked at on one side.
type Side struct {
	Filter domain.Filter
	// Decisions is how many, and More that there are others, which are older. Complete is false where there was no time to
	// find more.
	Decisions      int
	More, Complete bool
}

// Trait is a value that one side has more often than the other. A and B are how many decisions of each have it.
type Trait struct {
	Field string
	Value search.Value
	A, B  int
	// Difference is the part of A that has it less the part of B, from -1 to 1.
	Difference float64
}

// Contrast is what tells one side from the other, the greatest difference first.
type Contrast struct {
	A, B   Side
	Traits []Trait
	// Complete is false where not all values were told apart.
	Complete bool
}

// ParseContrast reads the query string of a contrast: that of a search, which is side A, with against, a query that is
// side B and has A's time where it names none. Without against, A is compared with what has another outcome: denials
// with what was allowed, where A does not say.
func ParseContrast(raw string, now time.Time) (out ContrastRequest, err error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return out, fmt.Errorf("the query string: %w", err)
	}
	if params.Has("cursor") {
		return out, errors.New("cursor: a contrast has no pages; leave it out")
	}
	out.Most = DefaultTraits
	if len(params["limit"]) > 1 {
		return out, errors.New("limit: it is there more than once; name it once")
	}
	if params.Has("limit") {
		if out.Most, err = strconv.Atoi(params.Get("limit")); err != nil || out.Most < 1 || out.Most > MaxTraits {
			return out, fmt.Errorf("limit: %q is not a number from 1 to %d", params.Get("limit"), MaxTraits)
		}
	}
	against := params["against"]
	params.Del("against")
	params.Del("limit")
	a, err := search.ParseRequest(params.Encode(), now)
	if err != nil {
		return out, err
	}
	out.A, out.B = a.Filter, a.Filter
	out.A.Where = search.Either(a.Filter, a.Otherwise) // a word that looks like an id is both at once
	switch len(against) {
	case 0:
		out.A.Where, out.B.Where = otherOutcome(out.A.Where)
		return out, nil
	case 1:
	default:
		return out, errors.New("against: there is more than one query; join them by AND")
	}
	b, err := search.Parse(against[0], now)
	if err != nil {
		return out, fmt.Errorf("against: %w", err)
	}
	out.B.Where = search.Either(b.Filter, b.Otherwise)
	if b.Dated {
		out.B.Since, out.B.Until = b.Since, b.Until
	}
	return out, nil
}

// otherOutcome makes the sides of a query that names no other one.
func otherOutcome(where domain.Expr) (a, b domain.Expr) {
	rest := where.Without(domain.FieldOutcome)
	outcome := where.About(domain.FieldOutcome)
	if outcome.Op == "" {
		return domain.AllOf(where, domain.Equals(domain.FieldOutcome, string(domain.OutcomeDenied))),
			domain.AllOf(where, domain.Equals(domain.FieldOutcome, string(domain.OutcomeAllowed)))
	}
	return where, domain.AllOf(rest, domain.Not(outcome))
}

// EventReader is the store as FindContrast sees it; see ports.DecisionColumns.
type EventReader interface {
	StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
}

// FindContrast tells what the newest decisions of one side have more often than those of the other: in columns, and in
// any value of the event. A field that a query of a side asks for is left out: it would be nothing new.
func FindContrast(
	ctx context.Context, in EventReader, scope domain.Scope, asked ContrastRequest,
) (out Contrast, err error) {
	c := newContrast()
	for _, side := range []domain.Filter{asked.A, asked.B} {
		c.leaveOut(side.Where)
	}
	began := time.Now()
	for n, side := range []*Side{&out.A, &out.B} {
		side.Filter = []domain.Filter{asked.A, asked.B}[n]
		// Half of the time is the first one's.
		until := began.Add(contrastTime * time.Duration(n+1) / 2)
		if err := c.sample(ctx, in, scope, n, side, until); err != nil {
			return Contrast{}, err
		}
	}
	out.Complete = !c.full
	out.Traits = c.differences(out.A.Decisions, out.B.Decisions, asked.Most)
	return out, nil
}

// trait is a value of a field.
type trait struct {
	field string
	value string
}

// contrast counts traits of two sides.
type contrast struct {
	left    map[string]bool // fields that are left out; at first those that are columns as well
	traits  map[trait]*[2]int
	present map[string]*[2]int // decisions that have any value there
	full    bool
}

func newContrast() *contrast {
	return &contrast{
		left:   map[string]bool{"label.id": true, "label.app": true},
		traits: map[trait]*[2]int{}, present: map[string]*[2]int{},
	}
}

// leaveOut notes the fields of comparisons.
func (c *contrast) leaveOut(e domain.Expr) {
	if e.Field != "" {
		c.left[search.FieldName(e)] = true
	}
	for _, a := range e.Args {
		c.leaveOut(a)
	}
}

// sample counts the newest decisions of a side.
func (c *contrast) sample(
	ctx context.Context, in EventReader, scope domain.Scope, n int, side *Side, until time.Time,
) error {
	q := domain.Query{Filter: side.Filter, Limit: domain.MaxPage}
	side.Complete = true
	// The first page has the time of any page: there is nothing to tell without it. Those behind it are given up, as
	// if whoever asked had gone: a deadline would be taken for a database that does not answer.
	asking, giveUp := ctx, func() {}
	defer func() { giveUp() }()
	for side.Decisions < SampleSize {
		page, err := in.StoredEvents(asking, scope, q)
		if err != nil && asking.Err() != nil && ctx.Err() == nil {
			side.Complete = false
			return nil
		}
		if err != nil {
			return err
		}
		for i := range page.Items {
			if side.Decisions == SampleSize {
				break
			}
			side.Decisions++
			c.count(n, &page.Items[i])
		}
		side.More = page.Next != nil
		if page.Next == nil {
			return nil
		}
		if time.Now().After(until) {
			side.Complete = side.Decisions == SampleSize
			return nil
		}
		if q.After = page.Next; asking == ctx {
			asking, giveUp = context.WithCancel(ctx)
			timer := time.AfterFunc(time.Until(until), giveUp)
			defer timer.Stop()
		}
	}
	return nil
}

// columnTraits are the columns that several decisions have in common. What docket computes is what is asked for first;
// the ids of each are left out.
var columnTraits = []domain.Field{
	domain.FieldOutcome, domain.FieldPath, domain.FieldTenant, domain.FieldReason, domain.FieldPrincipal,
	domain.FieldAction, domain.FieldResource, domain.FieldOPA, domain.FieldApp, domain.FieldRequestedBy, domain.FieldError,
}

// known are members of an event that are columns, or another one in every decision.
var known = map[string]bool{
	"decision_id": true, "timestamp": true, "path": true, "trace_id": true, "span_id": true, "batch_decision_id": true,
	"requested_by": true, "error": true, "metrics": true, "req_id": true,
}

// count counts what a decision has, each trait once.
func (c *contrast) count(n int, d *domain.Decision) {
	seen, fields := map[trait]bool{}, map[string]bool{}
	add := func(field, value string) {
		if c.left[field] || len(field) > maxFieldName {
			return
		}
		t := trait{field, domain.Name(value)}
		if seen[t] {
			return
		}
		seen[t] = true
		if counts := c.traits[t]; counts != nil {
			counts[n]++
		} else if len(c.traits) < maxTraits {
			c.traits[t] = new([2]int)
			c.traits[t][n]++
		} else {
			c.full = true
		}
		if !fields[field] {
			fields[field] = true
			if c.present[field] == nil {
				if len(c.present) >= maxFields {
					c.full = true
					return
				}
				c.present[field] = new([2]int)
			}
			c.present[field][n]++
		}
	}
	for _, f := range columnTraits {
		if text := search.ColumnText(d, f); text != "" {
			add(string(f), text)
		}
	}
	if d.Unsearchable || d.Event == nil {
		return
	}
	l := leaves{visit: add, room: maxLeaves}
	domain.Members(d.Event, func(key string, value jsontext.Value) bool {
		if !known[key] {
			l.walk([]string{key}, value)
		}
		return l.room > 0
	})
}

// leaves visits the values of an event that are no objects and no arrays.
type leaves struct {
	visit func(field, value string)
	room  int
}

func (l *leaves) walk(path []string, v jsontext.Value) {
	if l.room <= 0 || len(path) > maxLeafDepth {
		return
	}
	switch v.Kind() {
	case '{':
		domain.Members(v, func(key string, value jsontext.Value) bool {
			l.walk(append(slices.Clip(path), key), value)
			return l.room > 0
		})
	case '[':
		i := 0
		domain.Elements(v, func(element jsontext.Value) bool {
			if kind := element.Kind(); kind == '{' || kind == '[' {
				l.walk(append(slices.Clip(path), strconv.Itoa(i)), element)
			} else { // any element of the array
				l.leaf(path, element)
			}
			i++
			return l.room > 0
		})
	default:
		l.leaf(path, v)
	}
}

func (l *leaves) leaf(path []string, v jsontext.Value) {
	l.room--
	if text, ok := search.ScalarText(v); ok {
		l.visit(search.FieldAt(path), text)
	}
}

// differences are the traits by which two samples differ most.
func (c *contrast) differences(a, b, most int) []Trait {
	if a == 0 || b == 0 {
		return nil
	}
	byField := map[string][]Trait{}
	add := func(field string, v search.Value, inA, inB int) {
		t := Trait{
			Field: field, Value: v, A: inA, B: inB, Difference: float64(inA)/float64(a) - float64(inB)/float64(b),
		}
		if t.Difference != 0 {
			byField[field] = append(byField[field], t)
		}
	}
	for t, n := range c.traits {
		add(t.field, search.Value{Text: t.value, There: true}, n[0], n[1])
	}
	for field, n := range c.present {
		add(field, search.Value{}, a-n[0], b-n[1])
	}
	var out []Trait
	order := func(a, b Trait) int {
		return cmp.Or(
			cmp.Compare(math.Abs(b.Difference), math.Abs(a.Difference)), cmp.Compare(a.Field, b.Field),
			cmp.Compare(b.Difference, a.Difference), cmp.Compare(a.Value.Text, b.Value.Text),
		)
	}
	for _, traits := range byField {
		slices.SortFunc(traits, order)
		out = append(out, traits[:min(len(traits), traitsOfField)]...)
	}
	slices.SortFunc(out, order)
	return out[:min(len(out), most)]
}
