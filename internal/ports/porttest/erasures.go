package porttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// order makes a job that erases, and what it orders.
func (h *StoreHarness) order(t *testing.T, id string, tenants domain.Scope, principals ...string) domain.Erasure {
	t.Helper()
	key, err := h.Control.ErasureKey(t.Context())
	require.NoError(t, err)
	e := domain.Erasure{Job: id, Tenants: tenants, At: h.Now.UTC().Truncate(time.Microsecond)}
	terms := make([]domain.Expr, len(principals))
	for i, p := range principals {
		e.Subjects, terms[i] = append(e.Subjects, domain.SubjectOf(key, p)), domain.Equals(domain.FieldPrincipal, p)
	}
	twin, err := h.Control.CreateJob(t.Context(), domain.Job{
		ID: id, Kind: domain.Erase, Filter: domain.Filter{Where: domain.AnyOf(terms...)}, Tenants: tenants, Erasure: &e,
		State: domain.JobPending, CreatedAt: e.At, Comment: "asked for", Caller: "ann",
	}, domain.AuditEntry{})
	require.NoError(t, err)
	require.Empty(t, twin)
	return e
}

func storeErasures(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	key, err := h.Control.ErasureKey(ctx)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(key), 32)
	again, err := h.Control.ErasureKey(ctx)
	require.NoError(t, err)
	require.Equal(t, key, again)
	inForce := func() []domain.Erasure {
		t.Helper()
		all, err := h.Control.Erasures(ctx)
		require.NoError(t, err)
		return all
	}
	require.Empty(t, inForce())

	one := h.order(t, "e-1", domain.Tenants("acme", "other"), "alice")
	two := h.order(t, "e-2", domain.AllTenants(), "bob", "carol")
	all := inForce()
	require.Len(t, all, 2)
	require.Equal(t, one, all[0])
	require.ElementsMatch(t, two.Subjects, all[1].Subjects)
	require.Equal(t, domain.AllTenants(), all[1].Tenants)

	twin, err := h.Control.CreateJob(ctx, domain.Job{
		ID: "e-3", Kind: domain.Erase, Filter: domain.Filter{Where: domain.Equals(domain.FieldPrincipal, "alice")},
		Tenants: one.Tenants, Erasure: &domain.Erasure{Job: "e-3", Subjects: one.Subjects, Tenants: one.Tenants, At: one.At},
		State: domain.JobPending, CreatedAt: one.At,
	}, domain.AuditEntry{})
	require.NoError(t, err)
	require.Equal(t, "e-1", twin, "it does the same")
	require.Len(t, inForce(), 2, "and orders nothing")

	until := one.At.Add(time.Hour)
	require.NoError(t, h.Control.KeepErasure(ctx, "e-1", until))
	one.Until = until
	require.Equal(t, one, inForce()[0])
	require.NoError(t, h.Control.KeepErasure(ctx, "e-1", one.At.Add(-time.Hour)))
	all = inForce()
	require.Len(t, all, 1, "its time is over")
	require.Equal(t, "e-2", all[0].Job)

	named := func(id string) bool {
		t.Helper()
		j, found, err := h.Control.Job(ctx, domain.AllTenants(), id)
		require.NoError(t, err)
		require.True(t, found)
		return len(j.Principals()) > 0
	}
	require.True(t, named("e-2"))
	require.True(t, h.move(t, "e-2", domain.Pause, ""))
	require.True(t, named("e-2"), "it is not over")
	require.Len(t, inForce(), 1)
	require.True(t, h.move(t, "e-2", domain.Cancel, ""))
	require.False(t, named("e-2"), "whom it was about is forgotten")
	require.Empty(t, inForce(), "nothing was ordered")

	j, found := h.claim(t, domain.ErasureJobs, "one", h.Now)
	require.True(t, found)
	require.Equal(t, "e-1", j.ID)
	require.Equal(t, []string{"alice"}, j.Principals())
	report := &domain.DryRunReport{
		Statuses: map[domain.SaveStatus]int{}, Rows: 1, Letters: 2, Unclear: 3,
		Expiries: []domain.Expiry{{Topic: "docket.dlq", At: until}, {Topic: "docket.held"}},
	}
	step := domain.JobStep{Job: "e-1", Owner: "one", At: h.Now, LeaseUntil: h.Now.Add(time.Minute), Report: report}
	after, err := h.Control.AdvanceJob(ctx, step)
	require.NoError(t, err)
	require.Equal(t, report, after.Report)
	require.Equal(t, []string{"alice"}, after.Principals())
	step.State = domain.JobDone
	after, err = h.Control.AdvanceJob(ctx, step)
	require.NoError(t, err)
	require.Equal(t, domain.JobDone, after.State)
	require.Empty(t, after.Principals(), "whom it was about is forgotten")

	h.job(t, "r-1", "class=invalid")
	require.True(t, h.move(t, "r-1", domain.Cancel, ""))
	other, _, err := h.Control.Job(ctx, domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.True(t, other.Filter.Where.Mentions(domain.FieldClass), "other jobs keep their filters")
}

func storeEraseLetters(t *testing.T, h *StoreHarness) {
	h.index(t, h.dead(1), h.dead(2), h.dead(3, func(l *domain.DeadLetter) { l.State = domain.DeadDiscarded }))
	require.NoError(t, h.Control.EraseLetters(t.Context(), nil))
	require.NoError(t, h.Control.EraseLetters(t.Context(), []string{h.dead(1).ID, h.dead(3).ID, "docket.dlq:7:7"}))
	require.Equal(t, []string{h.dead(2).ID}, h.deadIDs(t, "limit=10"))
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 1}, h.counts(t, ""))
}

func storeEraseDecisions(t *testing.T, h *StoreHarness) {
	c := counts(h)
	c.keep(t, c.some(300, 5, h.Now.Add(-70*24*time.Hour), h.Now)...)
	c.tend(t)
	outside := c.some(4, 5, h.Now.Add(-time.Hour), h.Now)
	for i := range outside {
		outside[i].Timestamp = time.Time{}
	}
	c.keep(t, outside...)
	var gone, stay []domain.Decision
	for i, d := range c.rows {
		d.Event = nil
		if i%2 == 0 {
			gone = append(gone, d)
		} else {
			stay = append(stay, c.rows[i])
		}
	}
	wrong := c.rows[1]
	wrong.SHA256[0]++
	foreign := c.rows[3]
	foreign.Tenant += "-not"
	require.NoError(t, h.Decisions.EraseDecisions(t.Context(), append(gone, wrong, foreign, h.row(99))))
	c.rows = stay
	c.exact(t, "without what was erased")
	require.NoError(t, h.Decisions.EraseDecisions(t.Context(), gone), "they are not there any more")
	require.NoError(t, h.Decisions.EraseDecisions(t.Context(), nil))
	c.exact(t, "erased again")
	c.tend(t)
	c.exact(t, "folded")
	for _, d := range gone {
		require.Empty(t, h.get(t, d.ID))
	}
	for _, d := range stay {
		got := h.get(t, d.ID)
		require.Len(t, got, 1)
		require.Equal(t, d.Event, got[0].Event)
	}
	h.save(t, domain.Saved, gone[0]) // whoever saves has to know what may not be kept
}
