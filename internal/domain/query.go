package domain

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Field is a column that a search can name.
type Field string

// The searchable fields, by their names in the API.
const (
	FieldOutcome   Field = "outcome"
	FieldPath      Field = "path"
	FieldTenant    Field = "tenant"
	FieldPrincipal Field = "principal"
	FieldAction    Field = "action"
	FieldResource  Field = "resource"
	FieldOPA       Field = "opa"
	FieldApp       Field = "app"
	FieldRevision  Field = "revision"
	FieldTraceID   Field = "trace_id"
	FieldError     Field = "error"
)

// What dead letters can be searched by besides tenant and path.
const (
	FieldID          Field = "id"
	FieldState       Field = "state"
	FieldClass       Field = "class"
	FieldCode        Field = "code"
	FieldFingerprint Field = "fingerprint"
	FieldReason      Field = "reason"
	FieldTopic       Field = "topic"
	FieldDecisionID  Field = "decision_id"
	FieldReplay      Field = "replay"
)

// Fields lists the searchable fields.
var Fields = []Field{
	FieldOutcome, FieldPath, FieldTenant, FieldPrincipal, FieldAction, FieldResource,
	FieldOPA, FieldApp, FieldRevision, FieldTraceID, FieldError,
}

// DeadFields lists the searchable fields of dead letters.
var DeadFields = []Field{
	FieldState, FieldClass, FieldCode, FieldFingerprint, FieldReason, FieldTenant, FieldPath, FieldTopic, FieldDecisionID, FieldReplay, FieldID,
}

// CountedFields are those of dead letters by which they are counted, besides their state.
var CountedFields = []Field{FieldClass, FieldCode, FieldFingerprint, FieldReason, FieldTenant, FieldPath, FieldTopic}

// TermsOf returns the terms about some fields.
func TermsOf(terms []Term, fields ...Field) []Term {
	return slices.DeleteFunc(slices.Clone(terms), func(t Term) bool { return !slices.Contains(fields, t.Field) })
}

// Countable reports that what is counted can answer how many dead letters fit.
func (q Query) Countable() bool {
	return q.Since.IsZero() && q.Until.IsZero() && len(TermsOf(q.Terms, append(slices.Clip(CountedFields), FieldState)...)) == len(q.Terms)
}

// Match is one wanted text of a field.
type Match struct {
	// Text is compared exactly, or as a prefix.
	Text   string
	Prefix bool
	// Not inverts the match; a row without the field passes it.
	Not bool
}

// Term is everything a query wants of one field: any of the positive matches, and none of the inverted ones.
type Term struct {
	Field   Field
	Matches []Match
}

// Limits of a page.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// DefaultSpan is how far back a search looks that names no time.
const DefaultSpan = 24 * time.Hour

// Query is a search over decisions or dead letters, newest first.
type Query struct {
	// Since is inclusive and Until exclusive; zero is the beginning and the end of time, so that fast clocks' decisions show.
	Since, Until time.Time
	// Terms all have to hold.
	Terms []Term
	// Limit is the most items of a page, 1 to MaxPage.
	Limit int
	// After is the last item of the page before, or nil.
	After *Cursor
}

// Page is one page of a search.
type Page struct {
	Items []Decision
	// Next is where the next page begins, or nil at the end.
	Next *Cursor
}

// Cursor is a place between two items: those behind it are older, or of the same time and greater in key.
type Cursor struct {
	Time   time.Time
	Tenant string
	ID     string
}

// CursorOf is the place right behind a decision.
func CursorOf(d *Decision) *Cursor { return &Cursor{Time: d.Time(), Tenant: d.Tenant, ID: d.ID} }

// cursorJSON is a cursor on its way through a client.
type cursorJSON struct {
	Micros int64  `json:"t"`
	Tenant string `json:"n"`
	ID     string `json:"i"`
}

// String spells the cursor; clients pass it back unread.
func (c *Cursor) String() string {
	b, err := json.Marshal(cursorJSON{c.Time.UnixMicro(), c.Tenant, c.ID})
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
	if err != nil || c.ID == "" {
		return nil, fmt.Errorf("cursor %.40q is not one of ours: pass on next_cursor unchanged", s)
	}
	return &Cursor{Time: time.UnixMicro(c.Micros).UTC(), Tenant: c.Tenant, ID: c.ID}, nil
}

