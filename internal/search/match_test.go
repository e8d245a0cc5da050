package search

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/docket-project/docket/internal/domain"
)

// event has a little of everything.
const event = `{"decision_id":"d-1","labels":{"id":"opa-1","app":"shop","a.b":"dotted"},
	"bundles":{"authz":{"revision":"r7"}},"path":"rbac/allow","timestamp":"2026-07-31T10:00:00Z",
	"result":{"allow":false,"reasons":["not owner","too late"],"n":null},
	"input":{"method":"DELETE","n":1000,"big":123456789012345678901234567890.5,"huge":1e999999999,"neg":-0.0,"e":1e3,
	"s":"1000","at":"2026-07-31T12:30:00+02:00","t":true,"empty":[],"list":[1,"two",null,{"x":1}],"a/b":"slash",
	"a.b":{"c d":"spaced"},"":"no key","esc":"<\u0061> \"q\" \\ \u00e9","deep":{"a":[{"b":1},{"b":2}]},
	"twice":1,"twice":2,"\u006bey":"escaped key","text":"Straße ΣΊΣΥΦΟΣ K"},
	"metrics":{"timer_rego_query_eval_ns":9000000,"timer_server_handler_ns":12500000}}`

func decisionOf(t testing.TB, event string) *domain.Decision {
	t.Helper()
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	d := p.Project(domain.Record{Key: "d-1", Value: []byte(event), Headers: domain.Headers{Tenant: "acme"}})
	return &d
}

func TestFits(t *testing.T) {
	d := decisionOf(t, event)
	for _, c := range []struct {
		query string
		want  bool
	}{
		{"", true},
		{"outcome:denied tenant:acme id:d-1 path:rbac/*", true},
		{"outcome:DENIED", true},
		{"tenant:Acme", false},
		{"path:/rbac/allow", true},
		{"path:*allow path:r*c/*w path:*", true},
		{"path:allow*", false},
		{"path:\"rbac/*\"", false},
		{"-principal:alice", true}, // absent
		{"principal:*", false},
		{"app:shop opa:opa-1 label.app:shop label.a.b:dotted labels.id:opa*", true},
		{"revision:r7 bundle.authz:r7 bundles.authz.revision:*", true},
		{"revision:r8 OR bundle.other:*", false},
		{"input.method:DELETE", true},
		{"input.method:delete", false},
		{"input.method:DEL* input.method:*L*T*", true},
		{"input.n:1000 input.n:1e3 input.n:1000.0 input.e:1000 input.neg:0 input.s:1000", true},
		{`input.n:"1000"`, false},
		{`input.s:"1000"`, true},
		{"input.s:1e3", false}, // a string is compared as a text
		{"input.n:1*", false},  // a number has no letters
		{"input.big:123456789012345678901234567890.50", true},
		{"input.big:123456789012345678901234567890", false},
		{"input.huge:1e999999999", true},
		{"input.huge>1", false}, // beyond all bounds
		{"input.n>999 input.n>=1000 input.n<1000.1 input.n<=1e3 input.big>1e20", true},
		{"input.n>1000", false},
		{"input.s>1", false}, // numbers with numbers
		{"input.at>2026-07-31T10:29Z input.at<=2026-07-31T10:30Z", true},
		{"input.at>1", false},
		{"input.method>2026-07-31", false},
		{"input.t:true result.allow:false result.n:null", true},
		{`input.t:"true"`, false},
		{"result.n:*", false},
		{"-result.n:*", true},
		{"-input.nothing:x -input.nothing>1 -input.nothing:*", true},
		{"input.list:1 input.list:two input.list:null input.list:*", true},
		{"input.list:3", false},
		{"input.list.1:two input.list.3.x:1", true},
		{"input.empty:* -input.empty:x", true},
		{`input.a/b:slash input."a.b"."c d":spaced`, true},
		{"input.a.b:*", false},
		{`input.esc:"<a> \"q\" \\ é"`, true},
		{"input.deep.a.0.b:1 input.deep.a.1.b:2", true},
		{"input.twice:2", true},
		{"input.twice:1", false}, // the last one stands
		{`input.key:"escaped key"`, true},
		{`"NOT OWNER"`, true},
		{"owner*late", false}, // one string has all of it
		{"not*owner", true},
		{"\"<a>\"", true},
		{"rEaSons", true}, // a key
		{"12345678901", true},
		{"true", false}, // neither a string nor a number
		{"STRASSE", false},
		{"straße σίσυφος k", true},
		{"nothing", false},
		{`""`, true},
		{"latency>10ms latency<12.6ms latency:12.5ms latency:*", true},
		{"latency>=13ms", false},
		{"event.metrics.timer_rego_query_eval_ns:9e6", true},
		{"(outcome:allowed OR input.method:DELETE) -(result.reasons:\"too late\" input.n:1)", true},
	} {
		t.Run(c.query, func(t *testing.T) {
			q, err := Parse(c.query, now)
			require.NoError(t, err)
			require.Equal(t, c.want, NewMatcher(q.Where).Fits(d))
		})
	}
}

