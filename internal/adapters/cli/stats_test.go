package cli

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatsScreens(t *testing.T) {
	const answer = `{"items":[
		{"outcome":"denied","input.\"a,b\"":"=cmd\u001b[31m","time":"2026-11-20T12:00:00Z","count":1234},
		{"outcome":"allowed","input.\"a,b\"":null,"time":"2026-11-20T12:05:00Z","count":7}],
		"total":1300,"complete":false,"why":"there are 3 values more","since":"2026-11-20T11:00:00Z","until":null}`
	for _, c := range []struct {
		name, form string
		width      int
		by         []string
		code       int
		query      string
	}{
		{"table", "table", 0, []string{`outcome,input."a,b"`}, 0, "by=outcome%2Cinput.%22a%2Cb%22&every=5m&limit=50&q=path%3Ax"},
		{"screen", "table", 80, []string{`outcome,input."a,b"`}, 0, "by=outcome%2Cinput.%22a%2Cb%22&every=5m&limit=50&q=path%3Ax"},
		{"csv", "csv", 0, []string{"outcome", `input."a,b"`}, 0, "by=outcome&by=input.%22a%2Cb%22&every=5m&limit=50&q=path%3Ax"},
		{"json", "json", 0, []string{"outcome"}, 0, "by=outcome&every=5m&limit=50&q=path%3Ax"},
		{"ndjson", "ndjson", 0, []string{"outcome"}, 0, "by=outcome&every=5m&limit=50&q=path%3Ax"},
		{"unknown", "table", 0, []string{"nobody"}, ExitUsage, ""},
		{"id", "table", 0, []string{"id"}, ExitUsage, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, map[string]string{"/api/v1/decisions/stats": answer})
			stats := Stats{
				Console: Console{Server: s.URL}, Form: Form{Output: c.form}, Wanted: Wanted{Query: []string{"path:x"}},
				By: c.by, Every: "5m", Limit: 50,
			}
			got, err := screen(func(o Out) error {
				if c.width > 0 {
					o.Stdout = Screen(o.Stdout)
					Form{UTC: true}.Onto(o.Stdout, Terminal{Width: c.width})
				}
				return stats.Run(t.Context(), o)
			})
			require.Equal(t, c.code, ExitCode(err), "%v", err)
			if err != nil {
				got += err.Error() + "\n"
			}
			require.Equal(t, c.query, s.query)
			golden(t, "stats-"+c.name, got)
		})
	}
}

// TestWordsAsIDs asks for decisions whose ids are words of the API.
func TestWordsAsIDs(t *testing.T) {
	for id, path := range map[string]string{
		"stats": "/api/v1/decisions/%73tats", "tail": "/api/v1/decisions/%74ail", "stat": "/api/v1/decisions/stat",
		"a/b": "/api/v1/decisions/a%2Fb",
	} {
		require.Equal(t, path, decisionPath(id))
	}
}