// ParseQuery reads a query string over decisions. now is where durations back are counted from. The error names the
// parameter.
func ParseQuery(values url.Values, now time.Time) (Query, error) {
	return parseQuery(Query{Since: now.Add(-DefaultSpan).UTC(), Limit: DefaultPage}, values, now, Fields)
}

// ParseDeadQuery is ParseQuery over dead letters; without since it looks at all of them.
func ParseDeadQuery(values url.Values, now time.Time) (Query, error) {
	return parseQuery(Query{Limit: DefaultPage}, values, now, DeadFields)
}

// Filter spells what the query wants, without its pages, so that ParseDeadQuery reads it again the same at any time.
func (q Query) Filter() url.Values {
	values := url.Values{}
	if !q.Since.IsZero() {
		values.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		values.Set("until", q.Until.Format(time.RFC3339Nano))
	}
	for _, t := range q.Terms {
		for _, m := range t.Matches {
			text := m.Text
			if t.Field == FieldPath {
				text = "/" + text // so that a ! in it is none of ours
			}
			if m.Not {
				text = "!" + text
			}
			if m.Prefix {
				text += "*"
			}
			values.Add(string(t.Field), text)
		}
	}
	return values
}

// Names reports that the query says something of a field.
func (q Query) Names(f Field) bool {
	return slices.ContainsFunc(q.Terms, func(t Term) bool { return t.Field == f })
}

func parseQuery(q Query, values url.Values, now time.Time, fields []Field) (Query, error) {
	for _, name := range sortedKeys(values) {
		var err error
		last := values[name][len(values[name])-1]
		switch name {
		case "since":
			q.Since, err = ParseInstant(last, now)
		case "until":
			q.Until, err = ParseInstant(last, now)
		case "limit":
			q.Limit, err = strconv.Atoi(last)
			if err != nil || q.Limit < 1 || q.Limit > MaxPage {
				err = fmt.Errorf("%q is not a number from 1 to %d", last, MaxPage)
			}
		case "cursor":
			q.After, err = ParseCursor(last)
		default:
			if !slices.Contains(fields, Field(name)) {
				return Query{}, fmt.Errorf("unknown parameter %q: known are since, until, limit, cursor, %s", name, joinTexts(fields))
			}
			var t Term
			t, err = parseTerm(Field(name), values[name])
			q.Terms = append(q.Terms, t)
		}
		if err != nil {
			return Query{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if !q.Until.IsZero() && q.Until.Before(q.Since) {
		return Query{}, fmt.Errorf("until %s lies before since %s", q.Until.Format(time.RFC3339), q.Since.Format(time.RFC3339))
	}
	return q, nil
}

func parseTerm(field Field, values []string) (Term, error) {
	t := Term{Field: field}
	for _, v := range values {
		m := Match{Text: v}
		m.Text, m.Not = strings.CutPrefix(m.Text, "!")
		m.Text, m.Prefix = strings.CutSuffix(m.Text, "*")
		if field == FieldPath {
			m.Text = strings.TrimLeft(m.Text, "/") // as it is stored
		}
		if field == FieldOutcome && !m.Prefix && !slices.Contains(Outcomes, Outcome(m.Text)) {
			return t, fmt.Errorf("%q is no outcome: they are %s", m.Text, joinTexts(Outcomes))
		}
		if field == FieldState && !m.Prefix && !slices.Contains(DeadStates, DeadState(m.Text)) {
			return t, fmt.Errorf("%q is no state of a dead letter: they are %s", m.Text, joinTexts(DeadStates))
		}
		if field == FieldClass && !m.Prefix && !slices.Contains(Classes, Class(m.Text)) {
			return t, fmt.Errorf("%q is no class: they are %s", m.Text, joinTexts(Classes))
		}
		if m.Text == "" && !m.Prefix {
			return t, fmt.Errorf("is empty")
		}
		t.Matches = append(t.Matches, m)
	}
	return t, nil
}

// ParseInstant reads an RFC 3339 time, or a duration back from now such as 15m, 24h or 7d.
func ParseInstant(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil && readableYear(t) {
		return t.UTC(), nil
	}
	text, days := s, 1
	if n, ok := strings.CutSuffix(s, "d"); ok {
		text, days = n+"h", 24
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("%q is neither an RFC 3339 time nor a duration back such as 15m, 24h or 7d", s)
	}
	return now.Add(-d * time.Duration(days)).UTC(), nil
}

func joinTexts[T ~string](texts []T) string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = string(t)
	}
	return strings.Join(out, ", ")
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
