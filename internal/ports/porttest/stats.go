package porttest

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// grouped are fields that statistics are asked by, and how the test reads them: "" is absent.
var grouped = map[string]func(*domain.Decision) string{
	"tenant":    func(d *domain.Decision) string { return d.Tenant },
	"path":      func(d *domain.Decision) string { return d.Path },
	"outcome":   func(d *domain.Decision) string { return string(d.Outcome) },
	"principal": func(d *domain.Decision) string { return d.Principal },
	"opa":       func(d *domain.Decision) string { return d.OPA },
	"revision": func(d *domain.Decision) string {
		if len(d.Bundles) == 0 {
			return ""
		}
		return d.Bundles[0].Revision
	},
	"label.id": func(d *domain.Decision) string {
		if d.Event == nil || d.Unsearchable {
			return ""
		}
		return d.OPA
	},
	"result.allow": func(d *domain.Decision) string {
		if d.Unsearchable {
			return ""
		}
		return string(domain.ValueAt(d.Event, []string{"result", "allow"}))
	},
}

// storeStats has statistics of all kinds be those of the rows, whether the store has counted them or looks at them.
func storeStats(t *testing.T, h *StoreHarness) {
	const seed = 21
	r := rand.New(rand.NewPCG(seed, seed))
	rows := h.searchedEvents(t, r)
	c := counts(h)
	rows = append(rows, c.some(300, 5, h.Now.Add(-50*24*time.Hour), h.Now)...)
	rows = append(rows, c.some(100, 5, h.Now.Add(-2*time.Hour), h.Now)...)
	h.save(t, domain.Saved, rows...)
	for i := range rows {
		if rows[i].Event[0] != '{' { // those of some have none that can be read
			rows[i].Event = nil
		}
	}
	ask := func(t *testing.T, scope domain.Scope, query url.Values) {
		t.Helper()
		what := query.Encode()
		asked, err := search.ParseStats(what, h.Now)
		require.NoError(t, err, what)
		fits, want, total := search.NewMatcher(asked.Where), map[search.Stat]int64{}, int64(0)
		for i := range rows {
			d := &rows[i]
			if at := d.Time(); at.Before(asked.Since) || !asked.Until.IsZero() && !at.Before(asked.Until) ||
				!scope.Includes(d.Tenant) || !fits.Fits(d) {
				continue
			}
			var key search.Stat
			for n, f := range asked.By {
				text := grouped[search.FieldName(f)](d)
				key.Values[n] = search.Value{Text: text, There: text != ""}
			}
			if asked.Every > 0 {
				key.Time = d.Time().Truncate(asked.Every)
			}
			want[key]++
			total++
		}
		got, err := search.Count(t.Context(), h.Decisions, scope, asked, h.Now)
		require.NoError(t, err, what)
		require.Empty(t, got.Why, what)
		require.Equal(t, total, got.Total, what)
		for _, s := range got.Items {
			n := s.Count
			s.Count = 0
			require.Equal(t, want[s], n, "%s: %v", what, s)
			delete(want, s)
		}
		require.Empty(t, want, what)
	}
	fields := []string{"tenant", "path", "outcome", "principal", "opa", "revision", "label.id", "result.allow"}
	for n, when := range []string{"as they came", "folded", "a month later"} {
		if n == 2 {
			h.Now = h.Now.AddDate(0, 1, 0)
			h.Decisions, h.Control = h.Reopen(t)
		}
		if n > 0 {
			c.tend(t)
		}
		t.Run(when, func(t *testing.T) {
			for n := range 150 {
				query := url.Values{}
				for _, at := range r.Perm(len(fields))[:r.IntN(search.MaxBy+1)] {
					query.Add("by", fields[at])
				}
				if n%3 == 0 { // what is counted already
					query = url.Values{"by": {[]string{"path,outcome", "outcome", "tenant,outcome", "tenant"}[r.IntN(4)]}}
				}
				switch r.IntN(4) {
				case 0:
					query.Set("q", []string{
						"outcome:denied", "path:path/*", "NOT path:path/1", "tenant:acme path:*", "outcome:*e*", "-tenant:*c*e",
						"(tenant:a* OR outcome:*d)", "path:*h/*1",
					}[r.IntN(8)])
				case 1:
					query.Set("q", "("+randomQuery(r, r.IntN(3))+")")
				}
				since := h.Now.Add(-time.Duration(r.Int64N(int64(90 * 24 * time.Hour))))
				if r.IntN(3) == 0 {
					since = h.Now.Add(-time.Duration(r.Int64N(int64(3 * time.Hour))))
				}
				query.Set("since", since.Format(time.RFC3339Nano))
				length := h.Now.Sub(since)
				if r.IntN(3) == 0 {
					length = time.Duration(r.Int64N(int64(20 * 24 * time.Hour)))
					query.Set("until", since.Add(length).Format(time.RFC3339Nano))
				}
				switch r.IntN(4) {
				case 0:
					query.Set("every", fmt.Sprintf("%dm", 60+r.IntN(2000)))
				case 1:
					if length < 48*time.Hour {
						query.Set("every", "30s")
					} else {
						query.Set("every", "24h")
					}
				case 2:
					query.Set("every", "7d")
				}
				scope := domain.AllTenants()
				if n%4 == 0 {
					scope = domain.Tenants("acme")
				}
				ask(t, scope, query)
			}
		})
	}
}
