package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// decisionRow is a decision as the API has it.
func decisionRow(id, outcome, reason, at string) string {
	b, err := json.Marshal(map[string]any{
		"decision_id": id, "time": at, "timestamp": at, "tenant": "default", "path": "kubernetes/admission/deny",
		"outcome": outcome, "reason": reason, "principal": "system:serviceaccount:ci:deployer", "action": "CREATE",
		"resource": "Deployment/prod/checkout", "bundles": map[string]any{},
	})
	if err != nil {
		panic(err) // texts
	}
	return string(b)
}

// onTerminal runs a command as on a terminal, at noon.
func onTerminal(
	t *testing.T, f Form, width int, command interface {
		Run(ctx context.Context, out Out) error
	},
) string {
	t.Helper()
	var b bytes.Buffer
	w := Screen(&b)
	f.Onto(w, Terminal{Width: width, Colour: true})
	screen, ok := w.(*harmless)
	require.True(t, ok)
	screen.look.now = func() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }
	require.NoError(t, command.Run(t.Context(), Out{Stdout: w, Stderr: w, Raw: w}))
	return b.String()
}

// TestTerminal has the screens of a terminal of 80 columns, and of one of 200.
func TestTerminal(t *testing.T) {
	s := serve(t, map[string]string{
		"/api/v1/decisions": `{"items":[` + strings.Join([]string{
			decisionRow("3f2a9c1e-7d44-4c0f-9a41-5b8a2f6e0c11", "denied",
				"image nginx comes from an untrusted registry; containers must not run as root", "2026-11-20T11:59:40Z"),
			decisionRow("3f2a9c1e-0000-4c0f-9a41-5b8a2f6e0c12", "allowed", "", "2026-11-20T11:20:00Z"),
			decisionRow("sha256:0b1c2d3e4f5061728394a5b6c7d8e9f00b1c2d3e4f5061728394a5b6c7d8e9f0", "error",
				"two outputs \u001b[2J", "2026-11-20T03:00:00Z"),
			decisionRow("ffffffff-7d44-4c0f-9a41-5b8a2f6e0c11", "unknown", "", "2026-11-18T03:00:00Z"),
		}, ",") + `],"next_cursor":null}`,
		"/api/v1/dead-letters":        `{"items":[` + deadRow + `,` + deadBody + `}],"next_cursor":null}`,
		"/api/v1/dead-letters/groups": `{"items":[` + groupRow + `]}`,
		"/api/v1/jobs":                `{"items":[` + jobRow + `,` + dryRow + `]}`,
		"/api/v1/audit":               auditRows,
		"/api/v1/decisions/d-1": strings.TrimSuffix(decisionRow("3f2a9c1e-7d44-4c0f-9a41-5b8a2f6e0c11", "denied",
			"image nginx comes from an untrusted registry", "2026-11-20T11:59:40Z"), "}") + `,"masked":["principal"],"event":{"a":1}}`,
		"/api/v1/dead-letters/docket.dlq:3:1207": strings.TrimSuffix(deadRow, "}") +
			`,"available":true,"headers":{"docket-attempt":"1"},"preview":null,"event":{"decision_id":"d-1"}}`,
		"/api/v1/dead-letters/guard": `{"on":true,"judged":30000,"rejected":620,"within_seconds":600,"items":[
			{"fingerprint":"0a1b2c3d4e5f","rows":600,"tenant":"default","class":"invalid","code":"23514","path":"pay/allow",
			"error":"check #"}]}`,
		"/api/v1/jobs/r-6":                safeDry,
		"/api/v1/decisions/reprojections": reprojected,
		"/api/v1/jobs/r-9":                reprojected,
		"/api/v1/opas": `{"items":[{"tenant":"default","opa":"0e0bd8a2-29f2-4a14-a0a4-0f3d1b0f8c55","state":"silent","app":"shop",
			"version":"1.22.2","interval_seconds":4.5,"events":2400,
			"revisions":{"authz":"W3sibCI6InN5cy9jYXRhbG9nIiwicyI6NDA3MX1d"},
			"errors":["bundle authz: bundle_error 404 Not Found"],"dropped":17}]}`,
		"/api/v1/status": `{"verdict":"DEGRADED","message":"3 dead letters are open: docket dlq groups tells why","reasons":[
			{"code":"dead_letters_open","message":"3 dead letters are open"}],"stages":[{"name":"saver"}],
			"opas":{"live":3,"silent":0,"gone":0},"roles":{"saver":{"live":1}}}`,
	})
	events := filepath.Join(t.TempDir(), "events.json")
	require.NoError(t, os.WriteFile(events, []byte(`[{"decision_id":"d","path":"shop/deny","input":{"user":"jo"},`+
		`"result":["the basket is worth more than the limit of this account, which nobody has raised"]}]`), 0o600))
	c := Console{Server: s.URL}
	for _, width := range []int{80, 200} {
		for name, command := range map[string]interface {
			Run(ctx context.Context, out Out) error
		}{
			"find":       &Find{Console: c, Form: Form{Output: "table"}, Wanted: Wanted{Since: "24h"}, Limit: 10},
			"dlq-list":   &DLQList{Console: c, Form: Form{Output: "table"}, Limit: 10},
			"dlq-groups": &DLQGroups{Console: c, Form: Form{Output: "table"}},
			"jobs":       &JobsList{Console: c, Form: Form{Output: "table"}},
			"audit":      &Audit{Console: c, Form: Form{Output: "table"}, Limit: 10},
			"status":     &Status{Console: c, Form: Form{Output: "table"}},
			"show":       &Show{Console: c, Form: Form{Output: "table"}, IDs: []string{"d-1"}, Since: "7d"},
			"dlq-show":   &DLQShow{Console: c, Form: Form{Output: "table"}, ID: "docket.dlq:3:1207"},
			"guard":      &GuardShow{Console: c, Form: Form{Output: "table"}},
			"jobs-show":  &JobsShow{Console: c, Form: Form{Output: "table"}, ID: "r-6"},
			"mapping":    mappingTest{MappingTest{Form: Form{Output: "table"}, Files: []string{events}}},
			"reproject":  &Reproject{Console: c, Form: Form{Output: "table"}, Since: "30d"},
			"opas":       &OPAs{Console: c, Form: Form{Output: "table"}, Limit: 10},
		} {
			got := onTerminal(t, Form{}, width, command)
			golden(t, fmt.Sprintf("terminal-%s-%d", name, width), got)
			for line := range strings.SplitSeq(got, "\n") {
				for _, colour := range []string{red, green, yellow, magenta, plain} {
					line = strings.ReplaceAll(line, colour, "")
				}
				require.NotContains(t, line, "\x1b", "no other colours than ours")
				table := strings.Contains(line, "  ") && !strings.Contains(line, ": ") // sentences wrap by themselves
				if table && name != "mapping" && name != "dlq-show" {
					require.LessOrEqual(t, runewidth.StringWidth(line), width, "%s %d: %s", name, width, line)
				}
			}
		}
	}
	find := &Find{Console: c, Form: Form{Output: "table"}, Wanted: Wanted{Since: "24h"}, Limit: 10}
	require.Contains(t, onTerminal(t, Form{Wide: true}, 80, find), "3f2a9c1e-7d44-4c0f-9a41-5b8a2f6e0c11")
	require.Contains(t, onTerminal(t, Form{UTC: true}, 200, find), "2026-11-20T11:59:40.000Z")
	chosen := onTerminal(t, Form{Columns: []string{"decision_id", "OUTCOME"}}, 80, find)
	require.Regexp(t, `^DECISION ID +OUTCOME\n\S+ +\S`, chosen)
	require.NotContains(t, chosen, "REASON")
	w := Screen(&bytes.Buffer{})
	Form{Columns: []string{"colour"}}.Onto(w, Terminal{})
	require.ErrorContains(t, find.Run(t.Context(), Out{Stdout: w, Stderr: w}), "outcome, reason, time")
}

