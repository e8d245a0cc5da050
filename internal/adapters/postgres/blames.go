package postgres

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/domain"
)

const (
	addBlame = `INSERT INTO blames AS b (minute, fingerprint, class, code, error, path, rows)
		VALUES ($1::timestamptz, $2::text, $3::text, $4::text, $5::text, $6::text, $7::bigint)
		ON CONFLICT (minute, fingerprint) DO UPDATE SET rows = b.rows + excluded.rows`
	forgetBlames = `DELETE FROM blames WHERE minute < $1::timestamptz`
	listBlames   = `SELECT b.fingerprint, min(b.class), min(b.code), min(b.error), min(b.path), sum(b.rows)::bigint,
		coalesce(min(a.accepted_at), to_timestamp(0)), coalesce(min(a.until), to_timestamp(0)), coalesce(min(a.who), ''), coalesce(min(a.reason), '')
		FROM blames b LEFT JOIN LATERAL (SELECT accepted_at, until, who, reason FROM blame_acceptances
			WHERE fingerprint = b.fingerprint ORDER BY accepted_at DESC LIMIT 1) a ON a.until > $2::timestamptz
		WHERE b.minute > $1::timestamptz GROUP BY b.fingerprint ORDER BY sum(b.rows) DESC, b.fingerprint`
	acceptBlame = `INSERT INTO blame_acceptances (fingerprint, accepted_at, until, who, reason)
		VALUES ($1::text, $2::timestamptz, $3::timestamptz, $4::text, $5::text)`
)

// RecordBlames adds to what is known; see ports.BlameLedger.
func (s *Store) RecordBlames(ctx context.Context, at time.Time, judged int64, blames []domain.Blame) error {
	rows := append(slices.Clone(blames), domain.Blame{Rows: judged})
	slices.SortFunc(rows, func(a, b domain.Blame) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) }) // several processes add to the same
	return s.change(ctx, "record blames", func(b *pgx.Batch) {
		for _, r := range rows {
			b.Queue(addBlame, at.Truncate(time.Minute), r.Fingerprint, string(r.Class), r.Code, r.Text, r.Path, r.Rows)
		}
		b.Queue(forgetBlames, at.Add(-2*domain.FloodSpan))
	})
}

// Blames sums up what is known; see ports.BlameLedger.
func (s *Store) Blames(ctx context.Context, at time.Time) (report domain.BlameReport, err error) {
	err = s.query(ctx, "list blames", listBlames, []any{at.Add(-domain.FloodSpan), at}, func(rows pgx.Rows) error {
		for rows.Next() {
			var b domain.Blame
			var a domain.Acceptance
			if err := rows.Scan(&b.Fingerprint, &b.Class, &b.Code, &b.Text, &b.Path, &b.Rows, &a.At, &a.Until, &a.Who, &a.Reason); err != nil {
				return err
			}
			report.Add(b, a)
		}
		return rows.Err()
	})
	return report, err
}

// AcceptBlame writes an acceptance down; see ports.BlameLedger.
func (s *Store) AcceptBlame(ctx context.Context, a domain.Acceptance) error {
	return s.change(ctx, "accept a fingerprint", func(b *pgx.Batch) {
		b.Queue(acceptBlame, a.Fingerprint, a.At, a.Until, a.Who, a.Reason)
	})
}
