package e2e

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/testserver"
)

// faultyBroker is a cluster of docket's on a broker that does as a drill says, and on the real database.
func faultyBroker(t *testing.T) (*cluster, *kfake.Cluster) {
	t.Helper()
	s, err := single()
	testserver.Need(t, err)
	fake, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(fake.Close)
	return newCluster(t, &servers{postgres: s.postgres, brokers: fake.ListenAddrs()}), fake
}

// atRequest kills a role at a request of its own, before the broker acts on it, and returns how to wait for that.
func (c *cluster) atRequest(t *testing.T, fake *kfake.Cluster, name string, key kmsg.Key, group, topic string) (dead func()) {
	t.Helper()
	var armed atomic.Bool
	armed.Store(true)
	victim := c.roles[name]
	fake.Fault(kfake.Fault{
		Keys: []kmsg.Key{key}, Group: group, Topic: topic, Err: kerr.CoordinatorNotAvailable, Count: 1,
		When: func(kmsg.Request) bool {
			if !armed.CompareAndSwap(true, false) {
				return false
			}
			_ = victim.cmd.Process.Kill()
			return true
		},
	})
	return func() {
		select {
		case <-victim.done:
		case <-time.After(30 * time.Second):
			require.FailNow(t, "the role did not come to that point")
		}
	}
}

// blockedInsert waits until a statement of a role's waits for a lock, and kills the role then.
func (c *cluster) blockedInsert(t *testing.T, name string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		var n int
		c.query(t, &n, `SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock' AND query LIKE '%INSERT%'`, c.database)
		if n == 0 {
			return errNothingWaits
		}
		return nil
	})
	c.roles[name].kill(t)
}

// TestDrillCrashPoints kills each role at each point of its work that differs from the others in what is durable by then.
func TestDrillCrashPoints(t *testing.T) {
	c, fake := faultyBroker(t)
	postgres := c.servers.postgres
	lock := func() (unlock func()) { return lockTable(t, c) }
	for _, p := range []struct {
		fault, role string
		// run brings the role to the point and kills it there; mend ends what was needed for it.
		run func(t *testing.T) (mend func())
	}{
		{"kill -9 of ingest before the broker has the records", "ingest", func(t *testing.T) func() {
			c.atRequest(t, fake, "ingest", kmsg.Produce, "", c.topics+"decisions")()
			return func() {}
		}},
		{"kill -9 of the saver before the database commits", "saver", func(t *testing.T) func() {
			unlock := lock()
			c.blockedInsert(t, "saver")
			return unlock
		}},
		{"kill -9 of the saver after the database's commit, before the offsets'", "saver", func(t *testing.T) func() {
			c.atRequest(t, fake, "saver", kmsg.OffsetCommit, "docket-saver", "")()
			return func() {}
		}},
		{"kill -9 of the saver after parking, before the offsets' commit", "saver", func(t *testing.T) func() {
			require.NoError(t, postgres.Stop(true))
			parked := len(c.records(t, "parking"))
			eventually(t, 20*time.Second, func() error {
				if len(c.records(t, "parking")) == parked {
					return errNothingParked
				}
				return nil
			})
			c.atRequest(t, fake, "saver", kmsg.OffsetCommit, "docket-saver", "")()
			return func() { require.NoError(t, postgres.Start()) }
		}},
		{"kill -9 of the parking role before the database commits", "parking", func(t *testing.T) func() {
			// The saver would wait for the lock as well, and parks: it has no part in this.
			require.NoError(t, postgres.Stop(true))
			sleepFor(t, 3*time.Second)
			c.roles["saver"].terminate(t)
			require.NoError(t, postgres.Start())
			unlock := lock()
			c.blockedInsert(t, "parking")
			return func() {
				unlock()
				c.roles["saver"].start()
			}
		}},
		{"kill -9 of the parking role after the database's commit, before the offsets'", "parking", func(t *testing.T) func() {
			dead := c.atRequest(t, fake, "parking", kmsg.OffsetCommit, "docket-parking", "")
			require.NoError(t, postgres.Stop(true))
			sleepFor(t, 3*time.Second)
			require.NoError(t, postgres.Start())
			dead()
			return func() {}
		}},
		{"kill -9 of the parking role after parking again, before the offsets' commit", "parking", func(t *testing.T) func() {
			mend := c.refuse(t, "RAISE 'refused'")
			c.atRequest(t, fake, "parking", kmsg.OffsetCommit, "docket-parking", "")()
			return mend
		}},
	} {
		t.Run(p.fault, func(t *testing.T) {
			d := c.drill(t, p.fault, 60, decisions(shortName(), 20))
			var mend func()
			d.inject(func() { mend = p.run(t) })
			d.heal(func() {
				mend()
				c.roles[p.role].start()
			})
			d.verify(90*time.Second, c.count)
			require.Zero(t, d.dead)
		})
	}
}

