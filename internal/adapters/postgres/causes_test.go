package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/sink"
	"github.com/docket-project/docket/internal/testserver"
)

// bench is a server, a database that an account without special rights owns, and a saver's writer in front of the
// store.
type bench struct {
	server   *testserver.Postgres
	database string
	store    *Store
	writer   *sink.Writer
}

func newBench(t testing.TB, server *testserver.Postgres, edit func(*Options)) *bench {
	t.Helper()
	b := &bench{server: server, database: newDatabase(t, server)}
	_ = server.Exec("postgres", `CREATE ROLE docket LOGIN`) // once for the server
	require.NoError(t, server.Exec("postgres", `ALTER DATABASE `+b.database+` OWNER TO docket`))
	require.NoError(t, server.Exec(b.database, `ALTER SCHEMA public OWNER TO docket`))
	b.store = newStore(t, server.URL(b.database, "docket"), func(o *Options) {
		o.JSON = true // the faults of these tests look into events
		if edit != nil {
			edit(o)
		}
	})
	b.use(t, b.store)
	return b
}

// use puts a writer in front of a store; each has a breaker of its own.
func (b *bench) use(t testing.TB, s *Store) {
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	breaker := sink.NewBreaker(s, nil, slog.New(slog.DiscardHandler))
	b.writer = sink.NewWriter(s, breaker, sink.Concurrency{Ceiling: 4}, p, nil, noop.NewTracerProvider().Tracer(""), nil)
}

func (b *bench) exec(t *testing.T, statements ...string) {
	t.Helper()
	require.NoError(t, b.server.Exec(b.database, statements...))
}

// outcome of saving records, by what became of them.
type outcome struct {
	statuses map[domain.SaveStatus]int
	classes  map[domain.Class]int
	rejected []string // Invalid or Unknown
	held     map[string]int
	codes    map[string]bool
	err      error
}

func (b *bench) save(t *testing.T, records []domain.Record) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // what a handler has
	defer cancel()
	o := outcome{statuses: map[domain.SaveStatus]int{}, classes: map[domain.Class]int{}, codes: map[string]bool{},
		held: map[string]int{}}
	for i, v := range b.writer.Save(ctx, records) {
		if v.Err == nil {
			o.statuses[v.Status]++
			continue
		}
		o.err = v.Err
		if v.HeldFor != "" {
			o.held[v.HeldFor]++
		}
		o.classes[domain.ClassOf(v.Err)]++
		o.codes[domain.CodeOf(v.Err)] = true
		if c := domain.ClassOf(v.Err); c == domain.Invalid || c == domain.Unknown {
			o.rejected = append(o.rejected, records[i].Key)
		}
	}
	return o
}

// eventOf is an event that a case makes special; others are alike.
func records(n int, special map[int]string) []domain.Record {
	now := time.Now().UTC()
	var out []domain.Record
	for i := range n {
		id := fmt.Sprintf("id-%d", i)
		extra := ""
		if s, ok := special[i]; ok {
			extra = `,"special":"` + s + `"`
		}
		out = append(out, domain.Record{
			Topic: "docket.decisions", Offset: int64(i), Key: id, Headers: domain.Headers{Tenant: "t", ReceivedAt: now},
			Value: fmt.Appendf(nil, `{"decision_id":"%s","timestamp":"%s"%s}`, id, now.Format(time.RFC3339Nano), extra),
		})
	}
	return out
}

