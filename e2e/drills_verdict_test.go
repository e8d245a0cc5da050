package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// verdictAnswer is what the tests read of /api/v1/status.
type verdictAnswer struct {
	Verdict, Message string
	Stale            bool
	Reasons          []struct{ Code, Message string }
	Roles            map[string]struct{ Live int }
	OPAs             *struct{ Live, Silent, Gone int }
}

// says waits until the verdict is one, and so many reasons have a code; "" is none. docket status has to say the same.
func (c *cluster) says(t *testing.T, within time.Duration, verdict, code string, times int) (v verdictAnswer) {
	t.Helper()
	began := time.Now()
	eventually(t, within, func() error {
		v = verdictAnswer{}
		if status := c.getJSON(t, "/api/v1/status", &v); status != http.StatusOK {
			return fmt.Errorf("%d", status)
		}
		found := 0
		for _, r := range v.Reasons {
			if r.Code == code {
				found++
			}
		}
		if v.Verdict == verdict && found == times && (times > 0 || len(v.Reasons) == 0) {
			return nil
		}
		return fmt.Errorf("%+v", v)
	})
	took := time.Since(began)
	out, exit := c.command(t, "status")
	require.Zero(t, exit, out)
	require.True(t, strings.HasPrefix(out, verdict), out)
	_, exit = c.command(t, "status", "--check")
	require.Equal(t, map[string]int{"OK": 0, "DEGRADED": 1, "DOWN": 3}[verdict], exit)
	t.Logf("%s %s after %s:\n%s", verdict, code, took.Round(100*time.Millisecond), out)
	return v
}

// TestDrillVerdict breaks one thing after the other: the first line of docket status names it, and is OK again once it
// is mended.
func TestDrillVerdict(t *testing.T) {
	c := oneBroker(t)
	upload := func() {
		t.Helper()
		event := fmt.Sprintf(`[{"decision_id":"%s","path":"a/allow","result":true,"labels":{"id":"o","app":"shop"},
			"timestamp":"%s"}]`, shortName(), time.Now().Format(time.RFC3339))
		resp, err := http.Post(c.uploads()+"/logs", "application/json", strings.NewReader(event))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
	upload()
	v := c.says(t, 30*time.Second, "OK", "", 0)
	for _, role := range []string{"ingest", "saver", "parking", "console"} {
		require.Equal(t, 1, v.Roles[role].Live, role)
	}
	eventually(t, 30*time.Second, func() error {
		if _ = c.getJSON(t, "/api/v1/status", &v); v.OPAs == nil || v.OPAs.Live != 1 {
			return fmt.Errorf("%+v", v.OPAs)
		}
		return nil
	})

	for _, role := range []string{"parking", "saver", "ingest"} {
		c.roles[role].kill(t)
	}
	v = c.says(t, 40*time.Second, "DOWN", "process_missing", 3)
	require.Contains(t, v.Message, "no ingest process is alive", "what uploads are refused for goes first")
	c.roles["ingest"].start()
	c.roles["parking"].start()
	v = c.says(t, 30*time.Second, "DEGRADED", "process_missing", 1)
	eventually(t, 15*time.Second, func() error { // the other two say for one beat that they start
		if _ = c.getJSON(t, "/api/v1/status", &v); len(v.Reasons) != 1 || v.Reasons[0].Code != "process_missing" {
			return fmt.Errorf("%+v", v.Reasons)
		}
		return nil
	})
	require.Contains(t, v.Message, "no saver process is alive")
	c.roles["saver"].start()
	c.says(t, 30*time.Second, "OK", "", 0)

	c.exec(t, `ALTER TABLE decisions RENAME COLUMN action TO act`)
	upload()
	v = c.says(t, 30*time.Second, "DEGRADED", "store_refuses", 1)
	require.Contains(t, v.Message, "the store takes no rows")
	c.exec(t, `ALTER TABLE decisions RENAME COLUMN act TO action`)
	c.says(t, time.Minute, "OK", "", 0)

	require.NoError(t, c.servers.postgres.Stop(true))
	running := false
	start := func() {
		if !running {
			running = true
			require.NoError(t, c.servers.postgres.Start())
		}
	}
	t.Cleanup(start)
	upload()
	v = c.says(t, 30*time.Second, "DEGRADED", "store_away", 1)
	require.Nil(t, v.OPAs)
	start()
	c.says(t, time.Minute, "OK", "", 0)

	require.NoError(t, c.servers.kafka.Pause(0))
	t.Cleanup(func() { c.servers.kafka.Resume(0) })
	v = c.says(t, 30*time.Second, "DOWN", "log_refuses", 1)
	require.True(t, v.Stale)
	c.servers.kafka.Resume(0)
	c.says(t, time.Minute, "OK", "", 0)
}
