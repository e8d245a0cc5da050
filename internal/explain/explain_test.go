package explain_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/explain"
)

const policy = `package orders

default allow := false

allow if input.role == "admin"

allow if {
	input.action == "read"
	input.amount < 9007199254740993
}

remote if http.send({"method": "get", "url": input.url}).body.ok

now := time.now_ns()

chance := rand.intn("seed", 1000)

set contains x if some x in input.list

broken := 1 / input.zero

either if to_number(input.n) > 3

either if http.send({"method": "get", "url": "http://127.0.0.1:1/"}).status_code == 200

list := [{"ok": false}, {"ok": true}]

large := 9007199254740993

pushed if data.owners.alice

conflict := 1 if true

conflict := 2 if true
`

func newPolicy(t testing.TB, text, revision string) (*explain.Policy, error) {
	t.Helper()
	parsed, err := ast.ParseModule("orders.rego", text)
	require.NoError(t, err)
	projector, err := domain.NewProjector(nil)
	require.NoError(t, err)
	b := &bundle.Bundle{
		Manifest: bundle.Manifest{Revision: revision, Roots: &[]string{""}}, Data: map[string]any{},
		Modules: []bundle.ModuleFile{{URL: "/orders.rego", Path: "/orders.rego", Raw: []byte(text), Parsed: parsed}},
	}
	odd, err := ast.ParseModule("odd.rego", `package odd["a b"]["c/d"]`+"\n\nallow := true\n")
	require.NoError(t, err)
	b.Modules = append(b.Modules, bundle.ModuleFile{URL: "/odd.rego", Path: "/odd.rego", Parsed: odd})
	return explain.New(b, projector)
}

func decision(t testing.TB, event string) *domain.Decision {
	t.Helper()
	require.True(t, json.Valid([]byte(event)), event)
	projector, err := domain.NewProjector(nil)
	require.NoError(t, err)
	d := projector.Project(domain.Record{
		Value:   []byte(event),
		Headers: domain.Headers{Tenant: "acme", ReceivedAt: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)},
	})
	return &d
}

