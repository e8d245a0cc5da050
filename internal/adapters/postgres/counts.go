package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// countsOf is the name of the partition of a day's counts.
func countsOf(d domain.Day) string { return "decision_counts_" + d.Start().Format("20060102") }

// appendCounts appends the counts of rows, from a subquery with timestamp, tenant, path, outcome and n: by the hour
// where their day is past the minutes. $1 is now.
func appendCounts(rows string) string {
	return `INSERT INTO decision_counts (at, seconds, folded, tenant, path, outcome, decisions)
		SELECT CASE seconds WHEN 60 THEN date_trunc('minute', timestamp, 'UTC') ELSE date_trunc('hour', timestamp, 'UTC') END,
			seconds, false, tenant, coalesce(path, ''), outcome, sum(n)
		FROM (SELECT timestamp, tenant, path, outcome, n,
			CASE WHEN timestamp < $1::timestamptz - interval '2 days' THEN 3600 ELSE 60 END AS seconds
			FROM ` + rows + `) c
		GROUP BY 1, 2, tenant, path, outcome`
}

// fold puts counts together: those of a span that a condition names. One statement sees one moment: what is appended
// meanwhile waits for the next turn. What was counted by more than $3 seconds stays so.
//
// The first paths of a day are told apart, up to MaxCountedPaths of a tenant, those with the most decisions first.
func fold(condition string) string {
	return `WITH went AS (
		DELETE FROM decision_counts WHERE at >= $6::timestamptz AND at < $7::timestamptz AND ` + condition + `
		RETURNING at, greatest(seconds, $3::int) AS seconds, tenant, path, outcome, decisions
	), known AS (
		SELECT DISTINCT tenant, path FROM decision_counts
		WHERE at >= $1::timestamptz AND at < $2::timestamptz AND folded AND path <> $4::text
	), fresh AS (
		SELECT tenant, path, row_number() OVER (PARTITION BY tenant ORDER BY sum(decisions) DESC, path) AS n
		FROM went w WHERE path <> $4::text
			AND NOT EXISTS (SELECT 1 FROM known k WHERE k.tenant = w.tenant AND k.path = w.path)
		GROUP BY tenant, path
	), kept AS (
		SELECT tenant, path FROM known
		UNION ALL SELECT f.tenant, f.path FROM fresh f
			WHERE n <= $5::int - (SELECT count(*) FROM known k WHERE k.tenant = f.tenant)
	)
	INSERT INTO decision_counts AS c (at, seconds, folded, tenant, path, outcome, decisions)
		SELECT date_bin(make_interval(secs => w.seconds), w.at, $1::timestamptz), w.seconds, true, w.tenant,
			coalesce(k.path, $4::text), w.outcome, sum(w.decisions)
		FROM went w LEFT JOIN kept k ON k.tenant = w.tenant AND k.path = w.path
		GROUP BY 1, w.seconds, w.tenant, 5, w.outcome HAVING sum(w.decisions) <> 0
		ON CONFLICT (at, seconds, tenant, path, outcome) WHERE folded
			DO UPDATE SET decisions = c.decisions + excluded.decisions`
}

var (
	foldFresh = fold(`NOT folded`)
	foldFine  = fold(`folded AND seconds < $3::int`)
)

// foldCounts folds what was appended to a day's counts. With coarsen it also puts together what is counted by less than
// it should be by now, an hour's at a time: a day may have millions of them.
func (s *Store) foldCounts(ctx context.Context, d domain.Day, coarsen bool) error {
	span := domain.CountSpan(d, s.opts.Now())
	step := func(sql string, from, to time.Time) error {
		return s.change(ctx, "fold "+countsOf(d), func(b *pgx.Batch) {
			b.Queue(sql, d.Start(), d.End(), int(span.Seconds()), domain.OtherPaths, domain.MaxCountedPaths, from, to)
		})
	}
	if err := step(foldFresh, d.Start(), d.End()); err != nil || !coarsen || span == time.Minute {
		return err
	}
	for from := d.Start(); from.Before(d.End()); from = from.Add(time.Hour) {
		if err := step(foldFine, from, from.Add(time.Hour)); err != nil {
			return err
		}
	}
	return nil
}

