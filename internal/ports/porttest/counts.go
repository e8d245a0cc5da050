package porttest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// counting has rows, and what is known of them.
type counting struct {
	*StoreHarness
	rng  *rand.Rand
	rows []domain.Decision
}

func counts(h *StoreHarness) *counting {
	return &counting{StoreHarness: h, rng: rand.New(rand.NewPCG(7, 8))}
}

// some makes rows between two times, of a few tenants and of so many paths.
func (c *counting) some(n, paths int, from, to time.Time) (out []domain.Decision) {
	for range n {
		at := from.Add(time.Duration(c.rng.Int64N(int64(to.Sub(from))))).UTC().Truncate(time.Microsecond)
		d := c.row(0)
		d.ID, d.Timestamp, d.ReceivedAt = fmt.Sprintf("%x", c.rng.Uint64()), at, at
		d.Tenant = []string{"default", "acme"}[c.rng.IntN(2)]
		if p := c.rng.IntN(paths + 1); p > 0 {
			d.Path = fmt.Sprintf("path/%d", p)
		}
		d.Outcome = domain.Outcomes[c.rng.IntN(len(domain.Outcomes))]
		d.Event = []byte(d.ID)
		d.SHA256 = sha256.Sum256(d.Event)
		out = append(out, d)
	}
	return out
}

func (c *counting) keep(t *testing.T, rows ...domain.Decision) {
	t.Helper()
	c.save(t, domain.Saved, rows...)
	c.rows = append(c.rows, rows...)
}

// naive counts rows one by one.
func (c *counting) naive(scope domain.Scope, since, until time.Time) (out []domain.DecisionCount) {
	counts := map[domain.DecisionCount]int64{}
	for i := range c.rows {
		d := &c.rows[i]
		if at := d.Time(); !at.Before(since) && at.Before(until) && scope.Includes(d.Tenant) {
			counts[domain.DecisionCount{Tenant: d.Tenant, Path: d.Path, Outcome: d.Outcome}]++
		}
	}
	for k, n := range counts {
		k.Decisions = n
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b domain.DecisionCount) int {
		return cmp.Or(cmp.Compare(b.Decisions, a.Decisions), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Outcome, b.Outcome))
	})
	return out
}

func (c *counting) count(t *testing.T, scope domain.Scope, since, until time.Time) domain.Counts {
	t.Helper()
	got, err := c.Decisions.CountDecisions(t.Context(), scope, domain.CountQuery{
		Filter: domain.Filter{Since: since, Until: until},
		By:     []domain.Field{domain.FieldTenant, domain.FieldPath, domain.FieldOutcome},
	})
	require.NoError(t, err)
	return got
}

// exact requires that spans of all kinds are counted as the rows are.
func (c *counting) exact(t *testing.T, what string) {
	t.Helper()
	all := c.Now.Add(48 * time.Hour)
	spans := [][2]time.Time{{c.Now.Add(-95 * 24 * time.Hour), all}, {c.Now, c.Now}, {c.Now, c.Now.Add(-time.Hour)}}
	for range 12 {
		from := c.Now.Add(-time.Duration(c.rng.Int64N(int64(80 * 24 * time.Hour))))
		length := []time.Duration{time.Minute, time.Hour, 3 * time.Hour, 24 * time.Hour, 40 * 24 * time.Hour}[c.rng.IntN(5)]
		spans = append(spans, [2]time.Time{from, from.Add(time.Duration(c.rng.Int64N(int64(2 * length))))},
			[2]time.Time{from.Truncate(time.Hour), from.Truncate(time.Hour).Add(length)})
	}
	for i := range 6 { // around the newest rows
		spans = append(spans, [2]time.Time{c.Now.Add(-time.Duration(i*29) * time.Minute),
			c.Now.Add(-time.Duration(i*7) * time.Minute)})
	}
	for _, s := range spans {
		for _, scope := range []domain.Scope{domain.AllTenants(), domain.Tenants("acme"), domain.Tenants("nobody")} {
			got := c.count(t, scope, s[0], s[1])
			require.True(t, got.Complete)
			if want := c.naive(scope, s[0], s[1]); !slices.Equal(want, got.Items) {
				require.Equal(t, want, got.Items, "%s: %s to %s, %s", what, s[0].UTC(), s[1].UTC(), scope)
			}
		}
	}
}

func (c *counting) tend(t *testing.T) {
	t.Helper()
	require.NoError(t, c.Decisions.Tend(t.Context(), "one"))
}

