package porttest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func storePages(t *testing.T, h *StoreHarness) {
	var rows []domain.Decision
	for n := range 57 {
		rows = append(rows, h.row(n, func(d *domain.Decision) {
			d.Timestamp = h.Now.Add(-time.Duration(n/10) * time.Second).UTC().Truncate(time.Microsecond) // ten share a time
			if n%7 == 0 {
				d.Timestamp, d.ReceivedAt = time.Time{}, d.Timestamp
			}
			if n%2 == 0 {
				d.Tenant = "even"
			}
		}))
	}
	h.save(t, domain.Saved, rows...)
	q := domain.Query{Filter: domain.Filter{Since: h.Now.Add(-time.Hour)}, Limit: 10}
	var all []domain.Decision
	for {
		page, err := h.Decisions.Search(t.Context(), domain.AllTenants(), q)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page.Items), 10)
		all = append(all, page.Items...)
		if page.Next == nil {
			break
		}
		after, err := domain.ParseCursor(page.Next.String())
		require.NoError(t, err)
		q.After = after
		require.Less(t, len(all), 100)
	}
	require.Len(t, all, len(rows))
	seen := map[string]bool{}
	for i, d := range all {
		require.False(t, seen[d.ID], d.ID)
		seen[d.ID] = true
		if i > 0 {
			require.False(t, d.Time().After(all[i-1].Time()), "newest first")
		}
	}
}

// storeHeavyPages has rows whose bundles are far larger than the rest of them: a page has as many as weigh little.
func storeHeavyPages(t *testing.T, h *StoreHarness) {
	var bundles []domain.Bundle
	for n := range 64 {
		bundles = append(bundles, domain.Bundle{
			Name: fmt.Sprintf("%03d", n) + strings.Repeat("n", 500), Revision: strings.Repeat("r", 512),
		})
	}
	const rows = 300
	for n := range rows {
		h.save(t, domain.Saved, h.row(n, func(d *domain.Decision) { d.Bundles = bundles }))
	}
	q := domain.Query{Filter: domain.Filter{Since: h.Now.Add(-time.Hour)}, Limit: domain.MaxPage}
	seen, pages := map[string]bool{}, 0
	for {
		page, err := h.Decisions.Search(t.Context(), domain.AllTenants(), q)
		require.NoError(t, err)
		require.NotEmpty(t, page.Items)
		weight := 0
		for i := range page.Items {
			require.False(t, seen[page.Items[i].ID])
			seen[page.Items[i].ID] = true
			weight += page.Items[i].Weight()
		}
		pages++
		require.Less(t, weight, domain.MaxPageBytes+100<<10)
		if page.Next == nil {
			break
		}
		q.After = page.Next
	}
	require.Len(t, seen, rows)
	require.Equal(t, 3, pages)
}