func TestDecide(t *testing.T) {
	p, err := newPolicy(t, policy, "r1")
	require.NoError(t, err)
	const by = `,"bundles":{"orders":{"revision":"r1"}}}`
	for _, c := range []struct {
		name, event string
		was, now    domain.Outcome
		result      string
		doubts      []explain.Doubt
		missing     []string
	}{
		{"the same", `{"path":"orders/allow","input":{"role":"admin"},"result":true` + by,
			domain.OutcomeAllowed, domain.OutcomeAllowed, "true", nil, nil},
		{"a flip", `{"path":"/orders/allow","input":{"role":"guest"},"result":true` + by,
			domain.OutcomeAllowed, domain.OutcomeDenied, "false", []explain.Doubt{explain.OtherData}, nil},
		{"numbers as they are spelled", `{"path":"orders/allow","input":{"action":"read","amount":9007199254740992},"result":true` + by,
			domain.OutcomeAllowed, domain.OutcomeAllowed, "true", nil, nil},
		{"another revision", `{"path":"orders/allow","input":{},"result":false,"bundles":{"orders":{"revision":"r0"}}}`,
			domain.OutcomeDenied, domain.OutcomeDenied, "false", []explain.Doubt{explain.OtherRevision}, nil},
		{"no revision", `{"path":"orders/allow","input":{},"result":false}`,
			domain.OutcomeDenied, domain.OutcomeDenied, "false", []explain.Doubt{explain.NoRevision}, nil},
		{"undefined", `{"path":"orders/none","input":{}` + by,
			domain.OutcomeUndefined, domain.OutcomeUndefined, "", nil, nil},
		{"masked", `{"path":"orders/allow","input":{"role":"***"},"result":true,"masked":["/input/role"]` + by,
			domain.OutcomeAllowed, domain.OutcomeDenied, "false", []explain.Doubt{explain.Masked}, nil},
		{"erased", `{"path":"orders/allow","input":{},"result":true,"erased":["/input/role"]` + by,
			domain.OutcomeAllowed, domain.OutcomeDenied, "false", []explain.Doubt{explain.Erased}, nil},
		{"a mask elsewhere", `{"path":"orders/allow","input":{"role":"admin"},"result":true,"masked":["/labels/x"]` + by,
			domain.OutcomeAllowed, domain.OutcomeAllowed, "true", nil, nil},
		{"an answer in the cache", `{"path":"orders/remote","input":{"url":"http://roles/"},"nd_builtin_cache":{"http.send":
			{"[{\"method\":\"get\",\"url\":\"http://roles/\"}]":{"body":{"ok":true},"status_code":200}}}` + by,
			domain.OutcomeUndefined, domain.OutcomeUnknown, "true", []explain.Doubt{explain.OtherData}, nil},
		{"of something else", `{"path":"orders/remote","input":{"url":"http://127.0.0.1:1/"},"result":true,"nd_builtin_cache":{
			"http.send":{"[{\"method\":\"get\",\"url\":\"http://roles/\"}]":{"body":{"ok":true},"status_code":200}}}` + by,
			domain.OutcomeUnknown, domain.OutcomeUndefined, "", []explain.Doubt{explain.CacheMissing}, []string{"http.send"}},
		{"no cache, but the same", `{"path":"orders/remote","input":{"url":"http://127.0.0.1:1/"}` + by,
			domain.OutcomeUndefined, domain.OutcomeUndefined, "", nil, nil},
		{"no cache", `{"path":"orders/remote","input":{"url":"http://127.0.0.1:1/"},"result":true` + by,
			domain.OutcomeUnknown, domain.OutcomeUndefined, "", []explain.Doubt{explain.CacheMissing}, []string{"http.send"}},
		{"chance", `{"path":"orders/chance","result":7` + by, domain.OutcomeUnknown, domain.OutcomeUnknown, "*",
			[]explain.Doubt{explain.CacheMissing}, []string{"rand.intn"}},
		{"a set", `{"path":"orders/set","input":{"list":["b","a"]},"result":["a","b"]` + by,
			domain.OutcomeUnknown, domain.OutcomeUnknown, `["a","b"]`, nil, nil},
		{"no cache, and another builtin that fails", `{"path":"orders/either","input":{"n":"x"},"result":true` + by,
			domain.OutcomeUnknown, domain.OutcomeUndefined, "", []explain.Doubt{explain.CacheMissing}, []string{"http.send"}},
		{"an escaped path", `{"path":"odd/a%20b/c%2Fd/allow","input":{},"result":true` + by,
			domain.OutcomeAllowed, domain.OutcomeAllowed, "true", nil, nil},
		{"numbers and empty steps in a path", `{"path":"orders//list/1/ok","input":{},"result":true` + by,
			domain.OutcomeUnknown, domain.OutcomeUnknown, "true", nil, nil},
		{"numbers that a float64 takes for the same", `{"path":"orders/large","result":9007199254740992` + by,
			domain.OutcomeUnknown, domain.OutcomeUnknown, "9007199254740993", []explain.Doubt{explain.OtherData}, nil},
		{"numbers spelled in another way", `{"path":"orders/large","result":9007199254740993.0` + by,
			domain.OutcomeUnknown, domain.OutcomeUnknown, "9007199254740993", nil, nil},
		{"data that the policy does not have", `{"path":"orders/pushed","result":true,"bundles":{"o":{"revision":"r0"}}}`,
			domain.OutcomeUnknown, domain.OutcomeUndefined, "",
			[]explain.Doubt{explain.DataMissing, explain.OtherRevision}, []string{"data.owners.alice"}},
		{"it fails as it did", `{"path":"orders/conflict","input":{},"error":{"code":"eval_conflict_error"}` + by,
			domain.OutcomeError, domain.OutcomeError, "", nil, nil},
		{"it fails", `{"path":"orders/conflict","input":{},"result":true` + by,
			domain.OutcomeUnknown, domain.OutcomeError, "", []explain.Doubt{explain.OtherData}, nil},
		{"it does not fail any more", `{"path":"orders/allow","input":{},"error":{"code":"eval_cancel_error"}` + by,
			domain.OutcomeError, domain.OutcomeDenied, "false", []explain.Doubt{explain.OtherData}, nil},
		{"undefined, spelled as an error", `{"path":"orders/none","input":{},"error":{"code":"undefined_document"}` + by,
			domain.OutcomeUndefined, domain.OutcomeUndefined, "", nil, nil},
		{"Envoy's query", `{"query":"data.orders.allow","input":{"role":"admin"},"result":true` + by,
			domain.OutcomeAllowed, domain.OutcomeAllowed, "true", nil, nil},
		{"a builtin that fails", `{"path":"orders/broken","input":{"zero":0}` + by,
			domain.OutcomeUndefined, domain.OutcomeUndefined, "", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := p.Decide(t.Context(), decision(t, c.event), false)
			require.NoError(t, a.Err)
			require.Equal(t, c.was, a.Was)
			require.Equal(t, c.now, a.Now)
			if c.result != "*" {
				require.Equal(t, c.result, string(a.Result))
			}
			require.Equal(t, c.doubts, a.Doubts)
			require.Equal(t, c.missing, a.Missing)
			require.Equal(t, c.was != c.now, a.Flipped())
			require.Equal(t, a.Same, len(c.doubts) == 0 || c.name == "another revision" || c.name == "no revision", c.name)
		})
	}
	for name, event := range map[string]string{
		"neither path nor query": `{"input":{}}`, "a query of more": `{"query":"data.a == 1; x := 2"}`,
		"an ad-hoc query": `{"query":"data.orders.allow","result":[{}]}`,
		"a compilation":   `{"path":"orders/allow","custom":{"type":"open-policy-agent/compile"}}`,
	} {
		a := p.Decide(t.Context(), decision(t, event), false)
		require.ErrorIs(t, a.Err, explain.ErrNotAsked, name)
	}
}

