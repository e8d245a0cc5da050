package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// RecordBlames adds to what is known; see ports.BlameLedger.
func (s *Store) RecordBlames(ctx context.Context, at time.Time, judged int64, blames []domain.Blame) error {
	const upsert = `INSERT INTO blames AS b (minute, fingerprint, class, code, error, path, rows) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
		ON CONFLICT (minute, fingerprint) DO UPDATE SET rows = b.rows + excluded.rows`
	minute := at.Truncate(time.Minute).UnixMicro()
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, b := range append([]domain.Blame{{Rows: judged}}, blames...) {
			if _, err := tx.Exec(upsert, minute, b.Fingerprint, b.Class, b.Code, b.Text, b.Path, b.Rows); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM blames WHERE minute < ?`, at.Add(-2*domain.FloodSpan).UnixMicro())
		return err
	})
	return s.checked("record blames in "+storeFile, err)
}

// Blames sums up what is known; see ports.BlameLedger.
func (s *Store) Blames(ctx context.Context, at time.Time) (report domain.BlameReport, err error) {
	const list = `SELECT b.fingerprint, b.class, b.code, b.error, b.path, sum(b.rows),
		coalesce(a.accepted_at, 0), coalesce(a.until, 0), coalesce(a.who, ''), coalesce(a.reason, '')
		FROM blames b LEFT JOIN blame_acceptances a ON a.until > ?2 AND a.rowid =
			(SELECT rowid FROM blame_acceptances WHERE fingerprint = b.fingerprint ORDER BY accepted_at DESC LIMIT 1)
		WHERE b.minute > ?1 GROUP BY b.fingerprint ORDER BY sum(b.rows) DESC, b.fingerprint`
	rows, err := s.read.QueryContext(ctx, list, at.Add(-domain.FloodSpan).UnixMicro(), at.UnixMicro())
	if err != nil {
		return report, s.checked("list blames in "+storeFile, err)
	}
	defer rows.Close()
	for rows.Next() {
		var b domain.Blame
		var a domain.Acceptance
		var acceptedAt, until int64
		if err := rows.Scan(&b.Fingerprint, &b.Class, &b.Code, &b.Text, &b.Path, &b.Rows, &acceptedAt, &until, &a.Who, &a.Reason); err != nil {
			return report, s.checked("list blames in "+storeFile, err)
		}
		a.At, a.Until = time.UnixMicro(acceptedAt), time.UnixMicro(until)
		report.Add(b, a)
	}
	return report, s.checked("list blames in "+storeFile, rows.Err())
}

// AcceptBlame writes an acceptance down; see ports.BlameLedger.
func (s *Store) AcceptBlame(ctx context.Context, a domain.Acceptance) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO blame_acceptances (fingerprint, accepted_at, until, who, reason) VALUES (?, ?, ?, ?, ?)`,
			a.Fingerprint, a.At.UnixMicro(), a.Until.UnixMicro(), a.Who, a.Reason)
		return err
	})
	return s.checked("accept a fingerprint in "+storeFile, err)
}
