package search

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Limits of statistics: fields that are counted by at once, spans of time, values that are told apart while counting,
// items of an answer, and how long decisions are counted one by one.
const (
	MaxBy      = 3
	MaxSpans   = 10_000
	maxGroups  = 100_000
	MaxItems   = 50_000
	statsTime  = 8 * time.Second
	DefaultTop = 1000
)

// StatsRequest asks how many decisions there are.
type StatsRequest struct {
	Request
	// By are fields by whose values decisions are counted, as terms.
	By []domain.Expr
	// Every is the length of the spans of time by which they are counted, in whole seconds; 0 is none. They begin at whole
	// ones in UTC, weeks on Mondays.
	Every time.Duration
	// Top is how many values there are at most, those with the most decisions.
	Top int
	// apart counts decisions without a value of the only field apart from the others.
	apart bool
}

// Stats is how many decisions there are.
type Stats struct {
	Items []Stat
	// Total is how many fit, each counted once.
	Total int64
	// Absent is how many of them have no value, where the values of one field were asked for; they are no item.
	Absent int64
	// Since is from when on they were counted, which is later than what was asked for where there was no time for more.
	Since, Until time.Time
	// More is how many values there are that have no room, and Room how many have: Top, or fewer where there are many
	// spans of time.
	More, Room int
	// Why tells a person what is missing; "" where nothing is.
	Why string
}

// Stat is a count of what has these values, in the order of By, in the span that begins at Time.
type Stat struct {
	Values [MaxBy]Value
	Time   time.Time
	Count  int64
	// First is when the first of them was decided, where Facets has counted one by one.
	First time.Time
}

// ParseStats reads the query string of statistics: that of a search, without limit and cursor, with by, every and
// limit.
func ParseStats(raw string, now time.Time) (out StatsRequest, err error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return out, fmt.Errorf("the query string: %w", err)
	}
	if params.Has("cursor") {
		return out, errors.New("cursor: statistics have none; name a time by since and until")
	}
	for _, list := range params["by"] {
		for _, name := range splitNames(list) {
			f, err := parseGroup(name)
			if err != nil {
				return out, fmt.Errorf("by: %w", err)
			}
			out.By = append(out.By, f)
		}
	}
	if err := checkBy(out.By); err != nil {
		return out, err
	}
	every, top := params["every"], params["limit"]
	params.Del("by")
	params.Del("every")
	params.Del("limit")
	if out.Request, err = ParseRequest(params.Encode(), now); err != nil {
		return out, err
	}
	if out.Top, err = parseTop(top, DefaultTop); err != nil {
		return out, err
	}
	out.Every, err = parseEvery(every, out.Request, now)
	return out, err
}

// ParseFacet reads the query string of the most frequent values of a field.
func ParseFacet(field, raw string, now time.Time) (out StatsRequest, err error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return out, fmt.Errorf("the query string: %w", err)
	}
	for _, name := range []string{"by", "every"} {
		if params.Has(name) {
			return out, fmt.Errorf("%s: the values of a field are not counted by others; ask for …/decisions/stats", name)
		}
	}
	top := params["limit"]
	params.Del("limit")
	if out, err = ParseStats(params.Encode(), now); err != nil {
		return out, err
	}
	f, err := parseGroup(field)
	if err != nil {
		return out, err
	}
	out.By, out.apart = []domain.Expr{f}, true
	const few = 20
	out.Top, err = parseTop(top, few)
	return out, err
}

