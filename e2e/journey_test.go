package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestJourney(t *testing.T) {
	d := newDocket(t, t.TempDir())
	d.serve(t)
	journey(t, d)
	d.terminate(t)
}

// journey sends 1,000 policy queries to a real OPA and finds every decision that OPA named, with its bytes.
func journey(t *testing.T, d *docket) {
	l := newLedger()
	o := startOPA(
		t, "1.22", recorder(t, d.upload, l), tokenFile(t, "unused"), "testdata/policy.rego", "testdata/mask.rego",
	)
	answered := askAll(t, o, 1000)
	found(t, d, l, answered)

	var denied struct {
		Items []struct{ Outcome, Reason, Path, Principal string }
	}
	require.Equal(
		t, http.StatusOK, d.getJSON(t, "/api/v1/decisions?outcome=denied&path=http/authz/decision&limit=5", &denied),
	)
	require.NotEmpty(t, denied.Items)
	require.Equal(t, "not the owner", denied.Items[0].Reason)

	var opas struct {
		Items []struct {
			Version string
			Events  int
			Status  json.RawMessage
		}
	}
	eventually(t, 20*time.Second, func() error { // it is reported once a second
		require.Equal(t, http.StatusOK, d.getJSON(t, "/api/v1/opas", &opas))
		if len(opas.Items) != 1 || opas.Items[0].Events != 1000 || opas.Items[0].Status == nil {
			return fmt.Errorf("%+v", opas)
		}
		return nil
	})
	version := opaVersion(t, "1.22")
	require.Equal(t, version, opas.Items[0].Version)

	out, code := d.run(t, "status")
	require.Zero(t, code, out)
	require.True(t, strings.HasPrefix(out, "OK\n"), out)
	require.Contains(t, out, "1 live, 0 silent, 0 gone")
	_, code = d.run(t, "status", "--check")
	require.Zero(t, code)
	out, code = d.run(t, "opas")
	require.Zero(t, code, out)
	require.Contains(t, out, version)
	out, code = d.run(t, "find", "--denied", "--since", "1h", "--path", "http/authz/*")
	require.Zero(t, code, out)
	require.Contains(t, out, "not the owner")
	for id := range answered {
		out, code = d.run(t, "show", id)
		require.Zero(t, code, out)
		require.Contains(t, out, id)
		break
	}
	_, code = d.run(t, "show", "no-such-decision")
	require.Equal(t, 4, code)
}

// askAll asks n times and returns the decision ids.
func askAll(t *testing.T, o *opa, n int) map[string]bool {
	paths := []string{"http/authz/allow", "http/authz/decision", "http/authz/reasons"}
	answered := map[string]bool{}
	for i := range n {
		owner := fmt.Sprintf("u%d", rand.IntN(3))
		answered[o.ask(t, paths[i%len(paths)], fmt.Sprintf(`{"user":"u%d","owner":%q,"password":"secret","n":%d}`,
			rand.IntN(3), owner, i))] = true
	}
	require.Len(t, answered, n)
	return answered
}

// found waits until OPA has uploaded what it answered, and compares the sets both ways.
func found(t *testing.T, d *docket, l *ledger, answered map[string]bool) {
	eventually(t, 60*time.Second, func() error {
		if n := len(l.ackedIDs()); n < len(answered) {
			return fmt.Errorf("OPA uploaded %d of %d", n, len(answered))
		}
		return nil
	})
	l.check(t, d)
	require.Equal(t, answered, l.ackedIDs(), "what OPA answered and what it uploaded are the same decisions")
}

// TestOlderOPAs has the releases people still run as clients.
func TestOlderOPAs(t *testing.T) {
	for version, policy := range map[string]string{"0.45": "testdata/policy-v0.rego", "0.70": "testdata/policy.rego",
		"1.0": "testdata/policy.rego"} {
		t.Run(version, func(t *testing.T) {
			d := newDocket(t, t.TempDir())
			d.serve(t)
			l := newLedger()
			o := startOPA(t, version, recorder(t, d.upload, l), tokenFile(t, "unused"), policy)
			found(t, d, l, askAll(t, o, 100))
		})
	}
}

// tokenFile writes a bearer token where OPA reads it.
func tokenFile(t *testing.T, token string) string {
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(token), 0o600))
	return file
}

// TestToken has an OPA whose token is known, and one whose token is not until the file is changed.
func TestToken(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens")
	write := func(token string) {
		line := fmt.Sprintf("# name tenant sha256\nedge acme %x\n", sha256.Sum256([]byte(token)))
		require.NoError(t, os.WriteFile(tokens, []byte(line), 0o600))
	}
	write("another-token-of-another-length")
	d := newDocket(t, t.TempDir(), "DOCKET_UPLOAD_TOKENS_FILE="+tokens)
	d.serve(t)

	resp, err := http.Post("http://"+d.upload+"/logs", "application/json", nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))

	l := newLedger()
	o := startOPA(t, "1.22", recorder(t, d.upload, l), tokenFile(t, "s3cret"), "testdata/policy.rego")
	answered := askAll(t, o, 20)
	eventually(t, 20*time.Second, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.sent) < 20 {
			return fmt.Errorf("OPA tried with %d", len(l.sent))
		}
		return nil
	})
	require.Empty(t, l.ackedIDs(), "nothing is taken from a stranger")
	write("s3cret") // OPA keeps what it could not upload, and docket reads the file again
	found(t, d, l, answered)

	var page struct{ Items []struct{ Tenant string } }
	require.Equal(t, http.StatusOK, d.getJSON(t, "/api/v1/decisions?tenant=acme", &page))
	require.Len(t, page.Items, 20)
}
