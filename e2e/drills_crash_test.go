package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/docket-project/docket/internal/testserver"
)

// faultyBroker is a cluster of docket's on a broker that does as a drill says, and on the real database.
func faultyBroker(t *testing.T, settings ...setting) (*cluster, *kfake.Cluster) {
	t.Helper()
	s, err := single()
	testserver.Need(t, err)
	fake, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(fake.Close)
	return newCluster(t, &servers{postgres: s.postgres, brokers: fake.ListenAddrs()}, settings...), fake
}

// crash kills a role at its next request of a kind, and waits for that. The broker does not act on the request, unless
// the error is one that a broker answers after it has. Only from when what it waits for has been written does it look
// for the request.
func (c *cluster) crash(t *testing.T, fake *kfake.Cluster, name string, at kfake.Fault, written string) {
	t.Helper()
	var armed atomic.Bool
	armed.Store(written == "")
	if written != "" {
		fake.Fault(
			kfake.Fault{
				Keys:    []kmsg.Key{kmsg.Produce},
				Topic:   c.topics + written,
				Observe: true,
				Count:   -1,
				When: func(kmsg.Request) bool {
					armed.Store(true)
					return true
				},
			},
		)
	}
	victim := c.roles[name]
	at.Count = 1
	at.When = func(kmsg.Request) bool {
		if !armed.CompareAndSwap(true, false) {
			return false
		}
		_ = victim.Signal(syscall.SIGKILL)
		return true
	}
	fault := fake.Fault(at)
	defer fault.Remove()
	select {
	case <-victim.Done():
	case <-time.After(45 * time.Second):
		require.FailNow(t, "the role did not come to that point")
	}
}

// commit is the request that makes a group's offsets durable.
func commit(group string) kfake.Fault {
	return kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: group, Err: kerr.CoordinatorNotAvailable}
}

// gate lets mallory's rows wait for a lock that a drill pauses.
const gate = 7919

// hold takes the gate.
func (c *cluster) hold(t *testing.T) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.servers.postgres.URL(c.database, ""))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), fmt.Sprintf(`SELECT pg_advisory_lock(%d)`, gate))
	require.NoError(t, err)
	return func() { _ = conn.Close(context.Background()) }
}

// crashInTransaction kills a role whose transaction has inserted and waits at the gate, and lets the database roll it
// back.
func (c *cluster) crashInTransaction(t *testing.T, name string) {
	t.Helper()
	const waiting = `FROM pg_stat_activity WHERE datname = $1 AND application_name = $2 AND wait_event = 'advisory'`
	eventually(t, 30*time.Second, func() error {
		var n int
		c.query(t, &n, `SELECT count(*) `+waiting, c.database, name)
		if n == 0 {
			return fmt.Errorf("%s has no transaction open", name)
		}
		return nil
	})
	c.roles[name].kill(t)
	var ended int
	c.query(t, &ended, `SELECT count(pg_terminate_backend(pid)) `+waiting, c.database, name)
	require.Positive(t, ended, "it was in a transaction when it died, and its commit was not executed")
}

