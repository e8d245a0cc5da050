package porttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// searched are values of an event that searches tell apart: as JSON, and as a query asks for each.
var searched = []struct{ json, asked string }{
	{`"alice"`, "alice"},
	{`"Alice"`, "Alice"},
	{`"al*ce"`, `"al*ce"`},
	{`"100%_\\"`, `"100%_\\"`},
	{`"a\"b"`, `"a\"b"`},
	{`"\u0061lice"`, "alice"},
	{`"!x"`, "!x"},
	{`"'; DROP"`, `"'; DROP"`},
	{`"\u202eevil"`, "\u202eevil"},
	{`"😀"`, "😀"},
	{
		`1000`,
		"1e3",
	},
	{`1e3`, "1000"},
	{`1000.5`, "1000.50"},
	{`-0`, "0"},
	{`"1000"`, `"1000"`},
	{`true`, "true"},
	{`null`, "null"},
	{
		`["alice",7]`,
		"7",
	},
	{`[]`, "*"},
	{`{"alice":1}`, "*"},
	{`"2026-01-02T03:04:05Z"`, "*"},
	{`"\u0000"`, "*"},
	{`"\ud800"`, "*"},
}

// searchedEvents are decisions with these values, some without.
func (h *StoreHarness) searchedEvents(t *testing.T, r *rand.Rand) (out []domain.Decision) {
	t.Helper()
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	value := func() string { return searched[r.IntN(len(searched))].json }
	for n := range 150 {
		at := h.Now.Add(-time.Duration(n/4) * time.Minute).UTC().Truncate(time.Microsecond)
		members := []string{
			fmt.Sprintf(`"decision_id":"s-%d"`, n),
			fmt.Sprintf(`"timestamp":%q`, at.Format(time.RFC3339Nano)),
		}
		if n%11 == 0 {
			members = members[:1] // its time is that of its receipt
		}
		for _, name := range []string{"path", "requested_by", "trace_id", "error"} {
			if r.IntN(2) == 0 {
				members = append(members, fmt.Sprintf(`%q:%s`, name, value()))
			}
		}
		var input []string
		for _, name := range []string{"x", "a.b/c", "user", "action"} {
			if r.IntN(3) > 0 {
				input = append(input, fmt.Sprintf(`%q:%s`, name, value()))
			}
		}
		members = append(members, `"input":{`+strings.Join(input, ",")+`}`,
			fmt.Sprintf(`"result":{"allow":%t,"why":{"deep":[%s]}}`, r.IntN(2) == 0, value()),
			fmt.Sprintf(`"labels":{"id":"opa-%d","zone":%s}`, r.IntN(3), value()),
			[]string{
				`"bundles":{"authz":{"revision":"r1"}}`, `"bundles":{"authz":{"revision":"r2"}}`, `"bundles":{"authz":{}}`,
				`"bundles":{}`,
			}[r.IntN(4)],
			fmt.Sprintf(`"metrics":{"timer_server_handler_ns":%d}`, r.IntN(4)*1_000_000))
		tenant := "acme"
		if r.IntN(3) == 0 {
			tenant = "other"
		}
		out = append(out, p.Project(domain.Record{
			Key: "k", Value: []byte(`{` + strings.Join(members, ",") + `}`), WrittenAt: at,
			Headers: domain.Headers{Tenant: tenant, ReceivedAt: at, Upload: "u"},
		}))
	}
	return out
}

// queries makes a query of terms that some of searchedEvents fit.
func randomQuery(r *rand.Rand, depth int) string {
	if depth > 0 {
		a, b := randomQuery(r, depth-1), randomQuery(r, depth-1)
		switch r.IntN(5) {
		case 0:
			return "NOT (" + a + ")"
		case 1:
			return "(" + a + ") OR (" + b + ")"
		case 2, 3:
			return "(" + a + ") (" + b + ")"
		}
	}
	asked := searched[r.IntN(len(searched))].asked
	fields := []string{
		"path:",
		"principal:",
		"action:",
		"error:",
		"trace_id:",
		"requested_by:",
		"input.x:",
		`input."a.b/c":`,
		"result.why.deep:",
		"label.zone:",
		"-input.x:",
		"-principal:",
	}
	terms := []string{
		"outcome:denied",
		"outcome:(allowed OR undefined)",
		"revision:r1", "revision:*", "-revision:*",
		"bundle.authz:r*",
		"opa:opa-2",
		"tenant:other",
		"id:s-1*",
		"path:*",
		"input.x:*",
		"input.x:a*",
		"principal:*i*e",
		"-path:*l*",
		"latency>1ms",
		"latency:2ms",
		"input.x>=1000",
		"input.x<2026-07-01",
		"input.x>2025-01-01T00:00Z",
		"result.allow:true",
		"ALICE",
		`"1000"`,
		"zone",
		"opa-1*",
		"app:*",
		"error:*",
	}
	if r.IntN(2) == 0 {
		return terms[r.IntN(len(terms))]
	}
	return fields[r.IntN(len(fields))] + asked
}

