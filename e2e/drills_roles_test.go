package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// answerLimit is how long the slowest answer may take from the sending on: OPA waits for ten seconds. docket answers
// within eight; the rest is for a machine on which brokers, database, roles and a thousand senders share two cores.
const answerLimit = 10 * time.Second

func nothing() {}

// TestRolesJourney is the happy path through every role.
func TestRolesJourney(t *testing.T) {
	c := oneBroker(t)
	journey(t, c.docket)
	require.Empty(t, append(c.records(t, "dlq"), c.records(t, "parking.dlq")...))
	for _, r := range c.roles {
		r.terminate(t)
		require.Zero(t, r.ExitCode(), "%s: %s", r.name, r.out)
	}
}

// TestDrillKilledRoles kills each role in the middle of its work: the saver and the parking role only once they have
// done some since they were started, for which the database goes away again and again.
func TestDrillKilledRoles(t *testing.T) {
	const rounds = 3
	c := oneBroker(t)
	d := c.drill(
		t, fmt.Sprintf("kill -9 of every role in a database outage, %d times", rounds), 150, decisions(shortName(), 0),
	)
	d.inject(func() func() { return nothing })
	for range rounds {
		parked := len(c.records(t, "parking"))
		c.kill9("ingest")
		c.without(t, func() { c.parks(t, parked) })
		c.worked(t, "saver", `docket_save_records_total{result="saved"}`)
		c.worked(t, "parking", "docket_parking_replayed_records_total")
		c.kill9("saver")
		c.kill9("parking")
		sleepFor(t, time.Duration(rand.IntN(500))*time.Millisecond)
	}
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.Positive(t, d.parked)
}

// kill9 kills a role and starts it again.
func (c *cluster) kill9(name string) {
	c.roles[name].kill(c.t)
	c.roles[name].start()
}

// worked waits until a role has counted something since it was started.
func (c *cluster) worked(t *testing.T, name, metric string) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		n, err := c.roles[name].metric(metric)
		if err == nil && n == 0 {
			err = fmt.Errorf("%s has not done anything yet", name)
		}
		return err
	})
}

// without stops PostgreSQL for as long as something takes.
func (c *cluster) without(t *testing.T, do func()) {
	t.Helper()
	p := c.servers.postgres
	require.NoError(t, p.Stop(true))
	running := false
	start := func() {
		if !running {
			running = true
			require.NoError(t, p.Start())
		}
	}
	t.Cleanup(start)
	do()
	start()
}

// outageDrill stops PostgreSQL in the middle of a load.
func outageDrill(t *testing.T, c *cluster, rate int, before, length, after time.Duration) *drill {
	t.Helper()
	d := c.longDrill(
		t, fmt.Sprintf("PostgreSQL stopped for %s at %d uploads/s", length, rate), rate, before, decisions(shortName(), 0),
	)
	d.inject(func() func() {
		require.NoError(t, c.servers.postgres.Stop(true))
		return func() { require.NoError(t, c.servers.postgres.Start()) }
	})
	sleepFor(t, length)
	d.heal()
	d.verify(time.Minute, after)
	d.unspent()
	require.Zero(t, d.refused, "a database outage refuses no upload")
	require.Positive(t, d.parked)
	return d
}

func TestDrillDatabaseOutage(t *testing.T) {
	outageDrill(t, oneBroker(t), 150, 3*time.Second, 20*time.Second, 0)
}

// TestLongDrillReference is the outage that the promise is measured by: a minute of three at 1,000 uploads a second. It
// prints what it measures; docs/performance.md says what was asked for.
func TestLongDrillReference(t *testing.T) {
	c := oneBroker(t)
	d := outageDrill(t, c, 1000, time.Minute, time.Minute, 50*time.Second)
	var late, drained float64
	c.query(
		t, &late,
		`SELECT extract(epoch FROM percentile_cont(0.95) WITHIN GROUP (ORDER BY saved_at - received_at)) FROM decisions WHERE received_at > $1`,
		d.healed,
	)
	c.query(t, &drained, `SELECT extract(epoch FROM max(saved_at) - $1) FROM decisions WHERE received_at < $1`, d.healed)
	rate := float64(d.parked) / drained
	t.Logf(
		"fresh decisions are visible after %.0f ms at p95; %d parked ones were stored within %.1f s of the database's "+
			"return, %.0f a second, "+
			"%.1f times the arrivals; p95 of uploads %s before, %s during",
		late*1000,
		d.parked,
		drained,
		rate,
		rate/3000,
		d.before,
		d.during,
	)
}

// TestDrillStop ends every role while PostgreSQL is down, and while Kafka is: within 25 s, and nothing is lost by it.
func TestDrillStop(t *testing.T) {
	c := oneBroker(t)
	for name, outage := range map[string]struct{ begin, end, takesEffect func() error }{
		"PostgreSQL": {
			func() error { return c.servers.postgres.Stop(true) }, func() error { return c.servers.postgres.Start() },
			func() error { c.parks(t, c.past.parked); return nil },
		},
		"Kafka": {
			func() error { return c.servers.kafka.Kill(0) }, func() error { return c.servers.kafka.Start(0) },
			func() error { sleepFor(t, 2*time.Second); return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := c.drill(t, "SIGTERM of every role with "+name+" down", 100, decisions(shortName(), 0))
			d.inject(func() func() {
				require.NoError(t, outage.begin())
				return func() {
					require.NoError(t, outage.end())
					for _, r := range c.roles {
						r.start()
					}
				}
			})
			require.NoError(t, outage.takesEffect())
			took := map[string]time.Duration{}
			for _, r := range c.roles {
				took[r.name] = r.terminate(t).Round(time.Millisecond)
			}
			t.Logf("ended after %v", took)
			d.heal()
			for _, r := range c.roles {
				r.ready(t)
			}
			d.verify(time.Minute, 0)
			d.unspent()
		})
	}
}

