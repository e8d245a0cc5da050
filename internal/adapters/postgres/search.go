package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// columns are those of a decision without its event, in the order of scan. TIME stands for each table's own column.
var columns = `timestamp, TIME AS time, received_at, saved_at, sanitised, unsearchable, sha256, tenant, decision_id,
	outcome, ` + sqlstore.TextColumns("") + `, bundles::text AS bundles`

// The tables, and what each orders by.
var tables = []struct{ name, time string }{{"decisions", "timestamp"}, {"decisions_out_of_window", "time"}}

// bothTables repeats a query for each of the tables and joins the answers.
func bothTables(query string) string {
	parts := make([]string, len(tables))
	for i, t := range tables {
		parts[i] = "(" + strings.NewReplacer("TABLE", t.name, "TIME", t.time).Replace(query) + ")"
	}
	return strings.Join(parts, " UNION ALL ")
}

// queryTimeout is how long a search waits for a connection; the statement's timeout ends one that looks too far.
const queryTimeout = 3 * time.Second

// query runs a query in a transaction that can only read.
func (s *Store) query(ctx context.Context, op, sql string, args []any, read func(pgx.Rows) error) error {
	return s.reading(ctx, op, func(b *pgx.Batch) { b.Queue(sql, args...).Query(read) })
}

// reading runs queries in a transaction that can only read.
func (s *Store) reading(ctx context.Context, op string, queries func(*pgx.Batch)) error {
	limit, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	conn, err := s.read.Acquire(limit)
	if err != nil {
		return settleOn(s.read, s.opts.Log, op, nil, err)
	}
	defer conn.Release()
	err = s.inTx(ctx, conn.Conn(), beginReadOnly, queries)
	err = settleOn(s.read, s.opts.Log, op, conn.Conn(), err)
	if err != nil && (domain.CodeOf(err) == "57014" || errors.Is(err, context.DeadlineExceeded)) {
		return domain.Reclass(err, domain.Unavailable,
			fmt.Sprintf("it took longer than %s: narrow the time with since and until, or name more", s.opts.StatementTimeout))
	}
	return err
}

// Search returns one page; see ports.DecisionReader.
func (s *Store) Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	return s.page(ctx, scope, q, columns, scan)
}

// page reads one page of rows. What few rows have is looked for in slices of time, the newest first and each twice as
// long as the one before: a value that many rows have fills the page with the first, and no statement takes long.
func (s *Store) page(
	ctx context.Context, scope domain.Scope, q domain.Query, columns string,
	scan func(pgx.CollectableRow) (domain.Decision, error),
) (domain.Page, error) {
	page := sqlstore.NewDecisionPage(q.Limit)
	if !filtered(q.Where) {
		err := s.readPage(ctx, scope, q, columns, page, scan, false)
		return page.Page(), err
	}
	days, err := s.Days(ctx)
	if err != nil {
		return domain.Page{}, err
	}
	slice := q
	if q.After != nil { // nothing behind it is newer
		if end := q.After.Time.Add(time.Microsecond); slice.Until.IsZero() || end.Before(slice.Until) {
			slice.Until = end
		}
	}
	for span := 24 * time.Hour; ; span *= 2 {
		slice.Since, slice.Until = sliceOf(q.Filter, slice.Until, span, days)
		if err := s.readPage(ctx, scope, slice, columns, page, scan, true); err != nil {
			return domain.Page{}, err
		}
		if page.Full() || slice.Since.Equal(q.Since) {
			return page.Page(), nil
		}
		slice.Until = slice.Since
	}
}

