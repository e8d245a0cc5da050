package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/rego"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
)

// TestReplayPolicyScreens has an export decided again, by the process that does it.
func TestReplayPolicyScreens(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "orders.rego")
	require.NoError(t, os.WriteFile(file, []byte(`package orders

default allow := false

allow if {
	input.role == "admin"
	input.action != "delete"
}
`), 0o600))
	bad := filepath.Join(t.TempDir(), "bad.rego")
	require.NoError(t, os.WriteFile(bad, []byte("package a\n\nallow if nosuch(1)\n"), 0o600))
	row := func(id, path, outcome, input, result string) string {
		var b bytes.Buffer
		require.NoError(t, json.Compact(&b, fmt.Appendf(nil, `{"decision_id":%[1]q,"tenant":"acme","outcome":%[3]q,"path":"%[2]s",
			"time":"2026-11-20T12:34:56Z","received_at":"2026-11-20T12:34:57Z","event":{"decision_id":%[1]q,"path":"%[2]s",
			"timestamp":"2026-11-20T12:34:56Z","bundles":{"a":{"revision":"r1"}},"input":%[4]s,"result":%[5]s}}`,
			id, path, outcome, input, result)))
		return b.String() + "\n"
	}
	const complete = `{"complete":true,"decisions":4,"why":null,"next_cursor":null}` + "\n"
	flip := row("d-1", "orders/allow", "allowed", `{"role":"admin","action":"delete"}`, "true")
	rows := flip + row("d-2", "orders/allow", "allowed", `{"role":"admin"}`, "true") +
		row("d-3", "orders/allow", "denied", `{"role":"guest"}`, "false") +
		row("d-4", `orders/\u001b[31mnone`, "allowed", `{}`, "true")
	for _, c := range []struct {
		name, answer, form, policy string
		limit                      int
		check                      bool
		code                       int
	}{
		{"table", rows + complete, "table", file, 100, false, 0},
		{"json", rows + complete, "json", file, 100, false, 0},
		{"ndjson", rows + complete, "ndjson", file, 100, false, 0},
		{"one", flip + complete, "table", file, 100, false, 0},
		{"newest", rows + complete, "table", file, 2, false, 0},
		{"check", rows + complete, "table", file, 100, true, ExitFailed},
		{"nothing", complete, "table", file, 100, false, 0},
		{"nothing-checked", complete, "table", file, 100, true, ExitNotFound},
		{"bad", rows + complete, "table", bad, 100, false, ExitFailed},
		{"missing", rows + complete, "table", "/nowhere/at/all", 100, false, ExitUsage},
		{"none", rows + complete, "table", "", 100, false, ExitUsage},
		{"limit", rows + complete, "table", file, 0, false, ExitUsage},
		{"cut", rows, "table", file, 100, false, ExitUnavailable},
		{"strange", "<html>\n", "table", file, 100, false, ExitFailed},
		{"incomplete", rows + `{"complete":false,"decisions":4,"why":"the database is away","next_cursor":"abc"}` + "\n", "table",
			file, 100, false, ExitUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, map[string]string{"/api/v1/decisions/export": c.answer})
			r := ReplayPolicy{
				Console: Console{Server: s.URL}, Form: Form{Output: c.form}, Limit: c.limit, Check: c.check, Policy: c.policy,
				Wanted: Wanted{Query: []string{"path:orders/*"}}, Program: replaypolicy.Program{Path: self},
			}
			got, err := screen(func(o Out) error { return r.Run(t.Context(), o, rego.Process) })
			require.Equal(t, c.code, ExitCode(err), "%v", err)
			if err != nil {
				got += err.Error() + "\n"
			}
			golden(t, "replay-policy-"+c.name, regexp.MustCompile(`\S*/TestReplayPolicy\S*/`).ReplaceAllString(got, ""))
			if s.query != "" {
				require.Equal(t, "format=ndjson&q=path%3Aorders%2F%2A&with_event=true", s.query)
			}
		})
	}
	r := ReplayPolicy{Policy: file, Limit: 1}
	_, err = screen(func(o Out) error { return r.Run(t.Context(), o, nil) })
	require.ErrorIs(t, err, replaypolicy.ErrNoDecider)
	r = ReplayPolicy{Policy: file, Limit: 1, Wanted: Wanted{Query: []string{"path:("}}}
	_, err = screen(func(o Out) error { return r.Run(t.Context(), o, rego.Process) })
	require.Equal(t, ExitUsage, ExitCode(err))
	require.True(t, strings.Contains(err.Error(), "^"), "it points at what is wrong: %v", err)
}
