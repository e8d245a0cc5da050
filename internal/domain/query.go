package domain

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a page.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// DefaultSpan is how far back a search looks that names no time.
const DefaultSpan = 24 * time.Hour

// Query is a search over decisions or dead letters, the newest first.
type Query struct {
	Filter
	// Limit is the most items of a page, 1 to MaxPage.
	Limit int
	// After is where the page begins, or nil. One that goes Back is where the page ends.
	After *Cursor
}

// Page is one page of a search.
type Page struct {
	Items []Decision
	// Next is where the next page begins, or nil at the end. Prev goes back to the page before, and is nil where that is
	// not known to have anything.
	Next, Prev *Cursor
	// LookedAt is how many rows were looked at. Complete is false where there was no time for more of them: Next goes on
	// (Prev, on the way back), and what lies in between was looked at.
	LookedAt int
	Complete bool
}

// Cursor lies between two items: those behind it are older, or of the same time and greater in key.
type Cursor struct {
	Time   time.Time
	Tenant string
	ID     string
	// Back says that what is wanted lies in front of it.
	Back bool
	// Reading is which of two readings of a query the cursor goes on with; stores do not look at it.
	Reading Reading
}

// Reading is one of the readings of a query that has two: a word that looks like an id is one first, and then a text.
type Reading string

// The readings.
const (
	// FirstReading has found something.
	FirstReading Reading = ""
	// FirstReadingSoFar has found nothing yet.
	FirstReadingSoFar Reading = "so far"
	// OtherReading is the second one.
	OtherReading Reading = "other"
)

// CursorBefore lies behind everything of a time and later.
func CursorBefore(t time.Time) *Cursor { return &Cursor{Time: t.Add(-time.Microsecond)} }

// CursorOf lies right behind a decision or, on the way back, right in front of it.
func CursorOf(d *Decision) *Cursor { return &Cursor{Time: d.Time(), Tenant: d.Tenant, ID: d.ID} }

// Backward is the cursor on the way back.
func (c *Cursor) Backward(back bool) *Cursor {
	c.Back = back
	return c
}

// DeadCursorOf lies right behind a dead letter.
func DeadCursorOf(l *DeadLetter) *Cursor { return &Cursor{Time: l.DiedAt, ID: l.ID} }

// cursorJSON is a cursor on its way through a client.
type cursorJSON struct {
	Micros int64  `json:"t"`
	Tenant string `json:"n"`
	ID     string `json:"i"`
	Back   bool   `json:"b,omitempty"`
	// Reading is left out where it is the first.
	Reading Reading `json:"r,omitempty"`
}

