package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// BeatProcess says that a process lives; see ports.Processes.
func (s *Store) BeatProcess(ctx context.Context, p domain.Process) error {
	now := s.opts.Now()
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(
			`INSERT INTO processes (name, role, host, started, seen, ready, trouble) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET seen = excluded.seen, ready = excluded.ready, trouble = excluded.trouble`,
			p.Name, p.Role, p.Host, p.Started.UnixMicro(), now.UnixMicro(), p.Ready, sqlstore.EncodeTrouble(p.Trouble),
		)
		if err == nil {
			_, err = tx.Exec(`DELETE FROM processes WHERE seen < ?`, now.Add(-24*time.Hour).UnixMicro())
		}
		return err
	})
	return s.checked("tell of this process in "+storeFile, err)
}

// LeaveProcess says that a process ends; see ports.Processes.
func (s *Store) LeaveProcess(ctx context.Context, name string) error {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM processes WHERE name = ?`, name)
		return err
	})
	return s.checked("take leave in "+storeFile, err)
}

// Processes lists them; see ports.Processes.
func (s *Store) Processes(ctx context.Context) (out []domain.Process, err error) {
	now := s.opts.Now()
	const list = `SELECT name, role, host, started, seen, ready, trouble FROM processes ORDER BY seen DESC LIMIT 1000`
	err = s.each(ctx, list, nil, func(rows *sql.Rows) error {
		var p domain.Process
		var started, seen int64
		var trouble string
		if err := rows.Scan(&p.Name, &p.Role, &p.Host, &started, &seen, &p.Ready, &trouble); err != nil {
			return err
		}
		p.Started, p.Seen = instantOf(started), instantOf(seen)
		p.Age = max(now.Sub(p.Seen), 0)
		var err error
		p.Trouble, err = sqlstore.DecodeTrouble(trouble)
		out = append(out, p)
		return err
	})
	return out, s.checked("list processes in "+storeFile, err)
}
