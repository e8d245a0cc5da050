package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// tally is what a transaction changes of the counts.
type tally map[tallied]int64

type tallied struct {
	at                    int64
	seconds               int
	tenant, path, outcome string
}

// add counts n more decisions like this one, which has a day of its own.
func (t tally) add(d *domain.Decision, now time.Time, n int64) {
	span := min(domain.CountSpan(domain.DayOf(d.Timestamp), now), time.Hour)
	t[tallied{
		d.Timestamp.Truncate(span).UnixMicro(), int(span.Seconds()), d.Tenant, d.Path, string(d.Outcome),
	}] += n
}

// write adds a tally to the counts.
func (t tally) write(tx *sql.Tx) error {
	if len(t) == 0 {
		return nil
	}
	upsert, err := tx.Prepare(`INSERT INTO decision_counts (at, seconds, folded, tenant, path, outcome, decisions)
		VALUES (?, ?, 0, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET decisions = decisions + excluded.decisions`)
	if err != nil {
		return err
	}
	defer upsert.Close()
	for k, n := range t {
		if n == 0 {
			continue
		}
		if _, err := upsert.Exec(k.at, k.seconds, k.tenant, k.path, k.outcome, n); err != nil {
			return err
		}
	}
	return nil
}

// foldCounts puts what batches have counted into the counts of a day, and what is counted by less than it should be by
// now; see PostgreSQL's, which does so in one statement.
func (s *Store) foldCounts(ctx context.Context, d domain.Day) error {
	span := domain.CountSpan(d, s.opts.Now())
	first, last := d.Start().UnixMicro(), d.End().UnixMicro()
	const of = `at >= ?1 AND at < ?2`
	steps := []string{
		`CREATE TEMP TABLE went AS SELECT * FROM decision_counts WHERE ` + of + ` AND (NOT folded OR seconds < ?3)`,
		`CREATE TEMP TABLE kept AS SELECT DISTINCT tenant, path
			FROM decision_counts WHERE ` + of + ` AND folded AND path <> ?4`,
		`INSERT INTO kept SELECT tenant, path FROM (
			SELECT tenant, path, row_number() OVER (PARTITION BY tenant ORDER BY sum(decisions) DESC, path) AS n FROM went w
			WHERE path <> ?4 AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.tenant = w.tenant AND k.path = w.path)
			GROUP BY tenant, path) f WHERE n <= ?5 - (SELECT count(*) FROM kept k WHERE k.tenant = f.tenant)`,
		`DELETE FROM decision_counts WHERE ` + of + ` AND (NOT folded OR seconds < ?3)`,
		`INSERT INTO decision_counts (at, seconds, folded, tenant, path, outcome, decisions)
			SELECT at - (at - ?1) % (max(seconds, ?3) * 1000000), max(seconds, ?3), 1,
				w.tenant, coalesce(k.path, ?4), outcome, sum(decisions)
			FROM went w LEFT JOIN kept k ON k.tenant = w.tenant AND k.path = w.path
			WHERE true GROUP BY 1, 2, w.tenant, 5, outcome HAVING sum(decisions) <> 0
			ON CONFLICT DO UPDATE SET decisions = decisions + excluded.decisions`,
		`DROP TABLE went`, `DROP TABLE kept`,
	}
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, step := range steps {
			args := []any{first, last, int(span.Seconds()), domain.OtherPaths, domain.MaxCountedPaths}
			if _, err := tx.Exec(step, args[:parametersOf(step)]...); err != nil {
				return err
			}
		}
		return nil
	})
	return s.checked("fold counts in "+storeFile, err)
}

// parametersOf is the highest number of a statement's parameters.
func parametersOf(statement string) int {
	n := 9
	for ; n > 0 && !strings.Contains(statement, fmt.Sprintf("?%d", n)); n-- {
	}
	return n
}

