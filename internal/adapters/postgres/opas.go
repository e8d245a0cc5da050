package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/domain"
)

// The interval follows the newest uploads: the gap since the last known one, spread over those that came, counts 30 %.
const upsertOPA = `INSERT INTO opas AS o (tenant, opa, version, first_upload, last_upload, upload_interval, uploads,
	events, status_at, status, app)
	VALUES ($1::text, $2::text, $3::text, $4::timestamptz, $5::timestamptz,
		CASE WHEN $6::bigint > 1 THEN ($5::timestamptz - $4::timestamptz) / ($6::bigint - 1) ELSE '0' END, $6::bigint,
		$7::bigint, $8::timestamptz, $9::bytea, $10::text)
	ON CONFLICT (tenant, opa) DO UPDATE SET
	version = CASE WHEN excluded.version = '' THEN o.version ELSE excluded.version END,
	first_upload = least(o.first_upload, excluded.first_upload),
	last_upload = greatest(o.last_upload, excluded.last_upload),
	upload_interval = CASE
		WHEN excluded.uploads = 0 OR o.last_upload IS NULL OR excluded.last_upload <= o.last_upload THEN o.upload_interval
		WHEN o.upload_interval = '0' THEN (excluded.last_upload - o.last_upload) / excluded.uploads
		ELSE (7 * o.upload_interval + 3 * ((excluded.last_upload - o.last_upload) / excluded.uploads)) / 10 END,
	uploads = o.uploads + excluded.uploads,
	events = o.events + excluded.events,
	status_at = coalesce(excluded.status_at, o.status_at),
	status = coalesce(excluded.status, o.status),
	app = CASE WHEN excluded.app = '' THEN o.app ELSE excluded.app END`

// RecordOPAs adds observations; see ports.OPARecorder.
func (s *Store) RecordOPAs(ctx context.Context, observations []domain.Observation) error {
	sorted := slices.Clone(observations) // several processes report the same OPAs
	slices.SortFunc(sorted, func(a, b domain.Observation) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.OPA, b.OPA))
	})
	sorted, err := s.boundOPAs(ctx, sorted)
	if err != nil {
		return err
	}
	return s.change(ctx, "record OPAs", func(b *pgx.Batch) {
		for _, g := range sorted {
			b.Queue(
				upsertOPA, g.Tenant, g.OPA, g.Version, timestamptz(g.First), timestamptz(g.Last), g.Uploads, g.Events,
				timestamptz(g.StatusAt), g.Status, g.App,
			)
		}
	})
}

// boundOPAs folds those that there is no room for. Two processes that do so at once may keep a few too many.
func (s *Store) boundOPAs(ctx context.Context, sorted []domain.Observation) (out []domain.Observation, err error) {
	for len(sorted) > 0 && err == nil {
		n := 1
		for n < len(sorted) && sorted[n].Tenant == sorted[0].Tenant {
			n++
		}
		var own []domain.Observation
		own, err = s.boundTenant(ctx, sorted[:n])
		out, sorted = append(out, own...), sorted[n:]
	}
	return out, err
}

// boundTenant is boundOPAs of one tenant's.
func (s *Store) boundTenant(ctx context.Context, own []domain.Observation) ([]domain.Observation, error) {
	tenant, names := own[0].Tenant, make([]string, len(own))
	for i, o := range own {
		names[i] = o.OPA
	}
	known, count := map[string]bool{}, 0
	err := s.reading(ctx, "count OPAs", func(b *pgx.Batch) {
		b.Queue(`SELECT opa FROM opas WHERE tenant = $1::text AND opa = ANY ($2::text[])`, tenant, names).Query(
			func(rows pgx.Rows) error {
				found, err := pgx.CollectRows(rows, pgx.RowTo[string])
				for _, opa := range found {
					known[opa] = true
				}
				return err
			},
		)
		b.Queue(`SELECT count(*) FROM opas WHERE tenant = $1::text`, tenant).QueryRow(
			func(row pgx.Row) error { return row.Scan(&count) },
		)
	})
	if err != nil {
		return nil, err
	}
	fresh := len(own) - len(known)
	if short := fresh - (domain.MaxOPAs - count); short > 0 {
		const leave = `DELETE FROM opas WHERE tenant = $1::text AND opa IN (SELECT opa FROM opas WHERE tenant = $1::text
			AND greatest(last_upload, status_at) < now() - interval '1 day' AND NOT opa = ANY ($2::text[])
			ORDER BY greatest(last_upload, status_at) LIMIT $3::int)`
		var gone int64
		err = s.change(ctx, "make room for OPAs", func(b *pgx.Batch) {
			b.Queue(leave, tenant, names, short).Exec(func(tag pgconn.CommandTag) error {
				gone = tag.RowsAffected()
				return nil
			})
		})
		count -= int(gone)
	}
	isKnown := func(opa string) bool { return known[opa] }
	return domain.FoldOPAs(own, isKnown, domain.MaxOPAs-count), err
}

// OPAs returns the OPAs seen; see ports.OPAReader.
func (s *Store) OPAs(ctx context.Context, scope domain.Scope) ([]domain.OPA, error) {
	w := dialect.Where()
	w.Fits(domain.DecisionFields, scope.Expr())
	sql := `SELECT tenant, opa, version, first_upload, last_upload, (extract(epoch FROM upload_interval) *
		1000000)::bigint,
		uploads, events, status_at, app, status FROM opas WHERE ` + w.String() + ` ORDER BY uploads > 1 DESC, last_upload DESC
		NULLS LAST, opa LIMIT 1000`
	var out []domain.OPA
	statuses := 0
	err := s.query(ctx, "list OPAs", sql, w.Args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (o domain.OPA, err error) {
			var first, last, statusAt pgtype.Timestamptz
			var micros int64
			err = row.Scan(
				&o.Tenant, &o.OPA, &o.Version, &first, &last, &micros, &o.Uploads, &o.Events, &statusAt, &o.App, &o.Status,
			)
			o.First, o.Last, o.StatusAt = instant(first), instant(last), instant(statusAt)
			o.Interval = time.Duration(micros) * time.Microsecond
			if statuses += len(o.Status); statuses > domain.MaxStatuses {
				o.Status = nil
			}
			return o, err
		})
		return err
	})
	return out, err
}

// OPAGroups counts OPAs; see ports.OPAReader.
func (s *Store) OPAGroups(ctx context.Context, scope domain.Scope, at time.Time) (out []domain.OPAGroup, err error) {
	w := dialect.Where(at, domain.OPAIntervals, interval(domain.OPAPatience), interval(domain.OPAGoneBehind))
	w.Fits(domain.DecisionFields, scope.Expr())
	sql := `SELECT tenant, app, count(*) FILTER (WHERE quiet <= patience),
			count(*) FILTER (WHERE quiet > patience AND quiet <= $4::interval),
			count(*) FILTER (WHERE quiet > patience AND quiet > $4::interval)
		FROM (SELECT tenant, app, $1::timestamptz - greatest(last_upload, status_at) AS quiet,
			greatest($2::int * upload_interval, $3::interval) AS patience FROM opas WHERE ` + w.String() + `) o
		GROUP BY tenant, app ORDER BY count(*) DESC, tenant, app LIMIT 1000`
	err = s.query(ctx, "count OPAs", sql, w.Args, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[domain.OPAGroup])
		return err
	})
	return out, err
}

// interval is a duration as a parameter.
func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}

func instant(t pgtype.Timestamptz) time.Time {
	if !t.Valid {
		return time.Time{}
	}
	return t.Time.UTC()
}
