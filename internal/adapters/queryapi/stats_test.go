package queryapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func TestStats(t *testing.T) {
	b := newBench(t)
	b.save(t, "acme", 30, func(i int, d *domain.Decision) {
		d.Path = fmt.Sprintf("p/%d", i%3)
		if i%10 > 0 {
			d.Principal = "ann"
		}
		d.Event = fmt.Appendf(nil, `{"input":{"a/b":[%d,"x"],"o":{}}}`, i%2)
	})
	b.save(t, "initech", 10, func(_ int, d *domain.Decision) {
		d.ID, d.Path = strings.Replace(d.ID, "initech", "acme", 1), "secret"
	})
	h := b.handler(domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Viewer})
	type item = map[string]any
	for _, c := range []struct {
		path  string
		total float64
		items []item
		more  bool
	}{
		{path: "stats", total: 30, items: []item{{"count": 30.}}},
		{path: "stats?by=outcome", total: 30, items: []item{{"outcome": "denied", "count": 30.}}},
		{path: "stats?by=tenant,path&limit=2", total: 30, more: true, items: []item{
			{"tenant": "acme", "path": "p/0", "count": 10.}, {"tenant": "acme", "path": "p/1", "count": 10.},
		}},
		{path: "stats?by=path&q=" + url.QueryEscape("path:p/1"), total: 10, items: []item{{"path": "p/1", "count": 10.}}},
		{path: "stats?by=PRINCIPAL", total: 30, items: []item{
			{"principal": "ann", "count": 27.}, {"principal": nil, "count": 3.},
		}},
		{path: "stats?by=principal&tenant=initech", total: 0, items: []item{}},
		{path: "stats?by=" + url.QueryEscape(`input."a/b"`) + "&q=" + url.QueryEscape(`input."a/b":0`), total: 15, items: []item{
			{`input.a/b`: "0", "count": 15.}, {`input.a/b`: "x", "count": 15.},
		}},
		{path: "stats?q=secret", total: 0, items: []item{}},
		{path: "stats?q=" + url.QueryEscape("-outcome:allowed -action:x"), total: 30, items: []item{{"count": 30.}}},
		{path: "fields/path?limit=1", total: 30, items: []item{{"value": "p/0", "count": 10.}}},
		{path: "fields/action?limit=1", total: 30, items: []item{}},
		{path: "fields/principal", total: 30, items: []item{{"value": "ann", "count": 27.}}},
		{path: "fields/input.a%2Fb", total: 30, items: []item{
			{"value": "x", "count": 30.}, {"value": "0", "count": 15.}, {"value": "1", "count": 15.},
		}},
		{path: "fields/input.o", total: 30, items: []item{}},
	} {
		t.Run(c.path, func(t *testing.T) {
			code, body := ask(h, http.MethodGet, "/api/v1/decisions/"+c.path, "")
			require.Equal(t, http.StatusOK, code, body)
			require.NotContains(t, body, "secret")
			var answer struct {
				Items    []item
				Total    float64
				Complete bool
				Why      *string
			}
			require.NoError(t, json.Unmarshal([]byte(body), &answer), body)
			require.Equal(t, c.items, answer.Items)
			require.InDelta(t, c.total, answer.Total, 0)
			require.Equal(t, !c.more, answer.Complete)
			require.Equal(t, c.more, answer.Why != nil)
		})
	}
	_, body := ask(h, http.MethodGet, "/api/v1/decisions/stats?every=1h&since=3h&by=outcome", "")
	require.Contains(t, body, `:00:00Z","count":`)
	_, body = ask(h, http.MethodGet, "/api/v1/decisions/%73tats", "")
	require.Contains(t, body, "no decision stats is stored", "the word is an id where it is escaped")
}

func TestStatsAreRefused(t *testing.T) {
	h := newBench(t).handler(domain.Caller{Name: "ann", Tenants: domain.AllTenants(), Role: domain.Viewer})
	for name, path := range map[string]string{
		"an unknown field":         "stats?by=usr",
		"an id":                    "stats?by=id",
		"latency":                  "stats?by=latency",
		"four fields":              "stats?by=path,outcome,tenant,app",
		"a field twice":            "stats?by=path&by=Path",
		"no field":                 "stats?by=a:b",
		"a NUL in a field":         "stats?by=input.a%00",
		"no length":                "stats?every=x",
		"a time":                   "stats?every=2026-01-01T00:00:00Z",
		"half a second":            "stats?every=500ms",
		"too many spans":           "stats?every=1s&since=4h",
		"spans of all time":        "stats?every=1h&q=id:x",
		"a cursor":                 "stats?cursor=abc",
		"no limit":                 "stats?limit=0",
		"two limits":               "stats?limit=1&limit=2",
		"a query that is wrong":    "stats?q=" + url.QueryEscape("(a"),
		"an unknown parameter":     "stats?usr=x",
		"values by other values":   "fields/path?by=outcome",
		"values by time":           "fields/path?every=5m",
		"values of no field":       "fields/",
		"values of an unknown one": "fields/usr",
		"values of ids":            "fields/trace_id",
	} {
		t.Run(name, func(t *testing.T) {
			code, answer := ask(h, http.MethodGet, "/api/v1/decisions/"+path, "")
			require.Equal(t, http.StatusBadRequest, code, answer)
			require.Contains(t, answer, `"detail"`)
			require.Less(t, len(answer), 4096)
		})
	}
}
