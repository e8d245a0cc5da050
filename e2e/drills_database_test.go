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
	"slices"
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

var (
	errNothingWaits  = errors.New("nothing waits yet")
	errNothingParked = errors.New("nothing is parked yet")
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
func (c *cluster) refuse(t *testing.T, action string) (mend func()) {
	t.Helper()
	c.exec(t, `CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.principal = 'mallory' THEN `+action+`; END IF; RETURN NEW; END $$`,
		`CREATE TRIGGER refuse BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION refuse()`)
	return func() { c.exec(t, `DROP TRIGGER refuse ON decisions`) }
}

// cutOff ends docket's connections, so that new ones meet what has changed.
func (c *cluster) cutOff(t *testing.T) {
	require.NoError(t, c.servers.postgres.Exec("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+c.database+`'`))
}

// cause is something that goes wrong with a database, and what docket owes then.
type cause struct {
	fault  string
	begin  func(t *testing.T, c *cluster) (end func())
	length time.Duration
	// waits says that nothing is parked: a person is needed, and decisions wait in place.
	waits bool
	// often is in CI too.
	often bool
}

var causes = []cause{
	{fault: "the table is locked (55P03)", often: true, length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() { return lockTable(t, c) }},
	{fault: "connections are terminated all the time (57P01)", often: true, begin: func(t *testing.T, c *cluster) func() {
		for range 20 {
			c.cutOff(t)
			sleepFor(t, 200*time.Millisecond)
		}
		return func() {}
	}},
	{fault: "the right to insert is revoked (42501)", often: true, waits: true, length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		c.exec(t, `REVOKE INSERT ON decisions FROM docket`)
		return func() { c.exec(t, `GRANT INSERT ON decisions TO docket`) }
	}},
	{fault: "PostgreSQL hangs (SIGSTOP)", often: true, length: 12 * time.Second, begin: func(_ *testing.T, c *cluster) func() {
		c.servers.postgres.Pause()
		return c.servers.postgres.Resume
	}},
	{fault: "the database is read only (25006)", length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		require.NoError(t, c.servers.postgres.Exec("postgres", `ALTER DATABASE `+c.database+` SET default_transaction_read_only = on`))
		c.cutOff(t)
		return func() {
			require.NoError(t, c.servers.postgres.Exec("postgres", `ALTER DATABASE `+c.database+` RESET default_transaction_read_only`))
		}
	}},
	{fault: "too many connections (53300)", length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		c.exec(t, `ALTER ROLE docket CONNECTION LIMIT 0`)
		c.cutOff(t)
		return func() { c.exec(t, `ALTER ROLE docket CONNECTION LIMIT -1`) }
	}},
	{fault: "a column is renamed (42703)", waits: true, length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		c.exec(t, `ALTER TABLE decisions RENAME COLUMN resource TO resources`)
		return func() { c.exec(t, `ALTER TABLE decisions RENAME COLUMN resources TO resource`) }
	}},
	{fault: "a table is renamed (42P01)", waits: true, length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		c.exec(t, `ALTER TABLE decisions_out_of_window RENAME TO gone`)
		return func() { c.exec(t, `ALTER TABLE gone RENAME TO decisions_out_of_window`) }
	}},
	{fault: "the role may not log in (28000)", length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		c.exec(t, `ALTER ROLE docket NOLOGIN`)
		c.cutOff(t)
		return func() { c.exec(t, `ALTER ROLE docket LOGIN`) }
	}},
	{fault: "the database takes no connections (55000)", length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		require.NoError(t, c.servers.postgres.Exec("postgres", `ALTER DATABASE `+c.database+` ALLOW_CONNECTIONS false`))
		c.cutOff(t)
		return func() {
			require.NoError(t, c.servers.postgres.Exec("postgres", `ALTER DATABASE `+c.database+` ALLOW_CONNECTIONS true`))
		}
	}},
	{fault: "today's partition is missing, and there is no right to make it (42501)", waits: true, length: 5 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		today := "decisions_" + time.Now().UTC().Format("2006_01_02")
		var there bool
		c.query(t, &there, `SELECT to_regclass($1) IS NOT NULL`, today)
		require.True(t, there, today)
		c.exec(t, `ALTER TABLE decisions DETACH PARTITION `+today, `ALTER TABLE `+today+` RENAME TO aside`,
			`ALTER DATABASE `+c.database+` OWNER TO postgres`, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
		return func() {
			c.exec(t, `ALTER TABLE aside RENAME TO `+today,
				`ALTER TABLE decisions ATTACH PARTITION `+today+` FOR VALUES FROM ('`+time.Now().UTC().Format("2006-01-02")+`+00') TO ('`+time.Now().UTC().AddDate(0, 0, 1).Format("2006-01-02")+`+00')`,
				`ALTER DATABASE `+c.database+` OWNER TO docket`)
		}
	}},
}

