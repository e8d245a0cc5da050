package sqlite

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// queryTimeout ends a search that looks too far: while it reads, the write-ahead file cannot shrink.
const queryTimeout = 10 * time.Second

// slow tells a person what to do about a search that took too long.
func (s *Store) slow(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &domain.Error{
			Class: domain.Unavailable,
			Text: fmt.Sprintf(
				"the search took longer than %s: narrow the time with since and until, or name more",
				queryTimeout,
			),
			Err: err,
		}
	}
	return s.checked("search", err)
}

// ended is the end of ctx, if a statement failed after it: SQLite says of it only that it was interrupted, or that the
// statement is closed.
func ended(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return cmp.Or(ctx.Err(), err)
}

// found is where a row of a page is.
type found struct {
	table string
	rowid int64
}

// Search returns one page; see ports.DecisionReader.
func (s *Store) Search(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	return s.page(ctx, scope, q, false)
}

// page reads one page of rows, with their events or without. They are put in order by their keys alone, and then read
// one after the other until the page is full: their columns may be a hundred times as large. What columns cannot say is
// judged row by row, so many rows at a time.
func (s *Store) page(ctx context.Context, scope domain.Scope, q domain.Query, events bool) (domain.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // what was found is still there
	if err != nil {
		return domain.Page{}, s.slow(ended(ctx, err))
	}
	defer func() { _ = tx.Rollback() }() // it only reads
	plan := search.NewPlan(q.Where)
	page := sqlstore.NewDecisionPage(q, plan, s.opts.SearchTime)
	read := rowsAt{ctx: ctx, tx: tx, events: events || plan.Event, scan: scanDecision, statements: map[string]*sql.Stmt{}}
	if read.events {
		read.scan = s.scanStored
	}
	defer read.close()
	q.Where = plan.Columns
	late := func(err error) (domain.Page, error) {
		if err = ended(ctx, err); errors.Is(err, context.DeadlineExceeded) && page.Looked() > 0 {
			return page.Stopped(page.Last()), nil
		}
		return domain.Page{}, s.slow(err)
	}
	for {
		ask := page.Ask()
		order, err := s.find(ctx, tx, scope, q, ask)
		if err != nil {
			return late(err)
		}
		for _, f := range order {
			d, err := read.at(f)
			if err != nil {
				return late(err)
			}
			if page.Judge(&d) {
				if !events {
					d.Event = nil
				}
				page.Add(d)
			}
			if page.Full() {
				return page.Page(), nil
			}
			if page.Late() {
				return page.Stopped(page.Last()), nil
			}
		}
		if len(order) < ask {
			return page.Page(), nil
		}
		q.After = page.Last()
	}
}

// rowsAt reads rows by where they are, with their events or without.
type rowsAt struct {
	ctx        context.Context //nolint:containedctx // of one page
	tx         *sql.Tx
	events     bool
	scan       func(*sql.Rows) (domain.Decision, error)
	statements map[string]*sql.Stmt // by table
}

func (r rowsAt) at(f found) (d domain.Decision, err error) {
	read := r.statements[f.table]
	if read == nil {
		all := columns
		if r.events {
			all += `, packed, event`
		}
		if read, err = r.tx.PrepareContext(r.ctx, `SELECT `+all+` FROM `+f.table+` WHERE rowid = ?`); err != nil {
			return d, err
		}
		r.statements[f.table] = read
	}
	return rowAt(r.ctx, read, f.rowid, r.scan)
}

func (r rowsAt) close() {
	for _, read := range r.statements {
		_ = read.Close() // they have only read
	}
}

// rowAt reads a row by its number.
func rowAt(
	ctx context.Context, read *sql.Stmt, rowid int64, scan func(*sql.Rows) (domain.Decision, error),
) (d domain.Decision, err error) {
	rows, err := read.QueryContext(ctx, rowid)
	if err != nil {
		return d, err
	}
	defer rows.Close()
	if !rows.Next() {
		return d, cmp.Or(rows.Err(), sql.ErrNoRows)
	}
	return scan(rows)
}