// TestDrillParkingUnavailable has nowhere to park while the database is down: decisions wait in their own topic.
func TestDrillParkingUnavailable(t *testing.T) {
	c, fake := faultyBroker(t)
	d := c.drill(t, "the parking topic takes nothing while PostgreSQL is down", 100, decisions("nowhere", 0))
	var fault *kfake.FaultHandle
	d.inject(func() {
		fault = fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topics + "parking", Err: kerr.NotEnoughReplicas, Count: -1})
		require.NoError(t, c.servers.postgres.Stop(true))
	})
	sleepFor(t, 10*time.Second)
	require.Positive(t, fault.Hits())
	d.heal(func() {
		require.NoError(t, c.servers.postgres.Start())
		sleepFor(t, 3*time.Second)
		fault.Remove()
	})
	d.verify(time.Minute, c.count)
	require.Zero(t, d.refused)
	require.Zero(t, d.dead)
}

// TestDrillTooFewReplicas has a broker without enough replicas behind it, and one that appends and says that it timed out.
func TestDrillTooFewReplicas(t *testing.T) {
	c, fake := faultyBroker(t)
	d := c.drill(t, "not enough replicas for 9 s", 60, decisions("few", 0))
	var fault *kfake.FaultHandle
	d.inject(func() {
		fault = fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topics + "decisions", Err: kerr.NotEnoughReplicas, Count: -1})
	})
	sleepFor(t, 9*time.Second)
	d.heal(fault.Remove)
	d.verify(time.Minute, c.count)
	require.Positive(t, d.refused)
	require.Less(t, d.load.slowest(), answerLimit)

	d = c.drill(t, "time-outs after the append for 5 s", 60, decisions("late", 0))
	d.inject(func() {
		fault = fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topics + "decisions", Err: kerr.RequestTimedOut, Count: -1})
	})
	sleepFor(t, 5*time.Second)
	require.Positive(t, fault.Hits())
	d.heal(fault.Remove)
	d.verify(time.Minute, c.count)
	require.Zero(t, d.dead)
}

// TestDrillFellOffTheLog deletes records that no saver has seen, as a retention that is too short does. They are lost, by an
// administrator's hand: docket says which, stops only that partition, and goes on when an operator has accepted it.
func TestDrillFellOffTheLog(t *testing.T) {
	c := oneBroker(t)
	d := c.drill(t, "records of one partition deleted that were not consumed", 100, decisions("gone", 0))
	c.roles["saver"].terminate(t)
	sleepFor(t, 2*time.Second)
	gone := c.servers.kafka.DeleteRecords(t.Context(), c.topics+"decisions", 0)
	require.NoError(t, gone)
	d.inject(func() {
		c.roles["saver"].start()
		eventually(t, 30*time.Second, func() error {
			if trouble := d.trouble(false); trouble == "" {
				return errNothingWaits
			}
			return nil
		})
	})
	out, code := c.command(t, "log", "accept-loss")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, c.topics+"decisions/0")
	d.heal(func() {
		c.roles["saver"].terminate(t)
		out, code = c.command(t, "log", "accept-loss", "--yes")
		require.Zero(t, code, out)
		c.roles["saver"].start()
	})
	var accepted int64
	c.query(t, &accepted, `SELECT sum(last_offset - first_offset + 1)::bigint FROM log_losses`)
	d.verify(time.Minute, func(d *drill) {
		lost, twice, phantom, altered := d.load.ledger.judge(c.rows(t), nil)
		require.Len(t, lost, int(accepted), "exactly what was said and accepted")
		require.Empty(t, append(append(twice, phantom...), altered...))
		d.lost = 0
	})
	d.fault += " (the accepted loss: " + out + ")"
}
