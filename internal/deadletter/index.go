// Package deadletter keeps the index of dead letters, and does what operators' jobs are to do with them: replay,
// discard, reindex, and dry runs of these. It leaves jobs as such to job, saving and routing to sink, and parsing to
// ingest.
//
// A dead letter's id is the position of its first copy and never changes; its bytes are read where the newest copy is,
// and that position finds it as well. A discarded dead letter stays discarded when the same bytes die again by
// themselves; a copy that comes from a replay opens its dead letter again.
//
// A replay publishes to the parking topic and leaves the attempts as they were: a row that is rejected again comes
// straight back, so that the job sees it within a second or two. The replay does not count for the dead-letter guard.
// It sends 100 first and waits up to 30 s until they are stored or fail, and waits again when 50,000 are on their way.
// It stops itself when more than stop_ratio and at least ten have failed since an operator last let it go on. What it
// has sent is written down a second later, when most of it is stored: one change of each index row instead of two. A
// kill in between sends that second again, which stores nothing twice.
//
// A dry run tries at most 10,000 dead letters, in blocks spread over what it chose, and ends after 500 failures or a
// minute: what is rolled back leaves dead rows in PostgreSQL's tables.
package deadletter

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/sink"
)

// IndexGroup is the consumer group that indexes dead letters.
const IndexGroup = "docket-dead-letters"

const (
	// indexWait is how long dead letters wait for a store that is away.
	indexWait = 2 * time.Second
	// Dead letters without a row are looked at round and round: replayed ones in several steps a turn, and open ones in a
	// small one. Turns follow faster while there is something to close.
	tendEvery  = 500 * time.Millisecond
	tendIdle   = 2 * time.Second
	tendStep   = 2000
	tendSteps  = 5
	tendOpen   = 1000
	forgetEach = 10 * time.Minute
)

// Index keeps the index of dead letters: it takes in what comes, closes what is stored, and forgets what has fallen off
// the log.
type Index struct {
	Store interface {
		ports.DeadLetterIndex
		ports.AuditWriter
	}
	Log interface {
		Backlog(ctx context.Context, group string, topics ...string) ([]ports.Backlog, error)
	}
	Projector *domain.Projector
	// Erasures are what may not be shown; nil is nothing.
	Erasures *sink.Erasures
	Topics   domain.Topics
	Logger   *slog.Logger
}

// Handle indexes a batch of the dead-letter topics; see ports.Handler.
func (x *Index) Handle(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
	err := x.take(ctx, batch)
	if err == nil || domain.ClassOf(err) == domain.Canceled {
		return nil, err
	}
	x.Logger.Debug("dead letters wait to be indexed", "records", len(batch), "error", err)
	return ports.PauseAll(batch, time.Now().Add(indexWait)), nil
}

// take indexes records, but for those about whom an operator ordered that nothing is kept. A whole upload has decisions
// about others as well.
func (x *Index) take(ctx context.Context, records []domain.Record) error {
	in, err := x.Erasures.InForce(ctx)
	if err != nil {
		return err
	}
	if !in.None() {
		records = slices.DeleteFunc(slices.Clone(records), func(r domain.Record) bool {
			if l := x.Projector.DeadLetter(r, x.Topics); l.Whole {
				return false
			}
			d := x.Projector.Project(r.Unpacked())
			return in.Cover(&d)
		})
	}
	if len(records) == 0 {
		return nil
	}
	return x.index(ctx, records)
}

// index indexes records. One that cannot be indexed is found by halves and left out: its bytes stay in the log, and the
// others must not wait for it. Errors: those that are no record's fault.
func (x *Index) index(ctx context.Context, records []domain.Record) error {
	letters := make([]domain.DeadLetter, len(records))
	for i, r := range records {
		letters[i] = x.Projector.DeadLetter(r, x.Topics)
	}
	err := x.Store.IndexDeadLetters(ctx, letters)
	switch domain.ClassOf(err) {
	case domain.Canceled, domain.Unavailable, domain.Misconfigured:
		return err
	case domain.Invalid, domain.Unknown:
	}
	switch half := len(records) / 2; {
	case err == nil:
		return nil
	case half == 0:
		x.Logger.Error(
			"a dead letter cannot be indexed: it is in the log, and in no list. Fix the cause, and have the index read again",
			"dead_letter", records[0].Position().String(), "error", err,
		)
		return nil
	default:
		if err := x.index(ctx, records[:half]); err != nil {
			return err
		}
		return x.index(ctx, records[half:])
	}
}

// Tend closes dead letters that are stored and forgets those that have fallen off the log, until ctx is done.
func (x *Index) Tend(ctx context.Context) {
	var open, replayed domain.Position
	var forgot time.Time
	for {
		wait := tendIdle
		var closed int
		if closed, replayed = x.closeReplayed(ctx, replayed); closed > 0 {
			wait = tendEvery // somebody watches
		}
		var err error
		if _, open, err = x.Store.CloseStored(ctx, domain.DeadOpen, open, tendOpen); err != nil && ctx.Err() == nil {
			x.Logger.Debug("dead letters were not looked at", "error", err) // the breaker has told
		}
		if time.Since(forgot) > forgetEach && x.forget(ctx) == nil {
			forgot = time.Now()
		}
		if !job.Sleep(ctx, wait) {
			return
		}
	}
}

// closeReplayed looks at the next few of what was replayed behind a position, and closes what is stored. next is where
// to go on, zero at the end.
func (x *Index) closeReplayed(ctx context.Context, after domain.Position) (closed int, next domain.Position) {
	for range tendSteps {
		n, next, err := x.Store.CloseStored(ctx, domain.DeadReplayed, after, tendStep)
		closed += n
		if after = next; err != nil || next.Topic == "" {
			break
		}
	}
	return closed, after
}

// forget removes from the index what the log does not have any more. What was still open then is lost for good, and
// written down.
func (x *Index) forget(ctx context.Context) error {
	partitions, err := x.Log.Backlog(ctx, x.Topics.Group(IndexGroup), x.Topics.DLQ, x.Topics.ParkingDLQ)
	if err != nil {
		return err
	}
	for _, b := range partitions {
		if b.Start == 0 {
			continue
		}
		gone, err := x.Store.ForgetDeadLetters(ctx, b.Topic, b.Partition, b.Start)
		if err != nil {
			return err
		}
		n := gone[domain.DeadOpen]
		if n == 0 {
			continue
		}
		x.Logger.Error("open dead letters have passed their topic's retention, and their bytes are gone", "topic", b.Topic,
			"partition", b.Partition, "dead_letters", n)
		if err := x.Store.Audit(ctx, domain.AuditEntry{
			At: time.Now().UTC(), Caller: "docket", Tenants: domain.AllTenants(), Action: "dead-letters.expired",
			Target: b.Topic, Done: n, Outcome: domain.Say(ExpiredOpen, domain.Args{"topic": b.Topic, "dead_letters": n}),
		}); err != nil {
			return err
		}
	}
	return nil
}