// TestDrillCrashPoints kills each role at each point of its work that differs from the others in what is durable by
// then.
func TestDrillCrashPoints(t *testing.T) {
	c, fake := faultyBroker(t, with("DOCKET_PARKING_MAX_ATTEMPTS=2"))
	produce := func(err *kerr.Error) kfake.Fault {
		return kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topics + "decisions", Err: err}
	}
	for _, p := range []struct {
		fault, role string
		dead        bool // some rows are refused, and end as dead letters
		// run brings the role to the point and kills it there; restore ends what was needed for it.
		run func(t *testing.T) (restore func())
	}{
		{"ingest, before the broker has the records", "ingest", false, func(t *testing.T) func() {
			c.crash(t, fake, "ingest", produce(kerr.NotLeaderForPartition), "")
			return nothing
		}},
		{"ingest, after the broker has the records, before the answer", "ingest", false, func(t *testing.T) func() {
			c.crash(t, fake, "ingest", produce(kerr.RequestTimedOut), "")
			return nothing
		}},
		{"the saver, before the database commits", "saver", false, func(t *testing.T) func() {
			restore := c.refuse(t, fmt.Sprintf("PERFORM pg_advisory_xact_lock(%d)", gate))
			release := c.hold(t)
			c.crashInTransaction(t, "saver")
			return func() { release(); restore() }
		}},
		{"the saver, after the database's commit, before the offsets'", "saver", false, func(t *testing.T) func() {
			c.crash(t, fake, "saver", commit(c.topics+"docket-saver"), "")
			return nothing
		}},
		{"the saver, after parking, before the offsets' commit", "saver", false, func(t *testing.T) func() {
			c.without(t, func() { c.crash(t, fake, "saver", commit(c.topics+"docket-saver"), "parking") })
			return nothing
		}},
		{"the saver, after dead-lettering, before the offsets' commit", "saver", true, func(t *testing.T) func() {
			restore := c.refuse(t, "RAISE 'refused' USING ERRCODE = '22003'")
			c.crash(t, fake, "saver", commit(c.topics+"docket-saver"), "dlq")
			return restore
		}},
		{"parking, before the database commits", "parking", false, func(t *testing.T) func() {
			restore := c.refuse(t, fmt.Sprintf("PERFORM pg_advisory_xact_lock(%d)", gate))
			c.without(t, func() { c.parks(t, c.past.parked+100) })
			release := c.hold(t)
			c.crashInTransaction(t, "parking")
			return func() { release(); restore() }
		}},
		{"parking, after the database's commit, before the offsets'", "parking", false, func(t *testing.T) func() {
			c.without(t, func() { c.parks(t, c.past.parked+100) })
			c.crash(t, fake, "parking", commit(c.topics+"docket-parking"), "")
			return nothing
		}},
		{"parking, after giving up a row, before the offsets' commit", "parking", true, func(t *testing.T) func() {
			restore := c.refuse(t, "RAISE 'refused'")
			c.crash(t, fake, "parking", commit(c.topics+"docket-parking"), "parking.dlq")
			return restore
		}},
	} {
		passed := t.Run(p.fault, func(t *testing.T) {
			d := c.drill(t, "kill -9 of "+p.fault, 60, decisions(shortName(), 8)) // too few for the dead-letter guard
			d.inject(func() func() {
				restore := p.run(t)
				return func() {
					restore()
					c.roles[p.role].start()
				}
			})
			d.heal()
			d.verify(90*time.Second, 0)
			if p.dead {
				require.Positive(t, d.dead)
			} else {
				d.unspent()
			}
			if p.role == "parking" {
				require.Positive(t, d.parked)
			}
		})
		if !passed {
			return // what it left behind would fail the others
		}
	}
}

// TestDrillParkingUnavailable has nowhere to park while the database is down: decisions wait in their own topic.
func TestDrillParkingUnavailable(t *testing.T) {
	c, fake := faultyBroker(t)
	d := c.drill(t, "the parking topic takes nothing while PostgreSQL is down", 100, decisions(shortName(), 0))
	var fault *kfake.FaultHandle
	d.inject(func() func() {
		fault = fake.Fault(
			kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topics + "parking", Err: kerr.NotEnoughReplicas, Count: -1},
		)
		require.NoError(t, c.servers.postgres.Stop(true))
		return func() {
			fault.Remove()
			require.NoError(t, c.servers.postgres.Start())
		}
	})
	sleepFor(t, 10*time.Second)
	require.Positive(t, fault.Hits())
	require.Empty(t, c.records(t, "parking"))
	waiting, _, err := c.backlog()
	require.NoError(t, err)
	require.Greater(t, waiting["saver"], int64(1000), "decisions wait in place")
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
	require.Zero(t, d.refused)
}

