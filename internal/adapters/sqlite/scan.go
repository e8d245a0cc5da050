package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"

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
	err := s.each(ctx, strings.Join(parts, " UNION ALL "), w.Args, func(rows *sql.Rows) error {
		if err := rows.Scan(row.into...); err != nil {
			return err
		}
		d, err := row.decision(s)
		if err != nil {
			return err
		}
		if (plan.Rest == nil || plan.Rest.Fits(d)) && !visit(d) {
			return errEnough
		}
		return nil
	})
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

// decision is the row that was read into it. An event that cannot be unpacked is nil.
func (r *scannedRow) decision(s *Store) (d *domain.Decision, err error) {
	r.d.Timestamp = instantOf(r.at)
	for text, into := range r.of {
		*into = text.String
	}
	if r.d.Event = nil; r.event != nil {
		r.d.Event, _ = s.eventOf(r.packed.Bool, r.event)
	}
	r.d.Bundles, err = domain.DecodeBundles(r.bundles.String)
	return &r.d, err
}
