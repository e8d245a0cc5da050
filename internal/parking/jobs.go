package parking

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

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
	// readAhead is how many dead letters a replay without a rate reads at once.
	readAhead = 5000
	// canary is how many dead letters a replay sends first, and canaryWait how long it waits to see what becomes of them.
	canary     = 100
	canaryWait = 30 * time.Second
	// onTheWay is how many may be replayed and not seen again before the replay waits for them, and settleWait how long it waits
	// for the last ones.
	onTheWay   = 50_000
	settleWait = time.Minute
	// comeHome is how long most replayed dead letters take to become rows.
	comeHome = time.Second
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

// replay sends dead letters on their way again, and watches what becomes of them.
func (w *work) replay() error {
	chunk, limiter := int64(jobStep), (*rate.Limiter)(nil)
	if w.job.Rate > 0 {
		chunk = int64(min(max(w.job.Rate/4, 1), jobStep))
		limiter = rate.NewLimiter(rate.Limit(w.job.Rate), int(chunk))
		limiter.AllowN(w.now(), int(chunk)) // it begins empty
	}
	r := w.reader(chunk)
	defer r.end()
	defer func() { _, _ = w.flush(0, 0) }() // however the turn ends, what was sent is written down if it can be
	for tested := false; ; {
		b, goOn, err := r.next()
		if err != nil || !goOn {
			return err
		}
		if len(b.letters) == 0 {
			if goOn, err := w.flush(0, 0); err != nil || !goOn {
				return err
			}
			return w.settle()
		}
		if limiter != nil {
			delay := limiter.ReserveN(w.now(), len(b.letters)).DelayFrom(w.now())
			if goOn, err := w.wait(delay, "", nil); err != nil || !goOn {
				return err
			}
		}
		step, goOn, err := w.send(b)
		if err != nil || !goOn {
			return err
		}
		w.sent, w.sentAt = append(w.sent, step), append(w.sentAt, w.now())
		age, most := comeHome, onTheWay/jobStep
		if limiter != nil || !tested {
			age, most = 0, 0
		}
		if goOn, err := w.flush(age, most); err != nil || !goOn {
			return err
		}
		test := !tested && r.sent >= canary
		tested = tested || test
		if stopped, err := w.watch(test); err != nil || stopped {
			return err
		}
	}
}

// flush writes down what was sent, but for the last few steps that are younger than age: most of their dead letters are stored
// within that time, and then change once instead of twice. A job that is killed meanwhile sends them again, which stores nothing
// twice.
func (w *work) flush(age time.Duration, most int) (goOn bool, err error) {
	for goOn = true; len(w.sent) > most || len(w.sent) > 0 && w.now().Sub(w.sentAt[0]) >= age; {
		step := w.sent[0]
		w.sent, w.sentAt = w.sent[1:], w.sentAt[1:]
		on, err := w.advance(step)
		if err != nil {
			return false, err
		}
		if goOn = goOn && on; !goOn {
			age, most = 0, 0 // the rest as well: it was sent
		}
	}
	return goOn, nil
}

// fetched are dead letters with their bytes; those that have fallen off the log have none.
type fetched struct {
	letters []domain.DeadLetter
	records map[domain.Place]domain.Record
	err     error
}

// reader hands out what a replay deals with next, chunk by chunk. It reads several at once, because the log hands out more than
// is asked for, and while others are sent.
type reader struct {
	work    *work
	ctx     context.Context //nolint:containedctx // it ends with the turn
	stop    context.CancelFunc
	chunk   int64
	ahead   domain.Job // as it will be once everything that was asked for is dealt with
	asked   int64      // for in this turn
	sent    int64      // of it, handed out
	buffer  fetched
	pending chan fetched
}

func (w *work) reader(chunk int64) *reader {
	r := &reader{work: w, chunk: chunk, ahead: w.job}
	r.ctx, r.stop = context.WithCancel(w.ctx)
	r.ask()
	return r
}

