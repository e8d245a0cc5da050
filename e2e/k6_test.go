package e2e

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// k6's scripts put gzip bodies together themselves: docket has to find nothing wrong with them, and every decision has to be
// found under the id that the scripts foretell.
func TestK6(t *testing.T) {
	k6 := env("DOCKET_E2E_K6", ".bin/k6")
	need(t, k6)
	for _, script := range []string{"smoke.js", "ingest.js", "outage.js", "soak.js", "spike.js", "stress.js"} {
		out, err := exec.CommandContext(t.Context(), k6, "inspect", "../k6/"+script).CombinedOutput()
		require.NoError(t, err, "%s: %s", script, out)
	}
	d := newDocket(t, t.TempDir())
	d.serve(t)
	out, err := exec.CommandContext(t.Context(), k6, "run", "--quiet", "--no-usage-report",
		"-e", "UPLOAD_URL=http://"+d.upload+"/logs", "-e", "CONSOLE_URL=http://"+d.console, "../k6/smoke.js").CombinedOutput()
	require.NoError(t, err, "%s", out)
	d.drained(t)
	var put struct{ Items []struct{ Reason string } }
	require.Equal(t, 200, d.getJSON(t, "/api/v1/dead-letters", &put))
	assert.Empty(t, put.Items, "docket takes no offence at what k6 sends")
	d.terminate(t)
}
