package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// shortName is a prefix of ids that no other drill uses.
func shortName() string { return strconv.FormatUint(rand.Uint64(), 36) }

// exec runs statements in the cluster's database, as the superuser.
func (c *cluster) exec(t *testing.T, statements ...string) {
	t.Helper()
	require.NoError(t, c.servers.postgres.Exec(c.database, statements...))
}

// lockTable takes the decisions for itself until it is told otherwise.
func lockTable(t *testing.T, c *cluster) (unlock func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.servers.postgres.URL(c.database, ""))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `BEGIN; LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	return func() { require.NoError(t, conn.Close(context.Background())) }
}

// refuse lets a trigger act on mallory's decisions.
func (c *cluster) refuse(t *testing.T, action string) (restore func()) {
	t.Helper()
	c.exec(
		t,
		`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.principal = 'mallory' THEN `+action+`; END IF; RETURN NEW; END $$`,
		`CREATE TRIGGER refuse BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION refuse()`,
	)
	return func() { c.exec(t, `DROP TRIGGER refuse ON decisions`) }
}

// cutOff ends docket's connections, so that new ones meet what has changed.
func (c *cluster) cutOff(t *testing.T) {
	require.NoError(
		t,
		c.servers.postgres.Exec(
			"postgres",
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+c.database+`'`,
		),
	)
}

// cause is something that goes wrong with a database, and what docket owes then.
type cause struct {
	fault string
	// says is in what docket complains of.
	says   string
	begin  func(t *testing.T, c *cluster) (end func())
	length time.Duration
	// waits says that nothing is parked: a person is needed, and decisions wait in place.
	waits bool
	// often is in CI too.
	often bool
}

// altered changes the database by one statement and changes it back by another; connections that are there are cut off
// where they would not notice.
func altered(fault, says string, cut bool, do, undo string) cause {
	return cause{fault: fault, says: says, length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		in := func(statement string) {
			require.NoError(
				t,
				c.servers.postgres.Exec("postgres", strings.ReplaceAll(statement, "DATABASE x", "DATABASE "+c.database)),
			)
		}
		if strings.Contains(do, "TABLE") || strings.Contains(do, " ON ") {
			in = func(statement string) { c.exec(t, statement) }
		}
		in(do)
		if cut {
			c.cutOff(t)
		}
		return func() { in(undo) }
	}}
}

func (k cause) inPlace() cause {
	k.waits = true
	return k
}

func (k cause) inCI() cause {
	k.often = true
	return k
}

// raised is a failure of every insert, the probe's too, with a code that is hard to come by otherwise.
func raised(name, code string) cause {
	return cause{
		fault:  name + " (" + code + ", raised)",
		says:   "raised",
		length: 4 * time.Second,
		begin: func(t *testing.T, c *cluster) func() {
			c.exec(
				t,
				`CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'raised' USING ERRCODE = '`+code+`'; END $$`,
				`CREATE TRIGGER fail BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION fail()`,
			)
			return func() { c.exec(t, `DROP TRIGGER fail ON decisions`) }
		},
	}
}

