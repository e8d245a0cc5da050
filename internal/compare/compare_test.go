package compare

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// spelled are differences as "field: a -> b".
func spelled(found []Difference) (out []string) {
	text := func(v []byte) string {
		if v == nil {
			return "-"
		}
		return string(v)
	}
	for _, d := range found {
		out = append(out, fmt.Sprintf("%s: %s -> %s", search.FieldAt(d.Path), text(d.A), text(d.B)))
	}
	return out
}

func TestEvents(t *testing.T) {
	for name, c := range map[string]struct {
		a, b string
		want []string
	}{
		"the same":            {`{"input":{"u":1}}`, `{"input":{"u":1}}`, nil},
		"spelled differently": {`{"input":{"n":1e3,"s":"\u0061/b","o":{"x":1,"y":2}}}`, `{ "input" : {"o":{"y":2,"x":1.0},"s":"a\/b","n":1000} }`, nil},
		"what is not compared": {
			`{"decision_id":"a","metrics":{"t":1},"input":1}`, `{"decision_id":"b","metrics":{"t":2},"input":1}`, nil,
		},
		"changed":              {`{"input":{"user":"bob","n":1}}`, `{"input":{"user":"alice","n":1}}`, []string{`input.user: "bob" -> "alice"`}},
		"added and removed":    {`{"input":{"a":1}}`, `{"input":{"b":2}}`, []string{`input.a: 1 -> -`, `input.b: - -> 2`}},
		"null is a value":      {`{"input":{"a":null}}`, `{"input":{}}`, []string{`input.a: null -> -`}},
		"a part that is not":   {`{"result":true}`, `{}`, []string{`result: true -> -`}},
		"another type":         {`{"input":{"a":[1]}}`, `{"input":{"a":{"0":1}}}`, []string{`input.a: [1] -> {"0":1}`}},
		"a text, not a number": {`{"input":{"a":"1"}}`, `{"input":{"a":1}}`, []string{`input.a: "1" -> 1`}},
		"beyond all bounds": {
			`{"input":{"a":1e999999999}}`, `{"input":{"a":1e999999998}}`, []string{`input.a: 1e999999999 -> 1e999999998`},
		},
		"large numbers": {
			`{"input":{"a":9007199254740993}}`, `{"input":{"a":9007199254740992}}`,
			[]string{`input.a: 9007199254740993 -> 9007199254740992`},
		},
		"bundles": {
			`{"bundles":{"authz":{"revision":"r1"}}}`, `{"bundles":{"authz":{"revision":"r2"},"b/c":{}}}`,
			[]string{`bundle.authz: "r1" -> "r2"`, `event.bundles.b/c: - -> {}`},
		},
		"an element in front":   {`{"input":{"r":["a","b"]}}`, `{"input":{"r":["x","a","b"]}}`, []string{`input.r.0: - -> "x"`}},
		"an element behind":     {`{"input":{"r":["a","b","c"]}}`, `{"input":{"r":["a","b"]}}`, []string{`input.r.2: "c" -> -`}},
		"elements in between":   {`{"input":{"r":[1,2,3,4]}}`, `{"input":{"r":[1,5,4]}}`, []string{`input.r.1: 2 -> 5`, `input.r.2: 3 -> -`}},
		"inside of elements":    {`{"input":[{"a":1,"b":1}]}`, `{"input":[{"a":1,"b":2}]}`, []string{`input.0.b: 1 -> 2`}},
		"a key that repeats":    {`{"input":{"a":1,"a":2}}`, `{"input":{"a":2}}`, nil},
		"a key with a dot":      {`{"input":{"a.b":1}}`, `{"input":{"a.b":2}}`, []string{`input."a.b": 1 -> 2`}},
		"half a surrogate pair": {`{"input":{"a":"\ud800"}}`, `{"input":{"a":"\ud801"}}`, []string{`input.a: "\ud800" -> "\ud801"`}},
		"no JSON":               {`{"input":{"a"`, `{"input":{"a":1}}`, []string{`input.a: - -> 1`}},
	} {
		t.Run(name, func(t *testing.T) {
			found, complete := Events([]byte(c.a), []byte(c.b))
			require.True(t, complete)
			require.Equal(t, c.want, spelled(found))
		})
	}
}

