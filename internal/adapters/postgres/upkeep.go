package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// tendFor is how long a turn may take; what it does not get done is done in the next.
	tendFor = time.Minute
	// tendAll is how often all days are looked at, and not only those that were written to: minutes become hours.
	tendAll = time.Hour
	// summariseLockTimeout is below PostgreSQL's deadlock_timeout, after which whoever waits for a lock has an autovacuum
	// canceled that holds it. A vacuum summarises as well.
	summariseLockTimeout = 500 * time.Millisecond
)

// Tend folds counts, and summarises what was written since the last turn for the filters of decisions_bloom: a range
// without a summary is read by every search. See ports.Upkeep.
func (s *Store) Tend(ctx context.Context, owner string) error {
	held, err := s.TakeLease(ctx, domain.Lease{Name: "upkeep", Owner: owner}, 2*tendFor)
	if err != nil || !held {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tendFor)
	defer cancel()
	days, err := s.Days(ctx)
	if err != nil {
		return err
	}
	written, err := s.insertions(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	all := time.Since(s.tendedAll) >= tendAll
	s.mu.Unlock()
	today := domain.DayOf(s.opts.Now())
	var errs []error
	for _, d := range slices.Backward(days) { // searches are about the newest most of all
		if deadline, _ := ctx.Deadline(); time.Until(deadline) < s.opts.StatementTimeout {
			errs = append(errs, domain.Errorf(domain.Unavailable,
				"the upkeep of %s and the days before waits for the next turn", d))
			break
		}
		s.mu.Lock()
		before, known := s.tended[d]
		s.mu.Unlock()
		if n := written[d]; known && before == n && !all && d < today-1 {
			continue
		}
		done, err := s.tendDay(ctx, d, all)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		if delete(s.tended, d); done {
			s.tended[d] = written[d]
		}
		s.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		s.tendedAll = time.Now()
	}
	return nil
}

// tendDay does one day; done is false where somebody else's lock kept it from being summarised. coarsen says to put
// minutes together to hours, too.
func (s *Store) tendDay(ctx context.Context, d domain.Day, coarsen bool) (done bool, err error) {
	if err := s.foldCounts(ctx, d, coarsen); err != nil {
		return false, err
	}
	return s.summarise(ctx, d)
}

// insertions is how many rows were ever inserted into each day, by the server's statistics, whoever did it. They are a
// second late at most.
func (s *Store) insertions(ctx context.Context) (map[domain.Day]int64, error) {
	out := map[domain.Day]int64{}
	err := s.change(ctx, "look at statistics", func(b *pgx.Batch) { // a standby has statistics of its own
		b.Queue(`SELECT relname::text, n_tup_ins FROM pg_stat_user_tables
			WHERE relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'decisions'::regclass)`,
		).Query(func(rows pgx.Rows) error {
			var name string
			var n int64
			_, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error {
				if d, ours := dayOfPartition(name); ours {
					out[d] = n
				}
				return nil
			})
			return err
		})
	})
	return out, err
}

// summarise has the ranges of a day summarised that are not. What was done before an error stays done, and what
// somebody else's lock keeps from being done waits for the next turn.
func (s *Store) summarise(ctx context.Context, d domain.Day) (done bool, err error) {
	conn, err := s.acquire(ctx)
	if err != nil {
		return false, s.settle("summarise", nil, err)
	}
	defer conn.Release()
	var batch pgx.Batch
	batch.Queue(begin)
	batch.Queue(fmt.Sprintf(`SELECT set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true)`,
		tendFor.Milliseconds(), summariseLockTimeout.Milliseconds()))
	batch.Queue(`SELECT brin_summarize_new_values(i.indexrelid) FROM pg_inherits h
		JOIN pg_index i ON i.indexrelid = h.inhrelid
		WHERE h.inhparent = to_regclass('decisions_bloom')
			AND i.indrelid = to_regclass($1::text) AND i.indisvalid`, partitionOf(d))
	batch.Queue("COMMIT")
	err = s.settle("summarise "+partitionOf(d), conn.Conn(), conn.Conn().SendBatch(ctx, &batch).Close())
	if domain.CodeOf(err) == "55P03" {
		return false, nil
	}
	return err == nil, err
}
