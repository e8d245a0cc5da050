package cli

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDiffScreens(t *testing.T) {
	const differences = `[{"field":"input.user","change":"changed","a":"bob\u001b[31m","b":{"name":"alice"}},
		{"field":"result.why","change":"removed","a":null},{"field":"input.x","change":"added","b":1e3}]`
	comparison := func(differences, complete string) string {
		return `{"a":` + denied + `,"b":` + failed + `,"differences":` + differences + `,"complete":` + complete + `}`
	}
	compared := func(differences, complete string) map[string]string {
		return map[string]string{"/api/v1/decisions/compare": comparison(differences, complete)}
	}
	const lastAllowed = "/api/v1/decisions/d-1/last-allowed"
	for _, c := range []struct {
		name, b, form string
		answers       map[string]string
		code          int
		query         string
	}{
		{"two", "d-2", "table", compared(differences, "true"), 0, "a=d-1&b=d-2"},
		{"json", "d-2", "json", compared(differences, "true"), 0, "a=d-1&b=d-2"},
		{"same", "d-2", "table", compared("[]", "true"), 0, "a=d-1&b=d-2"},
		{"more", "d-2", "table", compared(differences, "false"), 0, "a=d-1&b=d-2"},
		{"allowed", "", "table", map[string]string{
			lastAllowed:                 `{"decision":` + denied + `,"relaxed":["principal","action"],"complete":true}`,
			"/api/v1/decisions/compare": comparison(differences, "true"),
		}, 0, "a=d-1&b=d-1&b_tenant=default&b_timestamp=2026-11-20T12%3A34%3A56.000007Z"},
		{"none", "", "table", map[string]string{
			lastAllowed: `{"decision":null,"relaxed":["principal","action","resource","path"],"complete":true}`,
		}, ExitNotFound, ""},
		{"late", "", "table", map[string]string{
			lastAllowed: `{"decision":null,"relaxed":[],"complete":false}`,
		}, ExitUnavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, c.answers)
			d := Diff{Console: Console{Server: s.URL}, Form: Form{Output: c.form}, A: "d-1", B: c.b}
			got, err := screen(func(o Out) error { return d.Run(t.Context(), o) })
			require.Equal(t, c.code, ExitCode(err), "%v", err)
			if err != nil {
				got += err.Error() + "\n"
			}
			require.Equal(t, c.query, s.query)
			require.False(t, strings.Contains(got, "\x1b") && c.form == "table")
			golden(t, "diff-"+c.name, got)
		})
	}
}