func incompressible(n int) string {
	b := make([]byte, n/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// TestCauses provokes faults on a real server, and shows which class each gets and which rows are rejected.
func TestCauses(t *testing.T) {
	const refuse = `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.event::text LIKE '%faulty%' THEN %s; END IF; RETURN NEW; END $$`
	const trigger = `CREATE TRIGGER refuse BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION refuse()`
	faulty := map[int]string{137: "faulty", 861: "faulty"}
	for _, c := range []struct {
		name    string
		options func(*Options)
		special map[int]string // the rows to reject, unless ends names them
		ends    []string
		// provoke begins it; restore ends it, and is nil where it stays.
		provoke func(t *testing.T, b *bench) (restore func())
		class   domain.Class
		code    string
	}{
		{
			name: "an ACCESS EXCLUSIVE lock", class: domain.Unavailable, code: "55P03",
			provoke: func(t *testing.T, b *bench) func() { return lockTable(t, b.server, b.database) },
		}, {
			name: "a database that is read only by default", class: domain.Unavailable, code: "", // noticed on connecting

			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `ALTER DATABASE `+b.database+` SET default_transaction_read_only = on`)
				b.store.write.Reset()
				return func() {
					conn, err := pgx.Connect(t.Context(), b.server.URL("postgres", ""))
					require.NoError(t, err)
					defer conn.Close(t.Context())
					_, err = conn.Exec(t.Context(), `ALTER DATABASE `+b.database+` RESET default_transaction_read_only`)
					require.NoError(t, err)
				}
			},
		}, {
			name: "a standby's setting in the session", class: domain.Unavailable, code: "25006",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `CREATE FUNCTION ro() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET LOCAL transaction_read_only = on; INSERT INTO opas VALUES ('x', 'x', '', NULL, NULL, '0', 0, 0, NULL, NULL); RETURN NEW; END $$`,
					`CREATE TRIGGER ro BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION ro()`)
				return func() { b.exec(t, `DROP TRIGGER ro ON decisions`) }
			},
		}, {
			name: "no right to insert", class: domain.Misconfigured, code: "42501",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `REVOKE INSERT ON decisions FROM docket`)
				return func() { b.exec(t, `GRANT INSERT ON decisions TO docket`) }
			},
		}, {
			name: "a column that was dropped", class: domain.Misconfigured, code: "42703",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `ALTER TABLE decisions DROP COLUMN resource`)
				return func() { b.exec(t, `ALTER TABLE decisions ADD COLUMN resource text COLLATE "C"`) }
			},
		}, {
			name: "a table that was dropped", class: domain.Misconfigured, code: "42P01",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `ALTER TABLE decisions_out_of_window RENAME TO gone`)
				return func() { b.exec(t, `ALTER TABLE gone RENAME TO decisions_out_of_window`) }
			},
		}, {
			name: "a role that may not log in", class: domain.Misconfigured, code: "28000",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `ALTER ROLE docket NOLOGIN`)
				b.store.write.Reset()
				return func() { b.exec(t, `ALTER ROLE docket LOGIN`) }
			},
		}, {
			name: "a missing partition and no right to make it", class: domain.Misconfigured, code: "42501",
			provoke: func(t *testing.T, b *bench) func() {
				today := partitionOf(domain.DayOf(time.Now()))
				b.exec(t, `DROP TABLE `+today, `ALTER SCHEMA public OWNER TO postgres`,
					`REVOKE CREATE ON SCHEMA public FROM PUBLIC`, `REVOKE CREATE ON SCHEMA public FROM docket`)
				return func() { b.exec(t, `ALTER SCHEMA public OWNER TO docket`) }
			},
		}, {
			name: "a missing partition that can be made", class: "",
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `DROP TABLE `+partitionOf(domain.DayOf(time.Now())))
				return nil
			},
		}, {
			name: "a statement timeout that nothing keeps", class: domain.Unavailable, code: "57014",
			provoke: func(t *testing.T, b *bench) func() {
				tiny, err := Open(Options{URL: b.server.URL(b.database, "docket"), Window: testWindow,
					Log: slog.New(slog.DiscardHandler), StatementTimeout: time.Millisecond})
				require.NoError(t, err)
				t.Cleanup(tiny.Close)
				b.exec(t, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NEW; END $$`,
					`CREATE TRIGGER slow BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION slow()`)
				b.use(t, tiny)
				return func() {
					b.exec(t, `DROP TRIGGER slow ON decisions`)
					b.use(t, b.store)
				}
			},
		}, {
			name: "one row in a thousand that takes too long", class: domain.Unknown, code: "57014",
			special: map[int]string{500: "faulty"},
			options: func(o *Options) { o.StatementTimeout = 500 * time.Millisecond },
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, strings.Replace(refuse, "%s", "PERFORM pg_sleep(5)", 1), trigger)
				return nil
			},
		}, {
			name: "a CHECK constraint that refuses one row in a thousand", class: domain.Invalid, code: "23514",
			special: map[int]string{500: "faulty"},
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `ALTER TABLE decisions ADD CONSTRAINT innocent CHECK (event::text NOT LIKE '%faulty%')`)
				return nil
			},
		}, {
			name: "a trigger that raises for two rows in a thousand", class: domain.Unknown, code: "P0001", special: faulty,
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, strings.Replace(refuse, "%s", "RAISE 'refused'", 1), trigger)
				return nil
			},
		}, {
			name: "a NOT NULL column that a trigger empties", class: domain.Invalid, code: "23502", special: faulty,
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, strings.Replace(refuse, "%s", "NEW.outcome := NULL", 1), trigger)
				return nil
			},
		}, {
			name: "a trigger that skips two rows in a thousand", class: domain.Unknown, code: "ROW_SKIPPED", special: faulty,
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, strings.Replace(refuse, "%s", "RETURN NULL", 1), trigger)
				return nil
			},
		}, {
			name: "a trigger that changes two keys in a thousand", class: domain.Unknown, code: "ROW_SKIPPED", special: faulty,
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, strings.Replace(refuse, "%s", "NEW.tenant := 'another'", 1), trigger)
				return nil
			},
		}, {
			name: "another unique index", class: domain.Unknown, code: "ROW_SKIPPED",
			special: map[int]string{1: "once", 861: "once"}, ends: []string{"id-861"},
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `CREATE UNIQUE INDEX once ON `+partitionOf(domain.DayOf(time.Now()))+` ((event ->> 'special'))`)
				return nil
			},
		}, {
			name: "an index row that is too large", class: domain.Invalid, code: "54000",
			special: map[int]string{3: incompressible(20_000)},
			provoke: func(t *testing.T, b *bench) func() {
				b.exec(t, `CREATE INDEX large ON decisions ((event ->> 'special'))`)
				return nil
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, postgres(t), c.options)
			batch := records(1000, c.special)
			restore := c.provoke(t, b)
			o := b.save(t, batch)
			var want []string
			if c.class == domain.Invalid || c.class == domain.Unknown {
				want = c.ends
				for i := range batch {
					if _, ok := c.special[i]; ok && c.ends == nil {
						want = append(want, batch[i].Key)
					}
				}
			}
			require.Equal(t, want, o.rejected, "the bad rows and no others: %v", o.err)
			switch {
			case c.class == "":
				require.Equal(t, 1000, o.statuses[domain.Saved], "%v", o.err)
			case want != nil:
				require.Equal(t, map[domain.Class]int{c.class: len(want)}, o.classes)
				require.Equal(t, 1000-len(want), o.statuses[domain.Saved])
			default:
				require.Equal(t, map[domain.Class]int{c.class: 1000}, o.classes, "an outage rejects no row: %v", o.err)
			}
			if c.class != "" {
				require.Contains(t, o.codes, c.code, "%v", o.err)
				require.NotContains(t, o.err.Error(), "faulty", "messages are free of row contents")
			}
			if restore == nil {
				return
			}
			restore()
			recovered(t, b, batch)
		})
	}
}

// recovered waits for the breaker and saves everything.
func recovered(t *testing.T, b *bench, batch []domain.Record) {
	t.Helper()
	require.Eventually(t, func() bool {
		o := b.save(t, batch)
		return o.statuses[domain.Saved]+o.statuses[domain.Duplicate] == len(batch)
	}, 30*time.Second, 100*time.Millisecond, "once it is over, everything is stored")
}

// ownServer is for what a server does not survive, or not in time.
func ownServer(t *testing.T, dir string, settings ...string) *testserver.Postgres {
	t.Helper()
	p, err := testserver.StartPostgres(dir, settings...)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// unavailable requires that an outage has rejected no row.
func unavailable(t *testing.T, o outcome, n int) {
	t.Helper()
	require.Empty(t, o.rejected, "%v", o.err)
	require.Equal(t, map[domain.Class]int{domain.Unavailable: n}, o.classes, "%v", o.err)
}

// inCommit runs a save whose COMMIT waits for a replica that does not exist, calls act then, and returns what became of
// it.
func inCommit(t *testing.T, b *bench, batch []domain.Record, act func(backend int)) outcome {
	t.Helper()
	require.NoError(
		t,
		b.server.Exec(
			"postgres", `ALTER SYSTEM SET synchronous_standby_names = 'nobody'`, `SELECT pg_reload_conf()`,
			`SELECT pg_sleep(0.2)`,
		),
	)
	done := make(chan outcome, 1)
	go func() { done <- b.save(t, batch) }()
	conn, err := pgx.Connect(t.Context(), b.server.URL("postgres", ""))
	require.NoError(t, err)
	backend := 0
	require.Eventually(t, func() bool {
		return conn.QueryRow(t.Context(), `SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).Scan(
			&backend,
		) == nil
	}, 5*time.Second, 10*time.Millisecond, "the commit waits")
	_, err = conn.Exec(t.Context(), `ALTER SYSTEM RESET synchronous_standby_names`)
	require.NoError(t, err)
	act(backend)
	_ = conn.Close(t.Context())
	return <-done
}