// find returns where so many rows of a search are, in their order.
func (s *Store) find(
	ctx context.Context, tx *sql.Tx, scope domain.Scope, q domain.Query, most int,
) (order []found, err error) {
	w := dialect.Where()
	w.Span("time", q.Filter)
	w.Behind("time", q.After)
	w.Fits(domain.DecisionFields, domain.AllOf(q.Where, scope.Expr()))
	by := sqlstore.Order("time", q.After) + ` LIMIT ` + w.Param(sqlstore.Int, most)
	var parts []string
	for _, t := range []string{"decisions", "decisions_out_of_window"} {
		parts = append(
			parts, `SELECT * FROM (SELECT '`+t+`', rowid, time, tenant, decision_id FROM `+t+` WHERE `+w.String()+by+`)`,
		)
	}
	rows, err := tx.QueryContext(ctx, strings.Join(parts, " UNION ALL ")+by, w.Args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var f found
		var time int64
		var tenant, id string
		if err := rows.Scan(&f.table, &f.rowid, &time, &tenant, &id); err != nil {
			return nil, err
		}
		order = append(order, f)
	}
	return order, rows.Err()
}

// Decisions returns the rows with this id; see ports.DecisionReader.
func (s *Store) Decisions(ctx context.Context, scope domain.Scope, id string) ([]domain.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	w := dialect.Where(id)
	w.Add("decision_id = ?1")
	w.Fits(domain.DecisionFields, scope.Expr())
	rows, err := s.read.QueryContext(ctx, `SELECT `+columns+` FROM decisions WHERE `+w.String()+`
		UNION ALL SELECT `+columns+` FROM decisions_out_of_window WHERE `+w.String()+`
		ORDER BY time DESC, tenant LIMIT 100`, w.Args...)
	if err != nil {
		return nil, s.checked("find a decision", ended(ctx, err))
	}
	defer rows.Close()
	var out []domain.Decision
	for rows.Next() {
		d, err := scanDecision(rows)
		if err != nil {
			return nil, s.checked("find a decision", ended(ctx, err))
		}
		out = append(out, d)
	}
	if err := rows.Err(); err != nil || len(out) == 0 {
		return nil, s.checked("find a decision", ended(ctx, err))
	}
	newest := &out[0]
	row := s.read.QueryRowContext(
		ctx,
		`SELECT packed, event FROM decisions WHERE decision_id = ?1 AND tenant = ?2 AND timestamp IS ?3
		UNION ALL SELECT packed, event FROM decisions_out_of_window
			WHERE decision_id = ?1 AND tenant = ?2 AND timestamp IS ?3`,
		newest.ID,
		newest.Tenant,
		micros(newest.Timestamp),
	)
	var packed bool
	var event []byte
	if err := row.Scan(&packed, &event); err != nil {
		return nil, s.checked("read a decision's event", ended(ctx, err))
	}
	if newest.Event, err = s.eventOf(packed, event); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "decision %s is damaged in %s: %w", id, storeFile, err)
	}
	if sha256.Sum256(newest.Event) != newest.SHA256 {
		return nil, domain.Errorf(
			domain.Misconfigured,
			"decision %s is damaged in %s: its bytes do not have the hash they were stored with; restore the file from a backup",
			id, storeFile,
		)
	}
	return out, nil
}

// scanDecision reads a row of columns.
func scanDecision(rows *sql.Rows) (domain.Decision, error) { return scanWith(rows) }