// counted sums up a span by time and what is told apart. A count that is only in part within it is left out, and so is
// all up to its end: what is there is counted by rows, as is what has no day of its own. Days that are counted by
// longer spans than are asked for are named instead, with a tenant that is null.
//
// Counts begin at whole minutes, hours and days: two of them are apart, or one within the other. So those that reach
// over an end of the span are found by an index, and no other has a part in it only. What is not told apart is put
// together first: there are forty times as many counts as their minutes, and everything behind costs more for each.
const counted = `WITH over AS (
		SELECT e.at AS e, c.at, c.at + c.seconds * interval '1 s' AS until
		FROM (VALUES ($1::timestamptz), ($2::timestamptz)) e (at), LATERAL (
			SELECT at, seconds FROM decision_counts WHERE folded AND at IN (` + beginnings + `)
			UNION ALL SELECT at, seconds FROM decision_counts WHERE NOT folded AND at IN (` + beginnings + `)
		) c WHERE c.at < e.at AND c.at + c.seconds * interval '1 s' > e.at
	), spans AS (
		SELECT CASE WHEN first <= last THEN first ELSE $2::timestamptz END AS first,
			CASE WHEN first <= last THEN last ELSE $2::timestamptz END AS last, first AS from_first, last AS to_last
		FROM (SELECT coalesce(max(until) FILTER (WHERE e = $1::timestamptz), $1::timestamptz) AS first,
			coalesce(min(at) FILTER (WHERE e = $2::timestamptz), $2::timestamptz) AS last FROM over) o
	), sums AS MATERIALIZED (
		SELECT BEGINS AS time, max(seconds) AS longest, TOLD, sum(decisions) AS n FROM decision_counts
			WHERE at >= $1::timestamptz AND at < $2::timestamptz AND at >= (SELECT from_first FROM spans)
				AND at < (SELECT to_last FROM spans) AND SCOPE
			GROUP BY GROUPED
	), coarse AS (
		SELECT DISTINCT date_trunc('day', time, 'UTC') AS day FROM sums WHERE $3::int % longest <> 0
	), parts AS (
		SELECT time, tenant, path, outcome, n FROM sums
		UNION ALL SELECT timestamp, ROWTOLD, 1 FROM decisions, spans
			WHERE timestamp >= $1::timestamptz AND timestamp < first AND SCOPE
		UNION ALL SELECT timestamp, ROWTOLD, 1 FROM decisions, spans
			WHERE timestamp >= last AND timestamp < $2::timestamptz AND SCOPE
		UNION ALL SELECT time, ROWTOLD, 1 FROM decisions_out_of_window
			WHERE time >= $1::timestamptz AND time < $2::timestamptz AND SCOPE
	)
	(SELECT BUCKET, tenant, path, outcome, sum(n)::bigint FROM parts
		WHERE NOT EXISTS (SELECT FROM coarse WHERE day = date_trunc('day', time, 'UTC'))
		GROUP BY 1, 2, 3, 4 HAVING sum(n) <> 0 LIMIT MOST)
	UNION ALL SELECT day, NULL, '', '', 0 FROM coarse`

// beginnings are where counts begin that an instant is in.
const beginnings = `date_trunc('minute', e.at, 'UTC'), date_trunc('hour', e.at, 'UTC'), date_trunc('day', e.at, 'UTC')`

// bucket is where time.Truncate has the span of time begin that a row is in.
const bucket = `date_bin($3::int * interval '1 s', time, '0001-01-01 00:00:00+00')`

// CountDecisions counts a span; see ports.DecisionCounts.
func (s *Store) CountDecisions(
	ctx context.Context, scope domain.Scope, q domain.CountQuery,
) (out domain.Counts, err error) {
	w := dialect.Where(q.Since, sqlstore.EndOf(q.Filter), int(q.Every.Seconds()))
	w.Fits(domain.DecisionFields, domain.AllOf(q.Where, scope.Expr()))
	sql := sqlstore.CountStatement(counted, q, w.String(), bucket, `'0001-01-01 00:00:00+00'::timestamptz`)
	var sums []domain.DecisionCount
	err = s.query(ctx, "count decisions", sql, w.Args, func(rows pgx.Rows) error {
		var c domain.DecisionCount
		var tenant pgtype.Text
		_, err := pgx.ForEachRow(rows, []any{&c.Time, &tenant, &c.Path, &c.Outcome, &c.Decisions}, func() error {
			c.Time = c.Time.UTC()
			if c.Tenant = tenant.String; tenant.Valid {
				sums = append(sums, c)
			} else {
				out.Uncounted = append(out.Uncounted, domain.DayOf(c.Time))
			}
			return nil
		})
		return err
	})
	if err != nil {
		return domain.Counts{}, err
	}
	return out.With(sums)
}
