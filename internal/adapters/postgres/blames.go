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
	// A day: clocks differ, and one that is ahead must not take away what the others count.
	forgetBlames = `DELETE FROM blames WHERE minute < $1::timestamptz - interval '1 day'`
	listBlames   = `SELECT fingerprint, min(class), min(code), min(error), min(path), sum(rows)::bigint FROM blames
		WHERE minute > $1::timestamptz AND minute <= $2::timestamptz GROUP BY fingerprint ORDER BY fingerprint <> '', sum(rows) DESC, fingerprint LIMIT 1001`
	listAcceptances = `SELECT * FROM (SELECT DISTINCT ON (fingerprint) fingerprint, accepted_at, until, who, reason FROM blame_acceptances
		ORDER BY fingerprint, accepted_at DESC) a WHERE until > $1::timestamptz LIMIT 1000`
	floodStopOn = `SELECT count(*) FROM flood_stops WHERE ended_at IS NULL`
	beginFlood  = `INSERT INTO flood_stops (begun_at) VALUES ($1::timestamptz) ON CONFLICT DO NOTHING`
	endFlood    = `UPDATE flood_stops SET ended_at = $1::timestamptz WHERE ended_at IS NULL`
	acceptBlame = `INSERT INTO blame_acceptances (fingerprint, accepted_at, until, who, reason)
		VALUES ($1::text, $2::timestamptz, $3::timestamptz, $4::text, $5::text)`
)

// ExchangeBlames adds to what is known and sums it up; see ports.BlameLedger.
func (s *Store) ExchangeBlames(ctx context.Context, at time.Time, judged int64, blames []domain.Blame) (report domain.BlameReport, err error) {
	rows := append(slices.Clone(blames), domain.Blame{Rows: judged})
	slices.SortFunc(rows, func(a, b domain.Blame) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) }) // several processes add to the same
	err = s.change(ctx, "exchange blames", func(b *pgx.Batch) {
		if judged > 0 {
			for _, r := range rows {
				b.Queue(addBlame, at.Truncate(time.Minute), r.Fingerprint, string(r.Class), r.Code, r.Text, r.Path, r.Rows)
			}
			b.Queue(forgetBlames, at)
		}
		b.Queue(listBlames, at.Add(-domain.FloodSpan), at.Add(time.Minute)).Query(func(rows pgx.Rows) error {
			var r domain.Blame
			_, err := pgx.ForEachRow(rows, []any{&r.Fingerprint, &r.Class, &r.Code, &r.Text, &r.Path, &r.Rows}, func() error {
				report.Add(r)
				return nil
			})
			return err
		})
		b.Queue(listAcceptances, at).Query(func(rows pgx.Rows) error {
			var a domain.Acceptance
			_, err := pgx.ForEachRow(rows, []any{&a.Fingerprint, &a.At, &a.Until, &a.Who, &a.Reason}, func() error {
				report.Accept(a)
				return nil
			})
			return err
		})
		b.Queue(floodStopOn).QueryRow(func(row pgx.Row) error {
			var n int
			defer func() { report.Stopping = n > 0 }()
			return row.Scan(&n)
		})
	})
	return report, err
}

// SetFloodStop writes down when the flood stop begins and ends; see ports.BlameLedger.
func (s *Store) SetFloodStop(ctx context.Context, at time.Time, on bool) error {
	return s.change(ctx, "write down the flood stop", func(b *pgx.Batch) {
		if on {
			b.Queue(beginFlood, at)
		} else {
			b.Queue(endFlood, at)
		}
	})
}

// AcceptBlame writes an acceptance down; see ports.BlameLedger.
func (s *Store) AcceptBlame(ctx context.Context, a domain.Acceptance) error {
	return s.change(ctx, "accept a fingerprint", func(b *pgx.Batch) {
		b.Queue(acceptBlame, a.Fingerprint, a.At, a.Until, a.Who, a.Reason)
	})
}