// TestDrillTooFewReplicas has a broker without enough replicas behind it, and one that appends and says that it timed
// out.
func TestDrillTooFewReplicas(t *testing.T) {
	c, fake := faultyBroker(t)
	produce := func(err *kerr.Error) *kfake.FaultHandle {
		return fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: c.topics + "decisions", Err: err, Count: -1})
	}
	d := c.drill(t, "not enough replicas for 9 s", 60, decisions(shortName(), 0))
	d.inject(func() func() { return produce(kerr.NotEnoughReplicas).Remove })
	sleepFor(t, 9*time.Second)
	d.heal()
	d.verify(time.Minute, 0)
	require.Positive(t, d.refused)
	require.Less(t, d.load.slowest, answerLimit)

	d = c.drill(t, "time-outs after the append for 5 s", 60, decisions(shortName(), 0))
	var fault *kfake.FaultHandle
	d.inject(func() func() {
		fault = produce(kerr.RequestTimedOut)
		return fault.Remove
	})
	sleepFor(t, 5*time.Second)
	require.Positive(t, fault.Hits())
	d.heal()
	d.verify(time.Minute, 0)
	d.unspent()
}

// TestDrillFellOffTheLog deletes records that no saver has seen, as a retention that is too short does. They are lost,
// by an administrator's hand: docket says which, stops only that partition, and goes on when an operator has accepted
// it.
func TestDrillFellOffTheLog(t *testing.T) {
	const partition = 3
	c := oneBroker(t)
	d := c.drill(t, "unconsumed records of a partition deleted, the loss accepted", 100, decisions(shortName(), 0))
	c.roles["saver"].terminate(t)
	sleepFor(t, 2*time.Second)
	from := c.committed(t, "docket-saver", "decisions", partition)
	deleted := map[string]bool{}
	d.inject(func() func() {
		var before int64
		for _, r := range c.records(t, "decisions") {
			if r.partition == partition && r.offset >= from {
				deleted[r.id], before = true, r.offset+1
			}
		}
		require.NoError(t, c.servers.kafka.DeleteRecords(t.Context(), c.topics+"decisions", partition, before))
		c.roles["saver"].start()
		return func() {
			c.roles["saver"].terminate(t)
			out, code := c.command(t, "log", "accept-loss", "--yes")
			require.Zero(t, code, out)
			c.roles["saver"].start()
		}
	})
	eventually(t, 30*time.Second, func() error {
		if reason := d.trouble(); !strings.Contains(reason, "has lost records") {
			return fmt.Errorf("docket says %q", reason)
		}
		return nil
	})
	other := c.committed(t, "docket-saver", "decisions", partition+1)
	eventually(t, 30*time.Second, func() error {
		if c.committed(t, "docket-saver", "decisions", partition+1) <= other {
			return fmt.Errorf("the other partitions do not go on")
		}
		return nil
	})
	out, code := c.command(t, "log", "accept-loss")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, fmt.Sprintf("%sdecisions/%d", c.topics, partition))
	d.heal()
	lost, twice, phantom, altered := d.conclude(time.Minute, 0)
	require.NotEmpty(t, lost)
	require.Len(t, lost, len(deleted))
	for _, id := range lost {
		require.True(t, deleted[id], "%s was not deleted", id)
	}
	var found, accepted int
	c.query(t, &found, `SELECT sum(last_offset - first_offset + 1)::bigint FROM log_losses WHERE caller = ''`)
	c.query(t, &accepted, `SELECT sum(last_offset - first_offset + 1)::bigint FROM log_losses WHERE caller <> ''`)
	require.Equal(t, []int{len(lost), len(lost)}, []int{found, accepted}, "what was said and accepted")
	require.Contains(t, c.operate(t, 4, "trail", lost[0]), fmt.Sprintf("%d records that the log has lost", len(lost)))
	require.Empty(t, append(append(twice, phantom...), altered...))
}
