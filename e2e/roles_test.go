package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// servers are what the tests of one cluster size share; each test has topics and a database of its own.
type servers struct {
	kafka    *testserver.Kafka
	postgres *testserver.Postgres
}

// startServers starts PostgreSQL and so many brokers.
func startServers(brokers int) (*servers, error) {
	p, err := testserver.StartPostgres("")
	if err != nil {
		return nil, err
	}
	k, err := testserver.StartKafka(brokers)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &servers{k, p}, nil
}

func (s *servers) close() error { return errors.Join(s.kafka.Close(), s.postgres.Close()) }

// single are PostgreSQL and one broker, started by the first test that needs them.
var (
	single = sync.OnceValues(func() (*servers, error) {
		s, err := startServers(1)
		started = s
		return s, err
	})
	started *servers
)

func TestMain(m *testing.M) {
	code := m.Run()
	if started != nil {
		if err := started.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// cluster is docket as production runs it: a process for each role. The embedded docket is its view from outside: the
// ingest's upload listener and the console's API.
type cluster struct {
	*docket
	servers *servers
	topics  string
	roles   map[string]*role
}

// role is one process of a cluster.
type role struct {
	*process
	name string
	bin  string
	args []string
	vars []string
	addr string // of its admin listener
}

// newCluster migrates and starts every role.
func newCluster(t *testing.T, s *servers) *cluster {
	t.Helper()
	need(t, docketBinary)
	name := fmt.Sprintf("e2e%d", rand.Uint32())
	require.NoError(t, s.postgres.Exec("postgres", "CREATE DATABASE "+name))
	c := &cluster{
		docket:  &docket{upload: freeAddr(t), console: freeAddr(t)},
		servers: s, topics: name + ".", roles: map[string]*role{},
	}
	shared := []string{
		"DOCKET_KAFKA_BROKERS=" + strings.Join(s.kafka.Brokers(), ","), "DOCKET_DATABASE_URL=" + s.postgres.URL(name, ""),
		"DOCKET_TOPIC_PREFIX=" + c.topics, "DOCKET_LISTEN=" + c.upload, "DOCKET_CONSOLE_LISTEN=" + c.console,
	}
	if len(s.kafka.Brokers()) < 3 {
		shared = append(shared, "DOCKET_KAFKA_UNREPLICATED=allow")
	}
	migrate := start(t, shared, docketBinary, "migrate")
	require.Zero(t, migrate.wait(t, time.Minute), "%s", migrate.out)
	dir := filepath.Dir(docketBinary)
	for name, command := range map[string][]string{
		"ingest": {filepath.Join(dir, "ingest")}, "saver": {filepath.Join(dir, "saver")}, "parking": {filepath.Join(dir, "parking")},
		"console": {docketBinary, "console"},
	} {
		r := &role{name: name, bin: command[0], args: command[1:], addr: freeAddr(t)}
		r.vars = append([]string{"DOCKET_ADMIN_LISTEN=" + r.addr}, shared...)
		c.roles[name] = r
		r.start(t)
	}
	for _, r := range c.roles {
		r.ready(t)
	}
	c.process = c.roles["console"].process
	return c
}

func (r *role) start(t *testing.T) {
	t.Helper()
	r.process = start(t, r.vars, r.bin, r.args...)
}

func (r *role) ready(t *testing.T) {
	t.Helper()
	(&docket{admin: r.addr}).ready(t)
}

func (r *role) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGKILL))
	<-r.done
}

// terminate stops a role in good order and returns how long that took.
func (r *role) terminate(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	require.NoError(t, r.cmd.Process.Signal(syscall.SIGTERM))
	code := r.wait(t, 25*time.Second)
	require.Contains(t, []int{0, 1}, code, "%s: %s", r.name, r.out) // 1: it says what it could not finish
	return time.Since(began)
}

