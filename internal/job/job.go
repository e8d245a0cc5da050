// Package job works on operators' jobs as such: it takes them up lane by lane under a lease, writes down their steps,
// lets operators pause and cancel them, and takes them up again after a crash. What a kind of job does is registered by
// the package that it belongs to; what operators may ask for is operate's.
package job

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// AskEvery is how often a process looks for work, and how often a wait that somebody watches looks whether it is over.
	AskEvery = 500 * time.Millisecond
	// Lease is how long another process waits for a job whose owner was killed.
	Lease = 15 * time.Second
	// Heartbeat is the longest that a job goes without a word: its owner says that it lives, and hears what an operator
	// wants.
	Heartbeat = 2 * time.Second
	// retryAfter is how long a job rests that cannot go on for now.
	retryAfter = 5 * time.Second
)

// Codes of the messages that every job may have.
const (
	// Stalled: the job cannot go on for now, and is taken up again. Args: error.
	Stalled = "stalled"
	// Failed: the job cannot go on. Args: error.
	Failed = "failed"
)

// Work is what a kind of job does in one turn. It returns when the job has ended (Turn.End), when Turn.Advance says not
// to go on, or with an error: one that passes or can be fixed has the job taken up again, and any other ends it.
type Work func(t *Turn) error

// Runner works on the jobs of the registered kinds, one of each lane at a time.
type Runner struct {
	queue  ports.JobQueue
	owner  string
	logger *slog.Logger
	kinds  map[domain.JobKind]Work
	now    func() time.Time
}

// New makes a Runner. owner names this process among those that share the store.
func New(queue ports.JobQueue, owner string, logger *slog.Logger) *Runner {
	return &Runner{queue: queue, owner: owner, logger: logger, kinds: map[domain.JobKind]Work{}, now: time.Now}
}

// Register says what a kind of job does. It comes before Run.
func (r *Runner) Register(kind domain.JobKind, work Work) { r.kinds[kind] = work }

// lanes are those of the registered kinds.
func (r *Runner) lanes() (out []domain.Lane) {
	for kind := range r.kinds {
		out = append(out, kind.Lane(true), kind.Lane(false))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Run takes up jobs until ctx is done.
func (r *Runner) Run(ctx context.Context) {
	var working sync.WaitGroup
	for _, lane := range r.lanes() {
		working.Go(func() {
			for wait := AskEvery; Sleep(ctx, wait); {
				if wait = AskEvery; !r.next(ctx, lane) {
					wait = retryAfter
				}
			}
		})
	}
	working.Wait()
}

// next works on a job of a lane, if there is one, until it is over. It reports false for a job that cannot go on for
// now.
func (r *Runner) next(ctx context.Context, lane domain.Lane) (well bool) {
	now := r.now().UTC()
	j, found, err := r.queue.ClaimJob(ctx, lane, r.owner, now, now.Add(Lease))
	if err != nil || !found {
		return true // the breaker tells of a store that is away
	}
	r.logger.Info("a job is started", "job", j.ID, "kind", j.Kind, "dry_run", j.DryRun, "matched", j.Matched, "done",
		j.Done)
	t, well := &Turn{runner: r, Context: ctx, Job: j}, true
	if work, known := r.kinds[j.Kind]; known {
		err = work(t)
	} else {
		err = fmt.Errorf("this docket knows no jobs of the kind %q: is another version running?", j.Kind)
	}
	switch class := domain.ClassOf(err); {
	case err == nil || ctx.Err() != nil:
	case class == domain.Unavailable || class == domain.Misconfigured ||
		class == domain.Canceled: // it passes, or is fixed
		well = false
		r.logger.Warn("a job cannot go on for now; it is taken up again", "job", j.ID, "error", err)
		message := domain.Say(Stalled, domain.Args{"error": err.Error()})
		_, _ = t.Advance(domain.JobStep{Message: message}) // if the store is there
	default:
		t.End(domain.JobFailed, domain.Say(Failed, domain.Args{"error": err.Error()}))
	}
	if t.over {
		r.logger.Info("a job has ended", "job", t.Job.ID, "state", t.Job.State, "done", t.Job.Done, "failed", t.Job.Failed,
			"code", t.Job.Message.Code)
	}
	return well
}

// Turn is one process's turn at a job.
type Turn struct {
	runner *Runner
	// Context ends with the process.
	Context context.Context //nolint:containedctx // it lives as long as the turn
	// Job is as the store last said.
	Job  domain.Job
	over bool
}

// Now is the runner's clock.
func (t *Turn) Now() time.Time { return t.runner.now() }

// Stamp fills in whose step it is, and when, and renews the lease.
func (t *Turn) Stamp(step *domain.JobStep) {
	now := t.runner.now().UTC()
	step.Job, step.Owner, step.At, step.LeaseUntil = t.Job.ID, t.runner.owner, now, now.Add(Lease)
}

// Took takes in the job as the store has it after a step, and says whether to go on.
func (t *Turn) Took(j domain.Job) (goOn bool) {
	t.Job = j
	return j.State == domain.JobRunning && j.Owner == t.runner.owner
}

// Advance writes down what was done and hears whether to go on.
func (t *Turn) Advance(step domain.JobStep) (goOn bool, err error) {
	t.Stamp(&step)
	j, err := t.runner.queue.AdvanceJob(t.Context, step)
	if err != nil {
		return false, err
	}
	return t.Took(j), nil
}

// Alive says that the owner lives, with the message as it is.
func (t *Turn) Alive() (goOn bool, err error) {
	return t.Advance(domain.JobStep{Message: t.Job.Message})
}

// Rest waits for d, with a word to the store every Heartbeat.
func (t *Turn) Rest(d time.Duration) (goOn bool, err error) {
	for until := t.Now().Add(d); ; {
		left := until.Sub(t.Now())
		if left <= 0 {
			return true, nil
		}
		if !Sleep(t.Context, min(Heartbeat, left)) {
			return false, nil
		}
		if left <= Heartbeat {
			return true, nil
		}
		if goOn, err := t.Alive(); !goOn || err != nil {
			return false, err
		}
	}
}

// Watch waits until enough says so, or d has passed, with a word to the store every AskEvery. look is called before
// each.
func (t *Turn) Watch(d time.Duration, message domain.Message, look func(), enough func() bool) (goOn bool, err error) {
	for until := t.Now().Add(d); ; {
		left := until.Sub(t.Now())
		if left <= 0 || enough() {
			return true, nil
		}
		if !Sleep(t.Context, min(AskEvery, left)) {
			return false, nil
		}
		look()
		if goOn, err := t.Advance(domain.JobStep{Message: message}); !goOn || err != nil {
			return false, err
		}
	}
}

// End writes down how the job ended, for its reader and for the audit.
func (t *Turn) End(state domain.JobState, message domain.Message) {
	t.Finish(domain.JobStep{State: state, Message: message})
}

// Finish is End with a step that says more.
func (t *Turn) Finish(step domain.JobStep) {
	if !t.Job.DryRun {
		after := t.Job
		after.Message = step.Message
		step.Audit = after.Audit(string(step.State), "docket for "+after.Caller, t.Now())
	}
	if _, err := t.Advance(step); err != nil {
		t.runner.logger.Warn("how a job ended was not written down; it is taken up again", "job", t.Job.ID, "error", err)
		return
	}
	t.over = t.Job.State == step.State
}

// Sleep waits, and reports whether ctx still holds.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
