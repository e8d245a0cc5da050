package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func TestDays(t *testing.T) {
	for _, c := range []struct {
		at   time.Time
		name string
	}{
		{time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), "decisions_20261122"},
		{time.Date(2026, 11, 22, 23, 59, 59, 999999999, time.UTC), "decisions_20261122"},
		{time.Date(2026, 11, 23, 0, 59, 0, 0, time.FixedZone("", 3600)), "decisions_20261122"},
		{time.Date(1969, 12, 31, 23, 0, 0, 0, time.UTC), "decisions_19691231"},
		{time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), "decisions_19700101"},
	} {
		d := domain.DayOf(c.at)
		require.Equal(t, c.name, partitionOf(d))
		back, ok := dayOfPartition(c.name)
		require.True(t, ok)
		require.Equal(t, d, back)
	}
	for _, name := range []string{"decisions_default", "decisions_2026112", "decisions_20269999", "x_decisions_20261122"} {
		_, ok := dayOfPartition(name)
		require.False(t, ok, name)
	}
}

func partitions(t *testing.T, url string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(
		t.Context(),
		`SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'decisions'::regclass ORDER BY 1`,
	)
	require.NoError(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return names
}

func TestPartitionsComeAndGo(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	s := newStore(t, p.URL(database, ""), func(o *Options) { o.Now = func() time.Time { return now } })
	require.Equal(
		t, []string{"decisions_20261122", "decisions_20261123", "decisions_20261124"}, partitions(t, p.URL(database, "")),
		"ahead",
	)

	row := func(id string, at time.Time) domain.Decision {
		return domain.Decision{
			Tenant: "t", ID: id, Timestamp: at, ReceivedAt: now, Outcome: domain.OutcomeAllowed, Event: probeEvent,
			SHA256: sha256.Sum256(probeEvent),
		}
	}
	old := domain.DayOf(now) - 80
	statuses, err := s.SaveBatch(
		t.Context(),
		[]domain.Decision{row("old", old.Start()), row("new", now), row("none", time.Time{})},
	)
	require.NoError(t, err)
	require.Equal(t, []domain.SaveStatus{domain.Saved, domain.Saved, domain.Saved}, statuses)
	require.Contains(t, partitions(t, p.URL(database, "")), partitionOf(old), "on demand")
	require.NoError(
		t,
		p.Exec(
			database,
			`CREATE TABLE decisions_archive PARTITION OF decisions FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')`,
		),
	)
	days, err := s.Days(t.Context())
	require.NoError(t, err)
	require.Equal(
		t, []domain.Day{old, domain.DayOf(now), domain.DayOf(now) + 1, domain.DayOf(now) + 2}, days,
		"and not what docket has not made",
	)

	dropped, err := s.DropDay(t.Context(), old, 0)
	require.NoError(t, err)
	require.True(t, dropped)
	require.NotContains(t, partitions(t, p.URL(database, "")), partitionOf(old))
	found, err := s.Decisions(t.Context(), domain.AllTenants(), "new")
	require.NoError(t, err)
	require.Len(t, found, 1)
	found, err = s.Decisions(t.Context(), domain.AllTenants(), "old")
	require.NoError(t, err)
	require.Empty(t, found)
	other := newStore(t, p.URL(database, ""), func(o *Options) { o.Now = func() time.Time { return now } })
	for name, s := range map[string]*Store{"who dropped it": s, "another process": other} {
		statuses, err = s.SaveBatch(t.Context(), []domain.Decision{row("old again", old.Start()), row("new "+name, now)})
		require.NoError(t, err)
		require.Equal(t, []domain.SaveStatus{domain.TooOld, domain.Saved}, statuses, "a dropped day is gone: %s", name)
	}
	require.NotContains(t, partitions(t, p.URL(database, "")), partitionOf(old))
	old++
	statuses, err = s.SaveBatch(t.Context(), []domain.Decision{row("old", old.Start())})
	require.NoError(t, err)
	require.Equal(t, []domain.SaveStatus{domain.Saved}, statuses)

	release := lockTable(t, p, database)
	start := time.Now()
	_, err = s.DropDay(t.Context(), old, 0)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	require.Less(t, time.Since(start), 3*time.Second, "a lock is not waited for")
	release()

	require.NoError(
		t,
		s.RecordOPAs(t.Context(), []domain.Observation{{Tenant: "t", OPA: "gone", First: now, Last: now, Uploads: 1}}),
	)
	require.NoError(t, s.DropReceivedBefore(t.Context(), now))
	opas, err := s.OPAs(t.Context(), domain.AllTenants())
	require.NoError(t, err)
	require.Len(t, opas, 1)
	require.NoError(t, s.DropReceivedBefore(t.Context(), now.Add(time.Second)))
	found, err = s.Decisions(t.Context(), domain.AllTenants(), "none")
	require.NoError(t, err)
	require.Empty(t, found, "by receipt, where there is no timestamp")
	opas, err = s.OPAs(t.Context(), domain.AllTenants())
	require.NoError(t, err)
	require.Empty(t, opas)
}

// TestManyAtOnce has several processes migrate, make the same days and save the same rows at once.
func TestManyAtOnce(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	now := time.Now().UTC().Truncate(time.Microsecond)
	var batch []domain.Decision
	for n := range 200 {
		batch = append(batch, domain.Decision{
			Tenant: "t", ID: fmt.Sprintf("id-%d", n), Timestamp: now.Add(-time.Duration(n) * 6 * time.Hour), ReceivedAt: now,
			Outcome: domain.OutcomeAllowed, Event: []byte("{}"),
		})
	}
	var mu sync.Mutex
	saved := 0
	var wg sync.WaitGroup
	for range 4 {
		s, err := Open(Options{URL: p.URL(database, ""), Window: testWindow, Log: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(s.Close)
		wg.Go(func() {
			assert.NoError(t, s.Migrate(t.Context()))
			statuses, err := s.SaveBatch(t.Context(), batch)
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			for _, status := range statuses {
				if status == domain.Saved {
					saved++
				} else {
					assert.Equal(t, domain.Duplicate, status)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, len(batch), saved, "each once, whoever did it")
}

func TestSchemaIsChecked(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	s, err := Open(Options{URL: p.URL(database, ""), Window: testWindow, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer s.Close()
	err = s.CheckSchema(t.Context())
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "docket migrate")
	require.NoError(t, p.Exec(database, `CREATE TABLE untouched ()`), "looking creates nothing")
	require.NoError(t, p.Exec(database, `CREATE TABLE goose_db_version (id int, version_id bigint, is_applied boolean)`,
		`INSERT INTO goose_db_version VALUES (1, 99, true)`), "another program's")
	require.ErrorContains(t, s.CheckSchema(t.Context()), "docket migrate")
	require.NoError(t, s.Migrate(t.Context()))
	require.NoError(t, s.CheckSchema(t.Context()))
	require.NoError(t, p.Exec(database, `INSERT INTO docket_schema_versions (version_id, is_applied) VALUES (99, true)`))
	for name, err := range map[string]error{"check": s.CheckSchema(t.Context()), "migrate": s.Migrate(t.Context())} {
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err), name)
		require.ErrorContains(t, err, "schema 99, of a newer docket", name)
	}
}

// TestPasswordsStayOutOfMessages has passwords as people paste them.
func TestPasswordsStayOutOfMessages(t *testing.T) {
	for _, url := range []string{
		"postgres://u:s3cr3t@h1dd3n#w/rd%@127.0.0.1:1/db", "postgres://u:s3cr3t@h1dd3n/x#y@127.0.0.1:1/db",
		"postgres://u:s3cr3t#h1dd3n%@127.0.0.1:1/db", "postgres://u:s3cr3t h1dd3n@127.0.0.1:1/db",
		"postgres://u:s3cr3t%zzh1dd3n@127.0.0.1:1/db", "postgres://u:s3cr3t:h1dd3n/x@127.0.0.1:x/db",
		"host=127.0.0.1 password='s3cr3t h1dd3n port=1", "postgres://u:s3cr3th1dd3n@127.0.0.1:port/db",
		"host=127.0.0.1 port=1 password=s3cr3t%h1dd3n sslmode=wrong", "postgres://u:s3cr3th1dd3n@127.0.0.1:1/db",
		"host=127.0.0.1 port=1 password=s3cr3t h1dd3n",
	} {
		s, err := Open(Options{URL: url, Window: testWindow, Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			err = s.CheckSchema(ctx)
			cancel()
			s.Close()
		}
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "s3cr3t", url)
		require.NotContains(t, err.Error(), "h1dd3n", url)
	}
	s, err := Open(Options{URL: "postgres://u:x@127.0.0.1:1/db?application_name=docket@blue", Window: testWindow})
	require.NoError(t, err, "a parameter may have one")
	s.Close()
	_, err = Open(Options{URL: "postgres://u:x@127.0.0.1/db?sslmode=verify-ca&sslrootcert=/no/such/file"})
	require.ErrorContains(t, err, "/no/such/file")
}