// sliceOf is the next slice of a search, which ends where the last one began. Where there is no older day it reaches
// back as far as the search does: decisions without a day of their own may be older.
func sliceOf(f domain.Filter, until time.Time, span time.Duration, days []domain.Day) (time.Time, time.Time) {
	end := until
	if end.IsZero() {
		if len(days) == 0 {
			return f.Since, f.Until
		}
		end = days[len(days)-1].End()
		end = minTime(end, time.Now())
	}
	since := end.Add(-span)
	if since.Before(f.Since) || len(days) == 0 || since.Before(days[0].Start()) {
		since = f.Since
	}
	return since, until
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// bloomFields are those that decisions_bloom has filters of.
var bloomFields = []domain.Field{
	domain.FieldPrincipal, domain.FieldResource, domain.FieldTraceID, domain.FieldRequestedBy, domain.FieldBatchID,
	domain.FieldOPA,
}

// filtered reports that a search wants one value of such a field, or one of a few.
func filtered(e domain.Expr) bool {
	return slices.ContainsFunc(e.Conjuncts(), func(c domain.Expr) bool {
		if c.Op == domain.OpOr && len(c.Args) > 0 {
			return !slices.ContainsFunc(c.Args, func(a domain.Expr) bool { return !filtered(a) })
		}
		return c.Op == domain.OpEqual && slices.Contains(bloomFields, c.Field)
	})
}

// useFilters has the planner take decisions_bloom: it thinks that a scan, or a walk along the key, costs less.
const useFilters = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true),
	set_config('enable_indexonlyscan', 'off', true)`

// pageQuery is the statement that reads so many rows of a search.
func pageQuery(scope domain.Scope, q domain.Query, columns string, rows int) (sql string, args []any) {
	w := dialect.Where()
	w.Span("TIME", q.Filter)
	w.Behind("TIME", q.After)
	w.Fits(domain.DecisionFields, domain.AllOf(q.Where, scope.Expr()))
	order := ` ORDER BY TIME DESC, tenant, decision_id LIMIT ` + w.Param(sqlstore.Int, rows)
	sql = bothTables(`SELECT `+columns+` FROM TABLE WHERE `+w.String()+order) + strings.ReplaceAll(order, "TIME", "time")
	return sql, w.Args
}

// readPage adds the rows of a search to a page.
func (s *Store) readPage(
	ctx context.Context, scope domain.Scope, q domain.Query, columns string, page *sqlstore.DecisionPage,
	scan func(pgx.CollectableRow) (domain.Decision, error), filtered bool,
) error {
	sql, args := pageQuery(scope, q, columns, page.Room())
	return s.reading(ctx, "search", func(b *pgx.Batch) {
		if filtered {
			b.Queue(useFilters)
		}
		b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				d, err := scan(rows)
				if err != nil {
					return err
				}
				if !page.Add(d) {
					break
				}
			}
			return rows.Err()
		})
	})
}

// Decisions returns the rows with this id; see ports.DecisionReader.
func (s *Store) Decisions(ctx context.Context, scope domain.Scope, id string) ([]domain.Decision, error) {
	w := dialect.Where(id)
	w.Add("decision_id = $1::text")
	w.Fits(domain.DecisionFields, scope.Expr())
	sql := bothTables(`SELECT `+columns+` FROM TABLE WHERE `+w.String()) + ` ORDER BY time DESC, tenant LIMIT 100`
	var out []domain.Decision
	err := s.query(ctx, "find a decision", sql, w.Args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, scan)
		return err
	})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	newest := &out[0]
	var event, packed []byte
	err = s.query(
		ctx,
		"read a decision's event",
		bothTables(`SELECT received_at`+eventColumns+` FROM TABLE WHERE decision_id = $1::text AND tenant = $2::text AND
		timestamp IS NOT DISTINCT FROM $3::timestamptz AND TIME = $4::timestamptz`),
		[]any{newest.ID, newest.Tenant, timestamptz(newest.Timestamp), newest.Time()},
		func(rows pgx.Rows) error {
			if !rows.Next() {
				return cmp.Or(
					rows.Err(),
					domain.Errorf(domain.Unavailable, "decision %s was dropped meanwhile: it is past its retention", id),
				)
			}
			return rows.Scan(nil, &event, &packed)
		},
	)
	if err != nil {
		return nil, err
	}
	if newest.Event, err = s.eventOf(ctx, event, packed); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "decision %s is damaged in the database: %w", id, err)
	}
	if sha256.Sum256(newest.Event) != newest.SHA256 {
		return nil, domain.Errorf(
			domain.Misconfigured,
			"decision %s is damaged in the database: its bytes do not have the hash they were stored with; restore them from "+
				"a backup",
			id,
		)
	}
	return out, nil
}

// scan reads a row of columns.
func scan(row pgx.CollectableRow) (domain.Decision, error) { return scanWith(row) }

// scanWith reads a row of columns and what stands behind them.
func scanWith(row pgx.CollectableRow, more ...any) (d domain.Decision, err error) {
	var timestamp pgtype.Timestamptz
	var ordered time.Time
	var sum []byte
	var bundles pgtype.Text
	texts := make([]pgtype.Text, len(domain.TextColumns))
	into := []any{
		&timestamp, &ordered, &d.ReceivedAt, &d.SavedAt, &d.Sanitised, &d.Unsearchable, &sum, &d.Tenant, &d.ID, &d.Outcome,
	}
	for i := range texts {
		into = append(into, &texts[i])
	}
	if err := row.Scan(append(append(into, &bundles), more...)...); err != nil {
		return d, err
	}
	for i, c := range domain.TextColumns {
		*c.Of(&d) = texts[i].String
	}
	d.Timestamp, d.ReceivedAt, d.SavedAt = instant(timestamp), d.ReceivedAt.UTC(), d.SavedAt.UTC()
	copy(d.SHA256[:], sum)
	d.Bundles, err = domain.DecodeBundles(bundles.String)
	return d, err
}
