package postgres

import (
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
	row := newJudgedRow(plan)
	err = s.rows(ctx, planned(q.Where), sql, args, func(from pgx.CollectableRow) (bool, error) {
		d, err := row.next(from, *read)
		if err == nil && page.Judge(d) {
			fit = append(fit, *domain.CursorOf(d))
		}
		return len(fit) < page.Room() && !page.Late(), err
	})
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
	row := newJudgedRow(plan)
	read := rowsOf{s, true, false}
	return s.rows(ctx, planned(f.Where), sql, w.Args, func(from pgx.CollectableRow) (bool, error) {
		d, err := row.next(from, read)
		if errors.Is(err, sqlstore.ErrUnknownDictionary) {
			if err = s.readDictionaries(ctx); err == nil { // on another connection
				read.anyway = true
				d, err = row.next(from, read)
			}
		}
		return err == nil && (plan.Rest != nil && !plan.Rest.Fits(d) || visit(d)), err
	})
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
	unpacked      []byte             // room for the next event
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

// next reads the next row, with its event where the plan reads that.
func (r *judgedRow) next(row pgx.CollectableRow, read rowsOf) (*domain.Decision, error) {
	d, err := r.read(row)
	if err != nil {
		return nil, err
	}
	d.Event, err = read.unpack(r.event, r.packed, r.unpacked)
	if r.packed != nil {
		r.unpacked = d.Event
	}
	return d, err
}

// read reads the next row, but for its event.
func (r *judgedRow) read(row pgx.CollectableRow) (*domain.Decision, error) {
	if err := row.Scan(r.into...); err != nil {
		return nil, err
	}
	for i, of := range r.of {
		*of = r.texts[i].String
	}
	var err error
	r.d.Bundles, err = domain.DecodeBundles(r.bundles.String)
	r.d.Timestamp = r.d.Timestamp.UTC()
	return &r.d, err
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
