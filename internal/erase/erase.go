// Package erase removes what docket keeps about somebody, by an operator's order: rows, and dead letters from the
// index. The order itself stands in the store, and whoever saves or indexes obeys it (sink.Erasures): so nothing about
// them comes back out of the log, which forgets in its own time. What the order is, and who may give it, is operate's.
package erase

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/sink"
)

// Codes of the messages of these jobs.
const (
	// Spreading: it waits until every process has heard of it.
	Spreading = "erasure_spreads"
	// Progress: how far it is. Args: rows, letters.
	Progress = "erase_progress"
	// Done: everything is gone. Args: rows, letters, unclear, subjects, until; that is "" where the log forgets nothing.
	Done = "erased"
	// WouldErase: a dry run. Args as Done.
	WouldErase = "would_erase"
)

// Store is what these jobs ask of a store.
type Store interface {
	ports.DecisionEraser
	job.DaysOf
	Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error)
}

// Jobs are the jobs that erase.
type Jobs struct {
	Store   Store
	Control interface {
		ports.Erasures
		deadletter.Reader
	}
	Log       ports.Log
	Topics    domain.Topics
	Projector *domain.Projector
}

// Register registers the kind.
func (j *Jobs) Register(r *job.Runner) {
	r.Register(domain.Erase, func(t *job.Turn) error { return (&work{Jobs: j, Turn: t}).run() })
}

// work is one process's turn at a job.
type work struct {
	*Jobs
	*job.Turn
	order  domain.Erasure
	orders *domain.Erasures // order alone
	report domain.DryRunReport
	until  time.Time // when the log has forgotten; zero for never
}

// inLetters stands in front of the cursor of a job that is through with the decisions.
const inLetters = "letters:"

func (w *work) run() error {
	if w.Job.Report != nil {
		w.report = *w.Job.Report
	}
	key, err := w.Control.ErasureKey(w.Context)
	if err != nil {
		return err
	}
	w.order = domain.Erasure{Job: w.Job.ID, Tenants: w.Job.Tenants, At: w.Job.CreatedAt}
	for _, principal := range w.Job.Principals() {
		w.order.Subjects = append(w.order.Subjects, domain.SubjectOf(key, principal))
	}
	w.orders = domain.NewErasures(key, []domain.Erasure{w.order})
	if err := w.expiries(); err != nil {
		return err
	}
	if goOn, err := w.spread(); err != nil || !goOn {
		return err
	}
	at, lettersOnly := strings.CutPrefix(w.Job.After.Topic, inLetters)
	if !lettersOnly {
		goOn, err := w.Decisions(w.Store, func(q domain.Query) (domain.Page, error) {
			return w.Store.Search(w.Context, w.Job.Tenants, q)
		}, w.rows)
		if err != nil || !goOn {
			return err
		}
		at = ""
	}
	var after *domain.Cursor
	if at != "" {
		if after, err = domain.ParseCursor(at); err != nil {
			return fmt.Errorf("the job's cursor: %w", err)
		}
	}
	if goOn, err := deadletter.Each(w.Turn, w.Control, w.Log, after, w.letters); err != nil || !goOn {
		return err
	}
	return w.end()
}

// expiries tells how long the log keeps what it has, and with it how long the order has to stay in force: what waits
// may go from each topic into the next one, and stay there as long again.
func (w *work) expiries() error {
	kept, err := w.Log.Retention(w.Context, w.Topics.All()...)
	if err != nil {
		return err
	}
	w.report.Expiries, w.until = nil, w.order.At
	for _, topic := range w.Topics.All() {
		switch d := kept[topic]; d {
		case 0: // it goes once it is consumed, and nobody knows when that is
			w.until = time.Time{}
		case ports.Forever:
			w.report.Expiries = append(w.report.Expiries, domain.Expiry{Topic: topic})
			w.until = time.Time{}
		default:
			w.report.Expiries = append(w.report.Expiries, domain.Expiry{Topic: topic, At: w.order.At.Add(d)})
			if !w.until.IsZero() {
				w.until = w.until.Add(d)
			}
		}
	}
	return nil
}

// spread waits until nobody saves or indexes any more who has not heard of the order. It counts from when a process
// took the job up: the order was written down by then, and by whose clock it was given does not matter.
func (w *work) spread() (goOn bool, err error) {
	left := w.Job.StartedAt.Add(sink.ErasuresTakeEffect).Sub(w.Now())
	if w.Job.DryRun || left <= 0 {
		return true, nil
	}
	if goOn, err := w.Advance(domain.JobStep{Message: domain.Say(Spreading, nil)}); err != nil || !goOn {
		return false, err
	}
	return w.Rest(left)
}

// rows removes decisions.
func (w *work) rows(rows []domain.Decision) (goOn bool, err error) {
	var gone []domain.Decision
	for i := range rows {
		if w.order.Covers(&rows[i]) {
			gone = append(gone, rows[i])
		}
	}
	if !w.Job.DryRun && len(gone) > 0 {
		if err := w.Store.EraseDecisions(w.Context, gone); err != nil {
			return false, err
		}
	}
	w.report.Rows += int64(len(gone))
	return w.step(int64(len(gone)), domain.CursorOf(&rows[len(rows)-1]).String())
}

// letters removes dead letters from the index. Nobody can tell whom a whole upload is about, or bytes that name no
// principal; what comes of them, when they are replayed, is sifted as everything that is saved.
func (w *work) letters(
	letters []domain.DeadLetter, of map[domain.Position]domain.Record, next *domain.Cursor,
) (goOn bool, err error) {
	var gone []string
	for _, l := range letters {
		r, there := of[l.Position]
		if l.Whole || !there {
			w.report.Unclear++
			continue
		}
		switch d := w.Projector.Project(r); {
		case w.orders.Cover(&d):
			gone = append(gone, l.ID)
		case d.Principal == "":
			w.report.Unclear++
		}
	}
	if !w.Job.DryRun && len(gone) > 0 {
		if err := w.Control.EraseLetters(w.Context, gone); err != nil {
			return false, err
		}
	}
	w.report.Letters += int64(len(gone))
	return w.step(int64(len(gone)), inLetters+next.String())
}

// step writes down how far the job is.
func (w *work) step(gone int64, after string) (goOn bool, err error) {
	step := domain.JobStep{
		Report: &w.report, Matched: w.report.Rows + w.report.Letters, After: domain.Position{Topic: after},
		Message: domain.Say(Progress, domain.Args{"rows": w.report.Rows, "letters": w.report.Letters}),
	}
	if !w.Job.DryRun {
		step.Done = gone
	}
	return w.Advance(step)
}

// end writes down what came of it, and how long the order stays in force.
func (w *work) end() error {
	code, until := Done, ""
	if !w.until.IsZero() {
		until = w.until.Format(time.RFC3339)
	}
	switch {
	case w.Job.DryRun:
		code = WouldErase
	case !w.until.IsZero():
		if err := w.Control.KeepErasure(w.Context, w.Job.ID, w.until); err != nil {
			return err
		}
	}
	w.Finish(domain.JobStep{
		State: domain.JobDone, Report: &w.report,
		Message: domain.Say(code, domain.Args{
			"rows": w.report.Rows, "letters": w.report.Letters, "unclear": w.report.Unclear,
			"subjects": domain.Subjects(w.order.Subjects), "until": until,
		}),
	})
	return nil
}