var causes = []cause{
	cause{fault: "the table is locked (55P03)", says: "lock timeout", length: 5 * time.Second, begin: lockTable}.inCI(),
	cause{
		fault: "connections are terminated all the time (57P01)",
		says:  "the store",
		begin: func(t *testing.T, c *cluster) func() {
			for range 20 {
				c.cutOff(t)
				sleepFor(t, 200*time.Millisecond)
			}
			return nothing
		},
	}.inCI(),
	altered("the right to insert is revoked (42501)", "permission denied", false,
		`REVOKE INSERT ON decisions FROM docket`, `GRANT INSERT ON decisions TO docket`).inPlace().inCI(),
	{
		fault:  "PostgreSQL hangs (SIGSTOP)",
		says:   "the store",
		length: 12 * time.Second,
		begin: func(t *testing.T, c *cluster) func() {
			require.NoError(t, c.servers.postgres.Pause())
			return c.servers.postgres.Resume
		},
	},
	altered("the database is read only", "read only", true,
		`ALTER DATABASE x SET default_transaction_read_only = on`, `ALTER DATABASE x RESET default_transaction_read_only`),
	altered(
		"too many connections (53300)", "too many connections", true, `ALTER ROLE docket CONNECTION LIMIT 0`,
		`ALTER ROLE docket CONNECTION LIMIT -1`,
	),
	altered(
		"a column is renamed (42703)", "resource", false, `ALTER TABLE decisions RENAME COLUMN resource TO resources`,
		`ALTER TABLE decisions RENAME COLUMN resources TO resource`,
	).inPlace(),
	altered("a table is renamed (42P01)", "does not exist", false,
		`ALTER TABLE decisions_out_of_window RENAME TO gone`, `ALTER TABLE gone RENAME TO decisions_out_of_window`).inPlace(),
	altered(
		"the role may not log in (28000)", "not permitted to log in", true, `ALTER ROLE docket NOLOGIN`,
		`ALTER ROLE docket LOGIN`,
	),
	altered("the database takes no connections (55000)", "not currently accepting connections", true,
		`ALTER DATABASE x ALLOW_CONNECTIONS false`, `ALTER DATABASE x ALLOW_CONNECTIONS true`),
	raised(
		"serialization failure",
		"40001",
	),
	raised("deadlock", "40P01"),
	raised("out of memory", "53200"),
	raised("I/O error", "58030"),
	raised(
		"query canceled",
		"57014",
	),
	raised("cannot connect now", "57P03"),
	raised("connection failure", "08006"),
	raised("out of disk", "53100"),
	raised("wrong type", "42804").inPlace(),
	raised("undefined function", "42883").inPlace(),
	raised("feature not supported", "0A000").inPlace(),
	raised("undefined statement", "26000").inPlace(),
	raised("protocol violation", "08P01").inPlace(),
	raised("invalid schema", "3F000").inPlace(),
	raised("invalid catalog", "3D000").inPlace(),
	raised("damaged data", "XX001").inPlace(),
	raised("damaged index", "XX002").inPlace(),
	{
		fault:  "today's partition is missing, and there is no right to make it (42501)",
		says:   "permission denied",
		waits:  true,
		length: 5 * time.Second,
		begin: func(t *testing.T, c *cluster) func() {
			day := time.Now().UTC()
			today := "decisions_" + day.Format("20060102")
			var there bool
			c.query(t, &there, `SELECT to_regclass($1) IS NOT NULL`, today)
			require.True(t, there, today)
			c.exec(t, `ALTER TABLE decisions DETACH PARTITION `+today, `ALTER TABLE `+today+` RENAME TO aside`,
				`ALTER DATABASE `+c.database+` OWNER TO postgres`, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
			return func() {
				c.exec(t, `ALTER TABLE aside RENAME TO `+today, `ALTER TABLE decisions ATTACH PARTITION `+today+
					` FOR VALUES FROM ('`+day.Format(time.DateOnly)+` 00:00:00+00') TO ('`+day.AddDate(0, 0,
					1).Format(time.DateOnly)+` 00:00:00+00')`,
					`ALTER DATABASE `+c.database+` OWNER TO docket`)
			}
		},
	},
}

func drillCauses(t *testing.T, often bool) {
	c := oneBroker(t)
	for _, k := range causes {
		if k.often != often {
			continue
		}
		passed := t.Run(k.fault, func(t *testing.T) {
			d := c.drill(t, k.fault, 60, decisions(shortName(), 0))
			d.inject(func() func() { return k.begin(t, c) })
			sleepFor(t, k.length)
			d.heal()
			d.verify(time.Minute, 0)
			d.unspent()
			require.Contains(t, d.reason, k.says, "detected after %s", d.detected)
			require.Zero(t, d.refused)
			if k.waits {
				require.Zero(t, d.parked, "it waits in place")
			}
		})
		if !passed {
			return // what it left behind would fail the others
		}
	}
}

func TestDrillDatabaseCauses(t *testing.T)     { drillCauses(t, true) }
func TestLongDrillDatabaseCauses(t *testing.T) { drillCauses(t, false) }

// TestLongDrillRejectionsOfEachKind has rows that are rejected in ways of their own: each is a dead letter at once, or
// after its last attempt.
func TestLongDrillRejectionsOfEachKind(t *testing.T) {
	c := oneBroker(t, with("DOCKET_PARKING_MAX_ATTEMPTS=3"))
	for _, r := range []struct {
		code, action, topic string
	}{
		{"23502", "NEW.outcome := NULL", "dlq"},
		{"22003", "RAISE 'refused' USING ERRCODE = '22003'", "dlq"},
		{"54000", "RAISE 'refused' USING ERRCODE = '54000'", "dlq"},
		{"P0001", "RAISE 'refused'", "parking.dlq"},
	} {
		passed := t.Run(r.code, func(t *testing.T) {
			before := len(c.records(t, r.topic))
			d := c.drill(t, "some rows rejected ("+r.code+")", 60, decisions(shortName(), 8))
			d.inject(func() func() { return c.refuse(t, r.action) })
			sleepFor(t, 12*time.Second)
			d.heal()
			d.verify(time.Minute, 0)
			require.Zero(t, d.refused)
			require.Positive(t, d.dead)
			require.Equal(t, d.dead, len(c.records(t, r.topic))-before, "all of them in %s", r.topic)
		})
		if !passed {
			return
		}
	}
}

// TestLongDrillFullDatabaseDisk fills the disk that PostgreSQL is on.
func TestLongDrillFullDatabaseDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		require.Empty(t, os.Getenv("CI"), "mounting a tmpfs needs root")
		t.Skip("mounting a tmpfs needs root")
	}
	s, err := single()
	testserver.Need(t, err)
	mount := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(mount), 0o755)) //nolint:gosec // the database's account has to come by
	require.NoError(t, syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=200m,mode=0755"))
	t.Cleanup(func() { _ = syscall.Unmount(mount, syscall.MNT_DETACH) })
	p, err := testserver.StartPostgres(filepath.Join(mount, "pg"), "max_wal_size=32MB", "wal_recycle=off")
	testserver.Need(t, err)
	t.Cleanup(func() { _ = p.Close() })
	require.NoError(t, p.Exec("postgres", `CREATE ROLE docket LOGIN`))
	c := newCluster(t, &servers{kafka: s.kafka, postgres: p, brokers: s.brokers})
	d := c.drill(t, "PostgreSQL's disk is full", 100, decisions(shortName(), 0))
	ballast := filepath.Join(mount, "ballast")
	d.inject(func() func() {
		fill(t, ballast)
		return func() {
			require.NoError(t, os.Remove(ballast))
			_ = p.Stop(true) // where the log of transactions was what had no room, the server has ended itself
			require.NoError(t, p.Start())
		}
	})
	c.parks(t, 0)
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.Zero(t, d.refused)
}