// TestEventsAreBounded has events that are made to take long.
func TestEventsAreBounded(t *testing.T) {
	member := func(n int, value string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"k%d":%s,`, i, value)
		}
		return `{"input":{` + b.String() + `"end":1}}`
	}
	found, complete := Events([]byte(member(3000, "1")), []byte(member(3000, "2")))
	require.False(t, complete)
	require.Len(t, found, MaxDifferences)
	found, complete = Events([]byte(member(MaxDifferences, "1")), []byte(member(MaxDifferences, "2")))
	require.True(t, complete)
	require.Len(t, found, MaxDifferences)

	for _, brackets := range []string{`[]`, `{}`} {
		nested := func(inner string) []byte {
			open := brackets[:1]
			if open == "{" {
				open = `{"a":`
			}
			const depth = 9000
			return []byte(`{"input":` + strings.Repeat(open, depth) + inner + strings.Repeat(brackets[1:], depth) + `}`)
		}
		found, complete = Events(nested("1"), nested("2"))
		require.True(t, complete)
		require.Len(t, found, 1)
		require.Len(t, found[0].Path, maxDepth)
		require.Greater(t, len(found[0].A), 8900, "what nests deeper is compared as a whole")
		found, _ = Events(nested("1"), nested("1"))
		require.Empty(t, found)
	}
}

func FuzzEvents(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"input":{"a":[1,{"b":2}],"c":null}}`, `{"input":{"a":[{"b":3}],"d":"\u0061"},"result":1e3}`},
		{`{"input":[[[]]]}`, `{"input":[[1]],"bundles":{}}`}, {`{`, ``}, {`{"input":{"a":1,"a":2}}`, `{"input":{"a":3}}`},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		ab, _ := Events(a, b)
		ba, _ := Events(b, a)
		require.Len(t, ba, len(ab), "it is the same from both sides")
		for _, d := range ab {
			require.NotEqual(t, d.A, d.B)
			require.NotEmpty(t, d.Path)
		}
		same, complete := Events(a, a)
		require.Empty(t, same)
		require.True(t, complete)
	})
}

// rows are decisions, the newest first.
type rows []domain.Decision

func (r rows) Search(_ context.Context, scope domain.Scope, q domain.Query) (page domain.Page, err error) {
	fits := search.NewMatcher(q.Where)
	page.Complete = true
	for i := range r {
		if scope.Includes(r[i].Tenant) && r[i].Time().Before(q.Until) && fits.Fits(&r[i]) && len(page.Items) < q.Limit {
			page.Items = append(page.Items, r[i])
		}
	}
	return page, nil
}

func TestLastAllowed(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	decision := func(id string, ago time.Duration, edit func(*domain.Decision)) domain.Decision {
		d := domain.Decision{
			ID: id, Tenant: "acme", Timestamp: now.Add(-ago), Outcome: domain.OutcomeAllowed, Principal: "bob", Action: "GET",
			Resource: "salary", Path: "authz/allow",
		}
		edit(&d)
		return d
	}
	same := func(*domain.Decision) {}
	denied := decision("denied", time.Hour, func(d *domain.Decision) { d.Outcome = domain.OutcomeDenied })
	for name, c := range map[string]struct {
		like    domain.Decision
		rows    rows
		want    string
		relaxed []domain.Field
	}{
		"the same in all": {denied, rows{
			decision("later", 0, same), denied, decision("same", 3*time.Hour, same), decision("older", 4*time.Hour, same),
		}, "same", nil},
		"closer goes before newer": {denied, rows{
			decision("alice", 2*time.Hour, func(d *domain.Decision) { d.Principal = "alice" }),
			decision("bob", 9*time.Hour, same),
		}, "bob", nil},
		"another principal": {denied, rows{
			decision("put", 2*time.Hour, func(d *domain.Decision) { d.Action = "PUT" }),
			decision("alice", 3*time.Hour, func(d *domain.Decision) { d.Principal = "alice" }),
		}, "alice", []domain.Field{domain.FieldPrincipal}},
		"another action": {denied, rows{
			decision("put", 2*time.Hour, func(d *domain.Decision) { d.Action = "PUT" }),
		}, "put", []domain.Field{domain.FieldPrincipal, domain.FieldAction}},
		"another path": {denied, rows{
			decision("path", 2*time.Hour, func(d *domain.Decision) { d.Path, d.Resource = "other", "other" }),
		}, "path", relaxing},
		"another tenant's": {denied, rows{
			decision("theirs", 2*time.Hour, func(d *domain.Decision) { d.Tenant = "initech" }),
		}, "", relaxing},
		"nothing": {denied, nil, "", relaxing},
		"a field that it does not have": {decision("d", time.Hour, func(d *domain.Decision) { d.Principal = "" }), rows{
			decision("bob", 2*time.Hour, same),
		}, "bob", nil},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := LastAllowed(t.Context(), c.rows, domain.AllTenants(), &c.like)
			require.NoError(t, err)
			require.True(t, found.Complete)
			require.Equal(t, c.relaxed, found.Relaxed)
			if c.want == "" {
				require.Nil(t, found.Decision)
				return
			}
			require.Equal(t, c.want, found.Decision.ID)
		})
	}
}