// storeSearches has any search find what its expression fits, whatever the store asks its columns for, in order and
// page by page.
func storeSearches(t *testing.T, h *StoreHarness) {
	const seed = 19
	r := rand.New(rand.NewPCG(seed, seed))
	rows := h.searchedEvents(t, r)
	h.save(t, domain.Saved, rows...)
	ask := func(t *testing.T, scope domain.Scope, query string, back bool) {
		t.Helper()
		asked, err := search.Parse(query, h.Now)
		require.NoError(t, err, query)
		fits := search.NewMatcher(asked.Where)
		want := map[string]bool{}
		for i := range rows {
			if fits.Fits(&rows[i]) && scope.Includes(rows[i].Tenant) {
				want[rows[i].ID] = true
			}
		}
		q := domain.Query{Filter: asked.Filter, Limit: 7}
		var last *domain.Decision
		found := 0
		var pages [][]string
		var page domain.Page
		for {
			page, err = h.Decisions.Search(t.Context(), scope, q)
			require.NoError(t, err, query)
			require.True(t, page.Complete)
			require.Equal(t, q.After == nil, page.Prev == nil)
			pages = append(pages, idsOf(page))
			require.GreaterOrEqual(t, page.LookedAt, len(page.Items))
			for i := range page.Items {
				d := &page.Items[i]
				require.True(t, want[d.ID], "%s: %s was found, and does not fit, or was found twice", query, d.ID)
				delete(want, d.ID)
				require.Nil(t, d.Event)
				require.False(t, last != nil && d.Time().After(last.Time()), "%s: newest first", query)
				last = d
				found++
			}
			if page.Next == nil {
				break
			}
			require.Len(t, page.Items, q.Limit, query)
			q.After = page.Next
		}
		require.Empty(t, want, "%s: these fit and were not found, of %d", query, found+len(want))
		for n := len(pages) - 2; n >= 0 && back; n-- { // and back, page by page
			q.After, err = domain.ParseCursor(page.Prev.String())
			require.NoError(t, err)
			page, err = h.Decisions.Search(t.Context(), scope, q)
			require.NoError(t, err, query)
			require.True(t, page.Complete)
			require.Equal(t, pages[n], idsOf(page), "%s: page %d of %d on the way back", query, n+1, len(pages))
			require.Equal(t, n == 0, page.Prev == nil)
			q.After = page.Next
			on, err := h.Decisions.Search(t.Context(), scope, q)
			require.NoError(t, err, query)
			require.Equal(t, pages[n+1], idsOf(on), "%s: and on again behind page %d", query, n+1)
		}
	}
	for _, query := range []string{
		"", "outcome:denied", "path:*", "input.x:alice", "-input.x:alice", "alice OR bob", `result.why.deep:"100%_\\"`,
		"(id:s-1 OR trace_id:alice OR batch_decision_id:x)", "requested_by:alice input.x:*", "trace_id:al*ce",
		"nothing-of-the-kind",
	} {
		t.Run(query, func(t *testing.T) { ask(t, domain.AllTenants(), query, true) })
	}
	t.Run("queries by chance", func(t *testing.T) {
		for n := range chances {
			scope := domain.AllTenants()
			if n%3 == 0 {
				scope = domain.Tenants("acme")
			}
			ask(t, scope, randomQuery(r, n%4), n%5 == 0)
		}
	})
}

// idsOf are the ids of a page, with their tenants: several share an id.
func idsOf(page domain.Page) []string {
	out := []string{}
	for _, d := range page.Items {
		out = append(out, d.Tenant+" "+d.ID)
	}
	return out
}

// storeSearchesInSteps has no time for more than a look: what was found so far is handed over with a cursor, and behind
// that the rest.
func storeSearchesInSteps(t *testing.T, h *StoreHarness) {
	const seed = 8
	rows := h.searchedEvents(t, rand.New(rand.NewPCG(seed, seed)))
	h.save(t, domain.Saved, rows...)
	for _, h.SearchTime = range searchTimes {
		h.Decisions, h.Control = h.Reopen(t)
		t.Run(h.SearchTime.String(), func(t *testing.T) { h.searchInSteps(t, rows, h.SearchTime == time.Nanosecond) })
	}
}

// mostSteps bounds the steps in which some rows are found that are as old as a day: one for each of them, and one for
// each slice of time that a store looks at alone, of five minutes.
func mostSteps(rows []domain.Decision) int { return 2*len(rows) + int(24*time.Hour/(5*time.Minute)) }