// splitNames splits a list at its commas, but for those in quotes.
func splitNames(list string) []string {
	quoted := false
	return strings.FieldsFunc(list, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}

func checkBy(by []domain.Expr) error {
	if len(by) > MaxBy {
		return fmt.Errorf("by: there are %d fields; name at most %d", len(by), MaxBy)
	}
	for i, f := range by {
		for _, g := range by[:i] {
			if FieldName(f) == FieldName(g) {
				return fmt.Errorf("by: %s is there twice; name it once", FieldName(f))
			}
		}
	}
	return nil
}

func parseTop(texts []string, otherwise int) (int, error) {
	if len(texts) == 0 {
		return otherwise, nil
	}
	n, err := strconv.Atoi(texts[0])
	if err != nil || n < 1 || n > MaxItems || len(texts) > 1 {
		return 0, fmt.Errorf("limit: %q is not one number from 1 to %d", strings.Join(texts, ", "), MaxItems)
	}
	return n, nil
}

// parseEvery reads a length of time, of which there are no more than MaxSpans in what is asked for.
func parseEvery(texts []string, asked Request, now time.Time) (time.Duration, error) {
	if len(texts) == 0 {
		return 0, nil
	}
	every, err := domain.ParseSpan(texts[0])
	if err != nil || len(texts) > 1 ||
		every < time.Second || every%time.Second != 0 || every > 366*24*time.Hour {
		return 0, fmt.Errorf(
			"every: %q is not one length of time of at least a second, such as 30s, 5m, 1h or 7d", strings.Join(texts, ", "),
		)
	}
	if asked.Since.IsZero() {
		return 0, errors.New("every: name a since as well, which a search for an id has not")
	}
	until := asked.Until
	if until.IsZero() {
		until = now
	}
	if spans := until.Sub(asked.Since) / every; spans > MaxSpans {
		return 0, fmt.Errorf("every: since then there are %d spans of %s; at most %d: name a longer one, or a later since",
			spans, texts[0], MaxSpans)
	}
	return every, nil
}

// Counter is the store as Count sees it.
type Counter interface {
	CountDecisions(ctx context.Context, scope domain.Scope, q domain.CountQuery) (domain.Counts, error)
	Scan(
		ctx context.Context, scope domain.Scope, f domain.Filter, about []domain.Expr,
		visit func(*domain.Decision) bool,
	) error
}

// Count counts. What the store has counted already is not counted again; everything else is, decision by decision, the
// newest first, for as long as there is time. Where a query has two readings, the second is counted where the first
// fits nothing.
func Count(ctx context.Context, in Counter, scope domain.Scope, asked StatsRequest, now time.Time) (Stats, error) {
	out, err := count(ctx, in, scope, asked, now)
	if err != nil || out.Total > 0 || asked.Otherwise == nil || out.Since.After(asked.Since) {
		return out, err
	}
	asked.Filter = *asked.Otherwise
	return count(ctx, in, scope, asked, now)
}

func count(ctx context.Context, in Counter, scope domain.Scope, asked StatsRequest, now time.Time) (Stats, error) {
	c := &counter{
		in: in, scope: scope, asked: asked, now: now, began: time.Now(), patience: statsTime, groups: groups{},
		reached: asked.Since,
	}
	var err error
	if by, ok := countedBy(asked); ok {
		err = c.counted(ctx, by)
	} else {
		err = c.rows(ctx, asked.Filter)
	}
	if err != nil {
		return Stats{}, err
	}
	return c.stats(), nil
}

// countedFields are those that the store counts decisions by.
var countedFields = []domain.Field{domain.FieldTenant, domain.FieldPath, domain.FieldOutcome}

// countedBy are the fields that the store has to tell apart; ok is false where it counts by less than is asked about.
func countedBy(asked StatsRequest) (by []domain.Field, ok bool) {
	if len(asked.Where.About(countedFields...).Conjuncts()) < len(asked.Where.Conjuncts()) {
		return nil, false
	}
	for _, f := range asked.By {
		if !slices.Contains(countedFields, f.Field) {
			return nil, false
		}
		by = append(by, f.Field)
	}
	if asked.aboutPaths() || NewPlan(asked.Where).Rest != nil {
		by = countedFields
	}
	return by, true
}

// aboutPaths reports that decisions of one path have to be told from those of another.
func (r StatsRequest) aboutPaths() bool {
	return r.Where.Mentions(domain.FieldPath) ||
		slices.ContainsFunc(r.By, func(f domain.Expr) bool { return f.Field == domain.FieldPath })
}

// group is what is counted together.
type group struct {
	values [MaxBy]Value
	at     int64 // in seconds since 1970
	field  int   // which one the value is of, where fields are counted separately
}

type groups map[group]int64

// counter counts for one request.
type counter struct {
	in    Counter
	scope domain.Scope
	asked StatsRequest
	now   time.Time
	began time.Time
	// patience is how long decisions are counted one by one.
	patience time.Duration
	// separately counts by each field alone, and not by all of them at once.
	separately bool
	groups     groups
	firsts     groups // when the first of each was decided, in seconds since 1970
	// told is how many values of each field are told apart, where fields are counted separately.
	told  []int
	total int64
	// reached is from when on everything was counted.
	reached time.Time
	some    bool // something was counted
	full    bool
	finer   bool // days were counted row by row, because their counts are of longer spans
	others  bool // some paths are not told apart
}

// counted takes what the store has counted.
func (c *counter) counted(ctx context.Context, by []domain.Field) error {
	q := domain.CountQuery{Filter: c.asked.Filter, By: by, Every: c.asked.Every}
	all := q.Tells(domain.FieldPath)
	q.Where = NewPlan(q.Where.About(domain.FieldTenant, domain.FieldOutcome)).Columns
	counts, err := c.in.CountDecisions(ctx, c.scope, q)
	if err != nil {
		return err
	}
	c.some, c.others = true, !counts.Complete && c.asked.aboutPaths()
	fits := func(*domain.Decision) bool { return true }
	if all {
		fits = NewMatcher(c.asked.Where).Fits
	}
	read := c.reader()
	for _, n := range counts.Items {
		d := domain.Decision{Tenant: n.Tenant, Path: n.Path, Outcome: n.Outcome, Timestamp: n.Time}
		if n.Path == domain.OtherPaths && c.asked.Where.Mentions(domain.FieldPath) || !fits(&d) {
			continue
		}
		c.total += n.Decisions
		read(&d, func(g group) { c.groups[g] += n.Decisions })
	}
	slices.SortFunc(counts.Uncounted, func(a, b domain.Day) int { return cmp.Compare(b, a) })
	for _, d := range counts.Uncounted {
		span := c.asked.Filter
		if start := d.Start(); start.After(span.Since) {
			span.Since = start
		}
		if end := d.End(); span.Until.IsZero() || end.Before(span.Until) {
			span.Until = end
		}
		if c.late() {
			if !c.reached.After(span.Since) {
				c.reached = d.End()
			}
			break
		}
		if err := c.rows(ctx, span); err != nil {
			return err
		}
		if c.reached.After(span.Since) { // and not the day in front of it
			break
		}
	}
	c.finer = len(counts.Uncounted) > 0
	return nil
}

// reader returns what visits the groups that a decision is in.
func (c *counter) reader() func(d *domain.Decision, visit func(group)) {
	var reads []func(*domain.Decision) []Value
	for _, f := range c.asked.By {
		reads = append(reads, valuesOf(f))
	}
	if c.separately {
		return func(d *domain.Decision, visit func(group)) {
			for i, read := range reads {
				for _, v := range read(d) {
					visit(group{values: [MaxBy]Value{v}, field: i})
				}
			}
		}
	}
	return func(d *domain.Decision, visit func(group)) {
		var g group
		if c.asked.Every > 0 {
			g.at = d.Timestamp.Truncate(c.asked.Every).Unix()
		}
		var each func(i int)
		each = func(i int) {
			if i == len(reads) {
				visit(g)
				return
			}
			for _, v := range reads[i](d) {
				g.values[i] = v
				each(i + 1)
			}
		}
		each(0)
	}
}

func (c *counter) late() bool { return c.full || time.Since(c.began) > c.patience }

// stats makes the answer of what was counted.
func (c *counter) stats() Stats {
	out := Stats{Total: c.total, Since: c.reached, Until: c.asked.Until}
	values := map[[MaxBy]Value]int64{}
	for g, n := range c.groups {
		values[g.values] += n
	}
	if c.asked.apart {
		out.Absent = values[[MaxBy]Value{}]
		delete(values, [MaxBy]Value{})
	}
	order := make([][MaxBy]Value, 0, len(values))
	for v := range values {
		order = append(order, v)
	}
	slices.SortFunc(order, func(a, b [MaxBy]Value) int {
		return cmp.Or(cmp.Compare(values[b], values[a]), compareValues(a, b))
	})
	spans := 1
	if c.asked.Every > 0 {
		times := map[int64]bool{}
		for g := range c.groups {
			times[g.at] = true
		}
		spans = max(1, len(times))
	}
	top := min(c.asked.Top, max(1, MaxItems/spans))
	if out.Room = top; len(order) > top {
		out.More = len(order) - top
		for _, v := range order[top:] {
			delete(values, v)
		}
	}
	for g, n := range c.groups {
		if _, shown := values[g.values]; shown && n != 0 {
			s := Stat{Values: g.values, Count: n}
			if first, known := c.firsts[g]; known {
				s.First = time.Unix(first, 0).UTC()
			}
			if c.asked.Every > 0 {
				s.Time = time.Unix(g.at, 0).UTC()
			}
			out.Items = append(out.Items, s)
		}
	}
	slices.SortFunc(out.Items, func(a, b Stat) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(b.Count, a.Count), compareValues(a.Values, b.Values))
	})
	switch {
	case c.full:
		out.Why = fmt.Sprintf("there are more than %d values: narrow the search, or count by less", maxGroups)
	case c.reached.After(c.asked.Since) && c.finer:
		out.Why = "there was no time for what is older than since here: after two days docket has counted by the hour, and " +
			"after 35 by the day; name an every of 1h or 24h, or a later since"
	case c.reached.After(c.asked.Since):
		out.Why = "there was no time for what is older than since here: name a later since, or only tenant, path and outcome"
	case c.others:
		out.Why = fmt.Sprintf("a tenant has had more than %d paths on a day: the others are not told apart",
			domain.MaxCountedPaths)
	}
	return out
}

func compareValues(a, b [MaxBy]Value) int {
	return slices.CompareFunc(a[:], b[:], func(a, b Value) int {
		switch {
		case a.There == b.There:
			return strings.Compare(a.Text, b.Text)
		case a.There:
			return -1
		default:
			return 1
		}
	})
}
