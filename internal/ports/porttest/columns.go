package porttest

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func storeColumns(t *testing.T, h *StoreHarness) {
	outside := h.row(7, func(d *domain.Decision) { d.Timestamp = time.Time{} })
	other := h.row(3, func(d *domain.Decision) { d.Tenant = "other" })
	large := func(d *domain.Decision) { d.Event = append(d.Event, bytes.Repeat([]byte(" "), 5<<20)...) }
	h.save(t, domain.Saved, h.row(1), h.row(2), other, h.row(4, large), h.row(5, large), h.row(6), outside)

	everything := domain.Query{Filter: domain.Filter{Since: h.Now.Add(-time.Hour)}, Limit: 100}
	var all []domain.Decision
	pages := 0
	for q := everything; ; pages++ {
		page, err := h.Decisions.StoredEvents(t.Context(), domain.Tenants("default"), q)
		require.NoError(t, err)
		all = append(all, page.Items...)
		if page.Next == nil {
			break
		}
		q.After = page.Next
	}
	require.Equal(t, 1, pages, "two large events are more than a page")
	require.Len(t, all, 6, "without the other tenant's")
	for _, d := range all {
		require.True(t, bytes.HasPrefix(d.Event, fmt.Appendf(nil, `{"decision_id":"%s"}`, d.ID)))
	}

	change := func(d domain.Decision) domain.Decision {
		d.Event = nil
		d.Outcome, d.Reason, d.Masked = domain.OutcomeAllowed, "anew", "reason"
		d.Bundles = []domain.Bundle{{Name: "b", Revision: "2"}}
		d.Sanitised, d.Unsearchable = true, true
		return d
	}
	wrong := change(h.row(2))
	wrong.SHA256[0]++
	absent := change(h.row(99))
	changed := []domain.Decision{change(h.row(1)), wrong, absent, change(outside)}
	require.NoError(t, h.Decisions.SetColumns(t.Context(), changed))
	require.NoError(t, h.Decisions.SetColumns(t.Context(), nil))
	for id, changed := range map[int]bool{1: true, 2: false, 6: false, 7: true} {
		got := h.get(t, fmt.Sprintf("id-%d", id))
		require.Len(t, got, 1)
		require.Equal(t, changed, got[0].Outcome == domain.OutcomeAllowed, id)
		if changed {
			require.Equal(t, "anew", got[0].Reason)
			require.Equal(t, "reason", got[0].Masked)
			require.Equal(t, []domain.Bundle{{Name: "b", Revision: "2"}}, got[0].Bundles)
			require.True(t, got[0].Sanitised && got[0].Unsearchable)
			require.Equal(t, h.row(id).Event, got[0].Event)
		}
	}
	require.Empty(t, h.get(t, "id-99"))
}