// mappingTest runs docket mapping test without mappings.
type mappingTest struct{ MappingTest }

func (m mappingTest) Run(_ context.Context, out Out) error {
	p, err := domain.NewProjector(nil)
	if err != nil {
		return err
	}
	return m.Test(out, p)
}

// TestShowBeginnings finds decisions by the beginning of their id.
func TestShowBeginnings(t *testing.T) {
	full := "3f2a9c1e-7d44-4c0f-9a41-5b8a2f6e0c11"
	matches := map[string][]string{"3f2a*": {full}, "3f*": {full, "3f00"}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v1/decisions":
			var rows []string
			for _, id := range matches[r.URL.Query().Get("decision_id")] {
				rows = append(rows, decisionRow(id, "denied", "", "2026-11-20T11:59:40Z"))
			}
			fmt.Fprintf(w, `{"items":[%s],"next_cursor":null}`, strings.Join(rows, ","))
		case "/api/v1/decisions/" + full:
			fmt.Fprint(w, strings.TrimSuffix(decisionRow(full, "denied", "not yours", "2026-11-20T11:59:40Z"), "}")+`,"event":{}}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"status":404,"title":"Not found","detail":"there is no such decision"}`)
		}
	}))
	t.Cleanup(s.Close)
	show := func(ids ...string) (string, error) {
		return screen(func(o Out) error {
			show := &Show{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Since: "7d", IDs: ids}
			return show.Run(t.Context(), o)
		})
	}
	got, err := show("3f2a", full)
	require.NoError(t, err)
	require.Equal(t, 4, strings.Count(got, "DENIED: not yours"), "each twice, the reason last on the screen")
	require.True(t, strings.HasSuffix(got, "DENIED: not yours\n"))
	_, err = show("3f")
	require.Equal(t, ExitUsage, ExitCode(err))
	require.ErrorContains(t, err, full)
	_, err = show("nothing")
	require.Equal(t, ExitNotFound, ExitCode(err))
	require.ErrorContains(t, err, "no such decision")
}

func TestHints(t *testing.T) {
	s := serve(t, map[string]string{"/api/v1/decisions": `{"items":[],"next_cursor":null}`})
	got, err := screen(func(o Out) error {
		return (&Find{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Limit: 1, Wanted: Wanted{
			Since: "24h", Path: []string{"data.http.authz.allow"}, App: []string{"a"}, TraceID: []string{"t"},
		}}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	for _, says := range []string{"--path http/authz/allow", "labels.app", "distributed_tracing"} {
		require.Contains(t, got, says)
	}
	s = serve(t, map[string]string{"/api/v1/decisions": `{"status":503,"title":"T","detail":"d","class":"unavailable"}`})
	s.status = http.StatusServiceUnavailable
	_, err = screen(func(o Out) error {
		find := &Find{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Wanted: Wanted{Since: "24h"}, Limit: 1}
		return find.Run(t.Context(), o)
	})
	require.Equal(t, ExitUnavailable, ExitCode(err))
	require.ErrorContains(t, err, "Nothing is lost")
}