// raised is a failure of every insert, the probe's too, with a code that is hard to come by otherwise.
func raised(name, code string, waits bool) cause {
	return cause{fault: name + " (" + code + ", raised)", waits: waits, length: 4 * time.Second, begin: func(t *testing.T, c *cluster) func() {
		c.exec(t, `CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'raised' USING ERRCODE = '`+code+`'; END $$`,
			`CREATE TRIGGER fail BEFORE INSERT ON decisions FOR EACH ROW EXECUTE FUNCTION fail()`)
		return func() { c.exec(t, `DROP TRIGGER fail ON decisions`) }
	}}
}

func drillCauses(t *testing.T, often bool) {
	c := oneBroker(t)
	all := append(slices.Clone(causes),
		raised("serialization failure", "40001", false), raised("deadlock", "40P01", false), raised("out of memory", "53200", false),
		raised("I/O error", "58030", false), raised("query canceled", "57014", false), raised("cannot connect now", "57P03", false),
		raised("connection failure", "08006", false), raised("wrong type", "42804", true), raised("undefined function", "42883", true),
		raised("feature not supported", "0A000", true), raised("damaged data", "XX001", true),
	)
	for _, k := range all {
		if k.often != often {
			continue
		}
		t.Run(k.fault, func(t *testing.T) {
			d := c.drill(t, k.fault, 60, decisions(shortName(), 0))
			var end func()
			d.inject(func() { end = k.begin(t, c) })
			sleepFor(t, k.length)
			d.heal(end)
			d.verify(time.Minute, c.count)
			require.Zero(t, d.refused)
			require.Zero(t, d.dead, "an outage is nobody's fault")
			if k.waits {
				require.Zero(t, d.parked, "it waits in place")
			}
		})
	}
}

func TestDrillDatabaseCauses(t *testing.T)     { drillCauses(t, true) }
func TestLongDrillDatabaseCauses(t *testing.T) { drillCauses(t, false) }

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
	d := c.drill(t, "PostgreSQL's disk is full (53100)", 100, decisions(shortName(), 0))
	ballast := filepath.Join(mount, "ballast")
	d.inject(func() { fill(t, ballast) })
	eventually(t, time.Minute, func() error {
		if len(c.records(t, "parking")) == 0 {
			return errNothingParked
		}
		return nil
	})
	d.heal(func() {
		require.NoError(t, os.Remove(ballast))
		_ = p.Stop(true) // where the log of transactions was what had no room, the server has ended itself
		require.NoError(t, p.Start())
	})
	d.verify(time.Minute, c.count)
	require.Zero(t, d.refused)
	require.Zero(t, d.dead)
}

// proxied puts a proxy between the roles and the database.
func proxied(t *testing.T) (*cluster, *toxiproxy.Proxy) {
	t.Helper()
	s, err := single()
	testserver.Need(t, err)
	p := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.New(io.Discard)), "postgres", freeAddr(t), s.postgres.Addr())
	require.NoError(t, p.Start())
	t.Cleanup(p.Stop)
	return newCluster(t, s, databaseAt(p.Listen)), p
}

// toxic is a fault of the network.
type toxic struct {
	fault, kind, stream, attributes string
	// away says that the database may count as away meanwhile.
	away bool
}

var toxics = []toxic{
	{"5 ms more from the database", "latency", "downstream", `{"latency":5}`, false},
	{"20 ms more from the database", "latency", "downstream", `{"latency":20}`, false},
	{"50 ms more from the database", "latency", "downstream", `{"latency":50}`, false},
	{"connections to the database are reset", "reset_peer", "downstream", `{"timeout":50}`, true},
	{"packets to the database are cut into 64 bytes", "slicer", "upstream", `{"average_size":64,"size_variation":32,"delay":1000}`, true},
	{"50 KB/s to the database", "bandwidth", "upstream", `{"rate":50}`, true},
}