func TestCrashInMidCommit(t *testing.T) {
	p := ownServer(t, "")
	b := newBench(t, p, nil)
	batch := records(100, nil)
	o := inCommit(t, b, batch, func(int) { require.NoError(t, p.Stop(true)) })
	unavailable(t, o, len(batch))
	require.NoError(t, p.Start())
	recovered(t, b, batch)
	require.Equal(t, map[domain.SaveStatus]int{domain.Duplicate: 100}, b.save(t, batch).statuses, "each once")
}

func TestKilledBackend(t *testing.T) {
	p := ownServer(t, "")
	b := newBench(t, p, nil)
	batch := records(100, nil)
	o := inCommit(t, b, batch, func(backend int) {
		require.NoError(t, p.Exec("postgres", fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, backend)))
	})
	// The server says that it has committed and cannot say that others have: the rows are there, or are stored anew.
	require.Empty(t, o.rejected, "%v", o.err)
	require.NoError(t, p.Exec("postgres", `SELECT pg_reload_conf()`))
	recovered(t, b, batch)
}

func TestServerThatHangs(t *testing.T) {
	p := ownServer(t, "")
	b := newBench(t, p, func(o *Options) { o.StatementTimeout = time.Second })
	batch := records(100, nil)
	require.Equal(t, 100, b.save(t, batch).statuses[domain.Saved])
	require.NoError(t, p.Pause())
	start := time.Now()
	unavailable(t, b.save(t, records(200, nil)), 200)
	require.Less(t, time.Since(start), 5*time.Second, "a connection that was there: the statement's time and a second")
	require.EventuallyWithT(t, func(c *assert.CollectT) { // a new one: the connection's three seconds
		start = time.Now()
		o := b.save(t, batch)
		require.True(
			c, o.codes["ACQUIRE_TIMEOUT"] || strings.Contains(fmt.Sprint(o.err), "connect"), "%v %v", o.codes, o.err,
		)
	}, 20*time.Second, 100*time.Millisecond)
	require.Less(t, time.Since(start), 4*time.Second)
	p.Resume()
	recovered(t, b, records(200, nil))
}