// TestHiddenResults are none that anybody could call another one.
func TestHiddenResults(t *testing.T) {
	p, err := newPolicy(t, policy, "r1")
	require.NoError(t, err)
	for event, doubt := range map[string]explain.Doubt{
		`{"path":"orders/allow","input":{"role":"admin"},"erased":["/result"],"bundles":{"o":{"revision":"r1"}}}`:                explain.Erased,
		`{"path":"orders/set","input":{"list":["a"]},"result":["***"],"masked":["/result/0"],"bundles":{"o":{"revision":"r1"}}}`: explain.Masked,
	} {
		a := p.Decide(t.Context(), decision(t, event), false)
		require.NoError(t, a.Err)
		require.True(t, a.Hidden)
		require.False(t, a.Flipped())
		require.Equal(t, []explain.Doubt{doubt}, a.Doubts)
	}
}

func TestPoliciesThatAreNone(t *testing.T) {
	_, err := newPolicy(t, "package a\n\nallow if nosuch(1)", "")
	require.ErrorContains(t, err, "undefined function nosuch")
}

func BenchmarkDecide(b *testing.B) {
	p, err := newPolicy(b, `package orders

default allow := false

allow if owner
allow if admin
owner if input.resource.owner == input.user
admin if "admin" in input.roles
reasons contains "not the owner" if not owner
`, "r1")
	require.NoError(b, err)
	d := decision(b, fmt.Sprintf(`{"path":"orders/allow","input":{"user":"alice","roles":["guest","user"],"resource":{"id":%q,
		"owner":"bob","labels":{"a":"b"}},"headers":{"x":["1","2"]}},"result":false}`, "o-1"))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if a := p.Decide(b.Context(), d, false); a.Err != nil {
				b.Error(a.Err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}

// TestBecause: an operator reads which rule gave a result, and which conditions did not hold.
func TestBecause(t *testing.T) {
	p, err := newPolicy(t, `package orders

default allow := false

allow if {
	owner
	input.action in {"read", "write"}
}

allow if "admin" in input.roles

owner if input.resource.owner == input.user

deny contains msg if {
	some role in input.roles
	role == "guest"
	not owner
	msg := sprintf("%s is a guest", [input.user])
}

quota(n) if n > 10

allow if {
	input.resource.owner != ""
	quota(input.amount)
}
`, "")
	require.NoError(t, err)
	for _, c := range []struct {
		name, event string
		rules       []string
		failed      []explain.Failed
	}{
		{"denied by default", `{"path":"orders/allow","input":{"user":"alice","roles":["guest","user"],"amount":5,
			"resource":{"owner":"bob"}},"result":true}`, []string{"orders.rego:3 (default)"}, []explain.Failed{
			{Rule: "data.orders.allow", At: "orders.rego:6", Condition: "owner"},
			{Rule: "data.orders.allow", At: "orders.rego:10", Condition: `"admin" in input.roles`},
			{Rule: "data.orders.owner", At: "orders.rego:12", Condition: "input.resource.owner == input.user"},
			{Rule: "data.orders.quota", At: "orders.rego:21", Condition: "n > 10"},
			{Rule: "data.orders.allow", At: "orders.rego:25", Condition: "quota(input.amount)"},
		}},
		{"allowed", `{"path":"orders/allow","input":{"user":"alice","roles":["admin"],"resource":{"owner":"alice"}},"result":false}`,
			[]string{"orders.rego:10"}, []explain.Failed{
				{Rule: "data.orders.allow", At: "orders.rego:7", Condition: `input.action in {"read", "write"}`},
			}},
		{"a deny set", `{"path":"orders/deny","input":{"user":"alice","roles":["user","guest"]},"result":[]}`,
			[]string{"orders.rego:14"}, []explain.Failed{
				{Rule: "data.orders.owner", At: "orders.rego:12", Condition: "input.resource.owner == input.user"},
			}},
		{"a rule that is not there", `{"path":"orders/none","input":{},"result":true}`, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := p.Decide(t.Context(), decision(t, c.event), true)
			require.NoError(t, a.Err)
			require.Equal(t, c.rules, a.Because.Rules)
			require.Equal(t, c.failed, a.Because.Failed)
		})
	}
}
