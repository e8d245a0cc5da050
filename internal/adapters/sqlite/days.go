package sqlite

import (
	"context"
	"database/sql"
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
			return nil, s.checked("list days in "+storeFile, ended(ctx, err))
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

// DropDay deletes a day's rows; see ports.DecisionDays. Its own clock is the store's.
func (s *Store) DropDay(ctx context.Context, day domain.Day, atMost int) (dropped bool, err error) {
	now := s.opts.Now()
	if !day.MayGo(now) {
		return false, nil
	}
	var lately int
	since := now.Add(-24 * time.Hour).UnixMicro()
	row := s.read.QueryRowContext(ctx, `SELECT count(*) FROM dropped_days WHERE dropped_at > ? AND day <> ?`, since, day)
	if err := row.Scan(&lately); err != nil {
		return false, s.checked("drop a day in "+storeFile, err)
	}
	if atMost > 0 && lately >= atMost {
		return false, nil
	}
	// First: what is half gone is gone.
	first := day.Start().UnixMicro()
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT OR REPLACE INTO dropped_days VALUES (?, ?)`, day, now.UnixMicro())
		if err == nil {
			_, err = tx.Exec(`DELETE FROM decision_counts WHERE at >= ? AND at < ?`, first, first+microsOfDay)
		}
		if err == nil { // before the next batch
			s.gone.Store(max(s.gone.Load(), int64(day+1)))
		}
		return err
	})
	if err != nil {
		return false, s.checked("drop a day in "+storeFile, err)
	}
	err = s.deleteSteps(
		ctx, "drop a day in "+storeFile,
		`DELETE FROM decisions WHERE rowid IN (SELECT rowid FROM decisions WHERE time >= ? AND time < ? LIMIT ?)`, first,
		first+microsOfDay,
	)
	if err != nil {
		return true, err
	}
	// Whoever changed columns of rows that were not deleted yet has counted them.
	_, err = s.write.ExecContext(ctx, `DELETE FROM decision_counts WHERE at >= ? AND at < ?`, first, first+microsOfDay)
	return true, s.checked("drop a day in "+storeFile, err)
}

// RetentionState reads what is in force; see ports.DecisionDays.
func (s *Store) RetentionState(ctx context.Context) (domain.RetentionState, error) {
	state := domain.RetentionState{Now: s.opts.Now().UTC()}
	var seconds int64
	var gone *int64
	row := s.read.QueryRowContext(
		ctx, `SELECT coalesce((SELECT seconds FROM retention), 0), (SELECT max(day) + 1 FROM dropped_days)`,
	)
	if err := row.Scan(&seconds, &gone); err != nil {
		return state, s.checked("read the retention in "+storeFile, err)
	}
	state.InForce = time.Duration(seconds) * time.Second
	s.inForce.Store(int64(state.InForce))
	if gone != nil {
		s.gone.Store(*gone)
	}
	return state, nil
}

// SetRetention puts a retention in force; see ports.DecisionDays.
func (s *Store) SetRetention(ctx context.Context, retention time.Duration) error {
	_, err := s.write.ExecContext(
		ctx, `INSERT OR REPLACE INTO retention (one, seconds) VALUES (1, ?)`, int64(retention/time.Second),
	)
	if err != nil {
		return s.checked("set the retention in "+storeFile, err)
	}
	s.inForce.Store(int64(retention))
	return nil
}

// placement says where a decision belongs: by when it was logged, by the longer of what is configured and in force, and
// by what was dropped already.
func (s *Store) placement(d *domain.Decision, now time.Time) domain.Placement {
	window := s.opts.Window
	window.Retention = max(window.Retention, time.Duration(s.inForce.Load()))
	in := window.Classify(d.Timestamp, d.Logged(now))
	if in == domain.Inside && int64(domain.DayOf(d.Timestamp)) < s.gone.Load() {
		return domain.BeforeWindow
	}
	return in
}

// DropReceivedBefore deletes what is kept by receipt; see ports.DecisionDays.
func (s *Store) DropReceivedBefore(ctx context.Context, oldest time.Time) error {
	for _, query := range []string{
		`DELETE FROM decisions_out_of_window WHERE rowid IN (SELECT rowid FROM decisions_out_of_window
			WHERE received_at < ?1 AND saved_at < ?1 LIMIT ?2)`,
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