// TestOutageBehindAPooler has a pooler that is there while its server is not.
func TestOutageBehindAPooler(t *testing.T) {
	t.Parallel() // it waits most of the time
	p := ownServer(t, "")
	pooler, err := testserver.StartPgBouncer(p)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, pooler.Close()) })
	b := newBench(t, p, nil)
	s := newStore(t, pooler.URL(b.database), nil)
	b.use(t, s)
	require.Equal(t, 100, b.save(t, records(100, nil)).statuses[domain.Saved])
	require.NoError(t, p.Stop(true))
	unavailable(t, b.save(t, records(200, nil)), 200)
	err = s.CheckSchema(t.Context())
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
	require.NoError(t, p.Start())
	recovered(t, b, records(200, nil)) // the pooler itself waits 15 s after a failed login
	wrong, err := Open(
		Options{URL: pooler.URL(b.database, "search_path=x"), Window: testWindow, Log: slog.New(slog.DiscardHandler)},
	)
	require.NoError(t, err)
	defer wrong.Close()
	err = wrong.CheckSchema(t.Context())
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "what its settings do not allow: %v", err)
}

// TestProbeOfALockedTable has a probe that says why it failed, before whoever asked gives it up after a second.
func TestProbeOfALockedTable(t *testing.T) {
	p := postgres(t)
	database := newDatabase(t, p)
	s := newStore(t, p.URL(database, ""), nil)
	require.NoError(t, s.Probe(t.Context()))
	defer lockTable(t, p, database)()
	err := s.Probe(t.Context())
	require.Equal(t, "55P03", domain.CodeOf(err), "%v", err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = s.Probe(ctx)
	require.Equal(t, "55P03", domain.CodeOf(err), "%v", err)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err))
}

