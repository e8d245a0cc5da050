package sqlite

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

const (
	addRejection = `INSERT INTO rejections AS r (minute, tenant, fingerprint, class, code, error, path, rows)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (minute, tenant, fingerprint) DO UPDATE SET rows = r.rows +
		excluded.rows`
	acceptRejections = `INSERT INTO rejection_acceptances (fingerprint, tenants, accepted_at, until, caller, comment)
		VALUES (?, ?, ?, ?, ?, ?)`
	// The last word of each fingerprint and scope. The other columns are those of the row with the maximum
	// (https://sqlite.org/lang_select.html#bareagg).
	lastAcceptances = `(SELECT fingerprint, tenants, max(accepted_at) AS accepted_at, until, caller, comment
		FROM rejection_acceptances GROUP BY fingerprint, tenants)`
)

// ExchangeRejections adds to what is known and sums it up; see ports.RejectionStats.
func (s *Store) ExchangeRejections(
	ctx context.Context, at time.Time, tally domain.RejectionTally,
) (report domain.RejectionReport, err error) {
	rows := slices.Clone(tally.Rejections)
	for tenant, n := range tally.Judged {
		rows = append(rows, domain.Rejection{Tenant: tenant, Rows: n})
	}
	if len(rows) > 0 {
		if err := s.addRejections(ctx, at, rows); err != nil {
			return report, s.checked("record rejections in "+storeFile, err)
		}
	}
	return s.RejectionReport(ctx, domain.AllTenants(), at)
}

// RejectionReport sums up what is known; see ports.RejectionReader.
func (s *Store) RejectionReport(
	ctx context.Context, scope domain.Scope, at time.Time,
) (report domain.RejectionReport, err error) {
	w := dialect.Where(at.Add(-domain.GuardSpan).UnixMicro(), at.Add(time.Minute).UnixMicro())
	w.Add("minute > ?1 AND minute <= ?2")
	w.Fits(domain.DeadLetterFields, scope.Expr())
	err = s.each(
		ctx,
		`SELECT CASE fingerprint WHEN '' THEN '' ELSE tenant END, fingerprint, min(class), min(code), min(error),
		min(path), sum(rows) FROM rejections WHERE `+w.String()+` GROUP BY 1, 2 ORDER BY fingerprint <> '', 7 DESC, 2, 1`,
		w.Args,
		func(rows *sql.Rows) error {
			var r domain.Rejection
			err := rows.Scan(&r.Tenant, &r.Fingerprint, &r.Class, &r.Code, &r.Text, &r.Path, &r.Rows)
			report.Add(r)
			return err
		},
	)
	if err == nil {
		err = s.each(
			ctx,
			`SELECT * FROM `+lastAcceptances+` WHERE until > ? ORDER BY accepted_at DESC LIMIT 1000`,
			[]any{at.UnixMicro()},
			func(rows *sql.Rows) error {
				a, err := scanAcceptance(rows)
				if a.Tenants.Meets(scope) {
					report.Acceptances = append(report.Acceptances, a)
				}
				return err
			},
		)
	}
	if err == nil {
		err = s.read.QueryRowContext(ctx, `SELECT count(*) > 0 FROM guard_periods WHERE ended_at IS NULL`).Scan(&report.On)
		err = ended(ctx, err)
	}
	return report, s.checked("read the rejection stats in "+storeFile, err)
}

func scanAcceptance(rows *sql.Rows) (a domain.Acceptance, err error) {
	var acceptedAt, until int64
	var tenants sql.NullString
	if err := rows.Scan(&a.Fingerprint, &tenants, &acceptedAt, &until, &a.Caller, &a.Comment); err != nil {
		return a, err
	}
	a.At, a.Until = instantOf(acceptedAt), instantOf(until)
	a.Tenants, err = sqlstore.DecodeScope(tenants.String)
	return a, err
}

func (s *Store) addRejections(ctx context.Context, at time.Time, rejections []domain.Rejection) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		minute := at.Truncate(time.Minute).UnixMicro()
		for _, r := range rejections {
			if _, err := tx.Exec(
				addRejection, minute, r.Tenant, r.Fingerprint, r.Class, r.Code, r.Text, r.Path, r.Rows,
			); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM rejections WHERE minute < ?`, at.Add(-24*time.Hour).UnixMicro())
		return err
	})
}

// each reads the rows of a query.
func (s *Store) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return ended(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return ended(ctx, rows.Err())
}

// SetGuard writes down when the guard goes on and off; see ports.RejectionStats.
func (s *Store) SetGuard(ctx context.Context, at time.Time, on bool) error {
	query := `UPDATE guard_periods SET ended_at = ? WHERE ended_at IS NULL`
	if on {
		query = `INSERT INTO guard_periods (begun_at) VALUES (?) ON CONFLICT DO NOTHING`
	}
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(query, at.UnixMicro())
		return err
	})
	return s.checked("write down the dead-letter guard in "+storeFile, err)
}

// AcceptRejections writes an acceptance down; see ports.Acceptances.
func (s *Store) AcceptRejections(ctx context.Context, a domain.Acceptance, e domain.AuditEntry) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(acceptRejections, a.Fingerprint, text(sqlstore.EncodeScope(a.Tenants)), a.At.UnixMicro(),
			a.Until.UnixMicro(), a.Caller, a.Comment)
		if err != nil {
			return err
		}
		return audit(tx, e)
	})
	return s.checked("accept a fingerprint in "+storeFile, err)
}

// RevokeAcceptance ends acceptances by a last word that has run out; see ports.Acceptances.
func (s *Store) RevokeAcceptance(
	ctx context.Context, scope domain.Scope, fingerprint string, at time.Time, e domain.AuditEntry,
) (revoked bool, err error) {
	w := dialect.Where(fingerprint, at.UnixMicro(), e.Caller, e.Comment)
	w.Add("fingerprint = ?1 AND until > ?2")
	w.Owned(scope)
	err = s.inTx(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`INSERT INTO rejection_acceptances (fingerprint, tenants, accepted_at, until, caller, comment)
			SELECT fingerprint, tenants, ?2, ?2, ?3, ?4 FROM `+lastAcceptances+` WHERE `+w.String(), w.Args...)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if revoked = n > 0; err != nil || !revoked {
			return err
		}
		return audit(tx, e)
	})
	return revoked, s.checked("revoke an acceptance in "+storeFile, err)
}
