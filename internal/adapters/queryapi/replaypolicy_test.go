package queryapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/domain"
)

func TestReplay(t *testing.T) {
	b := newBench(t)
	projector, err := domain.NewProjector(nil)
	require.NoError(t, err)
	var rows []domain.Decision
	for _, tenant := range []string{"acme", "other"} {
		rows = append(rows, projector.Project(domain.Record{
			Value:   []byte(`{"decision_id":"d","path":"orders/allow","result":true,"input":{"role":"guest"}}`),
			Headers: domain.Headers{Tenant: tenant, ReceivedAt: time.Now().UTC()},
		}))
	}
	_, err = b.store.SaveBatch(t.Context(), rows)
	require.NoError(t, err)
	const policy = "package orders\n\ndefault allow := false\n\nallow if input.role == \"admin\"\n"
	post := func(role domain.Role, query, body string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/decisions/replay-policy"+query, strings.NewReader(body))
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		b.handler(domain.Caller{Name: "carl", Tenants: domain.Tenants("acme"), Role: role}).ServeHTTP(w, r)
		return w
	}
	w := post(domain.Operator, "?q=outcome:allowed", policy)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	var got api.Replay
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.Equal(t, 1, got.Decisions, "only those of the caller's tenants")
	require.Equal(t, 1, got.Flipped)
	require.Equal(t, "acme", got.Groups[0].Samples[0].Tenant)
	require.True(t, got.Complete)

	for _, c := range []struct {
		name, query, body string
		role              domain.Role
		status            int
		says              string
		headers           []string
	}{
		{"a viewer", "", policy, domain.Viewer, http.StatusForbidden, "operator", nil},
		{"another site", "", policy, domain.Operator, http.StatusForbidden, "", []string{"Sec-Fetch-Site", "cross-site"}},
		{"no policy", "", "", domain.Operator, http.StatusBadRequest, "the body is the policy", nil},
		{"a bad policy", "", "package a\n\nx if nosuch(1)", domain.Operator, http.StatusBadRequest,
			"policy.rego:3: undefined function nosuch", nil},
		{"a bad query", "?q=(", policy, domain.Operator, http.StatusBadRequest, `"column"`, nil},
		{"too many", "?limit=20001", policy, domain.Operator, http.StatusBadRequest, "20000", nil},
		{"a long policy", "", strings.Repeat("#", replaypolicy.MaxPolicy+1), domain.Operator,
			http.StatusRequestEntityTooLarge, "8 MiB", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := post(c.role, c.query, c.body, c.headers...)
			require.Equal(t, c.status, w.Code, w.Body.String())
			require.Contains(t, w.Body.String(), c.says)
			require.NotContains(t, w.Body.String(), "/tmp/")
		})
	}
}
