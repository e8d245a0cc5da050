package domain

import (
	"cmp"
	"slices"
	"time"
)

// CountQuery asks how many decisions there are in a span of time.
type CountQuery struct {
	// Where is about FieldTenant and FieldOutcome only.
	Filter
	// By are fields to tell apart: FieldTenant and FieldOutcome, or these and FieldPath.
	By []Field
	// Every is the length of the spans of time to tell apart, in whole seconds; 0 is none. They begin as time.Truncate has
	// it.
	Every time.Duration
}

// Tells reports that a field is to be told apart.
func (q CountQuery) Tells(f Field) bool { return slices.Contains(q.By, f) }

// DecisionCount is how many decisions there are of a tenant, a path and an outcome in the span that begins at a time.
// What is not told apart is zero.
type DecisionCount struct {
	Time         time.Time
	Tenant, Path string
	Outcome      Outcome
	Decisions    int64
}

// Counts are those of a span of time.
type Counts struct {
	Items []DecisionCount
	// Complete says that every path is told apart. Where it is false, some stand as OtherPaths.
	Complete bool
	// Uncounted are the days of which nothing is in Items: they are counted by longer spans than were asked for.
	Uncounted []Day
}

// MaxCountedPaths is how many paths of a tenant are told apart in the counts of a day: clients may make paths up.
const MaxCountedPaths = 1000

// OtherPaths is the path of those that are not told apart.
const OtherPaths = "(others)"

// CountMinutesFor is how long decisions are counted by the minute, from the beginning of their day on; afterwards it is
// by the hour and, after CountHoursFor, by the day.
const (
	CountMinutesFor = 2 * 24 * time.Hour
	CountHoursFor   = 35 * 24 * time.Hour
)

// CountSpan is by what decisions of a day are counted at a time.
func CountSpan(d Day, now time.Time) time.Duration {
	switch age := now.Sub(d.Start()); {
	case age < CountMinutesFor:
		return time.Minute
	case age < CountHoursFor:
		return time.Hour
	default:
		return 24 * time.Hour
	}
}

// MaxCounts is how many counts are told apart at once.
const MaxCounts = 200_000

// With has counts of what a store has summed up. The error is Unavailable where they are more than MaxCounts. A path
// whose decisions were counted with the others, and have got another path since, is in their sum with less than
// nothing.
func (out Counts) With(sums []DecisionCount) (Counts, error) {
	if len(sums) > MaxCounts {
		return Counts{}, Errorf(
			Unavailable, "there are more than %d counts of different times and paths: name a longer every, a later since or "+
				"fewer fields", MaxCounts,
		)
	}
	out.Complete = true
	less := map[DecisionCount]int64{}
	for _, c := range sums {
		if c.Decisions < 0 {
			less[DecisionCount{Time: c.Time, Tenant: c.Tenant, Path: OtherPaths, Outcome: c.Outcome}] += c.Decisions
		}
	}
	for _, c := range sums {
		if c.Decisions < 0 {
			continue
		}
		key := c
		key.Decisions = 0
		c.Decisions += less[key]
		delete(less, key)
		if c.Path == OtherPaths {
			out.Complete = false
		}
		if c.Decisions != 0 {
			out.Items = append(out.Items, c)
		}
	}
	for c, n := range less { // there is nothing that it could be taken from
		c.Decisions = n
		out.Items, out.Complete = append(out.Items, c), false
	}
	slices.SortFunc(out.Items, func(a, b DecisionCount) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(b.Decisions, a.Decisions), cmp.Compare(a.Tenant, b.Tenant),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Outcome, b.Outcome))
	})
	return out, nil
}
