package job

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// queue has one job of each lane, under a lease as the stores keep it.
type queue struct {
	mu    sync.Mutex
	jobs  map[domain.Lane]*domain.Job
	steps []domain.JobStep
	err   error
}

func (q *queue) ClaimJob(
	_ context.Context, lane domain.Lane, owner string, at, until time.Time,
) (domain.Job, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.jobs[lane]
	if j == nil || !j.State.Active() || j.Owner != "" && j.Owner != owner && j.LeaseUntil.After(at) {
		return domain.Job{}, false, q.err
	}
	j.State, j.Owner, j.LeaseUntil = domain.JobRunning, owner, until
	return *j, true, q.err
}

func (q *queue) AdvanceJob(_ context.Context, step domain.JobStep) (domain.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return domain.Job{}, q.err
	}
	for _, j := range q.jobs {
		if j.ID != step.Job {
			continue
		}
		q.steps = append(q.steps, step)
		if j.Owner == step.Owner && j.State.Active() {
			j.Done, j.LeaseUntil, j.Message = j.Done+step.Done, step.LeaseUntil, step.Message
			if step.State != "" {
				j.State = step.State
			}
		}
		return *j, nil
	}
	return domain.Job{}, errors.New("no such job")
}

func (q *queue) move(lane domain.Lane, state domain.JobState) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs[lane].State = state
}

func (q *queue) job(lane domain.Lane) domain.Job {
	q.mu.Lock()
	defer q.mu.Unlock()
	return *q.jobs[lane]
}

func newQueue() *queue {
	return &queue{jobs: map[domain.Lane]*domain.Job{
		domain.DeadLetterJobs: {ID: "r-1", Kind: domain.Replay, State: domain.JobPending, Caller: "ann"},
	}}
}

// run runs a process until the returned func is called.
func run(t *testing.T, q *queue, owner string, work Work) (stop func()) {
	t.Helper()
	r := New(q, owner, slog.New(slog.DiscardHandler))
	if work != nil {
		r.Register(domain.Replay, work)
	} else {
		r.Register(domain.Discard, func(*Turn) error { return nil })
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

func TestAJobIsWorkedOnToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		stop := run(t, q, "one", func(turn *Turn) error {
			for range 3 {
				if goOn, err := turn.Advance(domain.JobStep{Done: 1}); err != nil || !goOn {
					return err
				}
			}
			turn.End(domain.JobDone, domain.Say("done", nil))
			return nil
		})
		time.Sleep(time.Second)
		stop()
		j := q.job(domain.DeadLetterJobs)
		require.Equal(t, domain.JobDone, j.State)
		require.EqualValues(t, 3, j.Done)
		last := q.steps[len(q.steps)-1]
		require.Equal(t, "replay.done", last.Audit.Action)
		require.Equal(t, "docket for ann", last.Audit.Caller)
		require.Equal(t, "done", last.Audit.Outcome.Code)
	})
}

func TestADryRunIsNotAudited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.jobs = map[domain.Lane]*domain.Job{domain.DryRuns: {ID: "d-1", Kind: domain.Replay, DryRun: true,
			State: domain.JobPending}}
		stop := run(t, q, "one", func(turn *Turn) error {
			turn.End(domain.JobDone, domain.Message{})
			return nil
		})
		time.Sleep(time.Second)
		stop()
		require.Equal(t, domain.JobDone, q.job(domain.DryRuns).State)
		require.Empty(t, q.steps[0].Audit.Action)
	})
}

