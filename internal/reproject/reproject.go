// Package reproject computes the columns of stored decisions anew, after a mapping or docket itself has changed: a job
// that goes back in time a day at a time, tells or changes what differs, and goes on where it was after a crash. Bytes,
// keys and times of rows never change. Which mappings count are those of the process that works on the job.
package reproject

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/ports"
)

// Codes of the messages of these jobs.
const (
	// Progress: how far it is. Args: rows, changed, day.
	Progress = "reproject_progress"
	// Done: everything was looked at. Args: rows, changed.
	Done = "reprojected"
	// WouldChange: a dry run. Args: rows, changed.
	WouldChange = "would_reproject"
)

// pageRows is how many rows are read, and changed, at once.
const pageRows = 500

// Store is what these jobs ask of a store.
type Store interface {
	ports.DecisionColumns
	RetentionState(ctx context.Context) (domain.RetentionState, error)
	Days(ctx context.Context) ([]domain.Day, error)
}

// Jobs are the jobs that project anew.
type Jobs struct {
	Store     Store
	Projector *domain.Projector
}

// Register registers the kind.
func (j *Jobs) Register(r *job.Runner) {
	r.Register(domain.Reproject, func(t *job.Turn) error { return (&work{Jobs: j, Turn: t}).run() })
}

// work is one process's turn at a job.
type work struct {
	*Jobs
	*job.Turn
	report domain.DryRunReport
}

// run goes through the days, the newest first: stores find a day's rows at once, and a statement over all of them could
// take too long.
func (w *work) run() error {
	if w.Job.Report != nil {
		w.report = *w.Job.Report
	}
	since, err := w.since()
	if err != nil {
		return err
	}
	var after *domain.Cursor
	until := w.Job.Filter.Until
	if at := w.Job.After.Topic; at != "" {
		if after, err = domain.ParseCursor(at); err != nil {
			return fmt.Errorf("the job's cursor: %w", err)
		}
		if end := domain.DayOf(after.Time).End(); until.IsZero() && !end.After(w.future()) || end.Before(until) {
			until = end
		}
	}
	for until.IsZero() || until.After(since) {
		// Clocks run ahead: the first slice has no end, unless the filter has one.
		day := w.future()
		if !until.IsZero() && !until.After(day) {
			day = domain.DayOf(until.Add(-time.Microsecond)).Start()
		}
		if day.Before(since) {
			day = since
		}
		if goOn, err := w.slice(day, until, after); err != nil || !goOn {
			return err
		}
		until, after = day, nil
	}
	code := Done
	if w.Job.DryRun {
		code = WouldChange
	}
	w.Finish(domain.JobStep{
		State: domain.JobDone, Report: &w.report,
		Message: domain.Say(code, domain.Args{"rows": w.report.Rows, "changed": w.report.Changed}),
	})
	return nil
}

// since is where the job ends: what is past the retention is not there.
func (w *work) since() (time.Time, error) {
	state, err := w.Store.RetentionState(w.Context)
	if err != nil {
		return time.Time{}, err
	}
	const slack = 3 * 24 * time.Hour // whole days, and the clocks of others
	oldest := w.Job.CreatedAt.Add(-state.InForce - slack)
	if state.InForce == 0 {
		days, err := w.Store.Days(w.Context)
		if err != nil {
			return time.Time{}, err
		}
		oldest = w.Job.CreatedAt.Add(-slack)
		if len(days) > 0 && days[0].Start().Before(oldest) {
			oldest = days[0].Start()
		}
	}
	if w.Job.Filter.Since.Before(oldest) {
		return oldest, nil
	}
	return w.Job.Filter.Since, nil
}

// future is where the days end that are gone through one by one.
func (w *work) future() time.Time { return domain.DayOf(w.Job.CreatedAt).End() }

// slice projects the rows of a span of time.
func (w *work) slice(since, until time.Time, after *domain.Cursor) (goOn bool, err error) {
	for {
		q := domain.Query{Filter: w.Job.Filter, Limit: pageRows, After: after}
		q.Since, q.Until = since, until
		page, err := w.Store.StoredEvents(w.Context, w.Job.Tenants, q)
		if err != nil {
			return false, err
		}
		if goOn, err := w.rows(page.Items); err != nil || !goOn {
			return goOn, err
		}
		if page.Next == nil {
			return true, nil
		}
		after = page.Next
	}
}

// rows projects rows, and writes down what differs.
func (w *work) rows(rows []domain.Decision) (goOn bool, err error) {
	if len(rows) == 0 {
		return w.Alive()
	}
	var changed []domain.Decision
	for i := range rows {
		d := &rows[i]
		if sha256.Sum256(d.Event) != d.SHA256 {
			continue // damaged, which whoever reads the decision is told
		}
		anew := w.Projector.Project(domain.Record{
			Value: d.Event, Headers: domain.Headers{Tenant: d.Tenant, ReceivedAt: d.ReceivedAt},
		})
		anew.ID, anew.Timestamp = d.ID, d.Timestamp // the key
		names := d.ChangedColumns(&anew)
		if len(names) == 0 {
			continue
		}
		changed = append(changed, anew)
		w.tell(names, d, &anew)
	}
	if !w.Job.DryRun && len(changed) > 0 {
		if err := w.Store.SetColumns(w.Context, changed); err != nil {
			return false, err
		}
	}
	w.report.Rows += int64(len(rows))
	w.report.Changed += int64(len(changed))
	last := &rows[len(rows)-1]
	step := domain.JobStep{
		Report: &w.report, Matched: w.report.Rows, After: domain.Position{Topic: domain.CursorOf(last).String()},
		Message: domain.Say(Progress, domain.Args{
			"rows": w.report.Rows, "changed": w.report.Changed, "day": domain.DayOf(last.Time()).String(),
		}),
	}
	if !w.Job.DryRun {
		step.Done, step.Skipped = int64(len(changed)), int64(len(rows)-len(changed))
	}
	if goOn, err := w.Advance(step); err != nil || !goOn || w.Job.Rate == 0 {
		return goOn, err
	}
	return w.Rest(time.Duration(float64(len(rows)) / w.Job.Rate * float64(time.Second)))
}

// tell counts what changes of a row.
func (w *work) tell(names []string, was, is *domain.Decision) {
	for _, name := range names {
		c := domain.Change{Path: was.Path, Column: name, Sample: was.ID}
		if name == string(domain.FieldOutcome) {
			c.From, c.To = string(was.Outcome), string(is.Outcome)
		}
		w.report.Change(c)
	}
	slices.SortStableFunc(w.report.Changes, func(a, b domain.Change) int { return int(b.Rows - a.Rows) })
}
