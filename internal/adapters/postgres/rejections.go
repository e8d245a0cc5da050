package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

const (
	addRejection = `INSERT INTO rejections AS r (minute, tenant, fingerprint, class, code, error, path, rows)
		VALUES ($1::timestamptz, $2::text, $3::text, $4::text, $5::text, $6::text, $7::text, $8::bigint)
		ON CONFLICT (minute, tenant, fingerprint) DO UPDATE SET rows = r.rows + excluded.rows`
	// A day: clocks differ, and one that is ahead must not take away what the others count.
	forgetRejections = `DELETE FROM rejections WHERE minute < $1::timestamptz - interval '1 day'`
	acceptRejections = `INSERT INTO rejection_acceptances (fingerprint, tenants, accepted_at, until, caller, comment)
		VALUES ($1::text, nullif($2::text, '')::jsonb, $3::timestamptz, $4::timestamptz, $5::text, $6::text) RETURNING true`
	// The last word of each fingerprint and scope.
	lastAcceptances = `(SELECT DISTINCT ON (fingerprint, tenants) fingerprint, tenants, accepted_at, until, caller, comment
		FROM rejection_acceptances ORDER BY fingerprint, tenants, accepted_at DESC) a`
	guardOn    = `SELECT count(*) FROM guard_periods WHERE ended_at IS NULL`
	beginGuard = `INSERT INTO guard_periods (begun_at) VALUES ($1::timestamptz) ON CONFLICT DO NOTHING`
	endGuard   = `UPDATE guard_periods SET ended_at = $1::timestamptz WHERE ended_at IS NULL`
)

// ExchangeRejections adds to what is known and sums it up; see ports.RejectionStats.
func (s *Store) ExchangeRejections(
	ctx context.Context, at time.Time, tally domain.RejectionTally,
) (report domain.RejectionReport, err error) {
	rows := slices.Clone(tally.Rejections)
	for tenant, n := range tally.Judged {
		rows = append(rows, domain.Rejection{Tenant: tenant, Rows: n})
	}
	slices.SortFunc(rows, func(a, b domain.Rejection) int { // several processes add to the same
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	err = s.change(ctx, "exchange rejections", func(b *pgx.Batch) {
		for _, r := range rows {
			b.Queue(
				addRejection, at.Truncate(time.Minute), r.Tenant, r.Fingerprint, string(r.Class), r.Code, r.Text, r.Path, r.Rows,
			)
		}
		if len(rows) > 0 {
			b.Queue(forgetRejections, at)
		}
		queueReport(b, domain.AllTenants(), at, &report)
	})
	return report, err
}

// RejectionReport sums up what is known; see ports.RejectionReader.
func (s *Store) RejectionReport(
	ctx context.Context, scope domain.Scope, at time.Time,
) (report domain.RejectionReport, err error) {
	err = s.reading(ctx, "read the rejection stats", func(b *pgx.Batch) { queueReport(b, scope, at, &report) })
	return report, err
}

// queueReport asks for a report.
func queueReport(b *pgx.Batch, scope domain.Scope, at time.Time, report *domain.RejectionReport) {
	w := dialect.Where(at.Add(-domain.GuardSpan), at.Add(time.Minute))
	w.Add("minute > $1::timestamptz AND minute <= $2::timestamptz")
	w.Fits(domain.DeadLetterFields, scope.Expr())
	b.Queue(
		`SELECT CASE fingerprint WHEN '' THEN '' ELSE tenant END, fingerprint, min(class), min(code), min(error), min(path),
		sum(rows)::bigint FROM rejections WHERE `+w.String()+` GROUP BY 1, 2 ORDER BY fingerprint <> '', 7 DESC, 2, 1`,
		w.Args...).Query(
		func(rows pgx.Rows) error {
			var r domain.Rejection
			_, err := pgx.ForEachRow(
				rows,
				[]any{&r.Tenant, &r.Fingerprint, &r.Class, &r.Code, &r.Text, &r.Path, &r.Rows},
				func() error {
					report.Add(r)
					return nil
				},
			)
			return err
		},
	)
	b.Queue(`SELECT fingerprint, tenants::text, accepted_at, until, caller, comment FROM `+lastAcceptances+`
		WHERE until > $1::timestamptz ORDER BY accepted_at DESC LIMIT 1000`, at).Query(func(rows pgx.Rows) (err error) {
		report.Acceptances, err = pgx.AppendRows(report.Acceptances, rows, scanAcceptance)
		report.Acceptances = slices.DeleteFunc(
			report.Acceptances,
			func(a domain.Acceptance) bool { return !a.Tenants.Meets(scope) },
		)
		return err
	})
	b.Queue(guardOn).QueryRow(func(row pgx.Row) error {
		var n int
		defer func() { report.On = n > 0 }()
		return row.Scan(&n)
	})
}

func scanAcceptance(row pgx.CollectableRow) (a domain.Acceptance, err error) {
	var tenants pgtype.Text
	if err := row.Scan(&a.Fingerprint, &tenants, &a.At, &a.Until, &a.Caller, &a.Comment); err != nil {
		return a, err
	}
	a.At, a.Until = a.At.UTC(), a.Until.UTC()
	a.Tenants, err = sqlstore.DecodeScope(tenants.String)
	return a, err
}

// SetGuard writes down when the guard goes on and off; see ports.RejectionStats.
func (s *Store) SetGuard(ctx context.Context, at time.Time, on bool) error {
	return s.change(ctx, "write down the dead-letter guard", func(b *pgx.Batch) {
		if on {
			b.Queue(beginGuard, at)
		} else {
			b.Queue(endGuard, at)
		}
	})
}

// AcceptRejections writes an acceptance down; see ports.Acceptances.
func (s *Store) AcceptRejections(ctx context.Context, a domain.Acceptance, e domain.AuditEntry) error {
	return s.change(ctx, "accept a fingerprint", func(b *pgx.Batch) {
		sql, args := withAudit(
			acceptRejections, e, a.Fingerprint, sqlstore.EncodeScope(a.Tenants), a.At, a.Until, a.Caller, a.Comment,
		)
		b.Queue(sql, args...)
	})
}

// RevokeAcceptance ends acceptances by a last word that has run out; see ports.Acceptances.
func (s *Store) RevokeAcceptance(
	ctx context.Context, scope domain.Scope, fingerprint string, at time.Time, e domain.AuditEntry,
) (revoked bool, err error) {
	w := dialect.Where(fingerprint, at, e.Caller, e.Comment)
	w.Add("fingerprint = $1::text AND until > $2::timestamptz")
	w.Owned(scope)
	revoke := `INSERT INTO rejection_acceptances (fingerprint, tenants, accepted_at, until, caller, comment)
		SELECT fingerprint, tenants, $2::timestamptz, $2::timestamptz, $3::text, $4::text FROM ` + lastAcceptances + `
		WHERE ` + w.String() + ` RETURNING true`
	err = s.change(ctx, "revoke an acceptance", func(b *pgx.Batch) {
		sql, args := withAudit(revoke, e, w.Args...)
		b.Queue(sql, args...).Query(one(&revoked))
	})
	return revoked, err
}