// searchInSteps finds all of these rows that fit some queries, however many steps that takes: several, where some is
// true.
func (h *StoreHarness) searchInSteps(t *testing.T, rows []domain.Decision, some bool) {
	t.Helper()
	for _, query := range []string{
		"input.x:*", "-input.x:*", "principal:alice -label.zone:*", "trace_id:alice OR alice", "opa:opa-1",
	} {
		t.Run(query, func(t *testing.T) {
			asked, err := search.Parse(query, h.Now)
			require.NoError(t, err)
			fits := search.NewMatcher(asked.Where)
			want := map[string]bool{}
			for i := range rows {
				if fits.Fits(&rows[i]) {
					want[rows[i].ID] = true
				}
			}
			q := domain.Query{Filter: asked.Filter, Limit: domain.MaxPage}
			steps, stopped := 0, false
			for ; ; steps++ {
				page, err := h.Decisions.Search(t.Context(), domain.AllTenants(), q)
				require.NoError(t, err)
				for i := range page.Items {
					require.True(t, want[page.Items[i].ID], page.Items[i].ID)
					delete(want, page.Items[i].ID)
				}
				if page.Next == nil {
					require.True(t, page.Complete)
					break
				}
				stopped = stopped || !page.Complete
				q.After, err = domain.ParseCursor(page.Next.String())
				require.NoError(t, err)
				require.Less(t, steps, mostSteps(rows))
			}
			require.Empty(t, want)
			require.True(t, stopped || !some)
			h.searchBack(t, asked.Filter, rows, fits)
		})
	}
}

// searchBack finds all of these rows that fit from behind the last one on, however many steps that takes.
func (h *StoreHarness) searchBack(t *testing.T, f domain.Filter, rows []domain.Decision, fits *search.Matcher) {
	t.Helper()
	want := map[string]bool{}
	for i := range rows {
		if fits.Fits(&rows[i]) && !rows[i].Time().Before(f.Since) {
			want[rows[i].ID] = true
		}
	}
	q := domain.Query{Filter: f, Limit: 7, After: domain.CursorBefore(h.Now.Add(-2 * time.Hour)).Backward(true)}
	for steps := 0; q.After != nil; steps++ {
		page, err := h.Decisions.Search(t.Context(), domain.AllTenants(), q)
		require.NoError(t, err)
		for i := range page.Items {
			require.True(t, want[page.Items[i].ID], page.Items[i].ID)
			delete(want, page.Items[i].ID)
		}
		require.True(t, page.Complete || page.Prev != nil)
		q.After = page.Prev
		require.Less(t, steps, mostSteps(rows))
	}
	require.Empty(t, want, "on the way back")
}

// storeSearchesGivenUp has callers who go away at any moment of a search: that is their doing, and no failure.
func storeSearchesGivenUp(t *testing.T, h *StoreHarness) {
	const seed = 5
	h.save(t, domain.Saved, h.searchedEvents(t, rand.New(rand.NewPCG(seed, seed)))...)
	asked, err := search.Parse("input.x:* nothing-of-the-kind", h.Now)
	require.NoError(t, err)
	now := h.Now
	for name, ask := range map[string]func(context.Context) error{
		"a page": func(ctx context.Context) error {
			_, err := h.Decisions.Search(ctx, domain.AllTenants(), domain.Query{Filter: asked.Filter, Limit: 10})
			return err
		},
		"one decision": func(ctx context.Context) error {
			_, err := h.Decisions.Decisions(ctx, domain.AllTenants(), "s-1")
			return err
		},
		"counts": func(ctx context.Context) error {
			_, err := h.Decisions.CountDecisions(ctx, domain.AllTenants(), domain.CountQuery{
				Filter: domain.Filter{Since: now.Add(-time.Hour), Until: now},
			})
			return err
		},
		"a scan": func(ctx context.Context) error {
			return h.Decisions.Scan(ctx, domain.AllTenants(), asked.Filter, nil, func(*domain.Decision) bool { return true })
		},
		"OPAs": func(ctx context.Context) error {
			_, err := h.Control.OPAs(ctx, domain.AllTenants())
			return err
		},
		"dead letters": func(ctx context.Context) error {
			_, err := h.Control.DeadLetters(ctx, domain.AllTenants(), domain.Query{Limit: 10})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			given := 0
			for after := time.Duration(0); after < 5*time.Millisecond; after += 50 * time.Microsecond {
				ctx, cancel := context.WithCancel(t.Context())
				leaves := time.AfterFunc(after, cancel)
				if after == 0 { // most are answered before the first timer
					cancel()
				}
				err := ask(ctx)
				leaves.Stop()
				cancel()
				if err != nil {
					given++
					require.Equal(t, domain.Canceled, domain.ClassOf(err), "after %s: %v", after, err)
				}
			}
			require.Positive(t, given)
		})
	}
}
