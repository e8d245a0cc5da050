package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// errEnough ends a scan whose visitor wants no more.
var errEnough = errors.New("enough")

// Scan visits what fits a filter; see ports.DecisionReader.
func (s *Store) Scan(
	ctx context.Context, scope domain.Scope, f domain.Filter, about []domain.Expr, visit func(*domain.Decision) bool,
) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	plan := search.NewPlan(f.Where).Reading(about)
	row := scannedRow{of: map[*sql.NullString]*string{}}
	names := row.columns(plan)
	w := dialect.Where()
	w.Span("time", f)
	w.Fits(domain.DecisionFields, domain.AllOf(plan.Columns, scope.Expr()))
	var parts []string
	for _, t := range []string{"decisions", "decisions_out_of_window"} {
		parts = append(parts, `SELECT `+names+` FROM `+t+` WHERE `+w.String())
	}
	judging := sqlstore.NewJudging(plan, true, s.unpack, func(r *sqlstore.JudgedRow) (bool, error) {
		return !r.Fits || visit(&r.Decision), nil
	})
	err := s.each(ctx, strings.Join(parts, " UNION ALL "), w.Args, func(rows *sql.Rows) error {
		if err := rows.Scan(row.into...); err != nil {
			return err
		}
		event, packed, err := row.read()
		if err != nil {
			return err
		}
		if more, err := judging.Add(&row.d, event, packed); !more {
			return cmp.Or(err, errEnough)
		}
		return nil
	})
	err = cmp.Or(err, judging.End())
	if errors.Is(err, errEnough) {
		return nil
	}
	return s.slow(ended(ctx, err))
}

// scannedRow is one row of a scan at a time.
type scannedRow struct {
	d       domain.Decision
	at      int64
	packed  sql.NullBool
	event   sql.RawBytes
	bundles sql.NullString
	of      map[*sql.NullString]*string
	into    []any
}

// columns are those that a plan reads.
func (r *scannedRow) columns(plan search.Plan) string {
	names := []string{"time", "tenant", "decision_id", "unsearchable"}
	r.into = []any{&r.at, &r.d.Tenant, &r.d.ID, &r.d.Unsearchable}
	if plan.Event {
		names = append(names, "packed", "event")
		r.into = append(r.into, &r.packed, &r.event)
	}
	for _, f := range plan.Fields {
		switch {
		case f.Kind == domain.Revisions:
			names = append(names, f.Column)
			r.into = append(r.into, &r.bundles)
		case f.Name == domain.FieldOutcome:
			names = append(names, f.Column)
			r.into = append(r.into, &r.d.Outcome)
		case f.Column != "tenant" && f.Column != "decision_id":
			text := new(sql.NullString)
			r.of[text] = domain.TextColumnOf(f.Column)(&r.d)
			names = append(names, f.Column)
			r.into = append(r.into, text)
		}
	}
	return strings.Join(names, ", ")
}

// read completes the row that was read into it, but for its event, which is JSON or packed.
func (r *scannedRow) read() (event, packed []byte, err error) {
	r.d.Timestamp = instantOf(r.at)
	for text, into := range r.of {
		*into = text.String
	}
	if r.packed.Bool {
		packed = r.event
	} else {
		event = r.event
	}
	r.d.Bundles, err = domain.DecodeBundles(r.bundles.String)
	return event, packed, err
}
