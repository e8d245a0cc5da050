package opa

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func input(t testing.TB, role domain.Role, action access.Action, resource map[string]any) []byte {
	t.Helper()
	b, err := json.Marshal(access.Input{
		User:   access.User{Name: "ann", Role: string(role), How: domain.ByToken, Tenants: []string{"acme"}},
		Action: action, Resource: resource,
	})
	require.NoError(t, err)
	return b
}

// TestRoles asks the shipped policy for each role and action: it is the one that programs without OPA have.
func TestRoles(t *testing.T) {
	p, err := Load(t.Context(), "")
	require.NoError(t, err)
	actions := []access.Action{"decisions.own", ""}
	for a := range access.Needs {
		actions = append(actions, a)
	}
	allowed := 0
	for _, role := range append([]domain.Role{"", "root", "Admin"}, domain.Roles...) {
		for _, a := range actions {
			in := input(t, role, a, nil)
			want, err := access.ByRole(t.Context(), in)
			require.NoError(t, err)
			got, err := p(t.Context(), in)
			require.NoError(t, err)
			require.Equal(t, len(want) == 0, len(got) == 0, "%s %s: %v", role, a, got)
			if len(got) == 0 {
				allowed++
			}
		}
	}
	require.Equal(t, 8+2*len(access.Needs)-1, allowed, "viewers do eight of them, and only admins erase")
	got, err := p(t.Context(), input(t, domain.Viewer, access.Discard, nil))
	require.NoError(t, err)
	require.Equal(t, []string{"it needs the role operator, and the caller has viewer"}, got)
	for _, odd := range []string{`{}`, `[]`, `null`, `{"user":{"role":["admin"]},"action":"audit.read"}`} {
		got, err := p(t.Context(), []byte(odd))
		require.NoError(t, err)
		require.NotEmpty(t, got, odd)
	}
	_, err = p(t.Context(), []byte(`{`))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
}

// own writes an operator's policy.
func own(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	return dir
}

const narrowing = `package docket.narrow

import data.docket.narrow.team

deny contains "dead letters are discarded by the owners only" if {
	input.action == "dead_letters.discard"
	not input.resource.dry_run
	not input.user.name in data.owners
}

deny contains reason if {
	team.mine(input.resource.filter.tenant[_])
	reason := sprintf("%s is closed", [input.resource.filter.tenant[0]])
}
`

