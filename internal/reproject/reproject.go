// Package reproject computes the columns of stored decisions anew, after a mapping or docket itself has changed: a job
// that goes back in time a day at a time, tells or changes what differs, and goes on where it was after a crash. Bytes,
// keys and times of rows never change. Which mappings count are those of the process that works on the job.
package reproject

import (
	"crypto/sha256"
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

// Store is what these jobs ask of a store.
type Store interface {
	ports.DecisionColumns
	job.DaysOf
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

// run goes through the decisions.
func (w *work) run() error {
	if w.Job.Report != nil {
		w.report = *w.Job.Report
	}
	goOn, err := w.Decisions(w.Store, func(q domain.Query) (domain.Page, error) {
		return w.Store.StoredEvents(w.Context, w.Job.Tenants, q)
	}, w.rows)
	if err != nil || !goOn {
		return err
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

// rows projects rows, and writes down what differs.
func (w *work) rows(rows []domain.Decision) (goOn bool, err error) {
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
