package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestErasure erases somebody who has rows, dead letters and parked decisions, and then has everything come again: by a
// replay, by reading the dead letters anew, and by a rewind of the log.
func TestErasure(t *testing.T) {
	c := oneBroker(t)
	prefix := shortName()
	began := time.Now().Add(-time.Minute)
	send := func(n int, who ...string) {
		t.Helper()
		client := newClient(t)
		for i := range n {
			for _, name := range who {
				event := fmt.Sprintf(
					idMark+`%s-%s-%d","labels":{"id":"opa-1"},"path":"http/authz/allow","input":{"user":%q},"result":true,"timestamp":%q}`,
					prefix, name, i, name+prefix, time.Now().UTC().Format(time.RFC3339Nano),
				)
				require.NoError(t, post(client, c.uploads(), zipped("["+event+"]")))
			}
		}
	}
	rows := func(who string) (n int) {
		t.Helper()
		c.query(t, &n, `SELECT count(*) FROM decisions WHERE principal = $1`, who+prefix)
		return n
	}
	settled := func(who string, n int) {
		t.Helper()
		eventually(t, time.Minute, func() error {
			if got := rows(who); got != n {
				return fmt.Errorf("%s has %d rows of %d", who, got, n)
			}
			return nil
		})
	}
	dead := func(who string, n int) {
		t.Helper()
		eventually(t, time.Minute, func() error {
			var got int
			c.query(t, &got, `SELECT count(*) FROM dead_letters WHERE decision_id LIKE $1`, prefix+"-"+who+"-%")
			if got != n {
				return fmt.Errorf("%s has %d dead letters of %d", who, got, n)
			}
			return nil
		})
	}
	c.exec(t, `ALTER TABLE decisions ADD CONSTRAINT erasure CHECK (decision_id NOT LIKE '`+prefix+`-dead%') NOT VALID`)
	send(20, "alice", "bob", "dead-alice", "dead-bob")
	settled("alice", 20)
	settled("bob", 20)
	dead("dead-alice", 20)
	dead("dead-bob", 20)

	require.NoError(t, c.servers.postgres.Stop(true))
	send(5, "parked")
	c.parks(t, c.past.parked)
	require.NoError(t, c.servers.postgres.Start())
	settled("parked", 5)
	c.exec(t, `ALTER TABLE decisions DROP CONSTRAINT erasure`)

	args := []string{"erase"}
	for _, who := range []string{"alice", "dead-alice", "parked"} {
		args = append(args, "--principal", who+prefix)
	}
	report := c.operate(t, 0, args...)
	require.Contains(t, report, "25 decisions and 20 dead letters")
	require.Contains(t, report, "would be erased")
	require.Equal(t, 20, rows("alice"), "a report removes nothing")
	replay := []string{"dlq", "replay", "--yes", "--anyway", "--comment", "again", "--max-replays", "9", "--decision-id"}
	c.exec(t, `ALTER TABLE decisions ADD CONSTRAINT erasure CHECK (decision_id NOT LIKE '`+prefix+`-dead%') NOT VALID`)
	c.operate(t, 1, append(replay, prefix+"-dead-alice-*")...) // they are parked, and come back
	c.exec(t, `ALTER TABLE decisions DROP CONSTRAINT erasure`)
	done := c.operate(t, 0, append(args, "--yes", "--comment", "asked for")...)
	require.Contains(t, done, "25 decisions and 20 dead letters")
	require.Contains(t, done, c.topics+"decisions")
	require.NotContains(t, done, "alice"+prefix, "a job that is over names nobody")
	require.NotContains(t, c.operate(t, 0, "audit"), "alice"+prefix)

	again := func() {
		t.Helper()
		for _, who := range []string{"alice", "dead-alice", "parked"} {
			require.Zero(t, rows(who), who)
		}
		dead("dead-alice", 0)
		require.Equal(t, 20, rows("bob"))
	}
	again()
	c.operate(t, 0, "dlq", "reindex")
	again()
	c.operate(t, 0, append(replay, prefix+"-dead-bob-*")...)
	settled("dead-bob", 20)
	again()

	for _, r := range c.roles {
		if r.name != "ingest" {
			r.terminate(t)
		}
	}
	c.exec(t, `DELETE FROM decisions WHERE principal IN ('bob`+prefix+`', 'dead-bob`+prefix+`')`)
	out, code := c.command(t, "log", "rewind", "--since", began.UTC().Format(time.RFC3339), "--yes")
	require.Zero(t, code, out)
	for _, r := range c.roles {
		if r.name != "ingest" {
			r.start()
		}
	}
	settled("bob", 20)
	settled("dead-bob", 20)
	send(1, "later")
	settled("later", 1)
	eventually(t, time.Minute, func() error {
		erased := c.metric(t, "saver", `docket_save_records_total{result="erased"}`)
		if erased < 45 { // 20 of alice's, 20 that had died, 5 that had been parked
			return fmt.Errorf("%v records came out of the log and were left out", erased)
		}
		return nil
	})
	again()
	require.False(t, strings.Contains(c.operate(t, 0, "jobs"), "alice"+prefix))
}