// ask begins to read what comes behind what was asked for: at first no more than the canary.
func (r *reader) ask() {
	n, job := r.chunk, r.ahead
	switch {
	case r.asked < canary:
		n = min(n, canary-r.asked)
	case n == jobStep:
		n = readAhead
	}
	pending := make(chan fetched, 1)
	r.pending = pending
	go func() {
		var f fetched
		if f.letters, f.err = r.work.letters(r.ctx, job, n); f.err == nil {
			f.records, f.err = r.work.records(r.ctx, f.letters)
		}
		pending <- f
	}()
}

// end stops what is being read, and waits for it.
func (r *reader) end() {
	r.stop()
	if r.pending != nil {
		<-r.pending
	}
}

// next returns a chunk, or nothing at the end. While it waits, the job's owner says that it lives.
func (r *reader) next() (out fetched, goOn bool, err error) {
	for alive := time.NewTicker(heartbeat); len(r.buffer.letters) == 0; {
		select {
		case r.buffer = <-r.pending:
			alive.Stop()
			r.pending = nil
		case <-alive.C:
			if goOn, err := r.work.advance(domain.JobStep{Message: r.work.job.Message}); err != nil || !goOn {
				alive.Stop()
				return out, false, err
			}
			continue
		}
		n := len(r.buffer.letters)
		if n == 0 || r.buffer.err != nil {
			return out, true, r.buffer.err
		}
		r.ahead.After, r.ahead.Done, r.asked = r.buffer.letters[n-1].Place, r.ahead.Done+int64(n), r.asked+int64(n)
		r.ask()
	}
	out = r.buffer
	out.letters = out.letters[:min(int64(len(out.letters)), r.chunk)]
	r.buffer.letters = r.buffer.letters[len(out.letters):]
	r.sent += int64(len(out.letters))
	return out, true, nil
}

// watch stops a replay of which too much fails, lets the first ones come home before the others go, and keeps it from running
// away from what it has sent.
func (w *work) watch(test bool) (stopped bool, err error) {
	home := func() bool { return w.job.OnTheWay() == 0 || w.job.TooManyFail() }
	if test {
		if goOn, err := w.wait(canaryWait, fmt.Sprintf("the first %d were sent; waiting to see what becomes of them", canary), home); err != nil || !goOn {
			return true, err
		}
	}
	for w.job.OnTheWay() > onTheWay && !w.job.TooManyFail() {
		near := func() bool { return w.job.OnTheWay() <= onTheWay/2 || w.job.TooManyFail() }
		if goOn, err := w.wait(settleWait, fmt.Sprintf("%d are on their way; waiting for them before more are sent", w.job.OnTheWay()), near); err != nil || !goOn {
			return true, err
		}
	}
	if !w.job.TooManyFail() {
		return false, nil
	}
	if goOn, err := w.flush(0, 0); err != nil || !goOn {
		return true, err
	}
	w.end(domain.JobStopped, fmt.Sprintf("%d of %d replayed dead letters failed again, more than %.0f %%. Look why with docket dlq groups, and mend it; then "+
		"docket dlq cancel %s, and replay anew (docket dlq resume goes on with the rest only)", w.job.Failed, w.job.Done, 100*w.job.StopRatio, w.job.ID))
	return true, nil
}

// settle waits for the last ones, and ends the job.
func (w *work) settle() error {
	home := func() bool { return w.job.OnTheWay() == 0 }
	if goOn, err := w.wait(settleWait, fmt.Sprintf("everything was sent; waiting for the last %d", w.job.OnTheWay()), home); err != nil || !goOn {
		return err
	}
	message := fmt.Sprintf("%d replayed: %d are stored, %d failed again", w.job.Done, w.job.Stored, w.job.Failed)
	if n := w.job.Reparsed; n > 0 {
		message += fmt.Sprintf(", %d were put-aside bytes that could be read now", n)
	}
	if n := w.job.OnTheWay(); n > 0 {
		message += fmt.Sprintf(", %d are still on their way (docket status tells what waits)", n)
	}
	if n := w.job.Skipped; n > 0 {
		message += fmt.Sprintf(", %d were left alone because their bytes are not in the log any more", n)
	}
	w.end(domain.JobDone, message)
	return nil
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