// scanWith reads a row of columns and what stands behind them.
func scanWith(rows *sql.Rows, more ...any) (d domain.Decision, err error) {
	var timestamp sql.NullInt64
	var at, receivedAt, savedAt int64
	var bundles sql.NullString
	var sum []byte
	texts := make([]sql.NullString, len(domain.TextColumns))
	into := []any{&d.Tenant, &d.ID, &timestamp, &at, &receivedAt, &savedAt, &d.Outcome}
	for i := range texts {
		into = append(into, &texts[i])
	}
	into = append(into, &bundles, &d.Sanitised, &d.Unsearchable, &sum)
	if err := rows.Scan(append(into, more...)...); err != nil {
		return d, err
	}
	for i, c := range domain.TextColumns {
		*c.Of(&d) = texts[i].String
	}
	d.Timestamp, d.ReceivedAt, d.SavedAt = instant(timestamp), instantOf(receivedAt), instantOf(savedAt)
	copy(d.SHA256[:], sum)
	d.Bundles, err = domain.DecodeBundles(bundles.String)
	return d, err
}

// OPAs returns the OPAs seen; see ports.OPAReader.
func (s *Store) OPAs(ctx context.Context, scope domain.Scope) ([]domain.OPA, error) {
	w := dialect.Where()
	w.Fits(domain.DecisionFields, scope.Expr())
	rows, err := s.read.QueryContext(
		ctx,
		`SELECT tenant, opa, version, first_upload, last_upload, interval, uploads, events, status_at, app,
		status FROM opas WHERE `+w.String()+` ORDER BY uploads > 1 DESC, last_upload DESC, opa LIMIT 1000`,
		w.Args...)
	if err != nil {
		return nil, s.checked("list OPAs", ended(ctx, err))
	}
	defer rows.Close()
	var out []domain.OPA
	statuses := 0
	for rows.Next() {
		var o domain.OPA
		var first, last, statusAt sql.NullInt64
		var interval int64
		if err := rows.Scan(
			&o.Tenant, &o.OPA, &o.Version, &first, &last, &interval, &o.Uploads, &o.Events, &statusAt, &o.App, &o.Status,
		); err != nil {
			return nil, s.checked("list OPAs", ended(ctx, err))
		}
		o.First, o.Last, o.StatusAt = instant(first), instant(last), instant(statusAt)
		o.Interval = time.Duration(interval) * time.Microsecond
		if statuses += len(o.Status); statuses > domain.MaxStatuses {
			o.Status = nil
		}
		out = append(out, o)
	}
	return out, s.checked("list OPAs", ended(ctx, rows.Err()))
}

// OPAGroups counts OPAs; see ports.OPAReader.
func (s *Store) OPAGroups(ctx context.Context, scope domain.Scope, at time.Time) (out []domain.OPAGroup, err error) {
	w := dialect.Where(
		at.UnixMicro(), domain.OPAIntervals, domain.OPAPatience.Microseconds(), domain.OPAGoneBehind.Microseconds(),
	)
	w.Fits(domain.DecisionFields, scope.Expr())
	query := `SELECT tenant, app, sum(quiet <= patience), sum(quiet > patience AND quiet <= ?4),
			sum(quiet > patience AND quiet > ?4)
		FROM (SELECT tenant, app, ?1 - max(coalesce(last_upload, 0), coalesce(status_at, 0)) AS quiet,
			max(?2 * interval, ?3) AS patience FROM opas WHERE ` + w.String() + `)
		GROUP BY tenant, app ORDER BY count(*) DESC, tenant, app LIMIT 1000`
	err = s.each(ctx, query, w.Args, func(rows *sql.Rows) error {
		var g domain.OPAGroup
		err := rows.Scan(&g.Tenant, &g.App, &g.Live, &g.Silent, &g.Gone)
		out = append(out, g)
		return err
	})
	return out, s.checked("count OPAs in "+storeFile, err)
}

func instant(micros sql.NullInt64) time.Time {
	if !micros.Valid {
		return time.Time{}
	}
	return instantOf(micros.Int64)
}

func instantOf(micros int64) time.Time { return time.UnixMicro(micros).UTC() }