// TestNarrow has an operator's policy, which takes away and gives nothing.
func TestNarrow(t *testing.T) {
	p, err := Load(t.Context(), own(t, map[string]string{
		"narrow.rego": narrowing, "data.json": `{"owners":["bob"]}`, ".git/x.rego": "rubbish",
		"lib/team.rego":    "package docket.narrow.team\n\nmine(tenant) if tenant == \"closed\"\n",
		"narrow_test.rego": "package docket.narrow_test\n\ntest_a if false\n",
	}))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		role     domain.Role
		action   access.Action
		resource map[string]any
		want     []string
	}{
		"allowed": {domain.Operator, access.Discard, map[string]any{"dry_run": true}, nil},
		"refused": {
			domain.Operator, access.Discard, map[string]any{"dry_run": false},
			[]string{"dead letters are discarded by the owners only"},
		},
		"by what it is about": {
			domain.Operator, access.Replay, map[string]any{"filter": map[string]any{"tenant": []string{"closed"}}},
			[]string{"closed is closed"},
		},
		"the role still counts": {
			domain.Viewer, access.Replay, map[string]any{}, []string{"it needs the role operator, and the caller has viewer"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := p(t.Context(), input(t, c.role, c.action, c.resource))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

// TestPoliciesThatAreRefused would give something, ask somebody, or refuse nothing.
func TestPoliciesThatAreRefused(t *testing.T) {
	file := func(text string) map[string]string { return map[string]string{"a.rego": text + "\n"} }
	deny := func(head string) map[string]string { return file("package docket.narrow\n\n" + head) }
	rule := func(body string) map[string]string { return deny("deny contains \"x\" if {\n\t" + body + "\n}") }
	of := func(pkg string) map[string]string { return file("package " + pkg + "\n\ndeny contains \"x\"") }
	const set, another = "has to be a set of reasons", "has to be docket.narrow, or one below it"
	for name, c := range map[string]struct {
		files map[string]string
		says  string
	}{
		"docket's own package":  {file("package docket.access\n\nreasons := set()"), another},
		"another package":       {of("acme"), "it is package acme, and " + another},
		"a package like it":     {of("docket.narrower"), another},
		"no rule":               {deny("allow := true"), "there is no rule deny"},
		"a rule of a lib":       {of("docket.narrow.lib"), "docket asks for deny in the package docket.narrow only"},
		"nothing":               {nil, "there is no rule deny"},
		"a rule that is true":   {deny("deny := true"), set},
		"a function":            {deny("deny(x) := x"), set},
		"an object":             {deny("deny.x := 1"), set},
		"a default":             {deny("default deny := set()"), set},
		"no Rego":               {file("rubbish"), "a.rego:1"},
		"a name nobody has":     {rule("input.user.name == owner"), "owner"},
		"it asks the network":   {rule(`http.send({"url": "http://127.0.0.1"}).body`), "undefined function http.send"},
		"it asks a name server": {rule(`net.lookup_ip_addr("localhost")`), "undefined function net.lookup_ip_addr"},
		"it asks the process":   {rule(`opa.runtime().env.PATH`), "undefined function opa.runtime"},
		"it throws dice":        {rule(`rand.intn("x", 2) == 1`), "undefined function rand.intn"},
		"data for docket": {
			map[string]string{"a.rego": rule("false")["a.rego"], "data.json": `{"docket":{"access":{"needs":{}}}}`},
			"its data has docket.access",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(t.Context(), own(t, c.files))
			require.ErrorContains(t, err, c.says)
			require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
		})
	}
	_, err := Load(t.Context(), "/nowhere")
	require.ErrorContains(t, err, "access_policy /nowhere")
}

// TestPoliciesThatFail let nobody in.
func TestPoliciesThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		rule string
		want domain.Class
	}{
		"a reason that is none":  {"deny contains 5", domain.Misconfigured},
		"a builtin that fails":   {"deny contains \"x\" if to_number(input.user.name) > 5", domain.Misconfigured},
		"two values of one name": {"deny contains f(1)\n\nf(_) := \"a\"\n\nf(x) := \"b\" if x == 1", domain.Misconfigured},
		"it takes too long": {
			"deny contains \"x\" if {\n\tn := numbers.range(1, 10000)\n\tsome a in n\n\tsome b in n\n\ta * b == 0\n}",
			domain.Unavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Load(t.Context(), own(t, map[string]string{"a.rego": "package docket.narrow\n\n" + c.rule + "\n"}))
			if err == nil { // some fail whatever they are asked, and are not taken
				_, err = p(t.Context(), input(t, domain.Admin, access.ReadAudit, nil))
			}
			require.Error(t, err)
			require.Equal(t, c.want, domain.ClassOf(err), "%v", err)
		})
	}
	p, err := Load(t.Context(), "")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p(ctx, input(t, domain.Admin, access.ReadAudit, nil))
	require.Equal(t, domain.Canceled, domain.ClassOf(err), "whoever asked has gone")
}

// TestSecurityDocument takes the example of docs/security.md.
func TestSecurityDocument(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/security.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(doc), "```rego\n")
	require.True(t, found)
	example, _, _ := strings.Cut(rest, "```")
	p, err := Load(t.Context(), own(t, map[string]string{"narrow.rego": example}))
	require.NoError(t, err)
	got, err := p(t.Context(), input(t, domain.Operator, access.Discard, map[string]any{"dry_run": false, "comment": "x"}))
	require.NoError(t, err)
	require.Equal(t, []string{"discards need a ticket: begin the comment with TICKET-"}, got)
	for a := range access.Needs {
		require.Contains(t, string(doc), strings.TrimLeft(string(a), "abcdefghijklmnopqrstuvwxyz_"), "%s is documented", a)
	}
}

// BenchmarkPolicy is one decision about a caller: by what docket ships, with an operator's policy, and remembered.
func BenchmarkPolicy(b *testing.B) {
	for _, c := range []struct{ name, path string }{
		{"shipped", ""},
		{"narrowed", own(b, map[string]string{
			"narrow.rego": narrowing, "data.json": `{"owners":["bob"]}`,
			"lib/team.rego": "package docket.narrow.team\n\nmine(tenant) if tenant == \"closed\"\n",
		})},
	} {
		p, err := Load(b.Context(), c.path)
		require.NoError(b, err)
		in := input(b, domain.Operator, access.Replay, map[string]any{"dry_run": true, "comment": "x"})
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if reasons, err := p(b.Context(), in); err != nil || len(reasons) > 0 {
					b.Fatal(fmt.Errorf("%v %w", reasons, err))
				}
			}
		})
		gate := access.NewGate(p, nil, nil)
		ann := domain.Caller{Name: "ann", Role: domain.Operator, Tenants: domain.Tenants("acme"), How: domain.ByToken}
		b.Run(c.name+", remembered", func(b *testing.B) {
			for b.Loop() {
				if err := gate.Allow(b.Context(), ann, access.SearchDecisions, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
