package parking

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
)

const (
	// askForJobs is how often a process looks for work, and lease how long another one waits after it was killed.
	askForJobs = 500 * time.Millisecond
	lease      = 15 * time.Second
	// retryJob is how long a job rests that cannot go on for now.
	retryJob = 5 * time.Second
	// heartbeat is the longest that a job goes without a word: its owner says that it lives, and hears what an operator wants.
	heartbeat = 2 * time.Second
	// jobStep and jobBytes bound what is replayed, or indexed, at once.
	jobStep  = 1000
	jobBytes = 16 << 20
)

// JobConfig is what the jobs work with.
type JobConfig struct {
	Store interface {
		IndexStore
		ports.JobStore
	}
	Log       ports.Log
	Index     *Index
	Topics    domain.Topics
	Projector *domain.Projector
	// Rehearse is the Save of saver.NewRehearsal.
	Rehearse func(context.Context, []domain.Record) []saver.Verdict
	// Limits are ingest's as they are now, and Inflate undoes gzip as the upload API does.
	Limits  domain.Limits
	Inflate func(wire []byte) io.Reader
	// Owner names this process among those that share the store.
	Owner  string
	Logger *slog.Logger
}

// Jobs works on the operators' jobs: one dry run and one other job at a time.
type Jobs struct {
	JobConfig
	now func() time.Time
}

// NewJobs makes Jobs.
func NewJobs(c JobConfig) *Jobs { return &Jobs{JobConfig: c, now: time.Now} }

// Run takes up jobs until ctx is done.
func (j *Jobs) Run(ctx context.Context) {
	var lanes sync.WaitGroup
	for _, dry := range []bool{true, false} {
		lanes.Go(func() {
			for pause := askForJobs; sleep(ctx, pause); {
				if pause = askForJobs; !j.next(ctx, dry) {
					pause = retryJob
				}
			}
		})
	}
	lanes.Wait()
}

// next works on a job, if there is one, until it is over, and reports whether it came to that or cannot go on for now.
func (j *Jobs) next(ctx context.Context, dry bool) (well bool) {
	now := j.now().UTC()
	job, found, err := j.Store.ClaimJob(ctx, dry, j.Owner, now, now.Add(lease))
	if err != nil || !found {
		return true // a store that is away is the breaker's news
	}
	j.Logger.Info("a job is taken up", "job", job.ID, "kind", job.Kind, "dry_run", job.DryRun, "matched", job.Matched, "done", job.Done)
	w, well := &work{Jobs: j, ctx: ctx, job: job}, true
	switch {
	case job.Kind == domain.Reindex:
		err = w.reindex()
	case job.DryRun:
		err = w.rehearse()
	case job.Kind == domain.Discard:
		err = w.discard()
	default:
		err = w.replay()
	}
	switch class := domain.ClassOf(err); {
	case err == nil || ctx.Err() != nil:
	case class == domain.Unavailable || class == domain.Misconfigured || class == domain.Canceled: // it passes, or is mended
		well = false
		j.Logger.Warn("a job cannot go on for now; it is taken up again", "job", job.ID, "error", err)
		_, _ = w.advance(domain.JobStep{Message: "it cannot go on for now, and is taken up again: " + err.Error()}) // if the store is there
	default:
		w.end(domain.JobFailed, "it cannot go on: "+err.Error())
	}
	if w.over {
		j.Logger.Info("a job has ended", "job", job.ID, "state", w.job.State, "done", w.job.Done, "failed", w.job.Failed, "message", w.job.Message)
	}
	return well
}

// work is one process's turn at a job.
type work struct {
	*Jobs
	ctx  context.Context //nolint:containedctx // it lives as long as the turn
	job  domain.Job
	over bool
	// sent are steps that are done and not written down yet, since sentAt.
	sent   []domain.JobStep
	sentAt []time.Time
	// closing is where to look on for replayed dead letters that are stored.
	closing domain.Place
}

// advance writes down what was done and hears whether to go on.
func (w *work) advance(step domain.JobStep) (goOn bool, err error) {
	now := w.now().UTC()
	step.Job, step.Owner, step.At, step.LeaseUntil = w.job.ID, w.Owner, now, now.Add(lease)
	job, err := w.Store.AdvanceJob(w.ctx, step)
	if err != nil {
		return false, err
	}
	w.job = job
	return job.State == domain.JobRunning && job.Owner == w.Owner, nil
}

