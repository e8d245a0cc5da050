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

// answerLimit is how long the slowest answer may take: OPA waits for ten seconds.
const answerLimit = 8*time.Second + 500*time.Millisecond

// TestRolesJourney is the happy path through every role.
func TestRolesJourney(t *testing.T) {
	c := oneBroker(t)
	journey(t, c.docket)
	require.Empty(t, append(c.records(t, "dlq"), c.records(t, "parking.dlq")...))
	for _, r := range c.roles {
		r.terminate(t)
		require.Zero(t, r.cmd.ProcessState.ExitCode(), "%s: %s", r.name, r.out)
	}
}

// TestDrillKilledRoles kills each role 20 times in the middle of its work.
func TestDrillKilledRoles(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "kill -9 of ingest, saver and parking, 20 times each", 150, decisions("kill", 0))
	d.inject(func() {})
	for range 20 {
		for _, name := range []string{"ingest", "saver", "parking"} {
			sleepFor(t, time.Duration(100+rand.IntN(200))*time.Millisecond)
			c.roles[name].kill(t)
			c.roles[name].start()
		}
	}
	d.heal(func() { c.roles["ingest"].ready(t) })
	d.verify(time.Minute, c.count)
	require.Zero(t, d.dead)
}

// outageDrill stops PostgreSQL in the middle of a load.
func outageDrill(t *testing.T, c *cluster, rate int, before, length, after time.Duration) *drill {
	t.Helper()
	fault := fmt.Sprintf("PostgreSQL stopped for %s at %d uploads/s", length, rate)
	d := newDrill(t, fault, "roles", c.docket, c.addrs, rate, before, decisions("outage", 0))
	d.inject(func() { require.NoError(t, c.servers.postgres.Stop(true)) })
	sleepFor(t, length)
	d.heal(func() { require.NoError(t, c.servers.postgres.Start()) })
	sleepFor(t, after)
	d.verify(3*time.Minute, c.count)
	require.Zero(t, d.refused, "a database outage refuses no upload")
	require.Zero(t, d.dead)
	require.Positive(t, d.parked)
	return d
}

func TestDrillDatabaseOutage(t *testing.T) {
	outageDrill(t, oneBroker(t), 150, 3*time.Second, 20*time.Second, 0)
}

// TestLongDrillReference is the outage that the promise is measured by: a minute of three at 1,000 uploads a second.
func TestLongDrillReference(t *testing.T) {
	c := oneBroker(t)
	d := outageDrill(t, c, 1000, time.Minute, time.Minute, time.Minute)
	var late, drained float64
	c.query(t, &late, `SELECT extract(epoch FROM percentile_cont(0.95) WITHIN GROUP (ORDER BY saved_at - received_at)) FROM decisions WHERE received_at > $1`, d.healed)
	c.query(t, &drained, `SELECT extract(epoch FROM max(saved_at) - $1) FROM decisions WHERE received_at < $1`, d.healed)
	rate := float64(d.parked) / drained
	t.Logf("fresh decisions are visible after %.0f ms at p95; %d parked ones were stored within %.1f s of the database's return, %.0f a second, "+
		"%.1f times the arrivals; p95 of uploads %s before, %s during", late*1000, d.parked, drained, rate, rate/3000, d.before, d.during)
	require.LessOrEqual(t, late, 2.0, "seconds")
	require.GreaterOrEqual(t, rate, 3*3000.0)
	require.LessOrEqual(t, d.during, max(d.before*3/2, d.before+5*time.Millisecond))
}

// TestDrillStop ends every role while PostgreSQL is down, and while Kafka is: within 25 s, and nothing is lost by it.
func TestDrillStop(t *testing.T) {
	for name, outage := range map[string]struct{ begin, end func(s *servers) error }{
		"PostgreSQL": {func(s *servers) error { return s.postgres.Stop(true) }, func(s *servers) error { return s.postgres.Start() }},
		"Kafka":      {func(s *servers) error { return s.kafka.Kill(0) }, func(s *servers) error { return s.kafka.Start(0) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := oneBroker(t)
			d := c.drill(t, "SIGTERM of every role with "+name+" down", 100, decisions("stop", 0))
			d.inject(func() { require.NoError(t, outage.begin(c.servers)) })
			over := false
			t.Cleanup(func() {
				if !over {
					_ = outage.end(c.servers)
				}
			})
			sleepFor(t, 2*time.Second)
			took := map[string]time.Duration{}
			for _, r := range c.roles {
				took[r.name] = r.terminate(t).Round(time.Millisecond)
			}
			t.Logf("ended after %v", took)
			d.heal(func() {
				require.NoError(t, outage.end(c.servers))
				over = true
				for _, r := range c.roles {
					r.start()
				}
				for _, r := range c.roles {
					r.ready(t)
				}
			})
			d.verify(time.Minute, c.count)
			require.Zero(t, d.dead)
		})
	}
}

