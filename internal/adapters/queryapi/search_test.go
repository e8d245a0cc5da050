package queryapi

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// TestQueryLanguage has queries of a caller who sees one of two tenants that use the same ids.
func TestQueryLanguage(t *testing.T) {
	b := newBench(t)
	b.fill(t, "acme")
	b.fill(t, "initech")
	h := b.handler(domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Viewer})
	for query, want := range map[string]int{
		"":                         2,
		"outcome:denied":           2,
		"id:shared":                1,
		"id:initech*":              0,
		"event.of:acme":            2,
		"-event.of:nothing":        2,
		"tenant:initech":           0,
		"-tenant:acme":             0,
		"event.of:initech":         0,
		"initech":                  0,
		"ACME id:shared":           1,
		"acme OR initech":          2,
		"event.path:a* until:2h":   0,
		"event.of:acme since:1m":   2,
		"latency>1ms OR id:shared": 1,
	} {
		code, answer := ask(h, http.MethodGet, "/api/v1/decisions?q="+url.QueryEscape(query), "")
		require.Equal(t, http.StatusOK, code, "%s: %s", query, answer)
		require.NotContains(t, answer, "initech", query)
		var page struct {
			Items    []json.RawMessage
			LookedAt int `json:"looked_at"`
			Complete bool
		}
		require.NoError(t, json.Unmarshal([]byte(answer), &page))
		require.Len(t, page.Items, want, query)
		require.True(t, page.Complete, query)
		require.GreaterOrEqual(t, page.LookedAt, want)
	}
	_, answer := ask(h, http.MethodGet, "/api/v1/decisions?outcome=denied&q="+url.QueryEscape("id:shared"), "")
	require.Equal(t, 1, strings.Count(answer, `"decision_id"`), "parameters have to fit as well: %s", answer)
}

func TestQueriesAreRefused(t *testing.T) {
	h := newBench(t).handler(domain.Caller{Name: "ann", Tenants: domain.AllTenants(), Role: domain.Viewer})
	for name, c := range map[string]struct {
		params string
		column int
	}{
		"unbalanced":           {"q=" + url.QueryEscape("é (a"), 5},
		"a NUL":                {"q=a%00", 2},
		"no UTF-8":             {"q=a%ff", 2},
		"unknown field":        {"q=" + url.QueryEscape("outcome:denied usr:x"), 16},
		"number":               {"q=" + url.QueryEscape("input.n>x"), 9},
		"a million bytes":      {"q=" + strings.Repeat("a", 1<<20), 8193},
		"many terms":           {"q=" + strings.Repeat("a+", 4000), 201},
		"a bomb of stars":      {"q=" + strings.Repeat("*a", 5000), 8193},
		"since behind until":   {"q=" + url.QueryEscape("since:1h until:2h"), 16},
		"time here and there":  {"since=1h&q=" + url.QueryEscape("since:2h"), 0},
		"two queries":          {"q=a&q=b", 0},
		"another parameter":    {"q=a&usr=b", 0},
		"a cursor of nobody's": {"q=a&cursor=x", 0},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			code, answer := ask(h, http.MethodGet, "/api/v1/decisions?"+c.params, "")
			require.Equal(t, http.StatusBadRequest, code, answer)
			var p struct {
				Column           int
				Expected, Detail string
			}
			require.NoError(t, json.Unmarshal([]byte(answer), &p), answer)
			require.Equal(t, c.column, p.Column, p.Detail)
			require.Equal(t, c.column > 0, p.Expected != "", p.Detail)
			require.NotEmpty(t, p.Detail)
			require.Less(t, len(answer), 4096)
			require.Less(t, time.Since(began), 10*time.Second, "nothing of the kind takes long")
		})
	}
}