// TestPlainEvents have no backslash, so that their bytes are looked into first.
func TestPlainEvents(t *testing.T) {
	digits := strings.Repeat("7", 5000)
	d := decisionOf(t, `{"decision_id":"d-1","input":{"huge":1e999999999,"long":`+digits+`,"o":{},"a":[[]],"n":1000,`+
		`"list":["x","Yé"],"t":true,"é":"ü"},"text":"Some Words"}`)
	for query, want := range map[string]bool{
		"input.huge:1e999999999": true, "input.huge:1e999999998": false, "input.n:1e3": true, "input.n:1e4": false,
		"input.o:{}": false, "input.a:[]": false, "input.o:*": true, "input.t:true": true, "input.t:false": false,
		"input.list:x": true, "input.list:z": false, "input.list.1:Y*": true, "input.é:ü": true, "input.é:u": false,
		"WORDS": true, "nowhere": false, "some*words": true, `"1000"`: true, "input.nothing:*": false, "-input.nothing:x": true,
	} {
		q, err := Parse(query, now)
		require.NoError(t, err)
		require.Equal(t, want, NewMatcher(q.Where).Fits(d), query)
	}
	e := domain.Expr{Op: domain.OpEqual, Field: domain.FieldEvent, Path: []string{"input", "long"}, Value: digits}
	require.True(t, NewMatcher(e).Fits(d), "spelled the same")
}

func TestUnsearchableEventsAreSkipped(t *testing.T) {
	d := decisionOf(t, `{"decision_id":"d-1","path":"p","input":{"a":"\u0000","n":1}}`)
	require.True(t, d.Unsearchable)
	for query, want := range map[string]bool{
		"input.n:1": false, "-input.n:1": true, "input.n:*": false, "p": false, "path:p": true, "latency:*": false,
	} {
		q, err := Parse(query, now)
		require.NoError(t, err)
		require.Equal(t, want, NewMatcher(q.Where).Fits(d), query)
	}
}

// exprs generates expressions over few fields and values, so that many of them fit.
func exprs() *rapid.Generator[domain.Expr] {
	values := rapid.SampledFrom([]string{"a", "b", "ab", "a/b", "1", "1e0", "true"})
	leaf := rapid.Custom(func(t *rapid.T) domain.Expr {
		field := rapid.SampledFrom([]domain.Field{
			domain.FieldPath,
			domain.FieldPrincipal,
			domain.FieldRevision,
			domain.FieldTenant,
			domain.FieldEvent,
			domain.FieldEvent,
		}).Draw(t, "field")
		e := domain.Expr{Field: field, Value: values.Draw(t, "value")}
		e.Op = rapid.SampledFrom([]domain.Op{domain.OpEqual, domain.OpPrefix, domain.OpGlob, domain.OpPresent}).Draw(t, "op")
		if field == domain.FieldEvent {
			e.Path = rapid.SampledFrom([][]string{{"input", "x"}, {"input", "y"}, {"input", "list"}}).Draw(t, "path")
			if e.Op == domain.OpPrefix {
				e.Op = domain.OpAtLeast
				e.Value = "1"
			}
			e.Quoted = e.Op == domain.OpEqual && rapid.Bool().Draw(t, "quoted")
		}
		if e.Op == domain.OpGlob {
			e.Value = domain.Glob("", e.Value, rapid.SampledFrom([]string{"", "b"}).Draw(t, "end"))
		}
		if e.Op == domain.OpPresent {
			e.Value = ""
		}
		if rapid.IntRange(0, 9).Draw(t, "text") == 0 {
			e = domain.Expr{Op: domain.OpText, Field: domain.FieldText, Value: domain.Glob(values.Draw(t, "text"))}
		}
		return e
	})
	var tree func(depth int) *rapid.Generator[domain.Expr]
	tree = func(depth int) *rapid.Generator[domain.Expr] {
		if depth == 0 {
			return leaf
		}
		return rapid.Custom(func(t *rapid.T) domain.Expr {
			inner := tree(depth - 1)
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				return not(inner.Draw(t, "not"), 1)
			case 1:
				return domain.AllOf(rapid.SliceOfN(inner, 2, 3).Draw(t, "and")...)
			case 2:
				return anyOfThese(rapid.SliceOfN(inner, 2, 3).Draw(t, "or"))
			default:
				return leaf.Draw(t, "leaf")
			}
		})
	}
	return tree(3)
}