// String spells the cursor; clients pass it back unread.
func (c *Cursor) String() string {
	b, err := json.Marshal(cursorJSON{c.Time.UnixMicro(), c.Tenant, c.ID, c.Back, c.Reading})
	if err != nil {
		panic(err) // two strings and a number
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseCursor reads what String wrote.
func ParseCursor(s string) (*Cursor, error) {
	var c cursorJSON
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.ID == "" && (c.Tenant != "" || c.Micros == 0) {
		return nil, fmt.Errorf("%.40q is not one of docket's: pass on next_cursor or prev_cursor unchanged", s)
	}
	return &Cursor{
		Time: time.UnixMicro(c.Micros).UTC(), Tenant: c.Tenant, ID: c.ID, Back: c.Back, Reading: c.Reading,
	}, nil
}

// ParseQuery reads parameters that choose decisions. now is where durations back are counted from. The error names the
// parameter.
func ParseQuery(values url.Values, now time.Time) (Query, error) {
	return parseQuery(
		Query{Filter: Filter{Since: now.Add(-DefaultSpan).UTC()}, Limit: DefaultPage}, values, now, DecisionFields,
	)
}

// ParseDeadQuery is ParseQuery over dead letters; without since it looks at all of them.
func ParseDeadQuery(values url.Values, now time.Time) (Query, error) {
	q, err := parseQuery(Query{Limit: DefaultPage}, values, now, DeadLetterFields)
	if err == nil && q.After != nil && q.After.Back {
		err = errors.New("cursor: it is one of decisions, which have pages in both directions")
	}
	return q, err
}

// ParseJobFilter reads parameters that choose what a job of a kind deals with. Without since that is everything, which
// only jobs about dead letters may say.
func ParseJobFilter(kind JobKind, values url.Values, now time.Time) (Filter, error) {
	if kind == Reproject && !values.Has("since") {
		return Filter{}, fmt.Errorf("since is missing: it says how far back, such as 30d")
	}
	q, err := parseQuery(Query{Limit: DefaultPage}, values, now, kind.Fields())
	return q.Filter, err
}

// MaxTerms is how many values a query may name: each is compared with every row that is looked at.
const MaxTerms = 100

func parseQuery(q Query, values url.Values, now time.Time, fields []FieldInfo) (Query, error) {
	var terms []Expr
	count := 0
	for _, name := range sortedKeys(values) {
		var err error
		if count += len(values[name]); count > MaxTerms {
			return Query{}, fmt.Errorf("there are more than %d values: ask for fewer at once", MaxTerms)
		}
		switch name {
		case "since", "until", "limit", "cursor":
			err = q.set(name, values, now)
		default:
			f, known := FieldOf(fields, Field(name))
			if !known || !f.Param {
				return Query{}, fmt.Errorf(
					"unknown parameter %q: known are since, until, limit, cursor, %s", name, paramNames(fields),
				)
			}
			var term Expr
			term, err = parseTerm(f, values[name])
			terms = append(terms, term)
		}
		if err != nil {
			return Query{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	q.Where = AllOf(terms...)
	if !q.Until.IsZero() && q.Until.Before(q.Since) {
		return Query{}, fmt.Errorf(
			"until %s lies before since %s", q.Until.Format(time.RFC3339), q.Since.Format(time.RFC3339),
		)
	}
	return q, nil
}

// set sets what a parameter says that can stand there once.
func (q *Query) set(name string, values url.Values, now time.Time) error {
	value, err := Once(values, name)
	if err != nil {
		return err
	}
	switch name {
	case "since":
		q.Since, err = ParseInstant(value, now)
	case "until":
		if q.Until, err = ParseInstant(value, now); err == nil && q.Until.IsZero() { // which would be no end
			err = errors.New("nothing lies before the year 1")
		}
	case "limit":
		q.Limit, err = ParseLimit(value)
	case "cursor":
		q.After, err = ParseCursor(value)
	}
	return err
}

// Once is the value of a parameter that can stand there once, empty where it does not.
func Once(values url.Values, name string) (string, error) {
	if n := len(values[name]); n > 1 {
		return "", fmt.Errorf("it is there %d times; name it once", n)
	}
	return values.Get(name), nil
}

// ParseLimit reads how many items a page has.
func ParseLimit(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxPage {
		return 0, fmt.Errorf("%q is not a number from 1 to %d", s, MaxPage)
	}
	return n, nil
}

func paramNames(fields []FieldInfo) string {
	var names []string
	for _, f := range fields {
		if f.Param {
			names = append(names, string(f.Name))
		}
	}
	return strings.Join(names, ", ")
}

// parseTerm reads the values of one parameter: any of them, and none of those that begin with "!".
func parseTerm(f FieldInfo, values []string) (Expr, error) {
	var anyOf, noneOf []Expr
	for _, v := range values {
		text, not, prefix := undouble(v)
		if f.Kind == Policy {
			text = strings.TrimLeft(text, "/") // as it is stored
		}
		var e Expr
		switch {
		case prefix && text == "":
			e = Present(f.Name)
		case prefix:
			e = HasPrefix(f.Name, text)
		case strings.ContainsRune(text, 0) || !utf8.ValidString(text):
			return e, fmt.Errorf("has a NUL in it, or is no UTF-8: no decision has such a value")
		case f.Kind == Enum && !slices.Contains(f.Values, text):
			return e, fmt.Errorf("%q is no %s: they are %s", text, f.What, strings.Join(f.Values, ", "))
		case text == "":
			return e, fmt.Errorf("is empty")
		default:
			e = Equals(f.Name, text)
		}
		if not {
			noneOf = append(noneOf, Not(e))
		} else {
			anyOf = append(anyOf, e)
		}
	}
	if len(anyOf) > 0 {
		noneOf = append([]Expr{AnyOf(anyOf...)}, noneOf...)
	}
	return AllOf(noneOf...), nil
}

// undouble reads what a value asks for: a "!" in front is not, a "*" behind is a prefix, and two of them are one that
// is meant.
func undouble(v string) (text string, not, prefix bool) {
	rest := strings.TrimLeft(v, "!")
	marks := len(v) - len(rest)
	text = strings.TrimRight(rest, "*")
	stars := len(rest) - len(text)
	return strings.Repeat("!", marks/2) + text + strings.Repeat("*", stars/2), marks%2 == 1, stars%2 == 1
}

// Literal spells a text as a parameter that means it and nothing else, whatever it begins or ends with.
func Literal(text string) string {
	rest := strings.TrimLeft(text, "!")
	marks := len(text) - len(rest)
	return strings.Repeat("!", marks) + text + strings.Repeat("*", len(rest)-len(strings.TrimRight(rest, "*")))
}

// Params spells a filter as ParseDeadQuery reads it, times included. ok is false for a tree that parameters cannot say:
// they say "or" between values of one field, "and" between fields, and "not" of one value.
func (f Filter) Params() (values url.Values, ok bool) {
	values = url.Values{}
	if !f.Since.IsZero() {
		values.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		values.Set("until", f.Until.Format(time.RFC3339Nano))
	}
	positive := map[Field]bool{}
	for _, c := range f.Where.Conjuncts() {
		alternatives, not := []Expr{c}, ""
		switch c.Op {
		case OpOr:
			alternatives = c.Args
		case OpNot:
			alternatives, not = c.Args, "!"
		case "", OpAnd, OpEqual, OpPrefix, OpPresent, OpGlob, OpLess, OpAtMost, OpAtLeast, OpMore, OpText:
		}
		if len(alternatives) == 0 || alternatives[0].Field == "" || not == "" && positive[alternatives[0].Field] {
			return nil, false
		}
		for _, a := range alternatives {
			text, ok := a.param()
			if !ok || a.Field != alternatives[0].Field {
				return nil, false
			}
			positive[a.Field] = positive[a.Field] || not == ""
			values.Add(string(a.Field), not+text)
		}
	}
	return values, true
}

// param spells one comparison.
func (e Expr) param() (string, bool) {
	text := Literal(e.Value)
	switch e.Op {
	case OpEqual:
		return text, true
	case OpPrefix:
		return text + "*", true
	case OpPresent:
		return "*", true
	case "", OpAnd, OpOr, OpNot, OpGlob, OpLess, OpAtMost, OpAtLeast, OpMore, OpText:
	}
	return "", false
}

// zoneless are spellings of a time that is in UTC where it names no zone.
var zoneless = []string{
	"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00",
}

// ParseInstant reads an RFC 3339 time, also without its seconds or its zone, or a duration back from now such as 15m,
// 24h or 7d.
func ParseInstant(s string, now time.Time) (time.Time, error) {
	t, err := ParseRFC3339(s)
	for _, layout := range zoneless {
		if err != nil {
			t, err = time.Parse(layout, s)
		}
	}
	if err == nil && readableYear(t) {
		return t.UTC(), nil
	}
	d, err := ParseSpan(s)
	if err != nil {
		return time.Time{}, err
	}
	return now.Add(-d).UTC(), nil
}

// ParseSpan reads a length of time such as 15m, 24h or 7d.
func ParseSpan(s string) (time.Duration, error) {
	text, days := s, 1
	if n, ok := strings.CutSuffix(s, "d"); ok {
		text, days = n+"h", 24
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is neither an RFC 3339 time nor a duration back such as 15m, 24h or 7d", s)
	}
	if d > math.MaxInt64/time.Duration(days) {
		return 0, fmt.Errorf("%q is more than 292 years: name a time instead", s)
	}
	return d * time.Duration(days), nil
}

func sortedKeys(values url.Values) []string {
	keys := make([]string, 0, len(values))
	for k, v := range values {
		if len(v) > 0 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