// proxied puts a proxy between the roles and the database.
func proxied(t *testing.T) (*cluster, *toxiproxy.Proxy) {
	t.Helper()
	s, err := single()
	testserver.Need(t, err)
	p := proxyOf(t, s.postgres)
	return newCluster(t, s, databaseAt(p.Listen)), p
}

// proxyOf is another way to a server.
func proxyOf(t *testing.T, to *testserver.Postgres) *toxiproxy.Proxy {
	t.Helper()
	p := toxiproxy.NewProxy(
		toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.New(io.Discard)), "postgres", freeAddr(t), to.Addr(),
	)
	require.NoError(t, p.Start())
	t.Cleanup(p.Stop)
	return p
}

// toxic is a fault of the network.
type toxic struct {
	fault, kind, stream, attributes string
	// slower is how much longer a batch takes at least, on average.
	slower time.Duration
	// away says that the database may count as away meanwhile.
	away bool
	// often is in CI too.
	often bool
}

var toxics = []toxic{
	{"5 ms more from the database", "latency", "downstream", `{"latency":5}`, 5 * time.Millisecond, false, false},
	{"20 ms more from the database", "latency", "downstream", `{"latency":20}`, 20 * time.Millisecond, false, false},
	{"50 ms more from the database", "latency", "downstream", `{"latency":50}`, 50 * time.Millisecond, false, true},
	{"connections to the database are reset", "reset_peer", "downstream", `{"timeout":50}`, 0, true, true},
	{
		"packets to the database are cut into 64 bytes",
		"slicer",
		"upstream",
		`{"average_size":64,"size_variation":32,"delay":2000}`,
		50 * time.Millisecond,
		true,
		false,
	},
	{"20 KB/s a connection to the database", "bandwidth", "upstream", `{"rate":20}`, 100 * time.Millisecond, true, false},
}

