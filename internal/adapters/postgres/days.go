package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/sync/errgroup"

	"github.com/docket-project/docket/internal/domain"
)

// noDay is in front of all days.
const noDay domain.Day = -1 << 62

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
	known := noDay
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
	if err := s.makeDay(ctx, conn, d); errors.Is(err, errDayGone) {
		return err
	} else if err != nil {
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
	attached, exists, counts := false, false, false
	var gone pgtype.Date
	err = tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL,
		EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhparent = 'decisions'::regclass),
		to_regclass($2) IS NOT NULL, (SELECT max(day) + 1 FROM dropped_days)`,
		partitionOf(d), countsOf(d)).Scan(&exists, &attached, &counts, &gone)
	if err != nil || attached && counts {
		return err
	}
	if gone.Valid && d < domain.DayOf(gone.Time) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gone = max(s.gone, domain.DayOf(gone.Time))
		return errDayGone
	}
	if exists && !attached {
		return &domain.Error{Class: domain.Misconfigured, Answered: true, Text: fmt.Sprintf(
			"there is a table %s which is no partition of decisions: drop it, or attach it", partitionOf(d),
		)}
	}
	var statements []string
	if !attached {
		statements = append(statements, partition("decisions", partitionOf(d), d)...)
	}
	if !counts {
		statements = append(statements, partition("decision_counts", countsOf(d), d)...)
		// It has no key, without which nothing could be changed while all tables are published (logical replication).
		statements = append(statements, `ALTER TABLE `+countsOf(d)+` REPLICA IDENTITY FULL`)
	}
	if attached && !counts { // it has rows already
		statements = append(statements, `INSERT INTO decision_counts
			SELECT date_trunc('hour', timestamp, 'UTC'), 3600, true, tenant,
			coalesce(path, ''), outcome, count(*) FROM `+partitionOf(d)+` GROUP BY 1, 4, 5, 6`)
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return tx.Commit(ctx)
}

// partition is how a day's partition of a table is made.
func partition(of, name string, d domain.Day) []string {
	return []string{
		fmt.Sprintf(`CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE
			INCLUDING COMPRESSION)`,
			name, of),
		fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')`, of, name,
			d.Start().Format(time.RFC3339), d.End().Format(time.RFC3339)),
	}
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

// retentionLock keeps two processes from dropping days at once.
const retentionLock = migrationLock + 1

// endSearchesEvery is how often a day that waits to be dropped ends the searches in its way. Those that come after it
// wait behind it, so the second time finds few.
const endSearchesEvery = 200 * time.Millisecond

// endSearches cancels the searches that read decisions, where somebody waits to drop a day of them: one after the other
// they would keep it from being dropped. Whoever asked gets what was found so far, or has to ask again. Those of a role
// that this one is no member of stay.
const endSearches = `WITH held (relation) AS (
		VALUES ('decisions'::regclass), (to_regclass($2::text)), ('decision_counts'::regclass), (to_regclass($3::text))
	)
	SELECT count(pg_cancel_backend(a.pid)) FROM pg_stat_activity a
	WHERE a.pid <> pg_backend_pid() AND a.datname = current_database() AND a.state = 'active'
		AND starts_with(a.query, $1::text) AND pg_has_role(a.usesysid, 'MEMBER')
		AND EXISTS (SELECT FROM pg_locks l JOIN held USING (relation) WHERE l.pid = a.pid AND l.granted)
		AND EXISTS (SELECT FROM pg_locks l JOIN held USING (relation) WHERE l.mode = 'AccessExclusiveLock' AND NOT l.granted)`

// DropDay drops a partition, by the database's clock; see ports.DecisionDays. It locks everybody out of the table, and
// everybody behind it while it waits, so it waits for a second at most for each lock, and ends the searches that are in
// its way. It does so while it waits: once it has given up, those who waited behind it are the next in its way.
func (s *Store) DropDay(ctx context.Context, d domain.Day, atMost int) (dropped bool, err error) {
	settled := make(chan struct{})
	var ending errgroup.Group
	ending.Go(func() (failed error) {
		again := time.NewTicker(endSearchesEvery)
		defer again.Stop()
		for {
			select {
			case <-settled:
				return failed
			case <-again.C:
				failed = s.endSearches(ctx, d)
			}
		}
	})
	dropped, err = s.dropDay(ctx, d, atMost)
	close(settled)
	if notEnded := ending.Wait(); err != nil {
		return false, errors.Join(err, notEnded)
	}
	return dropped, nil
}

// endSearches ends the searches that are in the way of a day, on the probes' connection: those that write may all be in
// use by who waits behind the day.
func (s *Store) endSearches(ctx context.Context, d domain.Day) error {
	limit, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := s.probes.Acquire(limit)
	if err != nil {
		return err
	}
	defer conn.Release()
	return s.inTx(ctx, conn.Conn(), begin, func(b *pgx.Batch) {
		b.Queue(endSearches, strings.TrimSpace(searchMark), partitionOf(d), countsOf(d))
	})
}

