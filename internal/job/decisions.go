package job

import (
	"context"
	"fmt"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// pageRows is how many rows are dealt with at once.
const pageRows = 500

// DaysOf is what Turn.Decisions asks of a store.
type DaysOf interface {
	RetentionState(ctx context.Context) (domain.RetentionState, error)
	Days(ctx context.Context) ([]domain.Day, error)
}

// Decisions goes through the decisions that the job's filter chooses, from the job's After on: page reads a query's,
// and visit deals with them and writes down how far it is, by the CursorOf the last one in After.Topic. It goes the
// newest day first: stores find a day's rows at once, and a statement over all of them could take too long. Without a
// Since it goes on with what is past the retention and still there. goOn is false where visit, or whoever moves the
// job, does not want to.
func (t *Turn) Decisions(
	days DaysOf, page func(q domain.Query) (domain.Page, error), visit func(rows []domain.Decision) (goOn bool, err error),
) (goOn bool, err error) {
	since, err := t.since(days)
	if err != nil {
		return false, err
	}
	var after *domain.Cursor
	until := t.Job.Filter.Until
	if at := t.Job.After.Topic; at != "" {
		if after, err = domain.ParseCursor(at); err != nil {
			return false, fmt.Errorf("the job's cursor: %w", err)
		}
		if end := domain.DayOf(after.Time).End(); until.IsZero() && !end.After(t.future()) || end.Before(until) {
			until = end
		}
	}
	for until.IsZero() || until.After(since) {
		// Clocks run ahead: the first slice has no end, unless the filter has one.
		day := t.future()
		if !until.IsZero() && !until.After(day) {
			day = domain.DayOf(until.Add(-time.Microsecond)).Start()
		}
		if day.Before(since) {
			day = since
		}
		if goOn, err := t.slice(day, until, after, page, visit); err != nil || !goOn {
			return false, err
		}
		until, after = day, nil
	}
	if !t.Job.Filter.Since.IsZero() {
		return true, nil
	}
	return t.slice(time.Time{}, until, nil, page, visit) // what the retention has not come to
}

// since is where the job ends: what is past the retention is not there.
func (t *Turn) since(days DaysOf) (time.Time, error) {
	state, err := days.RetentionState(t.Context)
	if err != nil {
		return time.Time{}, err
	}
	const slack = 3 * 24 * time.Hour // whole days, and the clocks of others
	oldest := t.Job.CreatedAt.Add(-state.InForce - slack)
	if state.InForce == 0 {
		all, err := days.Days(t.Context)
		if err != nil {
			return time.Time{}, err
		}
		oldest = t.Job.CreatedAt.Add(-slack)
		if len(all) > 0 && all[0].Start().Before(oldest) {
			oldest = all[0].Start()
		}
	}
	if t.Job.Filter.Since.Before(oldest) {
		return oldest, nil
	}
	return t.Job.Filter.Since, nil
}

// future is where the days end that are gone through one by one.
func (t *Turn) future() time.Time { return domain.DayOf(t.Job.CreatedAt).End() }

// slice goes through a span of time.
func (t *Turn) slice(
	since, until time.Time, after *domain.Cursor, page func(domain.Query) (domain.Page, error),
	visit func([]domain.Decision) (bool, error),
) (goOn bool, err error) {
	for {
		q := domain.Query{Filter: t.Job.Filter, Limit: pageRows, After: after}
		q.Since, q.Until = since, until
		p, err := page(q)
		if err != nil {
			return false, err
		}
		do := t.Alive
		if len(p.Items) > 0 {
			do = func() (bool, error) { return visit(p.Items) }
		}
		if goOn, err := do(); err != nil || !goOn {
			return false, err
		}
		if p.Next == nil {
			return true, nil
		}
		after = p.Next
	}
}