func storeCounts(t *testing.T, h *StoreHarness) {
	c := counts(h)
	c.keep(t, c.some(600, 5, h.Now.Add(-70*24*time.Hour), h.Now)...)
	c.keep(t, c.some(300, 5, h.Now.Add(-3*time.Hour), h.Now)...)
	outside := c.some(5, 5, h.Now.Add(-time.Hour), h.Now)
	for i := range outside {
		outside[i].Timestamp = time.Time{}
	}
	c.keep(t, outside...)
	c.exact(t, "as they came")
	c.tend(t)
	c.exact(t, "folded")
	c.tend(t)
	c.exact(t, "folded again")

	h.save(t, domain.Duplicate, c.rows[:300]...)
	conflicting := slices.Clone(c.rows[:20])
	for i := range conflicting {
		conflicting[i].Event = []byte("another")
		conflicting[i].SHA256 = sha256.Sum256(conflicting[i].Event)
		conflicting[i].Path = "another"
	}
	h.save(t, domain.Conflicting, conflicting...)
	_, err := h.Decisions.DryRunBatch(t.Context(), c.some(20, 5, h.Now.Add(-time.Hour), h.Now))
	require.NoError(t, err)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = h.Decisions.SaveBatch(canceled, c.some(20, 5, h.Now.Add(-time.Hour), h.Now))
	require.Error(t, err)
	c.exact(t, "what was not stored")

	// Others by now: a few here and there get another outcome or path.
	var changed []domain.Decision
	for i := 0; i < len(c.rows); i += 3 {
		d := &c.rows[i]
		d.Outcome = domain.OutcomeAllowed
		if i%2 == 0 {
			d.Path = "anew"
		}
		changed = append(changed, *d)
	}
	wrong := changed[0]
	wrong.SHA256[0]++
	wrong.Path = "wrong"
	require.NoError(t, h.Decisions.SetColumns(t.Context(), append(changed, wrong)))
	require.NoError(t, h.Decisions.SetColumns(t.Context(), changed))
	c.exact(t, "changed")
	c.tend(t)
	c.exact(t, "changed and folded")

	// Days go by: minutes become hours, and hours days; rows that are late go into what they have become.
	for _, days := range []int{1, 2, 30} {
		h.Now = h.Now.AddDate(0, 0, days)
		c.keep(t, c.some(100, 5, h.Now.Add(-40*24*time.Hour), h.Now)...)
		c.exact(t, "late")
		h.Decisions, h.Control = h.Reopen(t)
		c.tend(t)
		c.exact(t, "late and folded")
	}
}

// A day's counts go with it.
func storeCountsOfDroppedDays(t *testing.T, h *StoreHarness) {
	c := counts(h)
	old := domain.DayOf(h.Now) - 5
	c.keep(t, c.some(100, 5, old.Start(), old.End())...)
	c.tend(t)
	c.rows = nil
	c.keep(t, c.some(100, 5, old.End(), h.Now)...)
	dropped, err := h.Decisions.DropDay(t.Context(), old, 0)
	require.NoError(t, err)
	require.True(t, dropped)
	c.exact(t, "dropped")
	c.tend(t)
	c.exact(t, "dropped and folded")
	days, err := h.Decisions.Days(t.Context())
	require.NoError(t, err)
	require.NotContains(t, days, old)
}

// Clients make up paths: the first thousand of a tenant and day are told apart, and the sums stay exact.
func storeCountsOfMadeUpPaths(t *testing.T, h *StoreHarness) {
	c := counts(h)
	day := domain.DayOf(h.Now) - 3
	c.keep(t, c.some(60, 2, day.Start(), day.End())...)
	c.tend(t)
	for n := range madeUpTurns {
		rows := c.some(madeUpPaths, 10_000, day.Start(), day.End())
		for i := range rows {
			rows[i].Tenant = "default"
		}
		c.keep(t, rows...)
		h.Decisions, h.Control = h.Reopen(t) // all days are due again
		c.tend(t)
		got := c.count(t, domain.AllTenants(), day.Start(), day.End())
		require.False(t, got.Complete)
		paths, sum, outcomes := map[string]bool{}, int64(0), map[string]int64{}
		for _, k := range got.Items {
			if k.Tenant == "default" && k.Path != domain.OtherPaths {
				paths[k.Path] = true
			}
			sum += k.Decisions
			outcomes[k.Tenant+string(k.Outcome)] += k.Decisions
		}
		require.LessOrEqual(t, len(paths), domain.MaxCountedPaths)
		require.Greater(t, len(paths), domain.MaxCountedPaths-5)
		require.True(t, paths["path/1"] && paths["path/2"], "those that were there first, in turn %d", n)
		require.EqualValues(t, len(c.rows), sum)
		for _, k := range c.naive(domain.AllTenants(), day.Start(), day.End()) {
			outcomes[k.Tenant+string(k.Outcome)] -= k.Decisions
		}
		for k, n := range outcomes {
			require.Zero(t, n, k)
		}
		require.True(t, c.count(t, domain.Tenants("acme"), day.Start(), day.End()).Complete, "it is not the other tenant's")
	}
}