func (s *Store) dropDay(ctx context.Context, d domain.Day, atMost int) (dropped bool, err error) {
	const drop = `DO $$ BEGIN
		IF DATE '%[1]s' < (now() AT TIME ZONE 'UTC')::date - 1 AND (%[2]d = 0 OR
			(SELECT count(*) FROM dropped_days WHERE dropped_at > now() - interval '24 hours') < %[2]d) THEN
			DROP TABLE IF EXISTS %[3]s, %[4]s;
			INSERT INTO dropped_days VALUES (DATE '%[1]s', now()) ON CONFLICT (day) DO UPDATE SET dropped_at = now();
		END IF;
	END $$`
	err = s.change(ctx, "drop "+partitionOf(d), func(b *pgx.Batch) {
		b.Queue(`SELECT set_config('lock_timeout', '1000', true), pg_advisory_xact_lock($1::bigint)`, int64(retentionLock))
		b.Queue(fmt.Sprintf(drop, d, atMost, partitionOf(d), countsOf(d)))
		b.Queue(`SELECT EXISTS (SELECT 1 FROM dropped_days WHERE day = $1::date AND dropped_at = now())`, d.Start()).
			QueryRow(func(row pgx.Row) error { return row.Scan(&dropped) })
	})
	if err != nil || !dropped {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.days, d)
	s.gone = max(s.gone, d+1)
	return true, nil
}

// RetentionState reads what is in force, and the database's clock; see ports.DecisionDays.
func (s *Store) RetentionState(ctx context.Context) (state domain.RetentionState, err error) {
	var seconds int64
	var gone pgtype.Date
	err = s.change(ctx, "read the retention", func(b *pgx.Batch) {
		b.Queue(`SELECT coalesce((SELECT seconds FROM retention), 0), (SELECT max(day) + 1 FROM dropped_days),
			clock_timestamp()`).QueryRow(func(row pgx.Row) error { return row.Scan(&seconds, &gone, &state.Now) })
	})
	if err != nil {
		return state, err
	}
	state.InForce, state.Now = time.Duration(seconds)*time.Second, state.Now.UTC()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce, s.learned = state.InForce, time.Now()
	if gone.Valid {
		s.gone = max(s.gone, domain.DayOf(gone.Time))
	}
	return state, nil
}

// learnEvery is how old the retention in force may be that decisions are placed by.
const learnEvery = 10 * time.Minute

// learn reads the retention in force before the first decision is placed by it, and now and then: a process that is
// configured with less would take for expired what all others keep.
func (s *Store) learn(ctx context.Context) error {
	s.mu.Lock()
	learned := s.learned
	s.mu.Unlock()
	if time.Since(learned) < learnEvery {
		return nil
	}
	_, err := s.RetentionState(ctx)
	if err == nil || !learned.IsZero() {
		return nil
	}
	var known *domain.Error
	if errors.As(err, &known) { // it concerns all rows alike
		all := *known
		all.Answered = false
		return &all
	}
	return err
}

// SetRetention puts a retention in force; see ports.DecisionDays.
func (s *Store) SetRetention(ctx context.Context, retention time.Duration) error {
	err := s.change(ctx, "set the retention", func(b *pgx.Batch) {
		b.Queue(`INSERT INTO retention (seconds) VALUES ($1::bigint)
			ON CONFLICT (one) DO UPDATE SET seconds = excluded.seconds, set_at = now()`, int64(retention/time.Second))
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce = retention
	return nil
}

// errDayGone is that a day was dropped: what belongs to it is too old.
var errDayGone = errors.New("the day is past the retention, and was dropped")

// placement says where a decision belongs: by when it was logged, by the longer of what is configured and in force, and
// by what was dropped already.
func (s *Store) placement(d *domain.Decision, now time.Time) domain.Placement {
	s.mu.Lock()
	window, gone := s.opts.Window, s.gone
	window.Retention = max(window.Retention, s.inForce)
	s.mu.Unlock()
	in := window.Classify(d.Timestamp, d.Logged(now))
	if in == domain.Inside && domain.DayOf(d.Timestamp) < gone {
		return domain.BeforeWindow
	}
	return in
}

// expireStep is how many rows one transaction deletes.
const expireStep = 5000

// DropReceivedBefore deletes from the tables without partitions; see ports.DecisionDays.
func (s *Store) DropReceivedBefore(ctx context.Context, oldest time.Time) error {
	for _, table := range []struct{ name, past string }{
		{"decisions_out_of_window", `received_at < $1::timestamptz AND saved_at < $1::timestamptz`},
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
