package postgres

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// judgePage adds the rows of a search to a page of which columns say only a part: it looks at as little of each as
// tells whether it fits, and reads those that do. more says that there may be more of them.
func (s *Store) judgePage(
	ctx context.Context, scope domain.Scope, q domain.Query, read *rowsOf, plan search.Plan, page *sqlstore.DecisionPage,
	in []table,
) (more bool, err error) {
	ask, before := page.Ask(), page.Looked()
	sql, args := pageQuery(scope, q, judged(plan), ask, in)
	var fit []domain.Cursor
	judging := sqlstore.NewJudging(plan, false, read.unpack, func(r *sqlstore.JudgedRow) (bool, error) {
		if r.Err == nil && page.Looks(&r.Decision, r.Fits) {
			fit = append(fit, *domain.CursorOf(&r.Decision))
		}
		return len(fit) < page.Room(), r.Err
	})
	err = s.judge(ctx, planned(q.Where), sql, args, plan, judging, page.Late)
	if tookTooLong(err) && page.Looked() > 0 {
		page.TimeIsUp()
		err = nil
	}
	more = page.Looked()-before == ask || len(fit) == page.Room()
	if failed := s.readFitting(ctx, fit, q.After, *read, page); failed != nil {
		return false, failed // whatever else there was: nothing may go on behind rows that are not on the page
	}
	return more, err
}

// Scan visits what fits a filter; see ports.DecisionReader.
func (s *Store) Scan(
	ctx context.Context, scope domain.Scope, f domain.Filter, about []domain.Expr, visit func(*domain.Decision) bool,
) error {
	plan := search.NewPlan(f.Where).Reading(about)
	f.Where = plan.Columns
	w := dialect.Where()
	sql := inTables(tables, rowsQuery(w, scope, domain.Query{Filter: f}, judged(plan)))
	read, anyway := rowsOf{s, true, false}, rowsOf{s, true, true}
	learned := false
	judging := sqlstore.NewJudging(plan, true, read.unpack, func(r *sqlstore.JudgedRow) (bool, error) {
		if errors.Is(r.Err, sqlstore.ErrUnknownDictionary) {
			if !learned {
				if err := s.readDictionaries(ctx); err != nil { // on another connection
					return false, err
				}
				learned = true
			}
			r.Judge(plan, anyway.unpack)
		}
		return r.Err == nil && (!r.Fits || visit(&r.Decision)), r.Err
	})
	return s.judge(ctx, planned(f.Where), sql, w.Args, plan, judging, func() bool { return false })
}

// lateRows are read of a statement though it is late: rows come many at once, and a search whose first ones come late
// would go on by one a page.
const lateRows = 100

// judge has the rows of a statement judged, those that came before it failed as well, and reads few more of them once
// it is late.
func (s *Store) judge(
	ctx context.Context, settings, sql string, args []any, plan search.Plan, judging *sqlstore.Judging, late func() bool,
) error {
	row, behind := newJudgedRow(plan), 0
	err := s.rows(ctx, settings, sql, args, func(from pgx.CollectableRow) (bool, error) {
		if err := row.read(from); err != nil {
			return false, err
		}
		if late() {
			behind++
		}
		more, err := judging.Add(&row.d, row.event, row.packed)
		return more && behind < lateRows, err
	})
	return cmp.Or(err, judging.End())
}

// judged are the columns that a plan reads.
func judged(plan search.Plan) string {
	columns := `TIME AS time, tenant, decision_id, unsearchable`
	if plan.Event {
		columns += eventColumns
	}
	for _, f := range plan.Fields {
		if f.Kind == domain.Revisions {
			columns += `, bundles::text AS bundles`
		} else if f.Column != "tenant" && f.Column != "decision_id" {
			columns += `, ` + f.Column
		}
	}
	return columns
}

// judgedRow is one row of judged at a time. What it has of the row before is written over.
type judgedRow struct {
	d             domain.Decision
	event, packed pgtype.DriverBytes // the connection's own bytes
	bundles       pgtype.Text
	texts         []pgtype.Text
	of            []*string
	into          []any
}

func newJudgedRow(plan search.Plan) *judgedRow {
	r := &judgedRow{texts: make([]pgtype.Text, 0, len(plan.Fields))}
	r.into = []any{&r.d.Timestamp, &r.d.Tenant, &r.d.ID, &r.d.Unsearchable}
	if plan.Event {
		r.into = append(r.into, &r.event, &r.packed)
	}
	for _, f := range plan.Fields {
		switch {
		case f.Kind == domain.Revisions:
			r.into = append(r.into, &r.bundles)
		case f.Name == domain.FieldOutcome:
			r.into = append(r.into, &r.d.Outcome)
		case f.Column != "tenant" && f.Column != "decision_id":
			r.texts = append(r.texts, pgtype.Text{})
			r.of = append(r.of, domain.TextColumnOf(f.Column)(&r.d))
			r.into = append(r.into, &r.texts[len(r.texts)-1])
		}
	}
	return r
}

// read reads the next row.
func (r *judgedRow) read(row pgx.CollectableRow) error {
	if err := row.Scan(r.into...); err != nil {
		return err
	}
	for i, of := range r.of {
		*of = r.texts[i].String
	}
	var err error
	r.d.Bundles, err = domain.DecodeBundles(r.bundles.String)
	r.d.Timestamp = r.d.Timestamp.UTC()
	return err
}

// useKeys has the planner look rows up by their keys, of whatever table it has no statistics of.
const useKeys = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
	set_config('enable_mergejoin', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`

// readFitting adds the rows with these keys to a page, in this order, which is the one behind after, however late it
// is: what lies behind them was looked at. One that is gone is left out.
func (s *Store) readFitting(
	ctx context.Context, fit []domain.Cursor, after *domain.Cursor, read rowsOf, page *sqlstore.DecisionPage,
) error {
	if len(fit) == 0 {
		return nil
	}
	times, tenants, ids := make([]time.Time, len(fit)), make([]string, len(fit)), make([]string, len(fit))
	for i, c := range fit {
		times[i], tenants[i], ids[i] = c.Time, c.Tenant, c.ID
	}
	sql := bothTables(`SELECT `+read.columns()+` FROM TABLE WHERE TIME BETWEEN $4::timestamptz AND $5::timestamptz
		AND (TIME, tenant, decision_id) IN (SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[]))`) +
		sqlstore.Order("time", after)
	args := []any{times, tenants, ids, slices.MinFunc(times, time.Time.Compare), slices.MaxFunc(times, time.Time.Compare)}
	added := 0 // of fit, with those in between that are gone
	err := s.rows(ctx, useKeys, sql, args, func(row pgx.CollectableRow) (bool, error) {
		d, err := read.scan(row)
		if err != nil {
			return false, err
		}
		page.Add(d)
		added = slices.Index(fit, *domain.CursorOf(&d)) + 1
		return !page.Full(), nil
	})
	if errors.Is(err, sqlstore.ErrUnknownDictionary) && !read.anyway {
		read.anyway = true
		if err = s.readDictionaries(ctx); err == nil {
			return s.readFitting(ctx, fit[added:], after, read, page)
		}
	}
	return err
}
