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

// partitionOf is the name of a day's partition.
func partitionOf(d domain.Day) string { return "decisions_" + d.Start().Format("20060102") }

var partitionName = regexp.MustCompile(`^decisions_(\d{8})$`)

// dayOfPartition reads a name that partitionOf wrote.
func dayOfPartition(name string) (domain.Day, bool) {
	m := partitionName.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	t, err := time.Parse("20060102", m[1])
	return domain.DayOf(t), err == nil
}

// ensureDays makes the partitions that rows need and that are not known to be there.
func (s *Store) ensureDays(ctx context.Context, conn *pgx.Conn, rows []row) error {
	var known domain.Day = -1 << 62
	for _, r := range rows {
		d := domain.DayOf(r.Timestamp)
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

func (s *Store) ensureDay(ctx context.Context, conn *pgx.Conn, d domain.Day) error {
	s.mu.Lock()
	known := s.days[d]
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.makeDay(ctx, conn, d); err != nil {
		return unmakeable(s.settle("make the partition "+partitionOf(d), conn, err), d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.days[d] = true
	return nil
}

// unmakeable is why a partition was not made. It concerns that day alone, if the server answered.
func unmakeable(err error, d domain.Day) error {
	switch class := domain.ClassOf(err); {
	case domain.CodeOf(err) == "57014": // a server that is slow
		err = domain.Reclass(err, domain.Unavailable, "")
	case class == domain.Invalid || class == domain.Unknown: // no row is the cause of it
		err = domain.Reclass(err, domain.Misconfigured, "")
	}
	var known *domain.Error
	if !errors.As(err, &known) || !known.Answered {
		return err
	}
	concerns := *known
	concerns.HeldFor = d.HeldFor()
	return &concerns
}

// makeDay makes a partition unless it is there. It is made beside the table and then attached, because that does not
// lock out those who read and write other days.
func (s *Store) makeDay(ctx context.Context, conn *pgx.Conn, d domain.Day) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.StatementTimeout+answerMargin)
	defer cancel()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
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
	name := partitionOf(d)
	attached, exists := false, false
	err = tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL,
		EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = 'decisions'::regclass)`,
		name).Scan(&exists, &attached)
	if err != nil || attached {
		return err
	}
	statements := []string{
		`CREATE TABLE ` + name + ` (LIKE decisions INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING
			COMPRESSION)`,
		fmt.Sprintf(`ALTER TABLE decisions ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`, name,
			d.Start().Format(time.RFC3339), d.End().Format(time.RFC3339)),
	}
	if exists {
		return &domain.Error{Class: domain.Misconfigured, Answered: true, Text: fmt.Sprintf(
			"there is a table %s which is no partition of decisions: drop it, or attach it", name,
		)}
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
	if !noPartition(err) {
		return err
	}
	return domain.Reclass(
		err, domain.Misconfigured,
		"a day's partition of decisions is missing, although it was made: does something drop it?",
	)
}

// PrepareDays makes partitions; see ports.DecisionDays.
func (s *Store) PrepareDays(ctx context.Context, first, last domain.Day) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return s.settle("prepare partitions", nil, err)
	}
	defer conn.Release()
	for d := first; d <= last; d++ {
		if err := s.ensureDay(ctx, conn.Conn(), d); err != nil {
			return err
		}
	}
	return nil
}

// Days lists the partitions; see ports.DecisionDays. A partition that docket has not made is not listed.
func (s *Store) Days(ctx context.Context) (days []domain.Day, err error) {
	err = s.query(ctx, "list partitions", `SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'decisions'::regclass ORDER BY 1`, nil, func(rows pgx.Rows) error {
		var name string
		_, err := pgx.ForEachRow(rows, []any{&name}, func() error {
			if d, ours := dayOfPartition(name); ours {
				days = append(days, d)
			}
			return nil
		})
		return err
	})
	return days, err
}

// DropDay drops a partition; see ports.DecisionDays. It locks everybody out of the table, and everybody behind it while
// it waits, so it waits for 200 ms only.
func (s *Store) DropDay(ctx context.Context, d domain.Day) error {
	err := s.change(ctx, "drop "+partitionOf(d), func(b *pgx.Batch) {
		b.Queue(`SELECT set_config('lock_timeout', '200', true)`)
		b.Queue(`DROP TABLE IF EXISTS ` + partitionOf(d))
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.days, d)
	return nil
}

// expireStep is how many rows one transaction deletes.
const expireStep = 5000

// DropReceivedBefore deletes from the tables without partitions; see ports.DecisionDays.
func (s *Store) DropReceivedBefore(ctx context.Context, oldest time.Time) error {
	for _, table := range []struct{ name, past string }{
		{"decisions_out_of_window", `received_at < $1::timestamptz`},
		// OPAs make up a new id at every start.
		{"opas", `greatest(last_upload, status_at) < $1::timestamptz`},
	} {
		sql := fmt.Sprintf(`DELETE FROM %[1]s WHERE ctid = ANY (ARRAY (SELECT ctid FROM %[1]s WHERE %[2]s LIMIT %[3]d))`,
			table.name, table.past, expireStep)
		for deleted := int64(expireStep); deleted == expireStep; {
			err := s.change(ctx, "expire "+table.name, func(b *pgx.Batch) {
				b.Queue(sql, oldest).Exec(func(tag pgconn.CommandTag) error {
					deleted = tag.RowsAffected()
					return nil
				})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
