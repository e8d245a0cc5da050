package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/domain"
)

// EndSessions notes sessions that have ended; see ports.EndedSessions.
func (s *Store) EndSessions(ctx context.Context, ended []domain.EndedSession) error {
	return s.change(ctx, "end sessions", func(b *pgx.Batch) {
		for _, e := range ended {
			b.Queue(
				`INSERT INTO ended_sessions (id, until) VALUES ($1::text, $2::timestamptz) ON CONFLICT DO NOTHING`,
				e.ID, timestamptz(e.Until),
			)
		}
		b.Queue(`DELETE FROM ended_sessions WHERE until < now()`)
	})
}

// EndedSessions lists them; see ports.EndedSessions.
func (s *Store) EndedSessions(ctx context.Context) (out []domain.EndedSession, err error) {
	const list = `SELECT id, until FROM ended_sessions WHERE until >= now() ORDER BY id`
	err = s.query(ctx, "list ended sessions", list, nil, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e domain.EndedSession, err error) {
			err = row.Scan(&e.ID, &e.Until)
			e.Until = e.Until.UTC()
			return e, err
		})
		return err
	})
	return out, err
}