// TestErrorsOfAJob: what passes has the job taken up again, and anything else ends it.
func TestErrorsOfAJob(t *testing.T) {
	for _, c := range []struct {
		class domain.Class
		state domain.JobState
		code  string
	}{
		{domain.Unavailable, domain.JobRunning, Stalled}, {domain.Misconfigured, domain.JobRunning, Stalled},
		{domain.Invalid, domain.JobFailed, Failed}, {domain.Unknown, domain.JobFailed, Failed},
	} {
		t.Run(string(c.class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, turns := newQueue(), 0
				stop := run(t, q, "one", func(*Turn) error {
					turns++
					return domain.Errorf(c.class, "no")
				})
				time.Sleep(AskEvery + 3*(retryAfter+AskEvery))
				stop()
				j := q.job(domain.DeadLetterJobs)
				require.Equal(t, c.state, j.State)
				require.Equal(t, c.code, j.Message.Code)
				require.Equal(t, "no", j.Message.Args.Text("error"))
				if c.state == domain.JobRunning {
					require.Equal(t, 4, turns, "every few seconds")
				} else {
					require.Equal(t, 1, turns)
				}
			})
		})
	}
}

func TestAKindThatNobodyKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		stop := run(t, q, "one", nil)
		time.Sleep(time.Second)
		stop()
		require.Equal(t, domain.JobFailed, q.job(domain.DeadLetterJobs).State)
	})
}

// TestAnotherProcessTakesOver waits for the lease of one that was killed, and for no longer.
func TestAnotherProcessTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		now := time.Now()
		_, found, err := q.ClaimJob(t.Context(), domain.DeadLetterJobs, "killed", now, now.Add(Lease))
		require.NoError(t, err)
		require.True(t, found)
		var taken time.Duration
		stop := run(t, q, "two", func(turn *Turn) error {
			taken = time.Since(now)
			turn.End(domain.JobDone, domain.Message{})
			return nil
		})
		time.Sleep(2 * Lease)
		stop()
		require.GreaterOrEqual(t, taken, Lease)
		require.LessOrEqual(t, taken, Lease+2*AskEvery)
	})
}

// TestAnOperatorIsHeard pauses a job that rests, and one that watches.
func TestAnOperatorIsHeard(t *testing.T) {
	for name, wait := range map[string]func(*Turn) (bool, error){
		"resting": func(turn *Turn) (bool, error) { return turn.Rest(time.Hour) },
		"watching": func(turn *Turn) (bool, error) {
			return turn.Watch(time.Hour, domain.Message{}, func() {}, func() bool { return false })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue()
				heard := make(chan time.Time, 1)
				stop := run(t, q, "one", func(turn *Turn) error {
					goOn, err := wait(turn)
					if goOn {
						t.Error("it went on")
					}
					heard <- time.Now()
					return err
				})
				time.Sleep(time.Minute)
				require.WithinDuration(t, time.Now().Add(Lease), q.job(domain.DeadLetterJobs).LeaseUntil, Heartbeat,
					"the lease is renewed")
				paused := time.Now()
				q.move(domain.DeadLetterJobs, domain.JobPaused)
				require.WithinDuration(t, paused, <-heard, Heartbeat)
				stop()
				require.Equal(t, domain.JobPaused, q.job(domain.DeadLetterJobs).State)
			})
		})
	}
}

// TestAWaitEnds when it is over, when it is enough, and with the process.
func TestAWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		began := time.Now()
		var rested, watched time.Duration
		looked := 0
		stop := run(t, q, "one", func(turn *Turn) error {
			start := time.Now()
			if goOn, err := turn.Rest(5 * time.Second); !goOn || err != nil {
				return err
			}
			rested, start = time.Since(start), time.Now()
			goOn, err := turn.Watch(time.Hour, domain.Message{}, func() { looked++ }, func() bool { return looked == 4 })
			if !goOn || err != nil {
				return err
			}
			watched = time.Since(start)
			_, err = turn.Rest(time.Hour)
			return err
		})
		time.Sleep(time.Minute)
		stop()
		require.Equal(t, 5*time.Second, rested)
		require.Equal(t, 4*AskEvery, watched)
		require.Less(t, time.Since(began), 2*time.Minute, "it ends with the process")
		require.Equal(t, domain.JobRunning, q.job(domain.DeadLetterJobs).State, "and is taken up again")
	})
}
