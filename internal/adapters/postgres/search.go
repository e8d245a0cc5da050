package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// page reads one page of rows.
func (s *Store) page(
	ctx context.Context, scope domain.Scope, q domain.Query, columns string,
	scan func(pgx.CollectableRow) (domain.Decision, error),
) (domain.Page, error) {
	w := dialect.Where()
	w.Span("TIME", q.Filter)
	w.Behind("TIME", q.After)
	w.Fits(domain.DecisionFields, domain.AllOf(q.Where, scope.Expr()))
	order := ` ORDER BY TIME DESC, tenant, decision_id LIMIT ` + w.Param(sqlstore.Int, q.Limit+1)
	sql := bothTables(`SELECT `+columns+` FROM TABLE WHERE `+w.String()+order) + strings.ReplaceAll(order, "TIME", "time")
	page := sqlstore.NewDecisionPage(q.Limit)
	err := s.query(ctx, "search", sql, w.Args, func(rows pgx.Rows) error {
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
	if err != nil {
		return domain.Page{}, err
	}
	return page.Page(), nil
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
	err = s.query(
		ctx,
		"read a decision's event",
		bothTables(`SELECT event::text FROM TABLE WHERE decision_id = $1::text AND tenant = $2::text AND
		timestamp IS NOT DISTINCT FROM $3::timestamptz AND TIME = $4::timestamptz`),
		[]any{newest.ID, newest.Tenant, timestamptz(newest.Timestamp), newest.Time()},
		func(rows pgx.Rows) error {
			events, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
			if err == nil && len(events) == 0 {
				err = domain.Errorf(domain.Unavailable, "decision %s was dropped meanwhile: it is past its retention", id)
			}
			if err == nil {
				newest.Event = events[0]
			}
			return err
		},
	)
	if err != nil {
		return nil, err
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