// decisions generates decisions with some of what exprs asks for.
func decisions(tb testing.TB) *rapid.Generator[*domain.Decision] {
	text := rapid.SampledFrom(
		[]string{`"a"`, `"b"`, `"ab"`, `"aXb"`, `1`, `1.0`, `true`, `null`, `["a",1]`, `[]`, `{"a":1}`},
	)
	return rapid.Custom(func(t *rapid.T) *domain.Decision {
		members := []string{`"decision_id":"d-1"`}
		for _, name := range []string{"path", "revision"} {
			if rapid.Bool().Draw(t, name) {
				members = append(members, fmt.Sprintf(`"%s":%s`, name, text.Draw(t, name)))
			}
		}
		var input []string
		for _, name := range []string{"x", "y", "list", "user"} {
			if rapid.Bool().Draw(t, name) {
				input = append(input, fmt.Sprintf(`"%s":%s`, name, text.Draw(t, name)))
			}
		}
		members = append(members, `"input":{`+strings.Join(input, ",")+`}`)
		return decisionOf(tb, `{`+strings.Join(members, ",")+`}`)
	})
}

// TestPlansAreBounds has what a plan asks of columns: never less than the search, and exactly it where nothing is left.
func TestPlansAreBounds(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		e := exprs().Draw(r, "expr")
		p := NewPlan(e)
		if readsEvent(p.Columns) {
			r.Fatalf("%v asks columns for %v", e, p.Columns)
		}
		for range 8 {
			d := decisions(t).Draw(r, "decision")
			want, got := NewMatcher(e).Fits(d), NewMatcher(p.Columns).Fits(d)
			if p.Rest != nil {
				got = got && p.Rest.Fits(d)
			}
			if want != got {
				r.Fatalf("%s is %t of %s; the plan %s says %t", spell(e), want, d.Event, spell(p.Columns), got)
			}
		}
	})
}

// TestTreesAreSpelled has any tree in its canonical form, which means the same.
func TestTreesAreSpelled(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := domain.Filter{Since: now, Where: exprs().Draw(r, "expr")}
		spelled := String(f)
		q, err := Parse(spelled, now)
		if err != nil {
			r.Fatalf("%s: %v", spelled, err)
		}
		if again := String(q.Filter); again != spelled {
			r.Fatalf("%s is read as %s", spelled, again)
		}
		for range 4 {
			d := decisions(t).Draw(r, "decision")
			if NewMatcher(f.Where).Fits(d) != NewMatcher(q.Where).Fits(d) {
				r.Fatalf("%s says something else of %s", spelled, d.Event)
			}
		}
	})
}

func TestPlan(t *testing.T) {
	for query, want := range map[string]struct {
		columns string
		rest    bool
	}{
		"outcome:denied path:a*":         {"outcome:denied path:a*", false},
		"outcome:denied input.x:1":       {"outcome:denied", true},
		"outcome:denied OR input.x:1":    {"", true},
		"-(outcome:denied input.x:1)":    {"", true},
		"-(outcome:denied OR input.x:1)": {"-outcome:denied", true},
		"path:a*b -path:c*d":             {"path:a*", true},
		"(tenant:a OR tenant:b) text":    {"tenant:a OR tenant:b", true},
		"tenant:a input.x:1 OR tenant:b": {"tenant:a OR tenant:b", true},
	} {
		q, err := Parse(query, now)
		require.NoError(t, err)
		p := NewPlan(q.Where)
		require.Equal(t, want.columns, String(domain.Filter{Where: p.Columns}), query)
		require.Equal(t, want.rest, p.Rest != nil, query)
	}
}
