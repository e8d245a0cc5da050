package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// tendFor is how long a turn may take; what it does not get done is done in the next.
	tendFor = time.Minute
	// tendAll is how often all days are looked at, and not only those that are written to most.
	tendAll = time.Hour
)

// Tend folds counts, and summarises what was written since the last turn for the filters of decisions_bloom: a range
// without a summary is read by every search. See ports.Upkeep.
func (s *Store) Tend(ctx context.Context, owner string) error {
	held, err := s.TakeLease(ctx, domain.Lease{Name: "upkeep", Owner: owner}, 2*tendFor)
	if err != nil || !held {
		return err
	}
	s.mu.Lock()
	all := time.Since(s.tended) >= tendAll
	s.mu.Unlock()
	now := s.opts.Now()
	since := domain.DayOf(now) - 1
	if all {
		since = noDay
	}
	ctx, cancel := context.WithTimeout(ctx, tendFor)
	defer cancel()
	days, err := s.Days(ctx)
	if err != nil {
		return err
	}
	for _, d := range days {
		if d < since {
			continue
		}
		if err := s.foldCounts(ctx, d); err != nil {
			return err
		}
		if err := s.summarise(ctx, d); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		s.tended = time.Now()
	}
	return nil
}

// summarise has the ranges of a day summarised that are not. What was done before an error stays done.
func (s *Store) summarise(ctx context.Context, d domain.Day) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.settle("summarise", nil, err)
	}
	defer conn.Release()
	op := "summarise " + partitionOf(d)
	var batch pgx.Batch
	batch.Queue(begin)
	batch.Queue(fmt.Sprintf(`SELECT set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true)`,
		tendFor.Milliseconds(), lockTimeout.Milliseconds()))
	batch.Queue(`SELECT brin_summarize_new_values(i.indexrelid) FROM pg_inherits h JOIN pg_index i ON i.indexrelid = h.inhrelid
		WHERE h.inhparent = 'decisions_bloom'::regclass AND i.indrelid = to_regclass($1::text) AND i.indisvalid`, partitionOf(d))
	batch.Queue("COMMIT")
	return s.settle(op, conn.Conn(), conn.Conn().SendBatch(ctx, &batch).Close())
}
