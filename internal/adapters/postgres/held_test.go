package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// recordOn is a record of a tenant with a timestamp.
func recordOn(id, tenant string, at time.Time) domain.Record {
	return domain.Record{
		Topic: "docket.decisions", Key: id, Headers: domain.Headers{Tenant: tenant, ReceivedAt: time.Now().UTC()},
		Value: fmt.Appendf(nil, `{"decision_id":"%s","timestamp":"%s"}`, id, at.UTC().Format(time.RFC3339Nano)),
	}
}

// TestTroubleOfADayOrATenant is no trouble of others: they are stored at once, and the breaker stays closed.
func TestTroubleOfADayOrATenant(t *testing.T) {
	yesterday, lastMonth := time.Now().AddDate(0, 0, -1), time.Now().AddDate(0, 0, -30)
	lock := func(t *testing.T, b *bench) func() {
		conn, err := pgx.Connect(t.Context(), b.server.URL(b.database, ""))
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `BEGIN; LOCK TABLE `+partitionOf(domain.DayOf(yesterday))+` IN ACCESS EXCLUSIVE MODE`)
		require.NoError(t, err)
		return func() { require.NoError(t, conn.Close(context.Background())) }
	}
	for _, c := range []struct {
		name    string
		provoke func(t *testing.T, b *bench) (restore func())
		records func() []domain.Record // beside the fresh ones of tenant t
		key     string
		held    int
		code    string
	}{
		{
			name: "yesterday is locked", provoke: lock, key: domain.DayOf(yesterday).HeldFor(), held: 5, code: "55P03",
			records: func() (out []domain.Record) {
				for i := range 5 {
					out = append(out, recordOn(fmt.Sprint("y-", i), "t", yesterday))
				}
				return out
			},
		}, {
			name: "yesterday is locked, and decisions without a timestamp come", provoke: lock,
			key: domain.DayOf(yesterday).HeldFor(), held: 1, code: "55P03",
			records: func() []domain.Record {
				out := []domain.Record{recordOn("y", "t", yesterday)}
				for i := range 50 {
					r := recordOn(fmt.Sprint("none-", i), "t", yesterday)
					r.Value = []byte(`{"decision_id":"` + r.Key + `"}`)
					out = append(out, r)
				}
				return out
			},
		}, {
			name: "a day of last month cannot be made",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `ALTER SCHEMA public OWNER TO postgres`, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`,
					`REVOKE CREATE ON SCHEMA public FROM docket`)
				return func() { b.exec(t, `ALTER SCHEMA public OWNER TO docket`) }
			},
			records: func() []domain.Record { return []domain.Record{recordOn("old", "t", lastMonth)} },
			key:     domain.DayOf(lastMonth).HeldFor(), held: 1, code: "42501",
		}, {
			name: "a table has the name of a day's partition",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `CREATE TABLE `+partitionOf(domain.DayOf(lastMonth))+` (x int)`)
				return func() { b.exec(t, `DROP TABLE `+partitionOf(domain.DayOf(lastMonth))) }
			},
			records: func() []domain.Record { return []domain.Record{recordOn("old", "t", lastMonth)} },
			key:     domain.DayOf(lastMonth).HeldFor(), held: 1,
		}, {
			name: "row-level security keeps one tenant out",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `ALTER TABLE decisions ENABLE ROW LEVEL SECURITY`, `ALTER TABLE decisions FORCE ROW LEVEL SECURITY`,
					`CREATE POLICY others ON decisions USING (true) WITH CHECK (tenant <> 'kept out')`)
				return func() { b.exec(t, `ALTER TABLE decisions NO FORCE ROW LEVEL SECURITY`) }
			},
			records: func() (out []domain.Record) {
				for i := range 20 {
					out = append(out, recordOn(fmt.Sprint("k-", i), "kept out", time.Now()))
				}
				return out
			},
			key: "tenant:kept out", held: 20, code: "42501",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, postgres(t), nil)
			require.NoError(t, b.store.PrepareDays(t.Context(), domain.DayOf(yesterday), domain.DayOf(yesterday)))
			restore := c.provoke(t, b)
			special := c.records()
			batch := append(records(500, nil), special...)
			for range 2 { // the second time it is known
				began := time.Now()
				o := b.save(t, batch)
				require.Equal(t, map[string]int{c.key: c.held}, o.held, "%v", o.err)
				require.Equal(t, len(batch)-c.held, o.statuses[domain.Saved]+o.statuses[domain.Duplicate], "%v", o.err)
				if c.code != "" {
					require.Contains(t, o.codes, c.code)
				}
				t.Logf("a batch took %s", time.Since(began).Round(time.Millisecond))
			}
			require.Len(t, b.writer.Troubles(), 1)
			restore()
			b.use(t, b.store) // as a process that knows nothing of it, which is what a minute would come to
			o := b.save(t, batch)
			require.Equal(t, len(batch), o.statuses[domain.Saved]+o.statuses[domain.Duplicate], "%v", o.err)
		})
	}
}
