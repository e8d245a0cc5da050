package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/internal/adapters/sqlstore"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

// servers are what the tests of one cluster size share; each test has topics and a database of its own.
type servers struct {
	kafka    *testserver.Kafka // nil where a test brings brokers of its own
	postgres *testserver.Postgres
	brokers  []string
}

// startServers starts PostgreSQL and so many brokers.
func startServers(brokers int) (*servers, error) {
	p, err := testserver.StartPostgres("")
	if err != nil {
		return nil, err
	}
	k, err := testserver.StartKafka(brokers)
	if err == nil {
		err = p.Exec("postgres", "CREATE ROLE docket LOGIN")
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return &servers{k, p, k.Brokers()}, nil
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
	var closed error
	if started != nil {
		closed = started.close()
	}
	if err := errors.Join(closed, report(code == 0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// cluster is docket as production runs it: a process for each role. The embedded docket is its view from outside: the
// ingest's upload listener and the console's API.
type cluster struct {
	*docket
	t        *testing.T
	servers  *servers
	topics   string
	database string
	shared   []string // of every role's environment
	ledger   *ledger  // of everything that was ever sent to it
	past     outcome  // of the drills before

	mu    sync.Mutex
	roles map[string]*role
}

// role is one process of a cluster.
type role struct {
	*process
	t    *testing.T // of the cluster, whose processes outlive the parts of a test
	name string
	vars []string
	addr string // of its admin listener
}

// setting changes the environment of the roles; it is given what it was.
type setting func(c *cluster, vars []string) []string

// with sets variables for every role.
func with(vars ...string) setting {
	return func(_ *cluster, old []string) []string { return append(old, vars...) }
}

// databaseAt lets the roles reach the database by another way, such as through a proxy.
func databaseAt(addr string) setting {
	return func(c *cluster, old []string) []string {
		u, err := url.Parse(c.servers.postgres.URL(c.database, "docket"))
		if err != nil {
			panic(err) // it is ours
		}
		u.Host = addr
		return append(old, "DOCKET_DATABASE_URL="+u.String())
	}
}

// newCluster migrates and starts every role.
func newCluster(t *testing.T, s *servers, settings ...setting) *cluster {
	t.Helper()
	need(t, docketBinary)
	name := fmt.Sprintf("e2e%d", rand.Uint32())
	require.NoError(t, s.postgres.Exec("postgres", "CREATE DATABASE "+name+" OWNER docket"))
	c := &cluster{
		t:       t,
		docket:  &docket{upload: freeAddr(t), console: freeAddr(t)},
		servers: s, topics: name + ".", database: name, roles: map[string]*role{}, ledger: newLedger(),
	}
	c.shared = []string{
		"DOCKET_KAFKA_BROKERS=" + strings.Join(s.brokers, ","), "DOCKET_DATABASE_URL=" + s.postgres.URL(name, "docket"),
		"DOCKET_TOPIC_PREFIX=" + c.topics, "DOCKET_LISTEN=" + c.upload, "DOCKET_CONSOLE_LISTEN=" + c.console,
	}
	if len(s.brokers) < 3 {
		c.shared = append(c.shared, "DOCKET_KAFKA_UNREPLICATED=allow")
	}
	for _, set := range settings {
		c.shared = set(c, c.shared)
	}
	out, code := c.command(t, "migrate")
	require.Zero(t, code, out)
	for _, name := range []string{"ingest", "saver", "parking", "console"} {
		c.add(name, name)
	}
	for _, r := range c.roles {
		r.ready(t)
	}
	c.process = c.roles["console"].process
	t.Cleanup(c.leave)
	return c
}

// leave lets the roles leave their groups, which the next cluster on these brokers shares: members that are killed keep
// their partitions for ten seconds.
func (c *cluster) leave() {
	var ending sync.WaitGroup
	for _, r := range c.roles {
		ending.Go(func() {
			_ = r.Terminate(10 * time.Second) // or it is killed
		})
	}
	ending.Wait()
}

// add starts one more process of a role.
func (c *cluster) add(key, name string, vars ...string) *role {
	c.t.Helper()
	r := &role{t: c.t, name: name, addr: freeAddr(c.t)}
	r.vars = slices.Concat([]string{"PGAPPNAME=" + name}, c.shared, vars)
	c.mu.Lock()
	c.roles[key] = r
	c.mu.Unlock()
	r.start()
	return r
}

func (r *role) start() {
	r.t.Helper()
	r.process = startDocket(r.t, r.name, r.addr, r.vars)
}

func (r *role) ready(t *testing.T) {
	t.Helper()
	require.NoError(t, testserver.WaitReady(r.addr, 30*time.Second))
}

func (r *role) kill(t *testing.T) {
	t.Helper()
	r.Kill()
}

// terminate stops a role in good order and returns how long that took.
func (r *role) terminate(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	require.NoError(t, r.Signal(syscall.SIGTERM))
	code := r.wait(t, 25*time.Second)
	require.Contains(t, []int{0, 1}, code, "%s: %s", r.name, r.out) // 1: it says what it could not finish
	return time.Since(began)
}

// forget takes a process out of what is asked for trouble.
func (c *cluster) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.roles, key)
}

func (c *cluster) uploads() string { return "http://" + c.upload }

func (c *cluster) admins() (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.roles {
		out = append(out, r.addr)
	}
	return out
}

// drill puts a load on the cluster.
func (c *cluster) drill(t *testing.T, fault string, rate int, events func(int) []string) *drill {
	t.Helper()
	return c.longDrill(t, fault, rate, 3*time.Second, events)
}

// longDrill lets the load flow for as long in front of the fault.
func (c *cluster) longDrill(
	t *testing.T, fault string, rate int, before time.Duration, events func(int) []string,
) *drill {
	t.Helper()
	where := "roles"
	if c.servers.kafka == nil {
		where = "roles, faulty broker"
	} else if n := len(c.servers.brokers); n > 1 {
		where = fmt.Sprintf("roles, %d brokers", n)
	}
	return newDrill(t, fault, where, c, c.ledger, rate, before, events)
}

// command runs one of docket's commands with the roles' environment.
func (c *cluster) command(t *testing.T, args ...string) (string, int) {
	t.Helper()
	p := start(t, append([]string{"DOCKET_SERVER=http://" + c.console}, c.shared...), docketBinary, args...)
	code := p.wait(t, time.Minute)
	return p.out.String(), code
}

// settle looks into the database and the topics themselves.
func (c *cluster) settle(t *testing.T) outcome {
	t.Helper()
	now := outcome{rows: c.rows(t)}
	c.counted(t)
	for _, r := range append(c.records(t, "dlq"), c.records(t, "parking.dlq")...) {
		now.dead = append(now.dead, r.where)
	}
	parked := c.records(t, "parking")
	now.parked = len(parked)
	for _, r := range parked {
		if r.attempt != "" {
			now.attempts++
		}
	}
	now.died = len(now.dead)
	fresh := now // the counts without those of the drills before; what is where is judged by the ledger of all of them
	fresh.died, fresh.parked, fresh.attempts = now.died-c.past.died, now.parked-c.past.parked, now.attempts-c.past.attempts
	c.past = now
	return fresh
}

// counted requires that the counts are those of the rows, of every day, tenant, path and outcome.
func (c *cluster) counted(t *testing.T) {
	t.Helper()
	var differ int
	c.query(t, &differ, `WITH rows AS (SELECT timestamp::date AS day, tenant, coalesce(path, ''), outcome, count(*) FROM decisions GROUP BY 1, 2, 3, 4),
		counts AS (SELECT at::date, tenant, path, outcome, sum(decisions)::bigint FROM decision_counts GROUP BY 1, 2, 3, 4
			HAVING sum(decisions) <> 0)
		SELECT count(*) FROM ((TABLE rows EXCEPT TABLE counts) UNION ALL (TABLE counts EXCEPT TABLE rows)) d`)
	require.Zero(t, differ, "counts that differ from the rows")
}

// rows are what the database has, by the bytes of the events.
func (c *cluster) rows(t *testing.T) (out []where) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.servers.postgres.URL(c.database, ""))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	kept, err := conn.Query(t.Context(), `SELECT sha256, tenant, bytes FROM dictionaries`)
	require.NoError(t, err)
	dictionaries := sqlstore.NewDictionaries(slog.New(slog.DiscardHandler))
	var d domain.Dictionary
	var sum []byte
	_, err = pgx.ForEachRow(kept, []any{&sum, &d.Tenant, &d.Bytes}, func() error {
		copy(d.SHA256[:], sum)
		dictionaries.Learn([]domain.Dictionary{{SHA256: d.SHA256, Tenant: d.Tenant, Bytes: slices.Clone(d.Bytes)}})
		return nil
	})
	require.NoError(t, err)
	rows, err := conn.Query(
		t.Context(),
		`SELECT decision_id, event::text, packed FROM decisions
		UNION ALL SELECT decision_id, event::text, packed FROM decisions_out_of_window`,
	)
	require.NoError(t, err)
	var id string
	var event, packed []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &event, &packed}, func() error {
		if packed != nil {
			var err error
			if event, err = dictionaries.Unpack(packed); err != nil {
				return err
			}
		}
		out = append(out, where{id, sha256.Sum256(event)})
		return nil
	})
	require.NoError(t, err)
	return out
}

