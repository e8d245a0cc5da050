package parking

import (
	"context"
	"log/slog"
	"time"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// IndexGroup is the consumer group that indexes dead letters.
const IndexGroup = "docket-dead-letters"

const (
	// indexWait is how long dead letters wait for a store that is away, and indexAgain how often one that has no row is looked at:
	// replayed ones by the second, because somebody watches, and open ones round and round, a step a second.
	indexWait  = 2 * time.Second
	tendEvery  = 500 * time.Millisecond
	tendIdle   = 2 * time.Second
	tendStep   = 2000
	forgetEach = 10 * time.Minute
)

// Index keeps the index of dead letters: it takes in what comes, closes what is stored, and forgets what has fallen off the log.
type Index struct {
	Store     IndexStore
	Log       ports.Log
	Projector *domain.Projector
	Topics    domain.Topics
	Logger    *slog.Logger
}

// IndexStore is the store as the index sees it.
type IndexStore interface {
	ports.DeadLetterIndex
	ports.AuditLog
}

// Handle indexes a batch of the dead-letter topics; see ports.Handler.
func (x *Index) Handle(ctx context.Context, batch []domain.Record) ([]ports.Hold, error) {
	err := x.index(ctx, batch)
	switch domain.ClassOf(err) {
	case domain.Canceled:
		return nil, err
	case domain.Unavailable, domain.Misconfigured:
		x.Logger.Debug("dead letters wait to be indexed", "records", len(batch), "error", err)
		return ports.HoldAll(batch, time.Now().Add(indexWait)), nil
	case domain.Invalid, domain.Unknown:
	}
	if err == nil {
		return nil, nil
	}
	// One of them cannot be indexed. Alone it is left out: its bytes stay in the log, and the others must not wait for it.
	for i, r := range batch {
		err := x.index(ctx, batch[i:i+1])
		switch domain.ClassOf(err) {
		case domain.Canceled, domain.Unavailable, domain.Misconfigured:
			return ports.HoldAll(batch, time.Now().Add(indexWait)), nil
		case domain.Invalid, domain.Unknown:
		}
		if err != nil {
			x.Logger.Error("a dead letter cannot be indexed: it is in the log, and in no list. Mend the cause and run docket dlq reindex",
				"dead_letter", r.Place().String(), "error", err)
		}
	}
	return nil, nil
}

func (x *Index) index(ctx context.Context, records []domain.Record) error {
	letters := make([]domain.DeadLetter, len(records))
	for i, r := range records {
		letters[i] = x.Projector.DeadLetter(r, x.Topics)
	}
	return x.Store.IndexDeadLetters(ctx, letters)
}

// Tend closes dead letters that are stored and forgets those that have fallen off the log, until ctx is done.
func (x *Index) Tend(ctx context.Context) {
	var open domain.Place
	var forgot time.Time
	for {
		wait := tendIdle
		if x.closeReplayed(ctx) {
			wait = tendEvery
		}
		var err error
		if _, open, err = x.Store.CloseStored(ctx, domain.DeadOpen, open, tendStep); err != nil && ctx.Err() == nil {
			x.Logger.Debug("dead letters were not looked at", "error", err) // the breaker has told
		}
		if time.Since(forgot) > forgetEach && x.forget(ctx) == nil {
			forgot = time.Now()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// closeReplayed looks once at everything that was replayed, and reports whether there is any.
func (x *Index) closeReplayed(ctx context.Context) (some bool) {
	for after := (domain.Place{}); ; {
		closed, next, err := x.Store.CloseStored(ctx, domain.DeadReplayed, after, tendStep)
		some = some || closed > 0 || next.Topic != ""
		if err != nil || next.Topic == "" {
			return some
		}
		after = next
	}
}

// forget removes from the index what the log does not hold any more. What was still open then is lost for good, and written down.
func (x *Index) forget(ctx context.Context) error {
	partitions, err := x.Log.Backlog(ctx, IndexGroup, x.Topics.DLQ, x.Topics.ParkingDLQ)
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
		x.Logger.Error("open dead letters have passed their topic's retention, and their bytes are gone", "topic", b.Topic, "partition", b.Partition, "dead_letters", n)
		if err := x.Store.Audit(ctx, domain.AuditEntry{
			At: time.Now().UTC(), Who: "docket", Action: "dead-letters.expired", Target: b.Topic, Done: n, Outcome: "the topic's retention has passed; they were still open",
		}); err != nil {
			return err
		}
	}
	return nil
}
