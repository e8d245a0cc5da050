package sqlite

import (
	"context"
	"database/sql"

	"github.com/docket-project/docket/internal/domain"
)

// EndSessions notes sessions that have ended; see ports.EndedSessions.
func (s *Store) EndSessions(ctx context.Context, ended []domain.EndedSession) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for _, e := range ended {
			_, err := tx.Exec(
				`INSERT INTO ended_sessions (id, until) VALUES (?, ?) ON CONFLICT DO NOTHING`, e.ID, micros(e.Until),
			)
			if err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM ended_sessions WHERE until < ?`, s.opts.Now().UnixMicro())
		return err
	})
	return s.checked("end sessions in "+storeFile, err)
}

// EndedSessions lists them; see ports.EndedSessions.
func (s *Store) EndedSessions(ctx context.Context) (out []domain.EndedSession, err error) {
	const list = `SELECT id, until FROM ended_sessions WHERE until >= ? ORDER BY id`
	err = s.each(ctx, list, []any{s.opts.Now().UnixMicro()}, func(rows *sql.Rows) error {
		var e domain.EndedSession
		var until sql.NullInt64
		err := rows.Scan(&e.ID, &until)
		e.Until = instant(until)
		out = append(out, e)
		return err
	})
	return out, s.checked("list ended sessions in "+storeFile, err)
}