func TestDrillNetwork(t *testing.T)     { drillNetwork(t, true) }
func TestLongDrillNetwork(t *testing.T) { drillNetwork(t, false) }

// drillNetwork makes the way to the database slow, broken or narrow, and good again.
func drillNetwork(t *testing.T, often bool) {
	c, proxy := proxied(t)
	for _, x := range toxics {
		if x.often != often {
			continue
		}
		passed := t.Run(x.fault, func(t *testing.T) {
			d := c.drill(t, x.fault, 100, decisions(shortName(), 0))
			usual := c.batchTime(t, func() { sleepFor(t, 2*time.Second) })
			waited := c.metric(t, "saver", "docket_store_pool_wait_seconds_total")
			d.inject(func() func() {
				_, err := proxy.Toxics.AddToxicJson(
					strings.NewReader(
						fmt.Sprintf(`{"name":"x","type":%q,"stream":%q,"toxicity":1,"attributes":%s}`, x.kind, x.stream, x.attributes),
					),
				)
				require.NoError(t, err)
				return func() { require.NoError(t, proxy.Toxics.RemoveToxic(context.Background(), "x")) }
			})
			slow := c.batchTime(t, func() { sleepFor(t, 6*time.Second) })
			// The machine has other things to do now and then, and more of them in the first one.
			require.Greater(t, slow, usual+x.slower*7/10, "the fault has its effect")
			if !x.away {
				require.Less(
					t, c.metric(t, "saver", "docket_store_pool_wait_seconds_total")-waited, 0.5, "the pool is not exhausted",
				)
				require.NoError(t, d.unhealthy(), "slow is not away, and everything is stored in time")
			}
			d.heal()
			d.verify(30*time.Second, 0)
			d.unspent()
			require.Zero(t, d.refused)
			if !x.away {
				require.Zero(t, d.parked)
				require.Less(t, d.recovered, 10*time.Second)
			}
		})
		if !passed {
			return
		}
	}
}

// batchTime is how long the saver's batches take on average while something goes on; a store that is away takes for
// ever.
func (c *cluster) batchTime(t *testing.T, during func()) time.Duration {
	t.Helper()
	const sum, count = "docket_save_batch_duration_seconds_sum", "docket_save_batch_duration_seconds_count"
	seconds, batches := c.metric(t, "saver", sum), c.metric(t, "saver", count)
	during()
	if c.metric(t, "saver", "docket_breaker_state") > 0 {
		return time.Hour
	}
	seconds, batches = c.metric(t, "saver", sum)-seconds, c.metric(t, "saver", count)-batches
	if batches == 0 {
		return time.Hour
	}
	return time.Duration(seconds / batches * float64(time.Second))
}

// metric reads one value of a role's.
func (c *cluster) metric(t *testing.T, name, metric string) float64 {
	t.Helper()
	f, err := c.roles[name].metric(metric)
	require.NoError(t, err)
	return f
}