// TestDrillNetwork makes the way to the database slow, broken or narrow, and good again.
func TestDrillNetwork(t *testing.T) {
	c, proxy := proxied(t)
	for _, x := range toxics {
		t.Run(x.fault, func(t *testing.T) {
			d := c.drill(t, x.fault, 100, decisions(shortName(), 0))
			waited := c.metric(t, "saver", "docket_store_pool_wait_seconds_total")
			d.inject(func() {
				_, err := proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"name":"x","type":%q,"stream":%q,"toxicity":1,"attributes":%s}`, x.kind, x.stream, x.attributes)))
				require.NoError(t, err)
			})
			sleepFor(t, 6*time.Second)
			if !x.away {
				require.Less(t, c.metric(t, "saver", "docket_store_pool_wait_seconds_total")-waited, 0.5, "the pool is not exhausted")
				require.GreaterOrEqual(t, c.metric(t, "saver", "docket_save_concurrency_limit"), 1.0)
			}
			d.heal(func() { require.NoError(t, proxy.Toxics.RemoveToxic(context.Background(), "x")) })
			d.verify(30*time.Second, c.count)
			require.Zero(t, d.refused)
			require.Zero(t, d.dead)
			if !x.away {
				require.Zero(t, d.parked, "slow is not away")
				require.Less(t, d.recovered, 10*time.Second)
			}
		})
	}
}

// metric reads one value of a role's.
func (c *cluster) metric(t *testing.T, name, metric string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + c.roles[name].addr + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, metric+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			require.NoError(t, err)
			return f
		}
	}
	require.FailNow(t, "no such metric", metric)
	return 0
}

// TestDrillBlamedRows has a constraint that refuses some of the rows: few enough are dead-lettered, and a flood of them is
// parked and stored once it is mended.
func TestDrillBlamedRows(t *testing.T) {
	c := oneBroker(t, with("DOCKET_PARKING_BACKOFF_MAX=4s")) // or a flood would be looked at once a minute
	constrain := func(t *testing.T) (mend func()) {
		c.exec(t, `ALTER TABLE decisions ADD CONSTRAINT drill CHECK (principal IS DISTINCT FROM 'mallory') NOT VALID`)
		return func() { c.exec(t, `ALTER TABLE decisions DROP CONSTRAINT drill`) }
	}
	t.Run("0.1 %", func(t *testing.T) {
		d := c.drill(t, "0.1 % of the rows refused (23514)", 300, decisions(shortName(), 1))
		var mend func()
		d.inject(func() { mend = constrain(t) })
		sleepFor(t, 6*time.Second)
		d.heal(mend)
		d.verify(time.Minute, c.count)
		require.Zero(t, d.refused)
		require.Zero(t, d.parked)
		require.Positive(t, d.dead, "few enough to be their own fault")
	})
	for _, f := range []struct {
		share  string
		permil int
	}{{"2 %", 20}, {"50 %", 500}} {
		t.Run(f.share, func(t *testing.T) { c.flood(t, f.share, f.permil, constrain) })
	}
}

// flood has more blamed rows than can be their own fault.
func (c *cluster) flood(t *testing.T, share string, permil int, constrain func(*testing.T) func()) {
	c.exec(t, `DELETE FROM blames`)
	d := c.drill(t, share+" of the rows refused (23514)", 300, decisions(shortName(), permil))
	var judged int64
	eventually(t, time.Minute, func() error { // a flood is 1 % of ten thousand
		c.query(t, &judged, `SELECT coalesce(sum(rows), 0)::bigint FROM blames WHERE fingerprint = ''`)
		if judged < 10_000 {
			return fmt.Errorf("%d rows judged", judged)
		}
		return nil
	})
	var mend func()
	d.inject(func() { mend = constrain(t) })
	eventually(t, 30*time.Second, func() error {
		if c.metric(t, "saver", "docket_flood_stop") == 0 {
			return errors.New("no flood stop")
		}
		return nil
	})
	before := len(c.records(t, "dlq"))
	sleepFor(t, 5*time.Second)
	var late float64
	c.query(t, &late, `SELECT extract(epoch FROM now() - max(received_at)) FROM decisions`)
	require.Less(t, late, 5.0, "good rows keep flowing")
	require.Equal(t, before, len(c.records(t, "dlq")), "nothing is dead-lettered any more")
	d.heal(mend)
	c.exec(t, `DELETE FROM blames`) // ten minutes later
	d.verify(3*time.Minute, c.count)
	require.Zero(t, d.refused)
	require.Positive(t, d.parked)
}