// Tend folds counts; see ports.Upkeep. There is one process.
func (s *Store) Tend(ctx context.Context, _ string) error {
	all := s.opts.Now().Sub(time.UnixMicro(s.tended.Load())) >= tendAll
	days, err := s.Days(ctx)
	if err != nil {
		return err
	}
	since := domain.DayOf(s.opts.Now()) - 1
	var errs []error
	for _, d := range slices.Backward(days) {
		if d < since && !all {
			break
		}
		errs = append(errs, s.foldCounts(ctx, d))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if all {
		s.tended.Store(s.opts.Now().UnixMicro())
	}
	return nil
}

// tendAll is how often all days are looked at, and not only those that are written to most.
const tendAll = time.Hour

// counted is PostgreSQL's statement of this name.
const counted = `WITH over AS (
		SELECT e.at AS e, c.at, c.at + c.seconds * 1000000 AS until
		FROM (SELECT ?1 AS at UNION ALL SELECT ?2) e JOIN decision_counts c
			ON c.at IN (e.at - e.at % 60000000, e.at - e.at % 3600000000, e.at - e.at % 86400000000)
		WHERE c.at < e.at AND c.at + c.seconds * 1000000 > e.at
	), spans AS (
		SELECT CASE WHEN first <= last THEN first ELSE ?2 END AS first,
			CASE WHEN first <= last THEN last ELSE ?2 END AS last, first AS from_first, last AS to_last
		FROM (SELECT coalesce(max(CASE WHEN e = ?1 THEN until END), ?1) AS first,
			coalesce(min(CASE WHEN e = ?2 THEN at END), ?2) AS last FROM over)
	), sums AS MATERIALIZED (
		SELECT BEGINS AS time, max(seconds) AS longest, TOLD, sum(decisions) AS n FROM decision_counts
			WHERE at >= ?1 AND at < ?2 AND at >= (SELECT from_first FROM spans)
				AND at < (SELECT to_last FROM spans) AND SCOPE
			GROUP BY GROUPED
	), coarse AS (
		SELECT DISTINCT time - time % 86400000000 AS day FROM sums WHERE ?3 % longest <> 0
	), parts AS (
		SELECT time, tenant, path, outcome, n FROM sums
		UNION ALL SELECT time, ROWTOLD, 1 FROM decisions, spans WHERE time >= ?1 AND time < first AND SCOPE
		UNION ALL SELECT time, ROWTOLD, 1 FROM decisions, spans WHERE time >= last AND time < ?2 AND SCOPE
		UNION ALL SELECT time, ROWTOLD, 1 FROM decisions_out_of_window WHERE time >= ?1 AND time < ?2 AND SCOPE
	)
	SELECT * FROM (SELECT BUCKET, tenant, path, outcome, sum(n) FROM parts
		WHERE NOT EXISTS (SELECT 1 FROM coarse WHERE day = time - time % 86400000000)
		GROUP BY 1, 2, 3, 4 HAVING sum(n) <> 0 LIMIT MOST)
	UNION ALL SELECT day, NULL, '', '', 0 FROM coarse`

// bucket is where time.Truncate has the span of time begin that a row is in: it counts from the year 1.
const bucket = `time - (time + 62135596800000000) % (?3 * 1000000)`

// CountDecisions counts a span; see ports.DecisionCounts.
func (s *Store) CountDecisions(
	ctx context.Context, scope domain.Scope, q domain.CountQuery,
) (out domain.Counts, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	w := dialect.Where(q.Since.UnixMicro(), sqlstore.EndOf(q.Filter).UnixMicro(), int(q.Every.Seconds()))
	w.Fits(domain.DecisionFields, domain.AllOf(q.Where, scope.Expr()))
	query := sqlstore.CountStatement(counted, q, w.String(), bucket, `NULL`)
	var sums []domain.DecisionCount
	err = s.each(ctx, query, w.Args, func(rows *sql.Rows) error {
		var c domain.DecisionCount
		var at sql.NullInt64
		var tenant sql.NullString
		err := rows.Scan(&at, &tenant, &c.Path, &c.Outcome, &c.Decisions)
		c.Time, c.Tenant = instant(at), tenant.String
		if tenant.Valid {
			sums = append(sums, c)
		} else {
			out.Uncounted = append(out.Uncounted, domain.DayOf(c.Time))
		}
		return err
	})
	if err != nil {
		return domain.Counts{}, s.slow(err)
	}
	return out.With(sums)
}