func (r *role) metric(name string) (float64, error) {
	resp, err := http.Get("http://" + r.addr + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, errors.New("there is no metric " + name)
}

// constrain adds a constraint that refuses mallory's rows.
func (c *cluster) constrain() (restore func()) {
	t := c.t
	c.exec(t, `ALTER TABLE decisions ADD CONSTRAINT drill CHECK (principal IS DISTINCT FROM 'mallory') NOT VALID`)
	return func() { c.exec(t, `ALTER TABLE decisions DROP CONSTRAINT drill`) }
}

// TestDrillRejectedRows has a constraint that rejects few enough of the rows for it to be their fault: they are
// dead-lettered.
func TestDrillRejectedRows(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "0.1 % of the rows rejected (23514)", 300, decisions(shortName(), 1))
	d.inject(c.constrain)
	sleepFor(t, 6*time.Second)
	d.heal()
	d.verify(time.Minute, 0)
	require.Zero(t, d.refused)
	require.Zero(t, d.parked)
	require.Positive(t, d.dead, "few enough to be their own fault")
}

// TestDrillGuard has so many rejected rows that the guard parks them, and stored once the cause is fixed.
func TestDrillGuard(t *testing.T)     { oneBroker(t).guarded(t, "2 %", 20) }
func TestLongDrillGuard(t *testing.T) { oneBroker(t).guarded(t, "50 %", 500) }

// judged waits until the dead-letter guard may judge: it looks at 1 % of ten thousand.
func (c *cluster) judged(t *testing.T) {
	t.Helper()
	var judged int64
	eventually(t, time.Minute, func() error {
		c.query(t, &judged, `SELECT coalesce(sum(rows), 0)::bigint FROM rejections WHERE fingerprint = ''`)
		if judged < 10_000 {
			return fmt.Errorf("%d rows judged", judged)
		}
		return nil
	})
}

// guarded has more rejected rows than can be their own fault.
func (c *cluster) guarded(t *testing.T, share string, permil int) {
	t.Helper()
	d := c.drill(t, share+" of the rows rejected (23514)", 300, decisions(shortName(), permil))
	c.judged(t)
	d.inject(c.constrain)
	eventually(t, 30*time.Second, func() error {
		if c.metric(t, "saver", "docket_dead_letter_guard") == 0 {
			return errors.New("the dead-letter guard is off")
		}
		return nil
	})
	// At 1 % the guard may go on and off: it goes on above and off below. Clear of that, it has to stay on.
	eventually(t, 30*time.Second, func() error {
		var permil float64
		c.query(
			t, &permil,
			`SELECT 1000 * (sum(rows) FILTER (WHERE fingerprint <> '') / sum(rows) FILTER (WHERE fingerprint = ''))::float8 FROM rejections`,
		)
		if permil < 11 || c.metric(t, "saver", "docket_dead_letter_guard") == 0 {
			return fmt.Errorf("%.1f of 1,000 rows are rejected", permil)
		}
		return nil
	})
	before := len(c.records(t, "dlq"))
	var first, last float64
	const newest = `SELECT extract(epoch FROM max(received_at)) FROM decisions`
	c.query(t, &first, newest)
	sleepFor(t, 5*time.Second)
	c.query(t, &last, newest)
	require.Greater(t, last, first, "good rows keep flowing")
	require.Less(t, float64(time.Now().Unix())-last, 30.0, "and do not fall far behind")
	require.Equal(t, before, len(c.records(t, "dlq")), "nothing is dead-lettered any more")
	d.heal()
	c.exec(t, `DELETE FROM rejections`) // ten minutes later
	d.verify(3*time.Minute, 0)
	require.Zero(t, d.refused)
	require.NotEmpty(t, c.records(t, "held"))
	require.LessOrEqual(t, c.rewritten(t), 4, "hardly anything is written anew")
}
