package sqlite

import (
	"context"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// microsOfDay are in a domain.Day.
const microsOfDay = int64(24 * time.Hour / time.Microsecond)

// PrepareDays has nothing to do: decisions of all days are in one table; see ports.DecisionDays.
func (s *Store) PrepareDays(context.Context, domain.Day, domain.Day) error { return nil }

// Days finds the days that have decisions, from one to the next by the index on time; see ports.DecisionDays.
func (s *Store) Days(ctx context.Context) (days []domain.Day, err error) {
	for next := int64(-1 << 62); ; {
		var at *int64
		if err := s.read.QueryRowContext(ctx, `SELECT min(time) FROM decisions WHERE time >= ?`, next).Scan(&at); err != nil {
			return nil, s.checked("list days in "+storeFile, err)
		}
		if at == nil {
			return days, nil
		}
		day := domain.DayOf(time.UnixMicro(*at))
		days = append(days, day)
		next = day.End().UnixMicro()
	}
}

// deleteStep is how many rows one transaction deletes, so that batches get in between.
const deleteStep = 1000

// DropDay deletes a day's rows; see ports.DecisionDays.
func (s *Store) DropDay(ctx context.Context, day domain.Day) error {
	first := day.Start().UnixMicro()
	return s.deleteSteps(
		ctx, "drop a day in "+storeFile,
		`DELETE FROM decisions WHERE rowid IN (SELECT rowid FROM decisions WHERE time >= ? AND time < ? LIMIT ?)`, first,
		first+microsOfDay,
	)
}

// DropReceivedBefore deletes what is kept by receipt; see ports.DecisionDays.
func (s *Store) DropReceivedBefore(ctx context.Context, oldest time.Time) error {
	for _, query := range []string{
		`DELETE FROM decisions_out_of_window WHERE rowid IN (SELECT rowid FROM decisions_out_of_window WHERE received_at < ?
			LIMIT ?)`,
		// OPAs make up a new id at every start.
		`DELETE FROM opas WHERE rowid IN (SELECT rowid FROM opas WHERE max(coalesce(last_upload, 0), coalesce(status_at, 0)) <
			? LIMIT ?)`,
	} {
		if err := s.deleteSteps(ctx, "expire in "+storeFile, query, oldest.UnixMicro()); err != nil {
			return err
		}
	}
	return nil
}

// deleteSteps repeats a statement, whose last parameter is a limit, until it deletes less.
func (s *Store) deleteSteps(ctx context.Context, op, query string, args ...any) error {
	for ctx.Err() == nil {
		res, err := s.write.ExecContext(ctx, query, append(args, deleteStep)...)
		if err != nil {
			return s.checked(op, err)
		}
		n, err := res.RowsAffected()
		if err != nil || n < deleteStep {
			return s.checked(op, err)
		}
	}
	return s.checked(op, ctx.Err())
}
