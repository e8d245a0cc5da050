package postgres

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

const (
	// orderErasure writes an erasure down with its job, unless that was not made.
	orderErasure = `INSERT INTO erasures (job, subject, tenants, at)
		SELECT id, unnest($2::bytea[]), nullif($3::text, '')::jsonb, $4::timestamptz FROM jobs WHERE id = $1::text`
	erasuresInForce = `SELECT e.job, e.subject, e.tenants::text, e.at, e.until FROM erasures e JOIN jobs j ON j.id = e.job
		WHERE (e.until IS NULL OR e.until > $1::timestamptz) AND j.state <> '` + string(domain.JobCanceled) + `'
		ORDER BY e.job, e.subject`
)

// ErasureKey is what subjects are hashed with; see ports.ErasureReader.
func (s *Store) ErasureKey(ctx context.Context) (key []byte, err error) {
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // it never fails
	err = s.change(ctx, "read the key of erasures", func(b *pgx.Batch) {
		b.Queue(`INSERT INTO erasure_key (key) VALUES ($1::bytea) ON CONFLICT DO NOTHING`, fresh)
		b.Queue(`SELECT key FROM erasure_key`).Query(func(rows pgx.Rows) (err error) {
			key, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[[]byte])
			return err
		})
	})
	return key, err
}

// Erasures lists those in force; see ports.ErasureReader.
func (s *Store) Erasures(ctx context.Context) (out []domain.Erasure, err error) {
	err = s.change(ctx, "list erasures", func(b *pgx.Batch) { // as those who save do, who wait for no search
		b.Queue(erasuresInForce, s.opts.Now()).Query(func(rows pgx.Rows) error {
			var job string
			var subject []byte
			var tenants pgtype.Text
			var at time.Time
			var until pgtype.Timestamptz
			out = nil
			_, err := pgx.ForEachRow(rows, []any{&job, &subject, &tenants, &at, &until}, func() (err error) {
				out, err = sqlstore.AddErasure(out, job, subject, tenants.String, at.UTC(), instant(until))
				return err
			})
			return err
		})
	})
	return out, err
}

// KeepErasure says until when one is in force; see ports.Erasures.
func (s *Store) KeepErasure(ctx context.Context, job string, until time.Time) error {
	return s.change(ctx, "keep an erasure", func(b *pgx.Batch) {
		b.Queue(`UPDATE erasures SET until = $2::timestamptz WHERE job = $1::text`, job, until)
		b.Queue(`DELETE FROM erasures WHERE until <= $1::timestamptz`, s.opts.Now())
	})
}

// EraseLetters removes dead letters from the index; see ports.Erasures.
func (s *Store) EraseLetters(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	return s.change(ctx, "erase dead letters", func(b *pgx.Batch) {
		b.Queue(inIndexOrder)
		b.Queue(`DELETE FROM dead_letters WHERE id = ANY($1::text[])`, ids)
	})
}
