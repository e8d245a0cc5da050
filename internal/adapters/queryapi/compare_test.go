package queryapi

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// TestCompare has decisions of two tenants that use the same ids.
func TestCompare(t *testing.T) {
	b := newBench(t)
	for _, tenant := range []string{"acme", "initech"} {
		b.save(t, tenant, 4, func(i int, d *domain.Decision) {
			d.ID = []string{"denied", "compare", "old", "other/one"}[i]
			d.Principal, d.Action, d.Resource, d.Path = "bob", "GET", "salary", "authz/allow"
			d.Event = []byte(`{"input":{"user":"` + tenant + `","n":` + []string{"1", "1e0", "2", "3"}[i] + `}}`)
			if i > 0 {
				d.Outcome = domain.OutcomeAllowed
			}
			if i == 1 {
				d.Principal = "alice"
			}
		})
	}
	b.save(t, "initech", 1, func(_ int, d *domain.Decision) { d.ID = "theirs" })
	h := b.handler(domain.Caller{Tenants: domain.Tenants("acme"), Role: domain.Viewer})
	compared := func(params url.Values) (c api.Comparison) {
		t.Helper()
		code, answer := ask(h, http.MethodGet, "/api/v1/decisions/compare?"+params.Encode(), "")
		require.Equal(t, http.StatusOK, code, answer)
		require.NotContains(t, answer, "initech")
		require.NoError(t, json.Unmarshal([]byte(answer), &c))
		return c
	}
	c := compared(url.Values{"a": {"denied"}, "b": {"other/one"}})
	require.True(t, c.Complete)
	require.Equal(t, "denied", c.A.DecisionID)
	require.Equal(t, "other/one", c.B.DecisionID)
	require.Equal(t, []api.Difference{
		{Field: "input.n", Change: api.Changed, A: json.RawMessage("1"), B: json.RawMessage("3")},
	}, c.Differences)
	require.Empty(t, compared(url.Values{"a": {"denied"}, "b": {"compare"}}).Differences)
	require.NotNil(t, compared(url.Values{"a": {"denied"}, "b": {"denied"}}).Differences)
	at := c.B.Timestamp.Format(time.RFC3339Nano)
	compared(url.Values{"a": {"denied"}, "b": {"other/one"}, "b_tenant": {"acme"}, "b_timestamp": {at}})

	for params, want := range map[string]int{
		"a=denied&b=theirs":                                    http.StatusNotFound,
		"a=denied&b=old&b_tenant=initech":                      http.StatusNotFound,
		"a=denied&b=old&b_timestamp=" + "2020-01-01T00:00:00Z": http.StatusNotFound,
		"a=denied&b=old&b_timestamp=x":                         http.StatusBadRequest,
		"a=denied":                                             http.StatusBadRequest,
		"b=denied&a=":                                          http.StatusBadRequest,
		"a=denied&b=old&c=x":                                   http.StatusBadRequest,
	} {
		code, answer := ask(h, http.MethodGet, "/api/v1/decisions/compare?"+params, "")
		require.Equal(t, want, code, "%s: %s", params, answer)
		require.NotContains(t, answer, "no decision denied")
	}

	allowed := func(id string) (a api.LastAllowed) {
		t.Helper()
		code, answer := ask(h, http.MethodGet, "/api/v1/decisions/"+id+"/last-allowed", "")
		require.Equal(t, http.StatusOK, code, answer)
		require.NotContains(t, answer, "initech")
		require.NoError(t, json.Unmarshal([]byte(answer), &a))
		require.True(t, a.Complete)
		return a
	}
	a := allowed("denied")
	require.Equal(t, "old", a.Decision.DecisionID, "alice's is newer, and another principal's")
	require.Equal(t, []domain.Field{}, a.Relaxed)
	a = allowed("old")
	require.Equal(t, "other/one", a.Decision.DecisionID)
	a = allowed("other%2Fone")
	require.Nil(t, a.Decision)
	require.Equal(t, []domain.Field{"principal", "action", "resource", "path"}, a.Relaxed)
	code, _ := ask(h, http.MethodGet, "/api/v1/decisions/theirs/last-allowed", "")
	require.Equal(t, http.StatusNotFound, code)
	code, _ = ask(h, http.MethodGet, "/api/v1/decisions/denied/last-allowed?x=y", "")
	require.Equal(t, http.StatusBadRequest, code)

	// The decision whose id is the word.
	code, answer := ask(h, http.MethodGet, "/api/v1/decisions/%63ompare", "")
	require.Equal(t, http.StatusOK, code, answer)
	require.Contains(t, answer, `"decision_id":"compare"`)
}

func TestContrast(t *testing.T) {
	b := newBench(t)
	for _, tenant := range []string{"acme", "initech"} {
		b.save(t, tenant, 20, func(i int, d *domain.Decision) {
			if d.ID = fmt.Sprintf("d-%d", i); i%2 == 0 {
				d.Outcome = domain.OutcomeAllowed
			}
			d.Event = fmt.Appendf(nil, `{"input":{"odd":%t,"of":%q}}`, i%2 == 1, tenant)
		})
	}
	h := b.handler(domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Viewer})
	code, body := ask(h, http.MethodGet, "/api/v1/decisions/contrast?limit=1", "")
	require.Equal(t, http.StatusOK, code, body)
	require.NotContains(t, body, "initech")
	var answer api.Contrast
	require.NoError(t, json.Unmarshal([]byte(body), &answer))
	require.True(t, answer.Complete)
	require.Equal(t, "input.odd", answer.Items[0].Field)
	require.Equal(t, []int{10, 10}, []int{answer.A.Decisions, answer.B.Decisions})
	require.Equal(t, 10, max(answer.Items[0].A, answer.Items[0].B))
	require.InDelta(t, 1, math.Abs(answer.Items[0].Difference), 0)
	require.Contains(t, answer.B.Query, "outcome:allowed")
	code, body = ask(h, http.MethodGet, "/api/v1/decisions/contrast?against="+url.QueryEscape("(a"), "")
	require.Equal(t, http.StatusBadRequest, code, body)
	require.Contains(t, body, "against: ")
}
