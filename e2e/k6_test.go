package e2e

import (
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// k6's scripts put gzip bodies together themselves: docket has to find nothing wrong with them, and every decision has
// to be stored under the id that the scripts foretell: upload i has the decisions 5i to 5i+i%5, and an id ends with its
// number.
func TestK6(t *testing.T) {
	k6 := env("DOCKET_E2E_K6", ".bin/k6")
	need(t, k6)
	for _, script := range []string{"smoke.js", "ingest.js", "outage.js", "soak.js", "spike.js", "stress.js"} {
		out, err := exec.CommandContext(t.Context(), k6, "inspect", "../k6/"+script).CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
	}
	d := newDocket(t, t.TempDir())
	d.serve(t)
	out, err := exec.CommandContext(t.Context(), k6, "run", "--quiet", "--no-usage-report", "-e", "RUN=0abcdef",
		"-e", "UPLOAD_URL=http://"+d.upload+"/logs", "-e", "CONSOLE_URL=http://"+d.console, "../k6/smoke.js").CombinedOutput()
	require.NoError(t, err, "%s", out)
	d.drained(t)

	var stored struct {
		Items []struct {
			DecisionID string `json:"decision_id"`
		}
	}
	require.Equal(t, http.StatusOK, d.getJSON(t, "/api/v1/decisions?limit=1000", &stored))
	got := map[int64]bool{}
	last := int64(0)
	for _, item := range stored.Items {
		require.Len(t, item.DecisionID, 36)
		require.Equal(t, "-0abc-4def-8000-0000", item.DecisionID[8:28])
		n, err := strconv.ParseInt(item.DecisionID[28:], 16, 64)
		require.NoError(t, err)
		got[n], last = true, max(last, n/5)
	}
	want := map[int64]bool{}
	for upload := range last + 1 {
		for k := range upload%5 + 1 {
			want[5*upload+k] = true
		}
	}
	require.GreaterOrEqual(t, last, int64(199), "twenty uploads a second for ten seconds")
	require.Equal(t, want, got)

	resp, err := http.Get("http://" + d.admin + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(
		t, string(metrics), "\ndocket_ingest_events_total{result=\"quarantined\"} 0\n",
		"docket takes no offence at what k6 sends",
	)
	d.terminate(t)
}
