package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
)

// BeatProcess says that a process lives; see ports.Processes.
func (s *Store) BeatProcess(ctx context.Context, p domain.Process) error {
	return s.change(ctx, "tell of this process", func(b *pgx.Batch) {
		b.Queue(`INSERT INTO processes (name, role, host, started, seen, ready, trouble)
			VALUES ($1::text, $2::text, $3::text, $4::timestamptz, clock_timestamp(), $5::boolean, $6::text)
			ON CONFLICT (name) DO UPDATE SET seen = excluded.seen, ready = excluded.ready, trouble = excluded.trouble`,
			p.Name, p.Role, p.Host, p.Started, p.Ready, sqlstore.EncodeTrouble(p.Trouble))
		b.Queue(`DELETE FROM processes WHERE seen < now() - interval '1 day'`)
	})
}

// LeaveProcess says that a process ends; see ports.Processes.
func (s *Store) LeaveProcess(ctx context.Context, name string) error {
	return s.change(ctx, "take leave", func(b *pgx.Batch) {
		b.Queue(`DELETE FROM processes WHERE name = $1::text`, name)
	})
}

// Processes lists them; see ports.Processes.
func (s *Store) Processes(ctx context.Context) (out []domain.Process, err error) {
	const list = `SELECT name, role, host, started, seen,
		greatest(extract(epoch FROM clock_timestamp() - seen), 0)::float8, ready, trouble
		FROM processes ORDER BY seen DESC LIMIT 1000`
	err = s.query(ctx, "list processes", list, nil, func(rows pgx.Rows) (err error) {
		out, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p domain.Process, err error) {
			var age float64
			var trouble string
			if err := row.Scan(&p.Name, &p.Role, &p.Host, &p.Started, &p.Seen, &age, &p.Ready, &trouble); err != nil {
				return p, err
			}
			p.Started, p.Seen, p.Age = p.Started.UTC(), p.Seen.UTC(), time.Duration(age*float64(time.Second))
			p.Trouble, err = sqlstore.DecodeTrouble(trouble)
			return p, err
		})
		return err
	})
	return out, err
}
