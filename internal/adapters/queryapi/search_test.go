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

// TestPagesGoBothWays goes to the end of a search and back. The word looks like an id, and is one for nothing, so that
// it is looked for as a text.
func TestPagesGoBothWays(t *testing.T) {
	b := newBench(t)
	const word = "3f2a9c1e-7d44-4c0f-9a41-5b8a2f6e0c11"
	b.save(t, "acme", 25, func(_ int, d *domain.Decision) { d.Event = []byte(`{"ticket":"` + word + `"}`) })
	h := b.handler(domain.Caller{Name: "ann", Tenants: domain.AllTenants(), Role: domain.Viewer})
	type page struct {
		Items []struct {
			ID string `json:"decision_id"`
		}
		Next *string `json:"next_cursor"`
		Prev *string `json:"prev_cursor"`
	}
	at := func(cursor *string) (p page) {
		path := "/api/v1/decisions?limit=10&q=" + word
		if cursor != nil {
			path += "&cursor=" + *cursor
		}
		code, answer := ask(h, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, code, answer)
		require.NoError(t, json.Unmarshal([]byte(answer), &p))
		return p
	}
	first := at(nil)
	second := at(first.Next)
	third := at(second.Next)
	require.Len(t, third.Items, 5)
	require.Nil(t, third.Next)
	require.Nil(t, first.Prev)
	require.Equal(t, second.Items, at(third.Prev).Items)
	require.Equal(t, first.Items, at(at(third.Prev).Prev).Items)
	require.Equal(t, third.Items, at(at(third.Prev).Next).Items)
	require.Nil(t, at(second.Prev).Prev, "there is nothing in front of the first page")
	for _, path := range []string{"dead-letters?cursor=", "decisions/export?q=" + word + "&cursor="} {
		code, answer := ask(h, http.MethodGet, "/api/v1/"+path+*second.Prev, "")
		require.Equal(t, http.StatusBadRequest, code, answer)
	}
}