// TestDrillHungBroker stops the only broker without ending it: uploads are answered within 8 s, and none of them with
// yes.
func TestDrillHungBroker(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "the only broker hangs (SIGSTOP) for 20 s", 100, decisions(shortName(), 0))
	d.inject(func() func() {
		require.NoError(t, c.servers.kafka.Pause(0))
		return func() { c.servers.kafka.Resume(0) }
	})
	sleepFor(t, time.Second) // what was acknowledged before arrives
	before := len(d.load.ledger.ackedIDs())
	sleepFor(t, 19*time.Second)
	require.Equal(t, before, len(d.load.ledger.ackedIDs()), "nobody is told yes while the broker hangs")
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.GreaterOrEqual(t, d.detected, time.Duration(0))
	require.Positive(t, d.refused)
	t.Logf("the slowest answer took %s", d.load.slowest)
	require.Less(t, d.load.slowest, answerLimit, "OPA waits 10 s for an answer")
}

// TestLongDrillBrokerRestarted kills the only broker and starts it again.
func TestLongDrillBrokerRestarted(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "the only broker killed and started again", 100, decisions(shortName(), 0))
	d.inject(func() func() {
		require.NoError(t, c.servers.kafka.Kill(0))
		return func() { require.NoError(t, c.servers.kafka.Start(0)) }
	})
	sleepFor(t, 5*time.Second)
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.GreaterOrEqual(t, d.detected, time.Duration(0))
	require.Less(t, d.load.slowest, answerLimit)
}

// TestDrillBrokersLost has three brokers with three replicas each, and loses one and then two.
func TestDrillBrokersLost(t *testing.T) {
	s, err := startServers(3)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	c := newCluster(t, s)

	d := c.drill(t, "one of three brokers killed", 50, decisions(shortName(), 0))
	d.inject(func() func() {
		require.NoError(t, s.kafka.Kill(0))
		return func() { require.NoError(t, s.kafka.Start(0)) }
	})
	// Kafka gives a broker 9 s to come back before its partitions move (broker.session.timeout.ms).
	sleepFor(t, 20*time.Second)
	refused := d.load.refused.Load()
	sleepFor(t, 5*time.Second)
	require.Equal(t, refused, d.load.refused.Load(), "no refusals beyond the failover")
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()

	d = c.drill(t, "two of three brokers killed", 50, decisions(shortName(), 0))
	d.inject(func() func() {
		require.NoError(t, s.kafka.Kill(0))
		require.NoError(t, s.kafka.Kill(1))
		return func() {
			require.NoError(t, s.kafka.Start(1))
			require.NoError(t, s.kafka.Start(0))
		}
	})
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
	sleepFor(t, 2*time.Second)
	before := len(d.load.ledger.ackedIDs())
	sleepFor(t, 8*time.Second)
	require.Equal(t, before, len(d.load.ledger.ackedIDs()), "without two replicas nothing is acknowledged")
	d.heal()
	d.verify(2*time.Minute, 0)
	d.unspent()
	require.Positive(t, d.refused)
	require.Less(t, d.load.slowest, answerLimit)
}

// TestLongDrillPartitionsAdded adds partitions under load; they are written and consumed.
func TestLongDrillPartitionsAdded(t *testing.T) {
	const more = 6
	c := oneBroker(t)
	d := c.drill(t, fmt.Sprintf("%d partitions added to decisions", more), 100, decisions(shortName(), 0))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d.inject(func() func() {
		require.NoError(t, c.servers.kafka.AddPartitions(ctx, c.topics+"decisions", more))
		return nothing
	})
	eventually(t, time.Minute, func() error { // clients look every 15 s
		for p := range int32(more) {
			if at := c.committed(t, "docket-saver", "decisions", 12+p); at <= 0 {
				return fmt.Errorf("partition %d has not been consumed", 12+p)
			}
		}
		return nil
	})
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.Zero(t, d.refused)
	require.Zero(t, d.parked)
}

// TestDrillRebalances lets savers and parking roles come and go all the time, in good order and killed, with a backlog
// to replay.
func TestDrillRebalances(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "rebalance storm: 12 more savers and parking roles come and go", 150, decisions(shortName(), 0))
	d.inject(func() func() { return nothing })
	for i := range 12 {
		if i%4 == 0 {
			parked := len(c.records(t, "parking"))
			c.without(t, func() { c.parks(t, parked) })
		}
		more := c.add("more", []string{"saver", "parking"}[i%2])
		sleepFor(t, time.Duration(300+rand.IntN(1500))*time.Millisecond)
		c.forget("more")
		if i%4 < 2 {
			more.kill(t)
		} else {
			more.terminate(t)
		}
	}
	d.heal()
	d.verify(90*time.Second, 0)
	d.unspent()
	require.Zero(t, d.refused)
	require.Positive(t, d.parked)
}