// TestDrillHungBroker stops the only broker without ending it: uploads are answered within 8 s, and none of them with yes.
func TestDrillHungBroker(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "the only broker hangs (SIGSTOP) for 20 s", 100, decisions("hung", 0))
	d.inject(func() { c.servers.kafka.Pause(0) })
	sleepFor(t, time.Second) // what was acknowledged before arrives
	before := len(d.load.ledger.ackedIDs())
	sleepFor(t, 19*time.Second)
	during := len(d.load.ledger.ackedIDs()) - before
	d.heal(func() { c.servers.kafka.Resume(0) })
	require.Zero(t, during, "nobody is told yes while the broker hangs")
	d.verify(time.Minute, c.count)
	require.Positive(t, d.refused)
	require.Less(t, d.load.slowest(), answerLimit, "OPA waits 10 s for an answer")
}

// TestDrillBrokerRestarted kills the only broker and starts it again.
func TestDrillBrokerRestarted(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "the only broker killed and started again", 100, decisions("restart", 0))
	d.inject(func() { require.NoError(t, c.servers.kafka.Kill(0)) })
	sleepFor(t, 5*time.Second)
	d.heal(func() { require.NoError(t, c.servers.kafka.Start(0)) })
	d.verify(time.Minute, c.count)
	require.Less(t, d.load.slowest(), answerLimit)
}

// TestDrillBrokersLost has three brokers with three replicas each, and loses one and then two.
func TestDrillBrokersLost(t *testing.T) {
	s, err := startServers(3)
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, s.close()) })
	c := newCluster(t, s)

	d := c.drill(t, "one of three brokers killed", 50, decisions("one", 0))
	d.inject(func() { require.NoError(t, s.kafka.Kill(0)) })
	// Kafka gives a broker 9 s to come back before its partitions move (broker.session.timeout.ms).
	sleepFor(t, 20*time.Second)
	refused := d.load.refused.Load()
	sleepFor(t, 5*time.Second)
	require.Equal(t, refused, d.load.refused.Load(), "no refusals beyond the failover")
	d.heal(func() { require.NoError(t, s.kafka.Start(0)) })
	d.verify(time.Minute, c.count)

	d = c.drill(t, "two of three brokers killed", 50, decisions("two", 0))
	d.inject(func() {
		require.NoError(t, s.kafka.Kill(0))
		require.NoError(t, s.kafka.Kill(1))
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
	d.heal(func() {
		require.NoError(t, s.kafka.Start(1))
		require.NoError(t, s.kafka.Start(0))
	})
	d.verify(2*time.Minute, c.count)
	require.Positive(t, d.refused)
	require.Less(t, d.load.slowest(), answerLimit)
}

// TestDrillPartitionsAdded adds partitions under load.
func TestDrillPartitionsAdded(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "six partitions added to decisions", 100, decisions("more", 0))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d.inject(func() { require.NoError(t, c.servers.kafka.AddPartitions(ctx, c.topics+"decisions", 6)) })
	sleepFor(t, 20*time.Second) // clients look every 15 s
	d.heal(func() {})
	d.verify(time.Minute, c.count)
	require.Zero(t, d.refused)
	require.Zero(t, d.parked)
}

// TestDrillRebalances lets savers and parking roles come and go all the time, in good order and killed.
func TestDrillRebalances(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "rebalance storm: 12 more savers and parking roles come and go", 150, decisions("storm", 0))
	d.inject(func() {})
	for i := range 12 {
		name := []string{"saver", "parking"}[i%2]
		more := c.add("more", name)
		sleepFor(t, time.Duration(300+rand.IntN(1500))*time.Millisecond)
		delete(c.roles, "more")
		if i%4 < 2 {
			more.kill(t)
		} else {
			more.terminate(t)
		}
	}
	d.heal(func() {})
	d.verify(90*time.Second, c.count)
	require.Zero(t, d.refused)
	require.Zero(t, d.dead)
}