func TestTooManyConnections(t *testing.T) {
	p := ownServer(t, "", "max_connections=10", "superuser_reserved_connections=3")
	b := newBench(t, p, nil)
	b.store.write.Reset()
	var taken []*pgx.Conn
	for {
		conn, err := pgx.Connect(t.Context(), p.URL(b.database, "docket"))
		if err != nil {
			break
		}
		taken = append(taken, conn)
	}
	o := b.save(t, records(100, nil))
	unavailable(t, o, 100)
	require.Contains(t, o.codes, "53300")
	for _, conn := range taken {
		require.NoError(t, conn.Close(t.Context()))
	}
	recovered(t, b, records(100, nil))
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			require.Fail(t, "mounting a tmpfs needs root")
		}
		t.Skip("mounting a tmpfs needs root")
	}
	mount := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(mount), 0o755))
	require.NoError(t, syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=160m,mode=0755"))
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	p := ownServer(t, filepath.Join(mount, "pg"), "max_wal_size=32MB", "wal_recycle=off")
	b := newBench(t, p, nil)
	require.Equal(t, 100, b.save(t, records(100, nil)).statuses[domain.Saved])
	ballast := filepath.Join(mount, "ballast")
	require.NoError(t, fillDisk(ballast))
	large := map[int]string{}
	for i := range 500 {
		large[i] = incompressible(20_000)
	}
	o := b.save(t, records(500, large))
	require.Empty(t, o.rejected, "%v", o.err)
	require.Equal(t, domain.Unavailable, domain.ClassOf(o.err), "%v", o.err)
	require.NoError(t, os.Remove(ballast))
	_ = p.Stop(true) // where the log of transactions was what had no room, the server has ended itself
	require.NoError(t, p.Start())
	recovered(t, b, records(500, nil))
}

// fillDisk writes a file until nothing is left.
func fillDisk(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for chunk := bytes.Repeat([]byte{1}, 1<<20); len(chunk) > 0; {
		if _, err := f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	return nil
}

func TestClosed(t *testing.T) {
	b := newBench(t, postgres(t), nil)
	b.store.Close()
	_, err := b.store.SaveBatch(
		t.Context(),
		[]domain.Decision{{Tenant: "t", ID: "x", ReceivedAt: time.Now(), Event: []byte("{}")}},
	)
	require.Equal(t, domain.Canceled, domain.ClassOf(err), "%v", err)
}

func TestNobodyListens(t *testing.T) {
	port, err := testserver.FreePort()
	require.NoError(t, err)
	s, err := Open(
		Options{
			URL: fmt.Sprintf("postgres://x@127.0.0.1:%d/x", port), Window: testWindow, Log: slog.New(slog.DiscardHandler),
		},
	)
	require.NoError(t, err)
	defer s.Close()
	for name, err := range map[string]error{
		"probe": s.Probe(t.Context()), "schema": s.CheckSchema(t.Context()), "migrate": s.Migrate(t.Context()),
		"days": s.PrepareDays(t.Context(), 0, 1),
	} {
		require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%s: %v", name, err)
	}
	_, err = Open(Options{URL: "postgres://user:s3cret@:bad:/x"})
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.NotContains(t, err.Error(), "s3cret")
}
