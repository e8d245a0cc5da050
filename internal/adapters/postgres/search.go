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
	"github.com/docket-project/docket/internal/search"
)

// columns are those of a decision without its event, in the order of scan. TIME stands for each table's own column.
var columns = `timestamp, TIME AS time, received_at, saved_at, sanitised, unsearchable, sha256, tenant, decision_id,
	outcome, ` + sqlstore.TextColumns("") + `, bundles::text AS bundles`

// table is where rows are, and what they are ordered by.
type table struct{ name, time string }

var (
	outOfWindow = table{"decisions_out_of_window", "time"}
	// tables are both of them.
	tables = []table{{"decisions", "timestamp"}, outOfWindow}
)

// bothTables repeats a query for each of the tables and joins the answers.
func bothTables(query string) string { return inTables(tables, query) }

func inTables(tables []table, query string) string {
	parts := make([]string, len(tables))
	for i, t := range tables {
		parts[i] = "(" + strings.NewReplacer("TABLE", t.name, "TIME", t.time).Replace(query) + ")"
	}
	if len(parts) == 1 {
		return `SELECT * FROM ` + parts[0] + ` t` // which may have an order of its own
	}
	return strings.Join(parts, " UNION ALL ")
}

// queryTimeout is how long a search waits for a connection; the statement's timeout ends one that looks too far.
const queryTimeout = 3 * time.Second

// searchMark stands in front of what searches ask, so that DropDay knows whom it may end.
const searchMark = "/* docket search */ "

// query runs a query in a transaction that can only read.
func (s *Store) query(ctx context.Context, op, sql string, args []any, read func(pgx.Rows) error) error {
	return s.reading(ctx, op, func(b *pgx.Batch) { b.Queue(searchMark+sql, args...).Query(read) })
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
	if tookTooLong(err) {
		return s.tooSlow(err)
	}
	return err
}

// tookTooLong reports that a search was ended by a limit of ours.
func tookTooLong(err error) bool {
	return domain.CodeOf(err) == "57014" || errors.Is(err, context.DeadlineExceeded)
}

// tooSlow tells a person what to do about a search that took too long.
func (s *Store) tooSlow(err error) error {
	return domain.Reclass(err, domain.Unavailable,
		fmt.Sprintf("it took longer than %s: narrow the time with since and until, or name more", s.opts.StatementTimeout))
}

// Search returns one page; see ports.DecisionReader.
func (s *Store) Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	return s.page(ctx, scope, q, false)
}

// page reads one page of rows, with their events or without. What columns cannot say is judged row by row, so many rows
// at a time. What few rows have is looked for in slices of time, the newest first: a value that many rows have fills
// the page with the first ones.
func (s *Store) page(ctx context.Context, scope domain.Scope, q domain.Query, events bool) (domain.Page, error) {
	plan := search.NewPlan(q.Where)
	page := sqlstore.NewDecisionPage(q, plan, s.opts.SearchTime)
	read := rowsOf{s, events, false}
	look := func(ctx context.Context, slice domain.Query, in []table) (bool, error) {
		if plan.Rest != nil {
			return s.judgePage(ctx, scope, slice, &read, plan, page, in)
		}
		return s.readPage(ctx, scope, slice, read, page, in)
	}
	w, in := newWalk(q, plan.Columns), tables
	sliced := filtered(plan.Columns)
	var days []domain.Day
	if sliced {
		var err error
		if days, err = s.Days(ctx); err != nil {
			return domain.Page{}, err
		}
	}
	for {
		if sliced {
			w.cut(days, s.opts.Now())
			in = daysIn(days, w.slice.Since, w.slice.Until)
		}
		for more := true; more; {
			var err error
			more, err = look(ctx, w.slice, in)
			switch {
			case domain.CodeOf(err) == "42P01" && sliced: // a day was dropped meanwhile
				if days, err = s.Days(ctx); err != nil {
					return domain.Page{}, err
				}
				in, more = daysIn(days, w.slice.Since, w.slice.Until), true
			case errors.Is(err, sqlstore.ErrUnknownDictionary) && !read.anyway:
				if err := s.readDictionaries(ctx); err != nil {
					return domain.Page{}, err
				}
				read.anyway, more = true, true
			case err != nil:
				return domain.Page{}, err
			case page.Full():
				return page.Page(), nil
			case page.Late() && page.Looked() > 0:
				return page.Stopped(page.Last()), nil
			}
			if page.Looked() > 0 {
				w.slice.After = page.Last()
			}
		}
		if !sliced || w.ended() {
			return page.Page(), nil
		}
		if page.Late() {
			return page.Stopped(w.rest()), nil
		}
		w.on()
	}
}

// rowsOf reads rows, with their events or without.
type rowsOf struct {
	*Store
	events bool
	// anyway has events whose dictionary is not known read as if they were damaged: the dictionaries were read again.
	anyway bool
}

func (r rowsOf) columns() string {
	if r.events {
		return columns + eventColumns
	}
	return columns
}

// scan reads a row. An event that cannot be unpacked is nil, which has another hash.
func (r rowsOf) scan(row pgx.CollectableRow) (d domain.Decision, err error) {
	if !r.events {
		return scan(row)
	}
	var event, packed []byte
	if d, err = scanWith(row, &event, &packed); err != nil {
		return d, err
	}
	d.Event, err = r.unpack(event, packed, nil)
	return d, err
}