// sleepFor waits for faults to take effect.
func sleepFor(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// noDead is that nothing was dead-lettered.
func (c *cluster) noDead(t *testing.T) {
	t.Helper()
	var p struct {
		DeadLetters []struct {
			Topic   string
			Records int64
		} `json:"dead_letters"`
	}
	require.Equal(t, http.StatusOK, c.getJSON(t, "/api/v1/pipeline", &p))
	require.Len(t, p.DeadLetters, 2)
	for _, d := range p.DeadLetters {
		require.Zero(t, d.Records, "%s", d.Topic)
	}
}

// acked waits for so many more acknowledgements.
func (l *ledger) acks(t *testing.T, more int, patience time.Duration) {
	t.Helper()
	before := len(l.ackedIDs())
	eventually(t, patience, func() error {
		if n := len(l.ackedIDs()) - before; n < more {
			return fmt.Errorf("%d of %d more acknowledgements", n, more)
		}
		return nil
	})
}

// loaded puts a load on a cluster and waits until it flows.
func (c *cluster) loaded(t *testing.T, prefix string) (*ledger, *generator) {
	t.Helper()
	l := newLedger()
	g := generate(t, "http://"+c.upload, l, prefix, 4)
	l.acks(t, 200, 20*time.Second)
	return l, g
}

// settle ends the load once so much more was acknowledged, and checks that all of it is stored and nothing dead.
func (c *cluster) settle(t *testing.T, l *ledger, g *generator, more int, patience time.Duration) {
	t.Helper()
	l.acks(t, more, patience)
	g.finish()
	l.check(t, c.docket)
	c.noDead(t)
}

func oneBroker(t *testing.T) *cluster {
	t.Helper()
	s, err := single()
	testserver.Need(t, err)
	return newCluster(t, s)
}

func TestRolesJourney(t *testing.T) {
	c := oneBroker(t)
	journey(t, c.docket)
	c.noDead(t)
	for _, r := range c.roles {
		r.terminate(t)
		require.Zero(t, r.cmd.ProcessState.ExitCode(), "%s: %s", r.name, r.out)
	}
}

// TestRolesKill kills each role 20 times in the middle of its work.
func TestRolesKill(t *testing.T) {
	c := oneBroker(t)
	l := newLedger()
	g := generate(t, "http://"+c.upload, l, "kill", 8)
	for range 20 {
		for _, name := range []string{"ingest", "saver", "parking"} {
			sleepFor(t, time.Duration(100+rand.IntN(200))*time.Millisecond)
			c.roles[name].kill(t)
			c.roles[name].start(t)
		}
	}
	c.roles["ingest"].ready(t)
	c.settle(t, l, g, 50, 30*time.Second)
}

// TestRolesDatabaseOutage stops PostgreSQL for 20 s in the middle of a load.
func TestRolesDatabaseOutage(t *testing.T) {
	c := oneBroker(t)
	l, g := c.loaded(t, "outage")
	require.NoError(t, c.servers.postgres.Stop(true))
	sleepFor(t, 20*time.Second)
	require.Zero(t, g.refused.Load(), "a database outage refuses no upload")
	require.NoError(t, c.servers.postgres.Start())
	back := time.Now()
	l.acks(t, 200, 20*time.Second)
	g.finish()
	require.Zero(t, g.refused.Load())
	l.check(t, c.docket)
	t.Logf("slowest upload %s; everything stored %s after the database was back", time.Duration(g.slowest.Load()), time.Since(back))
	c.noDead(t)
}

// TestRolesStop ends every role while PostgreSQL is down, and while Kafka is: within 25 s, and nothing is lost by it.
func TestRolesStop(t *testing.T) {
	for name, outage := range map[string]struct{ begin, end func(s *servers) error }{
		"without PostgreSQL": {func(s *servers) error { return s.postgres.Stop(true) }, func(s *servers) error { return s.postgres.Start() }},
		"without Kafka":      {func(s *servers) error { return s.kafka.Kill(0) }, func(s *servers) error { return s.kafka.Start(0) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := oneBroker(t)
			l, g := c.loaded(t, "stop")
			require.NoError(t, outage.begin(c.servers))
			over := sync.OnceValue(func() error { return outage.end(c.servers) })
			t.Cleanup(func() { _ = over() })
			sleepFor(t, 2*time.Second)
			took := map[string]time.Duration{}
			for _, r := range c.roles {
				took[r.name] = r.terminate(t).Round(time.Millisecond)
			}
			t.Logf("ended after %v", took)
			require.NoError(t, over())
			for _, r := range c.roles {
				r.start(t)
			}
			for _, r := range c.roles {
				r.ready(t)
			}
			c.settle(t, l, g, 50, 30*time.Second)
		})
	}
}

// TestRolesHungBroker stops the only broker without ending it: uploads are answered within 8 s, and none of them with yes.
func TestRolesHungBroker(t *testing.T) {
	c := oneBroker(t)
	l, g := c.loaded(t, "hung")
	c.servers.kafka.Pause(0)
	sleepFor(t, time.Second) // what was acknowledged before arrives
	before := len(l.ackedIDs())
	sleepFor(t, 29*time.Second)
	during := len(l.ackedIDs()) - before
	c.servers.kafka.Resume(0)
	require.Zero(t, during, "nobody is told yes while the broker hangs")
	require.Positive(t, g.refused.Load())
	require.Less(t, time.Duration(g.slowest.Load()), 8*time.Second+500*time.Millisecond, "OPA waits 10 s for an answer")
	c.settle(t, l, g, 200, 30*time.Second)
}

// TestRolesBrokers has three brokers with three replicas each.
func TestRolesBrokers(t *testing.T) {
	s, err := startServers(3)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	c := newCluster(t, s)
	l, g := c.loaded(t, "brokers")

	require.NoError(t, s.kafka.Kill(0))
	killed := time.Now()
	l.acks(t, 100, time.Minute)
	// Kafka gives a broker 9 s to come back before its partitions move (broker.session.timeout.ms).
	sleepFor(t, time.Until(killed.Add(20*time.Second)))
	refused := g.refused.Load()
	l.acks(t, 200, 20*time.Second)
	require.Equal(t, refused, g.refused.Load(), "no refusals beyond the failover")
	t.Logf("one of three brokers killed: %d refusals while its partitions moved", refused)

	require.NoError(t, s.kafka.Kill(1))
	sleepFor(t, 2*time.Second)
	eventually(t, 30*time.Second, func() error {
		resp, err := http.Get("http://" + c.roles["ingest"].addr + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("ingest says that it is ready: %s", resp.Status)
		}
		return nil
	})
	before := len(l.ackedIDs())
	sleepFor(t, 10*time.Second)
	require.Equal(t, before, len(l.ackedIDs()), "without two replicas nothing is acknowledged")
	require.Greater(t, g.refused.Load(), refused)
	require.Less(t, time.Duration(g.slowest.Load()), 8*time.Second+500*time.Millisecond)

	require.NoError(t, s.kafka.Start(1))
	require.NoError(t, s.kafka.Start(0))
	c.settle(t, l, g, 200, time.Minute)
}

// TestRolesPartitionsAdded adds partitions under load.
func TestRolesPartitionsAdded(t *testing.T) {
	c := oneBroker(t)
	l, g := c.loaded(t, "more")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, c.servers.kafka.AddPartitions(ctx, c.topics+"decisions", 6))
	sleepFor(t, 20*time.Second) // clients look every 15 s
	c.settle(t, l, g, 200, 20*time.Second)
}
