package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/docket-project/docket/internal/domain"
)

// day is a day in UTC, counted from 1970.
type day int64

const secondsOfDay = 24 * 60 * 60

func dayOf(t time.Time) day {
	s := t.Unix()
	if s < 0 {
		s -= secondsOfDay - 1
	}
	return day(s / secondsOfDay)
}

func (d day) start() time.Time { return time.Unix(int64(d)*secondsOfDay, 0).UTC() }

// partition is the name of the day's.
func (d day) partition() string { return "decisions_" + d.start().Format("20060102") }

var partitionName = regexp.MustCompile(`^decisions_(\d{8})$`)

// dayOfPartition reads a name that partition wrote.
func dayOfPartition(name string) (day, bool) {
	m := partitionName.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	t, err := time.Parse("20060102", m[1])
	return dayOf(t), err == nil
}

// daysAhead is how many days after today have their partitions before they are needed.
const daysAhead = 2

// ensureDays makes the partitions that rows need and that are not known to be there.
func (s *Store) ensureDays(ctx context.Context, conn *pgx.Conn, rows []row) error {
	var known day = -1 << 62
	for _, r := range rows {
		d := dayOf(r.Timestamp)
		if d == known {
			continue
		}
		known = d
		if err := s.ensureDay(ctx, conn, d); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) ensureDay(ctx context.Context, conn *pgx.Conn, d day) error {
	s.mu.Lock()
	known := s.days[d]
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.makeDay(ctx, conn, d); err != nil {
		err = s.settle("make the partition "+d.partition(), conn, err)
		var e *domain.Error
		switch {
		case !errors.As(err, &e):
		case e.Code == "57014": // a server that is slow
			e.Class = domain.Unavailable
		case e.Class == domain.Invalid || e.Class == domain.Unknown: // no row is to blame for it
			e.Class = domain.Misconfigured
		}
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.days[d] = true
	return nil
}

// makeDay makes a partition unless it is there. It is made beside the table and then attached, because that does not lock
// out those who read and write other days.
func (s *Store) makeDay(ctx context.Context, conn *pgx.Conn, d day) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.StatementTimeout+answerMargin)
	defer cancel()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing, after the commit
	if _, err := tx.Exec(ctx, s.settings); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1::bigint)`, int64(migrationLock)); err != nil {
		return err
	}
	name := d.partition()
	attached, exists := false, false
	err = tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL,
		EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = 'decisions'::regclass)`, name).Scan(&exists, &attached)
	if err != nil || attached {
		return err
	}
	statements := []string{
		`CREATE TABLE ` + name + ` (LIKE decisions INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION)`,
		fmt.Sprintf(`ALTER TABLE decisions ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`, name,
			d.start().Format(time.RFC3339), (d + 1).start().Format(time.RFC3339)),
	}
	if exists {
		return domain.Errorf(domain.Misconfigured, "there is a table %s which is no partition of decisions: drop it, or attach it", name)
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

func (s *Store) forgetDays() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.days)
}

// noPartition recognises the error of a row that has no partition to go to. It has the SQLSTATE of a check constraint,
// without one.
func noPartition(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23514" && pg.ConstraintName == ""
}

// misplaced makes a missing partition the operator's business.
func misplaced(err error) error {
	var e *domain.Error
	if noPartition(err) && errors.As(err, &e) {
		e.Class, e.Text = domain.Misconfigured, "a day's partition of decisions is missing, although it was made: does something drop it?"
	}
	return err
}

// prepareDays makes the partitions of today and the days after.
func (s *Store) prepareDays(ctx context.Context) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.settle("prepare partitions", nil, err)
	}
	defer conn.Release()
	today := dayOf(s.opts.Now())
	for d := today; d <= today+daysAhead; d++ {
		if err := s.ensureDay(ctx, conn.Conn(), d); err != nil {
			return err
		}
	}
	return nil
}

// upkeepEvery is how often partitions are made ahead and dropped.
const upkeepEvery = 10 * time.Minute

// Upkeep makes partitions ahead and drops what is past the retention, until ctx is done. Several processes may do it.
func (s *Store) Upkeep(ctx context.Context) {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		if err := s.Expire(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("the upkeep of partitions failed; it is tried again", "in", upkeepEvery, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Expire makes the next days' partitions, drops the days that are wholly past the retention, and deletes from the tables
// that have none.
func (s *Store) Expire(ctx context.Context) error {
	if err := s.prepareDays(ctx); err != nil {
		return err
	}
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.settle("expire", nil, err)
	}
	defer conn.Release()
	oldest := s.opts.Now().Add(-s.opts.Window.Retention)
	rows, err := conn.Query(ctx, `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'decisions'::regclass ORDER BY 1`)
	if err != nil {
		return s.settle("list partitions", conn.Conn(), err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s.settle("list partitions", conn.Conn(), err)
	}
	for _, name := range names {
		d, ours := dayOfPartition(name)
		if !ours || (d + 1).start().After(oldest) {
			continue
		}
		err := s.inTx(ctx, conn.Conn(), "BEGIN", func(b *pgx.Batch) {
			// It locks everybody out of the table, and everybody behind it while it waits. It is tried again.
			b.Queue(`SELECT set_config('lock_timeout', '200', true)`)
			b.Queue(`DROP TABLE IF EXISTS ` + name)
		})
		if err != nil {
			return s.settle("drop "+name, conn.Conn(), err)
		}
		s.mu.Lock()
		delete(s.days, d)
		s.mu.Unlock()
		s.opts.Log.Info("a day past the retention was dropped", "partition", name)
	}
	for _, table := range []struct{ name, past string }{
		{"decisions_out_of_window", `received_at < $1`},
		// OPAs make up a new id at every start.
		{"opas", `greatest(last_upload, status_at) < $1`},
	} {
		for deleted := int64(expireStep); deleted == expireStep; {
			err := s.inTx(ctx, conn.Conn(), "BEGIN", func(b *pgx.Batch) {
				b.Queue(fmt.Sprintf(`DELETE FROM %[1]s WHERE ctid = ANY (ARRAY (SELECT ctid FROM %[1]s WHERE %[2]s LIMIT %[3]d))`, table.name, table.past, expireStep), oldest).
					Exec(func(tag pgconn.CommandTag) error {
						deleted = tag.RowsAffected()
						return nil
					})
			})
			if err != nil {
				return s.settle("expire "+table.name, conn.Conn(), err)
			}
		}
	}
	return nil
}

// expireStep is how many rows one transaction deletes.
const expireStep = 5000
