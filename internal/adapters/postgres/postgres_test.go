package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/ports/porttest"
	"github.com/docket-project/docket/internal/testserver"
)

// server is the PostgreSQL that this package's tests share, each with a database of its own.
var server = sync.OnceValues(func() (*testserver.Postgres, error) {
	return testserver.StartPostgres("", "fsync=off", "max_connections=60")
})

func TestMain(m *testing.M) {
	code := m.Run()
	if p, err := server(); err == nil {
		if err := p.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func postgres(t testing.TB) *testserver.Postgres {
	t.Helper()
	p, err := server()
	testserver.Need(t, err)
	return p
}

// newDatabase makes an empty one.
func newDatabase(t testing.TB, p *testserver.Postgres) string {
	t.Helper()
	name := fmt.Sprintf("t%d", rand.Uint64())
	require.NoError(t, p.Exec("postgres", "CREATE DATABASE "+name))
	t.Cleanup(func() { _ = p.Exec("postgres", "DROP DATABASE "+name+" WITH (FORCE)") })
	return name
}

// decision is a row of this moment's.
func decision(id string, at time.Time, event string) domain.Decision {
	return domain.Decision{
		Tenant: "t", ID: id, Timestamp: at.UTC().Truncate(time.Microsecond), ReceivedAt: time.Now(),
		Outcome: domain.OutcomeAllowed, Event: []byte(event), SHA256: sha256.Sum256([]byte(event)),
	}
}

var testWindow = domain.Window{Retention: 90 * 24 * time.Hour, Ahead: domain.DefaultAhead}

// newStore opens a migrated store; edit may be nil.
func newStore(t testing.TB, url string, edit func(*Options)) *Store {
	t.Helper()
	opts := Options{URL: url, Window: testWindow, Log: slog.New(slog.DiscardHandler)}
	if edit != nil {
		edit(&opts)
	}
	s, err := Open(opts)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	err = s.Migrate(t.Context())
	for range 4 { // a busy machine may take longer to connect than the 3 s that docket waits
		if domain.ClassOf(err) == domain.Unavailable {
			err = s.Migrate(t.Context())
		}
	}
	require.NoError(t, err)
	return s
}

// storeHarness runs the suite on databases that are reached by url; faults go to the server directly.
func storeHarness(p *testserver.Postgres, url func(database string) string) func(t *testing.T) *porttest.StoreHarness {
	return func(t *testing.T) *porttest.StoreHarness {
		database := newDatabase(t, p)
		h := &porttest.StoreHarness{Window: testWindow, Now: time.Now()}
		var s *Store
		open := func(t *testing.T) (ports.Decisions, ports.Control) {
			s = newStore(t, url(database), func(o *Options) {
				o.Now, o.JSON, o.SearchTime = func() time.Time { return h.Now }, h.JSON, h.SearchTime
			})
			return s, s
		}
		h.Decisions, h.Control = open(t)
		h.Reopen = func(t *testing.T) (ports.Decisions, ports.Control) {
			s.Close()
			return open(t)
		}
		exec := func(t *testing.T, statements ...string) { require.NoError(t, p.Exec(database, statements...)) }
		h.Exec = exec
		h.WrongDictionary = `ALTER TABLE dictionaries DROP CONSTRAINT dictionaries_check;
			UPDATE dictionaries SET bytes = bytes || 'x'`
		h.EventBytes = func(t *testing.T, id string) (n int) {
			const kept = `SELECT coalesce(octet_length(packed), octet_length(event::text)) FROM `
			err := s.read.QueryRow(t.Context(), kept+`decisions WHERE decision_id = $1 UNION ALL `+kept+
				`decisions_out_of_window WHERE decision_id = $1`, id).Scan(&n)
			require.NoError(t, err)
			return n
		}
		h.Poison = func(t *testing.T, id string, class domain.Class) {
			if class == domain.Invalid {
				exec(t, `ALTER TABLE decisions ADD CONSTRAINT refused CHECK (decision_id <> '`+id+`')`)
				return
			}
			exec(
				t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$`,
				`CREATE TRIGGER refuse BEFORE INSERT ON decisions FOR EACH ROW WHEN (NEW.decision_id = '`+id+`') EXECUTE FUNCTION refuse()`,
			)
		}
		h.Skip = func(t *testing.T, id string) func() {
			const skip = `CREATE TRIGGER skip BEFORE INSERT ON %s FOR EACH ROW WHEN (NEW.decision_id = '%s')
				EXECUTE FUNCTION skip()`
			exec(t, `CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`,
				fmt.Sprintf(skip, "decisions", id), fmt.Sprintf(skip, "decisions_out_of_window", id))
			return func() { exec(t, `DROP FUNCTION skip() CASCADE`) }
		}
		h.Break = func(t *testing.T, class domain.Class) func() {
			if class == domain.Misconfigured {
				exec(t, `ALTER TABLE decisions RENAME COLUMN path TO paths`)
				return func() { exec(t, `ALTER TABLE decisions RENAME COLUMN paths TO path`) }
			}
			return lockTable(t, p, database)
		}
		h.Tamper = func(t *testing.T) {
			for _, text := range []string{`UPDATE audit SET caller = 'nobody'`, `DELETE FROM audit`, `TRUNCATE audit`} {
				require.ErrorContains(t, p.Exec(database, text), "append-only", text)
			}
		}
		return h
	}
}

// lockTable keeps everybody from decisions until the returned func is called.
func lockTable(t *testing.T, p *testserver.Postgres, database string) (unlock func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL(database, ""))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `BEGIN; LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	return func() { require.NoError(t, conn.Close(context.Background())) }
}

func TestStoreConformance(t *testing.T) {
	t.Parallel() // it waits most of the time
	p := postgres(t)
	harness := storeHarness(p, func(database string) string { return p.URL(database, "") })
	t.Run("decisions", func(t *testing.T) { porttest.Decisions(t, harness) })
	t.Run("control", func(t *testing.T) { porttest.Control(t, harness) })
}

func TestStoreConformanceThroughPgBouncer(t *testing.T) {
	t.Parallel() // it waits most of the time
	p := postgres(t)
	b, err := testserver.StartPgBouncer(p)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	harness := storeHarness(p, func(database string) string { return b.URL(database) })
	t.Run("decisions", func(t *testing.T) { porttest.Decisions(t, harness) })
	t.Run("control", func(t *testing.T) { porttest.Control(t, harness) })
}

// TestClocksOfTwoSavers differ by two seconds while both save the same decisions from the border of the window: each is
// in one of the tables.
func TestClocksOfTwoSavers(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	stores := []*Store{
		newStore(t, p.URL(database, ""), nil),
		newStore(t, p.URL(database, ""), func(o *Options) {
			o.Now = func() time.Time { return time.Now().Add(2 * time.Second) }
		}),
	}
	for round := range 20 {
		now := time.Now()
		var rows []domain.Decision
		for i := range 100 {
			d := decision(fmt.Sprintf("t-%d-%d", round, i), now.Add(testWindow.Ahead+time.Second), "{}")
			d.LoggedAt = now
			rows = append(rows, d)
		}
		var savers sync.WaitGroup
		errs := make(chan error, len(stores))
		for _, s := range stores {
			savers.Go(func() {
				_, err := s.SaveBatch(context.Background(), rows)
				errs <- err
			})
		}
		savers.Wait()
		for range stores {
			require.NoError(t, <-errs)
		}
	}
	require.NoError(t, p.Exec(database, `DO $$ BEGIN
		ASSERT (SELECT count(*) FROM decisions) = 0, 'a row is inside';
		ASSERT (SELECT count(*) FROM decisions_out_of_window) = 2000, 'not each row once'; END $$`))
}