// record is what a topic has.
type record struct {
	where
	partition int32
	offset    int64
	attempt   string // the docket-attempt header
	bytes     int
}

// records are all of a topic's.
func (c *cluster) records(t *testing.T, topic string) (out []record) {
	t.Helper()
	c.eachRecord(t, topic, func(r *kgo.Record) { out = append(out, recordOf(r)) })
	return out
}

// eachRecord reads a topic from its start to what is its end.
func (c *cluster) eachRecord(t *testing.T, topic string, do func(*kgo.Record)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.servers.brokers...), kgo.ConsumeTopics(c.topics+topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords(),
	)
	require.NoError(t, err)
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, c.topics+topic)
	require.NoError(t, err)
	starts, err := kadm.NewClient(cl).ListStartOffsets(ctx, c.topics+topic)
	require.NoError(t, err)
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		require.NoError(t, o.Err)
		if s, _ := starts.Lookup(o.Topic, o.Partition); o.Offset > s.Offset {
			left[o.Partition] = o.Offset
		}
	})
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				do(r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
}

func recordOf(r *kgo.Record) record {
	found := record{
		where: where{string(r.Key), sha256.Sum256(r.Value)}, partition: r.Partition, offset: r.Offset, bytes: len(r.Value),
	}
	for _, h := range r.Headers {
		if h.Key == "docket-attempt" {
			found.attempt = string(h.Value)
		}
	}
	return found
}

// parks waits until more is parked than was.
func (c *cluster) parks(t *testing.T, than int) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		if n := len(c.records(t, "parking")); n <= than {
			return fmt.Errorf("%d records are parked", n)
		}
		return nil
	})
}

// committed is how far a group has come in a partition of a topic.
func (c *cluster) committed(t *testing.T, group, topic string, partition int32) int64 {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.servers.brokers...))
	require.NoError(t, err)
	defer cl.Close()
	offsets, err := kadm.NewClient(cl).FetchOffsets(t.Context(), c.topics+group)
	require.NoError(t, err)
	o, ok := offsets.Lookup(c.topics+topic, partition)
	if !ok {
		return -1
	}
	return o.At
}

// query asks the database one question.
func (c *cluster) query(t *testing.T, into any, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.servers.postgres.URL(c.database, ""))
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(into))
}

func oneBroker(t *testing.T, settings ...setting) *cluster {
	t.Helper()
	s, err := single()
	testserver.Need(t, err)
	return newCluster(t, s, settings...)
}

// sleepFor waits for faults to take effect.
func sleepFor(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
