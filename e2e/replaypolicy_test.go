package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asks is a policy that asks what has another answer at another time.
const asks = `package orders

default allow := false

allow if {
	input.user == "alice"
	remote.status_code == 0
}

remote := http.send({"method": "GET", "url": "http://127.0.0.1:1/", "raise_error": false})

decision := {"allow": allow, "at": time.now_ns(), "lot": rand.intn("lot", 1000000000), "id": uuid.rfc4122("k")}
`

// TestReplayPolicyOfAnOPA has what a real OPA decided decided again: by the same bundle everything comes out the same,
// and docket says that this is certain; by another one it says what does not.
func TestReplayPolicyOfAnOPA(t *testing.T) {
	d := newDocket(t, t.TempDir())
	d.serve(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		return filepath.Join(dir, name)
	}
	policy, bundle := write("orders.rego", asks), filepath.Join(dir, "bundle.tar.gz")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, opaBinary(t, "1.22"), "build", "--revision", "r1", "-o", bundle, policy)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	o := startOPA(t, "1.22", "http://"+d.upload, tokenFile(t, "unused"), "--bundle", bundle)
	for i := range 40 {
		o.ask(t, "orders/decision", fmt.Sprintf(`{"user":%q,"n":%d}`, []string{"alice", "bob"}[i%2], i))
	}
	d.holds(t, 40)

	replay := func(policy string, args ...string) (found struct {
		Decisions, Same, Changed, Flipped, Failed, Exact int
		Groups                                           []struct {
			Was, Now string
			Count    int
			Rules    []string
			Doubts   map[string]int
		}
	}) {
		t.Helper()
		out, code := d.run(t, append([]string{"replay-policy", "--policy", policy, "-o", "json"}, args...)...)
		require.Zero(t, code, out)
		require.NoError(t, json.Unmarshal([]byte(out), &found), out)
		return found
	}
	same := replay(bundle)
	require.Equal(t, []int{40, 40, 0, 0, 40},
		[]int{same.Decisions, same.Same, same.Flipped, same.Failed, same.Exact}, "%+v", same)

	other := write("other.rego", strings.Replace(asks, `"alice"`, `"bob"`, 1))
	flipped := replay(other, "path:orders/*")
	require.Equal(t, []int{40, 0, 40, 0, 0},
		[]int{flipped.Decisions, flipped.Same, flipped.Flipped, flipped.Failed, flipped.Exact}, "%+v", flipped)
	require.Len(t, flipped.Groups, 2)
	for _, g := range flipped.Groups {
		want := map[string]int{"no_revision": 20}
		if g.Was == "denied" { // where OPA had no need to ask what this policy asks
			want["cache_missing"] = 20
		}
		require.Equal(t, want, g.Doubts, "%+v", g)
	}

	body, code := d.run(t, "replay-policy", "--policy", other, "--check")
	require.Equal(t, 1, code, body)
	require.Contains(t, body, "40 decisions: 0 the same, 40 with another outcome")
	body, code = d.run(t, "replay-policy", "--policy", other, "--limit", "1", "input.user:alice")
	require.Zero(t, code, body)
	require.Contains(t, body, `other.rego:6  data.orders.allow  input.user == "bob"`)

	// What API and page ask is the same process.
	resp, err := http.Post("http://"+d.console+"/api/v1/decisions/replay-policy?limit=100", "text/plain",
		strings.NewReader(strings.Replace(asks, `"alice"`, `"bob"`, 1)))
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer struct {
		Decisions, Flipped int
		Complete           bool
	}
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	require.Equal(t, 40, answer.Flipped)
	require.True(t, answer.Complete)

	// Programs of one role have no OPA in them.
	for _, name := range []string{"ingest", "saver", "parking"} {
		alone, err := os.Stat("../bin/" + name)
		require.NoError(t, err)
		whole, err := os.Stat(docketBinary)
		require.NoError(t, err)
		require.Greater(t, whole.Size(), alone.Size()+10<<20, name)
	}
	require.NotContains(t, d.out.String(), "level=ERROR")
	d.terminate(t)
}
