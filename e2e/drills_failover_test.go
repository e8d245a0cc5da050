package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// TestDrillFailover has the primary die, and a standby take over that lacks its last commits: what had been saved by
// them is in the log, and is saved again. Once it is behind by less than the time between two marks, so that it may
// have the last mark and not what followed it, and once by more.
func TestDrillFailover(t *testing.T) {
	for _, behind := range []time.Duration{400 * time.Millisecond, 2 * time.Second} {
		t.Run(behind.String(), func(t *testing.T) { failover(t, behind) })
	}
}

func failover(t *testing.T, behind time.Duration) {
	shared, err := single()
	testserver.Need(t, err)
	primary, err := testserver.StartPostgres("")
	testserver.Need(t, err)
	t.Cleanup(func() { require.NoError(t, primary.Close()) })
	require.NoError(t, primary.Exec("postgres", "CREATE ROLE docket LOGIN"))
	way := proxyOf(t, primary)
	standby, err := primary.Standby(way.Listen)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })

	s := &servers{shared.kafka, primary, shared.brokers}
	c := newCluster(t, s, databaseAt(primary.Addr()+","+standby.Addr()))
	d := c.drill(t, fmt.Sprintf("failover to a standby that lacks %s of commits", behind), 200, decisions(shortName(), 0))
	eventually(t, time.Minute, func() error {
		if said := c.roles["saver"].out.String(); !strings.Contains(said, "a standby that commits do not wait for") {
			return fmt.Errorf("the saver says %s", said)
		}
		return nil
	})
	var had, has int
	d.inject(func() func() {
		way.Stop()
		sleepFor(t, behind)
		c.query(t, &had, `SELECT count(*) FROM decisions`)
		require.NoError(t, primary.Stop(true))
		s.postgres = standby
		c.query(t, &has, `SELECT count(*) FROM decisions`)
		return func() { require.NoError(t, standby.Promote()) }
	})
	require.Less(t, has, had, "the standby lacks nothing")
	d.heal()
	d.verify(time.Minute, 2*time.Second)
	d.unspent()
	require.Zero(t, d.refused)
	t.Logf("the standby lacked %d decisions that had been stored", had-has)
}
