package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// LosesCommits reports that a standby follows, and that no commit waits for one: whatever it lacks when it takes over
// is lost to the store. Whether one follows is seen by any account; who it is needs pg_monitor.
func (s *Store) LosesCommits(ctx context.Context) (loses bool, err error) {
	err = s.change(ctx, "look at the standbys", func(b *pgx.Batch) {
		b.Queue(`SELECT current_setting('synchronous_standby_names') = '' AND EXISTS (SELECT 1 FROM pg_stat_replication)
			OR current_setting('synchronous_commit') = 'local' AND EXISTS (SELECT 1 FROM pg_stat_replication)`).
			QueryRow(func(row pgx.Row) error { return row.Scan(&loses) })
	})
	return loses, err
}
