package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/status"
)

// withPolicies are settings with a section policies, as a file has it.
func withPolicies(t *testing.T, section string) Config {
	t.Helper()
	dir := t.TempDir()
	keys, file := filepath.Join(dir, "keys"), filepath.Join(dir, "docket.yaml")
	two := "# of last year\nv1 " + strings.Repeat("ab", 32) + "\nv2 " + strings.Repeat("cd", 32) + "\n"
	require.NoError(t, os.WriteFile(keys, []byte(two), 0o600))
	require.NoError(t, os.WriteFile(file, []byte("policies:\n"+section), 0o600))
	c := defaults(t)
	c.MaskKeysFile = keys
	_, err := config.Read(file, &c.Sections)
	require.NoError(t, err)
	return c
}

// TestMaskedEverywhere plants secrets in everything that an upload may be, and looks for them in all that docket keeps,
// says and shows.
func TestMaskedEverywhere(t *testing.T) {
	c := withPolicies(t, `
  - name: pii
    masks:
      - remove: /input/password
      - hash: /input/user
      - replace: /result/token
      - remove: /input/list/*/secret
`)
	c.StoreEvents = EventsJSON // so that bytes on the disk can be looked through
	var said bytes.Buffer
	a := startLogging(t, c, slog.NewJSONHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	const secret = "hunter2"
	now := time.Now().UTC().Format(time.RFC3339)
	event := func(id, more string) string {
		return fmt.Sprintf(`{"decision_id":%q,"timestamp":%q,"path":"shop/pay","input":{"user":"%s-user","password":"%[3]s",`+
			`"list":[{"secret":"%[3]s"}]%s},"result":{"allow":false,"token":"%[3]s"}}`, id, now, secret, more)
	}
	long := strings.Repeat(`,"list":[{"secret":"`+secret+`"}]`, 600)
	for _, c := range []struct {
		name, body, encoding, want string
	}{
		{"an event", "[" + event("plain", "") + "]", "", `{"accepted":1,"quarantined":0,"reasons":{}}`},
		{"keys twice", "[" + event("twice", `,"password":"hunter2","pass\u0077ord":"hunter2"`) + "]", "",
			`{"accepted":1,"quarantined":0,"reasons":{}}`},
		{"more than is masked one by one", "[" + event("often", long) + "]", "", `{"accepted":1,"quarantined":0,"reasons":{}}`},
		{"without an id", "[" + strings.Replace(event("", ""), `"decision_id":"",`, "", 1) + "]", "",
			`{"accepted":1,"quarantined":0,"reasons":{}}`},
		{"bytes that are no UTF-8", "[" + event("utf8", ",\"x\":\"\xff\"") + "]", "",
			`{"accepted":0,"quarantined":1,"reasons":{"invalid_utf8":1}}`},
		{"too deep", "[" + event("deep", `,"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)) + "]", "",
			`{"accepted":0,"quarantined":1,"reasons":{"too_deep":1}}`},
		{"no object", `["hunter2",{}]`, "", `{"accepted":1,"quarantined":0,"reasons":{"not_object":1},"dropped":1}`},
		{"a body that breaks off", "[" + event("whole", "") + `,{"input":{"password":"hunter2`, "",
			`{"accepted":1,"quarantined":0,"reasons":{"truncated":1},"dropped":1}`},
		{"no array", event("object", ""), "", `{"accepted":0,"quarantined":0,"reasons":{"not_array":1},"dropped":1}`},
		{"no JSON", secret, "", `{"accepted":0,"quarantined":0,"reasons":{"broken_json":1},"dropped":1}`},
		{"no gzip", secret, "gzip", `{"accepted":0,"quarantined":0,"reasons":{"bad_gzip":1},"dropped":1}`},
	} {
		answer, status := postLogs(t, a, []byte(c.body), c.encoding)
		require.Equal(t, 200, status, c.name)
		require.JSONEq(t, c.want, string(answer), c.name)
		require.NotContains(t, string(answer), secret)
	}
	a.drained(t)
	dead := a.indexed(t, 2, "")
	pages := []string{
		"/api/v1/decisions?limit=100", "/api/v1/decisions/plain", "/api/v1/decisions/often/raw", "/api/v1/opas",
		"/api/v1/decisions/plain/trail", "/api/v1/fields/principal/values", "/api/v1/dead-letters", "/api/v1/audit", "/",
		"/decisions", "/decisions/plain", "/dead-letters", "/api/v1/export?since=1h&format=ndjson&events=true",
	}
	for _, l := range dead {
		path := "/api/v1/dead-letters/" + url.PathEscape(l.ID)
		pages = append(pages, path, path+"/raw")
	}
	for _, path := range pages {
		_, body := a.get(t, a.ConsoleAddr(), path)
		require.NotContains(t, string(body), secret, path)
	}
	_, metrics := a.get(t, a.AdminAddr(), "/metrics")
	require.NotContains(t, string(metrics), secret)
	require.Contains(t, string(metrics), `docket_policy_events_total{action="masked",policy="pii"} 6`)
	require.Contains(t, string(metrics), `docket_policy_events_total{action="coarsened",policy="pii"} 1`)
	require.Contains(t, string(metrics), `docket_policy_events_total{action="unmaskable",policy="pii"} 5`)
	require.Contains(t, string(metrics), `docket_ingest_events_total{result="dropped"} 5`)

	_, body := a.get(t, a.ConsoleAddr(), "/api/v1/decisions/plain")
	var d struct {
		Principal string
		Event     json.RawMessage
	}
	require.NoError(t, json.Unmarshal(body, &d))
	require.Contains(t, d.Principal, "hmac-sha256:v2:")
	require.Contains(t, string(d.Event), `"erased":["/input/password","/input/list/0/secret"],"masked":["/input/user",`+
		`"/result/token"]`)
	_, body = a.get(t, a.ConsoleAddr(), "/api/v1/decisions/often/raw")
	require.Contains(t, string(body), `"allow":false`, "the decision is kept, however often a mask hits")

	a.stop()
	require.NotContains(t, said.String(), secret)
	looked := 0
	require.NoError(t, filepath.WalkDir(c.Data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		looked += len(b)
		require.NotContains(t, string(b), secret, path)
		return nil
	}))
	require.Greater(t, looked, 1000)
}

// TestMaskThatChanges: OPA sends an upload again after docket has begun to mask otherwise. That is no conflict.
func TestMaskThatChanges(t *testing.T) {
	c := withPolicies(t, "  - name: a\n    masks: [{replace: /input/user}]\n")
	body := fmt.Appendf(nil, `[{"decision_id":"one","timestamp":%q,"input":{"user":"alice"}}]`,
		time.Now().UTC().Format(time.RFC3339))
	a := startConfig(t, c)
	_, status := postLogs(t, a, body, "")
	require.Equal(t, 200, status)
	a.drained(t)
	a.stop()
	other := "  - name: a\n    masks: [{replace: /input/user, with: gone}]\n"
	c.Sections.Policies = withPolicies(t, other).Sections.Policies
	a = startConfig(t, c)
	_, status = postLogs(t, a, body, "")
	require.Equal(t, 200, status)
	a.drained(t)
	_, metrics := a.get(t, a.AdminAddr(), "/metrics")
	require.Contains(t, string(metrics), `docket_save_records_total{result="duplicate"} 1`)
	_, got := a.get(t, a.ConsoleAddr(), "/api/v1/decisions/one/raw")
	require.Contains(t, string(got), `"user":"***"`, "the first delivery stays")
}

// TestSamples keeps all denials and a tenth of what was allowed, the same ones however often they are sent.
func TestSamples(t *testing.T) {
	c := withPolicies(t, `
  - name: tenth
    paths: ["shop/*"]
    samples:
      - {outcomes: [allowed], keep: 0.1}
      - {outcomes: [undefined], keep: 0}
`)
	a := startConfig(t, c)
	var events []string
	for n := range 1000 {
		events = append(
			events, fmt.Sprintf(`{"decision_id":"allowed-%d","path":"/shop/pay","result":{"allow":true}}`, n),
			fmt.Sprintf(`{"decision_id":"other-%d","path":"else","result":{"allow":true}}`, n),
		)
	}
	for n := range 50 {
		events = append(
			events, fmt.Sprintf(`{"decision_id":"denied-%d","path":"shop/pay","result":{"allow":false}}`, n),
			fmt.Sprintf(`{"decision_id":"undefined-%d","path":"shop/pay"}`, n),
		)
	}
	body := []byte("[" + strings.Join(events, ",") + "]")
	var first struct{ Accepted, Dropped int }
	for range 2 {
		answer, status := postLogs(t, a, body, "")
		require.Equal(t, 200, status)
		var again struct{ Accepted, Dropped int }
		require.NoError(t, json.Unmarshal(answer, &again))
		require.Equal(t, 2100, again.Accepted+again.Dropped)
		if first.Accepted > 0 {
			require.Equal(t, first, again)
		}
		first = again
	}
	kept := first.Accepted - 1000 - 50
	require.InDelta(t, 100, kept, 35)
	a.drained(t)
	_, metrics := a.get(t, a.AdminAddr(), "/metrics")
	require.Contains(t, string(metrics), fmt.Sprintf(`docket_save_records_total{result="saved"} %d`,
		first.Accepted), "nothing twice")
	require.Contains(t, string(metrics), `docket_policy_events_total{action="dropped",policy="tenth"} 100`)
	require.Contains(t, string(metrics),
		fmt.Sprintf(`docket_policy_events_total{action="sampled_out",policy="tenth"} %d`, 2*(1000-kept)))
	_, body = a.get(t, a.ConsoleAddr(), "/api/v1/decisions?outcome=denied&limit=100")
	require.Equal(t, 50, strings.Count(string(body), `"outcome":"denied"`))
}

// TestOnlyWhoMakesRecordsNeedsTheKey: the roles share one file, and the key is for those that mask.
func TestOnlyWhoMakesRecordsNeedsTheKey(t *testing.T) {
	c := withPolicies(t, "  - name: a\n    masks: [{hash: /input/user}]\n")
	c.MaskKeysFile = ""
	c.Kafka.Brokers, c.DatabaseURL = []string{"127.0.0.1:1"}, "postgres://127.0.0.1:1/x"
	for role, needs := range map[status.Role]bool{
		status.Serve: true, status.Ingest: true, status.Parking: true, status.Saver: false, status.Console: false,
	} {
		err := c.Validate(role)
		if needs {
			require.ErrorContains(t, err, "hash needs a key: set DOCKET_MASK_KEYS_FILE", role)
		} else {
			require.NoError(t, err, role)
		}
	}
}
