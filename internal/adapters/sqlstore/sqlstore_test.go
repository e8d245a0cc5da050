package sqlstore

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

var plain = &Dialect{
	Param:      func(n int, t Type) string { return fmt.Sprintf("$%d:%s", n, t) },
	Instant:    func(t time.Time) any { return t.Unix() },
	StartsWith: "starts(%s, %s)", AnyRevision: "any(%s)", RevisionColumn: "r", OwnedBy: "tenants in %s",
}

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		name string
		e    domain.Expr
		want string
		args []any
	}{
		{"everything", domain.Expr{}, "true", nil},
		{"equal", domain.Equals(domain.FieldApp, "a'b"), "app = $1:text", []any{"a'b"}},
		{"a prefix", domain.HasPrefix(domain.FieldPath, "http/"), "starts(path, $1:text)", []any{"http/"}},
		{"present", domain.Present(domain.FieldError), "error IS NOT NULL", nil},
		{"absent", domain.Not(domain.Present(domain.FieldError)), "((error IS NOT NULL)) IS NOT TRUE", nil},
		{"a revision", domain.Equals(domain.FieldRevision, "r1"), "any(r = $1:text)", []any{"r1"}},
		{
			"a tree", domain.AllOf(domain.AnyOf(domain.Equals(domain.FieldApp, "a"), domain.Equals(domain.FieldApp, "b")),
				domain.Not(domain.Equals(domain.FieldAction, "GET"))),
			"(app = $1:text OR app = $2:text) AND ((action = $3:text)) IS NOT TRUE", []any{"a", "b", "GET"},
		},
		{"one of nothing", domain.AnyOf(), "false", nil},
		{"no tenant", domain.Scope{}.Expr(), "false", nil},
		{"all tenants", domain.AllTenants().Expr(), "true", nil},
		{"a field of another table", domain.Equals(domain.FieldState, "open"), "false", nil},
		{"an operator of another version", domain.Expr{Op: "near", Field: domain.FieldApp}, "false", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := plain.Where()
			w.Fits(domain.DecisionFields, c.e)
			require.Equal(t, c.want, w.String())
			require.Equal(t, c.args, w.Args)
		})
	}
}

func TestParametersGoOn(t *testing.T) {
	w := plain.Where("taken")
	w.Span("time", domain.Filter{Since: time.Unix(5, 0), Until: time.Unix(7, 0)})
	w.Owned(domain.AllTenants())
	w.Owned(domain.Tenants("b", "a"))
	require.Equal(t, "time >= $2:timestamptz AND time < $3:timestamptz AND tenants in $4:text", w.String())
	other := w.And()
	other.Add("x = " + other.Param(Bigint, 9))
	require.Equal(t, "x = $5:bigint", other.String())
	require.Equal(t, []any{"taken", int64(5), int64(7), `["a","b"]`, 9}, other.Args)
}

func TestFiltersAreKept(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 7000, time.UTC)
	for name, f := range map[string]domain.Filter{
		"everything": {},
		"times":      {Since: at, Until: at.Add(time.Hour)},
		"a tree": {Since: at, Where: domain.AllOf(
			domain.AnyOf(domain.Equals(domain.FieldState, "open"), domain.HasPrefix(domain.FieldPath, "")),
			domain.Not(domain.Present(domain.FieldCode)),
		)},
	} {
		t.Run(name, func(t *testing.T) {
			text := EncodeFilter(f)
			got, err := DecodeFilter(text, domain.DeadLetterFields)
			require.NoError(t, err)
			require.Equal(t, f, got)
			require.Equal(t, text, EncodeFilter(got), "the same filter always the same")
		})
	}
	_, err := DecodeFilter(`{"v":99}`, domain.DeadLetterFields)
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
	_, err = DecodeFilter("path=x", domain.DeadLetterFields)
	require.Error(t, err)
	for name, where := range map[string]string{
		"no operator":                        `{"field":"state","value":"open"}`,
		"an operator of a later version":     `{"op":"matches","field":"state","value":"open"}`,
		"a field of a later version":         `{"op":"equal","field":"weather","value":"wet"}`,
		"the complement of an unknown thing": `{"op":"not","args":[{"op":"matches","field":"state","value":"open"}]}`,
		"an and of nothing":                  `{"op":"and"}`,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeFilter(`{"v":1,"where":`+where+`}`, domain.DeadLetterFields)
			require.Equal(t, domain.Misconfigured, domain.ClassOf(err), "%v", err)
			require.Empty(t, got.Where, "nobody may take it for a filter")
		})
	}
}

func TestTextsAreKept(t *testing.T) {
	j := domain.Job{
		Filter: domain.Filter{Where: domain.Equals(domain.FieldState, "open")}, Tenants: domain.Tenants("acme"),
		Message: domain.Say("replayed", domain.Args{"done": int64(12), "ratio": 0.5, "caller": "ann"}),
		Report: &domain.DryRunReport{
			Verdict: "some_fail", Histogram: []domain.Tally{{Cause: domain.Rejected, Letters: 3}}, Tried: 3, Of: 9,
			Statuses: map[domain.SaveStatus]int{domain.Saved: 2, domain.DryRunFailed: 1},
			Failures: []domain.DryRunFailure{{Fingerprint: "f", Letters: 1}}, Bodies: 1, Events: 2, Broken: 3, Gone: 4,
		},
	}
	texts := JobTexts{EncodeFilter(j.Filter), EncodeScope(j.Tenants), EncodeMessage(j.Message), EncodeReport(j.Report)}
	var got domain.Job
	require.NoError(t, texts.Into(&got))
	require.Equal(t, j, got)

	e := domain.AuditEntry{Tenants: domain.AllTenants(), Outcome: domain.Say("done", nil)}
	require.Empty(t, TextsOf(e).Filter, "an entry about no dead letters has no filter")
	var entry domain.AuditEntry
	require.NoError(t, TextsOf(e).Into(&entry))
	require.Equal(t, e, entry)
	for _, broken := range []AuditTexts{{Filter: "x"}, {Tenants: "x"}, {Outcome: "x"}} {
		require.Error(t, broken.Into(&entry))
	}
	for _, broken := range []JobTexts{{Filter: "x"}, {Tenants: "x"}, {Message: "x"}, {Report: "x"}} {
		require.Error(t, broken.Into(&got))
	}
}

// FuzzDecode reads what somebody may have written into a column.
func FuzzDecode(f *testing.F) {
	f.Add(`{"v":1,"where":{"op":"and","args":[{"op":"equal","field":"state","value":"open"}]}}`)
	f.Add(`{"code":"x","args":{"n":1e999}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if filter, err := DecodeFilter(text, domain.DeadLetterFields); err == nil {
			again, err := DecodeFilter(EncodeFilter(filter), domain.DeadLetterFields)
			if err != nil || !reflect.DeepEqual(filter, again) {
				t.Fatalf("%+v is written and read back as %+v: %v", filter, again, err)
			}
			w := plain.Where()
			w.Fits(domain.DeadLetterFields, filter.Where)
			_ = w.String()
		}
		_, _ = DecodeMessage(text)
		_, _ = DecodeReport(text)
		_, _ = DecodeScope(text)
	})
}