// unpack returns the event of a row, which has it as JSON or packed, in the room of a buffer where there is enough of
// it.
func (r rowsOf) unpack(event, packed, buffer []byte) ([]byte, error) {
	if packed == nil {
		return event, nil
	}
	unpacked, err := r.dictionaries.UnpackInto(buffer, packed)
	if errors.Is(err, sqlstore.ErrUnknownDictionary) && !r.anyway {
		return nil, err
	}
	r.dictionaries.Missing(err)
	return unpacked, nil
}

// daysIn are the partitions that a slice is in, with what has no day of its own.
func daysIn(days []domain.Day, since, until time.Time) (out []table) {
	for _, d := range days {
		if (until.IsZero() || d.Start().Before(until)) && d.End().After(since) {
			out = append(out, table{partitionOf(d), "timestamp"})
		}
	}
	return append(out, outOfWindow)
}

// bloomFields are those that decisions_bloom has filters of.
var bloomFields = []domain.Field{
	domain.FieldPrincipal, domain.FieldResource, domain.FieldTraceID, domain.FieldRequestedBy, domain.FieldBatchID,
	domain.FieldOPA,
}

// filtered reports that a search wants one value of such a field, or one of a few.
func filtered(e domain.Expr) bool { return len(filterTerms(e)) > 0 }

// filterTerms are the parts of a search that decisions_bloom answers. Beside others it may be the id, which has an
// index of its own.
func filterTerms(e domain.Expr) (terms []domain.Expr) {
	for _, c := range e.Conjuncts() {
		if isFilter(c) || c.Op == domain.OpOr && slices.ContainsFunc(c.Args, isFilter) &&
			!slices.ContainsFunc(c.Args, func(a domain.Expr) bool { return !isFilter(a) && !isID(a) }) {
			terms = append(terms, c)
		}
	}
	return terms
}

func isFilter(e domain.Expr) bool {
	return e.Op == domain.OpEqual && slices.Contains(bloomFields, e.Field)
}

func isID(e domain.Expr) bool { return e.Op == domain.OpEqual && e.Field == domain.FieldDecisionID }

// useFilters has the planner take decisions_bloom: it thinks that a scan, or a walk along the key, costs less. What is
// found in milliseconds is not worth other processes.
const useFilters = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true),
	set_config('enable_indexonlyscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`

// planned are the settings of the planner for a search.
func planned(e domain.Expr) string {
	if filtered(e) {
		return useFilters
	}
	return ""
}

// rowsQuery selects the rows of a search from TABLE.
func rowsQuery(w *sqlstore.Where, scope domain.Scope, q domain.Query, columns string) string {
	w.Span("TIME", q.Filter)
	w.Behind("TIME", q.After)
	w.Fits(domain.DecisionFields, domain.AllOf(q.Where, scope.Expr()))
	from := "TABLE"
	if terms := filterTerms(q.Where); len(terms) > 0 {
		// On their own: the planner must not see what else is asked. Of a day without statistics it takes a few rows to be of
		// that time or tenant, and all of them are read by the key.
		inner := w.And()
		inner.Fits(domain.DecisionFields, domain.AllOf(terms...))
		w.Args = inner.Args
		from = `(SELECT * FROM TABLE WHERE ` + inner.String() + ` OFFSET 0) t`
	}
	return `SELECT ` + columns + ` FROM ` + from + ` WHERE ` + w.String()
}

// pageQuery is the statement that reads so many rows of a search.
func pageQuery(
	scope domain.Scope, q domain.Query, columns string, rows int, in []table,
) (sql string, args []any) {
	w := dialect.Where()
	query := rowsQuery(w, scope, q, columns)
	order := sqlstore.Order("TIME", q.After) + ` LIMIT ` + w.Param(sqlstore.Int, rows)
	return inTables(in, query+order) + strings.ReplaceAll(order, "TIME", "time"), w.Args
}

// readPage adds the rows of a search in some tables to a page. more says that there may be more of them.
func (s *Store) readPage(
	ctx context.Context, scope domain.Scope, q domain.Query, read rowsOf, page *sqlstore.DecisionPage, in []table,
) (more bool, err error) {
	ask, before := page.Ask(), page.Looked()
	sql, args := pageQuery(scope, q, read.columns(), ask, in)
	err = s.rows(ctx, planned(q.Where), sql, args, func(row pgx.CollectableRow) (bool, error) {
		d, err := read.scan(row)
		return err == nil && page.Judge(&d) && page.Add(d), err
	})
	return page.Looked()-before == ask, err
}

// rows reads rows until visit has had enough, under settings of the planner. What visit fails with is returned as it
// is.
func (s *Store) rows(
	ctx context.Context, settings, sql string, args []any, visit func(pgx.CollectableRow) (more bool, err error),
) error {
	var failed error // which is no failure of the database's
	err := s.reading(ctx, "search", func(b *pgx.Batch) {
		if settings != "" {
			b.Queue(settings)
		}
		b.Queue(searchMark+sql, args...).Query(func(rows pgx.Rows) error {
			for more := true; more && rows.Next(); {
				if more, failed = visit(rows); failed != nil {
					break
				}
			}
			return rows.Err()
		})
	})
	return cmp.Or(err, failed)
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