// wait pauses, with a word to the store every heartbeat, until d has passed or enough says so.
func (w *work) wait(d time.Duration, message string, enough func() bool) (goOn bool, err error) {
	for until := w.now().Add(d); ; {
		left := until.Sub(w.now())
		if left <= 0 || (enough != nil && enough()) {
			return true, nil
		}
		step := heartbeat
		if enough != nil {
			step = askForJobs // somebody waits for it
		}
		if !sleep(w.ctx, min(step, left)) {
			return false, nil
		}
		if left <= step && enough == nil {
			return true, nil
		}
		if enough != nil {
			_, w.closing = w.Index.closeReplayed(w.ctx, w.closing)
		}
		if goOn, err := w.advance(domain.JobStep{Message: message}); !goOn || err != nil {
			return false, err
		}
	}
}

// end writes down how the job ended, for its reader and for the audit.
func (w *work) end(state domain.JobState, message string) {
	w.finish(domain.JobStep{State: state, Message: message})
}

func (w *work) finish(step domain.JobStep) {
	if !w.job.DryRun {
		after := w.job
		after.Message = step.Message
		step.Audit = after.Audit(string(step.State), "docket for "+after.Who, w.now())
	}
	if _, err := w.advance(step); err != nil {
		w.Logger.Warn("how a job ended was not written down; it is taken up again", "job", w.job.ID, "error", err)
		return
	}
	w.over = w.job.State == step.State
}

// letters are what the job is to deal with next: at most n, and not more bytes than may be in memory.
func (w *work) letters(ctx context.Context, job domain.Job, n int64) ([]domain.DeadLetter, error) {
	if n = min(n, job.Left()); n <= 0 {
		return nil, nil
	}
	letters, err := w.Store.JobLetters(ctx, job, int(n))
	bytes := 0
	for i, l := range letters {
		if bytes += l.Bytes; bytes > jobBytes && i > 0 {
			return letters[:i], err
		}
	}
	return letters, err
}

// discard gives dead letters up.
func (w *work) discard() error {
	for {
		letters, err := w.letters(w.ctx, w.job, jobStep)
		if err != nil {
			return err
		}
		if len(letters) == 0 {
			w.end(domain.JobDone, fmt.Sprintf("%d dead letters are discarded. Their bytes stay in the log until the topic's retention", w.job.Done))
			return nil
		}
		step := domain.JobStep{To: domain.DeadDiscarded, Moved: letters, After: letters[len(letters)-1].Place}
		if goOn, err := w.advance(step); err != nil || !goOn {
			return err
		}
	}
}

// reindex reads the dead-letter topics into the index again.
func (w *work) reindex() error {
	partitions, err := w.Log.Backlog(w.ctx, IndexGroup, w.Topics.DLQ, w.Topics.ParkingDLQ)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, b := range partitions {
		total += b.End - b.Start
	}
	if goOn, err := w.advance(domain.JobStep{Matched: total}); err != nil || !goOn {
		return err
	}
	for _, b := range partitions {
		first := domain.Place{Topic: b.Topic, Partition: b.Partition, Offset: b.Start}
		if after := w.job.After; after.Topic == b.Topic && after.Partition == b.Partition {
			first.Offset = max(b.Start, after.Offset+1)
		} else if after.Topic != "" && done(partitions, after, first) {
			continue
		}
		if goOn, err := w.reindexPartition(first, b.End); err != nil || !goOn {
			return err
		}
	}
	if err := w.Index.forget(w.ctx); err != nil {
		return err
	}
	w.end(domain.JobDone, fmt.Sprintf("%d records of the dead-letter topics are in the index", w.job.Done))
	return nil
}

// done reports that a partition stands in front of the one that a place is in.
func done(partitions []ports.Backlog, after, p domain.Place) bool {
	for _, b := range partitions {
		if b.Topic == after.Topic && b.Partition == after.Partition {
			return false
		}
		if b.Topic == p.Topic && b.Partition == p.Partition {
			return true
		}
	}
	return false
}

func (w *work) reindexPartition(at domain.Place, end int64) (goOn bool, err error) {
	for goOn = true; at.Offset < end && goOn; {
		var records []domain.Record
		bytes := 0
		next, err := w.read(w.ctx, at, func(r domain.Record) bool {
			records = append(records, r)
			bytes += len(r.Value)
			return len(records) < jobStep && bytes < jobBytes
		})
		if err != nil {
			return false, err
		}
		if next <= at.Offset || len(records) == 0 {
			return true, nil
		}
		if err := w.Index.take(w.ctx, records); err != nil {
			return false, err
		}
		at.Offset = next
		if goOn, err = w.advance(domain.JobStep{Indexed: int64(len(records)), After: records[len(records)-1].Place()}); err != nil {
			return false, err
		}
	}
	return goOn, nil
}

// sleep waits, and reports whether ctx still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
