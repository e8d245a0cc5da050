package porttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// The tenants of the scope's cases: acme asks, and must not see what is initech's.
const own, foreign = "acme", "initech"

var ownScope = domain.Tenants(own)

func scopeDecisions(t *testing.T, h *StoreHarness) {
	tenant := func(name string) func(*domain.Decision) {
		return func(d *domain.Decision) {
			d.Tenant, d.Event = name, []byte(`{"of":"`+name+`"}`)
		}
	}
	h.save(t, domain.Saved, h.row(1, tenant(own)), h.row(1, tenant(foreign)), h.row(2, tenant(foreign)))
	ids := func(scope domain.Scope, where domain.Expr) (ids []string) {
		t.Helper()
		page, err := h.Decisions.Search(t.Context(), scope, domain.Query{
			Filter: domain.Filter{Since: h.Now.Add(-time.Hour), Where: where}, Limit: 10,
		})
		require.NoError(t, err)
		for _, d := range page.Items {
			ids = append(ids, d.Tenant+" "+d.ID)
		}
		return ids
	}
	require.Equal(t, []string{"acme id-1"}, ids(ownScope, domain.Expr{}))
	require.Empty(t, ids(ownScope, domain.Equals(domain.FieldTenant, foreign)), "also when it is asked for")
	require.Empty(t, ids(domain.Tenants(), domain.Expr{}), "no tenants, no rows")
	require.Len(t, ids(domain.Tenants(own, foreign), domain.Expr{}), 3)

	for id, want := range map[string]int{"id-1": 1, "id-2": 0} {
		rows, err := h.Decisions.Decisions(t.Context(), ownScope, id)
		require.NoError(t, err)
		require.Len(t, rows, want, id)
		for _, d := range rows {
			require.Equal(t, own, d.Tenant)
			require.JSONEq(t, `{"of":"acme"}`, string(d.Event), "the bytes are those of the own row")
		}
	}
}

func scopeOPAs(t *testing.T, h *StoreHarness) {
	at := h.Now.UTC().Truncate(time.Microsecond)
	for _, tenant := range []string{own, foreign} {
		require.NoError(
			t,
			h.Control.RecordOPAs(
				t.Context(),
				[]domain.Observation{{Tenant: tenant, OPA: "opa-1", First: at, Last: at, Uploads: 1}},
			),
		)
	}
	opas, err := h.Control.OPAs(t.Context(), ownScope)
	require.NoError(t, err)
	require.Len(t, opas, 1)
	require.Equal(t, own, opas[0].Tenant)
}

func scopeRejections(t *testing.T, h *StoreHarness) {
	at := h.Now.Truncate(time.Minute).Add(30 * time.Second)
	failure := &domain.Error{Class: domain.Invalid, Code: "23514", Text: "a check"}
	mine, theirs := domain.RejectionOf(failure, own, "a"), domain.RejectionOf(failure, foreign, "b")
	h.exchange(t, at, own, 10, mine)
	h.exchange(t, at, foreign, 100, theirs)
	read := func(scope domain.Scope) domain.RejectionReport {
		t.Helper()
		r, err := h.Control.RejectionReport(t.Context(), scope, at)
		require.NoError(t, err)
		return r
	}
	report := read(ownScope)
	require.EqualValues(t, 10, report.Judged)
	require.Equal(t, []domain.Rejection{mine}, report.Rejections)
	require.EqualValues(t, 110, read(domain.AllTenants()).Judged)

	acceptance := domain.Acceptance{
		Fingerprint: theirs.Fingerprint, Tenants: domain.Tenants(foreign), At: at.UTC(), Until: at.Add(time.Hour).UTC(),
		Caller: "ann", Comment: "known",
	}
	entry := domain.AuditEntry{
		At: at.UTC(), Caller: "ann", Tenants: acceptance.Tenants, Action: "guard.accept", Target: theirs.Fingerprint,
	}
	require.NoError(t, h.Control.AcceptRejections(t.Context(), acceptance, entry))
	require.Empty(t, read(ownScope).Acceptances)
	require.Len(t, read(domain.Tenants(foreign)).Acceptances, 1)
	revoked, err := h.Control.RevokeAcceptance(t.Context(), ownScope, theirs.Fingerprint, at.Add(time.Second), entry)
	require.NoError(t, err)
	require.False(t, revoked)
	require.Len(t, read(domain.Tenants(foreign)).Acceptances, 1, "nobody else ends it")

	accepted := domain.RejectionOf(failure, own, "b")
	require.Equal(t, theirs.Fingerprint, accepted.Fingerprint)
	h.exchange(t, at, own, 0, accepted)
	_, ok := read(domain.AllTenants()).Acceptance(accepted)
	require.False(t, ok, "an acceptance counts for its caller's tenants only")
}

func scopeDeadLetters(t *testing.T, h *StoreHarness) {
	tenant := func(name string) func(*domain.DeadLetter) { return func(l *domain.DeadLetter) { l.Tenant = name } }
	mine := h.dead(1, tenant(own))
	theirs := h.dead(2, tenant(foreign), func(l *domain.DeadLetter) { l.DecisionID = mine.DecisionID })
	h.index(t, mine, theirs)
	page, err := h.Control.DeadLetters(t.Context(), ownScope, deadQuery(t, ""))
	require.NoError(t, err)
	require.Len(t, page.Items, 1)
	require.Equal(t, mine.ID, page.Items[0].ID)
	_, found, err := h.Control.DeadLetter(t.Context(), ownScope, theirs.ID)
	require.NoError(t, err)
	require.False(t, found, "by its id, and so by its bytes")
	of, err := h.Control.DeadLettersOf(t.Context(), ownScope, mine.DecisionID)
	require.NoError(t, err)
	require.Len(t, of, 1)
	for name, scope := range map[string]domain.Scope{"one": ownScope, "both": domain.Tenants(own, foreign),
		"none": domain.Tenants()} {
		want := map[string]int64{"one": 1, "both": 2, "none": 0}[name]
		n, err := h.Control.CountDeadLetters(t.Context(), scope, domain.Filter{})
		require.NoError(t, err)
		require.Equal(t, want, n[domain.DeadOpen], name)
		groups, err := h.Control.DeadGroups(t.Context(), scope, domain.Filter{})
		require.NoError(t, err)
		var open int64
		for _, g := range groups {
			open += g.Letters[domain.DeadOpen]
			if name == "one" {
				require.Equal(t, mine.ID, g.Sample)
			}
		}
		require.Equal(t, want, open, name)
	}
	groups, err := h.Control.DeadGroups(t.Context(), ownScope, deadQuery(t, "tenant="+foreign).Filter)
	require.NoError(t, err)
	require.Empty(t, groups)
}

func scopeJobs(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	now := h.Now.UTC().Truncate(time.Microsecond)
	tenant := func(name string) func(*domain.DeadLetter) { return func(l *domain.DeadLetter) { l.Tenant = name } }
	h.index(t, h.dead(1, tenant(own)), h.dead(2, tenant(foreign)))
	mine := h.job(t, "r-1", "", func(j *domain.Job) { j.Tenants = ownScope })
	h.job(t, "r-2", "", func(j *domain.Job) { j.Tenants = domain.Tenants(foreign) })
	h.job(t, "r-3", "") // all tenants': the same filter, another scope

	letters, err := h.Control.LettersOfJob(ctx, mine, 10)
	require.NoError(t, err)
	require.Len(t, letters, 1, "a job touches nothing of others")
	n, err := h.Control.CountLettersOfJob(ctx, mine)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	tallies, err := h.Control.TallyLettersOfJob(ctx, mine)
	require.NoError(t, err)
	require.Len(t, tallies, 1)
	require.EqualValues(t, 1, tallies[0].Letters)

	for scope, want := range map[string][]string{"one": {"r-1"}, "both": {"r-1", "r-2"}, "all": {"r-1", "r-2", "r-3"}} {
		s := map[string]domain.Scope{"one": ownScope, "both": domain.Tenants(own, foreign), "all": domain.AllTenants()}[scope]
		jobs, err := h.Control.Jobs(ctx, s)
		require.NoError(t, err)
		var ids []string
		for _, j := range jobs {
			ids = append(ids, j.ID)
			require.True(t, j.Tenants.Within(s))
		}
		require.ElementsMatch(t, want, ids, scope)
		require.Len(t, h.actions(t, s), len(want), "the audit of "+scope)
	}
	for _, id := range []string{"r-2", "r-3"} {
		_, found, err := h.Control.Job(ctx, ownScope, id)
		require.NoError(t, err)
		require.False(t, found, id)
		moved, err := h.Control.MoveJob(ctx, ownScope, id, domain.Cancel, domain.Message{}, now, domain.AuditEntry{})
		require.NoError(t, err)
		require.False(t, moved, id)
	}
	moved, err := h.Control.MoveJob(ctx, ownScope, "r-1", domain.Cancel, domain.Message{}, now, domain.AuditEntry{})
	require.NoError(t, err)
	require.True(t, moved)
}

func storeDays(t *testing.T, h *StoreHarness) {
	today := domain.DayOf(h.Now)
	old := domain.DayOf(h.Now.Add(-h.Window.Retention)) + 1
	at := func(day domain.Day) func(*domain.Decision) {
		return func(d *domain.Decision) { d.Timestamp = day.Start().Add(time.Hour) }
	}
	require.NoError(t, h.Decisions.PrepareDays(t.Context(), old, today))
	h.save(t, domain.Saved, h.row(1, at(old)), h.row(2, at(old)), h.row(3, at(old+1)))
	h.save(t, domain.Saved, h.row(4, func(d *domain.Decision) {
		d.Timestamp, d.ReceivedAt = time.Time{}, old.Start().Add(time.Hour)
	}), h.row(5, func(d *domain.Decision) { d.Timestamp = time.Time{} }))
	days, err := h.Decisions.Days(t.Context())
	require.NoError(t, err)
	require.IsIncreasing(t, days)
	require.Subset(t, days, []domain.Day{old, old + 1})

	drop := func(want bool, day domain.Day, atMost int) {
		t.Helper()
		dropped, err := h.Decisions.DropDay(t.Context(), day, atMost)
		require.NoError(t, err)
		require.Equal(t, want, dropped, day)
	}
	for range 2 { // the second time there is nothing
		drop(true, old, 2)
	}
	days, err = h.Decisions.Days(t.Context())
	require.NoError(t, err)
	require.NotContains(t, days, old)
	require.Contains(t, days, old+1)
	require.Empty(t, h.get(t, "id-1"))
	require.Empty(t, h.get(t, "id-2"))
	require.Len(t, h.get(t, "id-3"), 1)
	require.Len(t, h.get(t, "id-4"), 1, "it has no day of its own")
	h.save(t, domain.TooOld, h.row(6, at(old)), h.row(7, at(old-1)))

	require.NoError(t, h.Decisions.DropReceivedBefore(t.Context(), old.End()))
	require.Len(t, h.get(t, "id-4"), 1, "it was saved later, whatever the clock of who received it said")
	require.NoError(t, h.Decisions.DropReceivedBefore(t.Context(), h.Now.Add(-time.Minute)))
	require.Len(t, h.get(t, "id-5"), 1)
	require.Len(t, h.get(t, "id-3"), 1, "what is kept by day is not touched")

	drop(true, old+1, 2)
	drop(false, old+2, 2)
	drop(true, old+2, 0)
	for _, day := range []domain.Day{today - 1, today, today + 1} {
		drop(false, day, 0)
	}
	h.save(t, domain.Saved, h.row(8, at(old+3)))
	h.save(t, domain.TooOld, h.row(9, at(old+2)))
}

// storeRetention is what the store says of how long it keeps decisions.
func storeRetention(t *testing.T, h *StoreHarness) {
	state, err := h.Decisions.RetentionState(t.Context())
	require.NoError(t, err)
	require.Zero(t, state.InForce)
	require.WithinDuration(t, h.Now, state.Now, time.Minute)
	longer := h.Window.Retention + 48*time.Hour
	beyond := func(d *domain.Decision) {
		d.Timestamp = h.Now.Add(-longer + time.Hour).UTC().Truncate(time.Microsecond)
	}
	h.save(t, domain.TooOld, h.row(1, beyond))
	require.NoError(t, h.Decisions.SetRetention(t.Context(), longer))
	h.save(t, domain.Saved, h.row(1, beyond))
	require.NoError(t, h.Decisions.SetRetention(t.Context(), time.Hour))
	h.save(t, domain.Saved, h.row(2, func(d *domain.Decision) {
		d.Timestamp = h.Now.Add(-h.Window.Retention + time.Hour).UTC().Truncate(time.Microsecond)
	}))
	h.Decisions, h.Control = h.Reopen(t)
	state, err = h.Decisions.RetentionState(t.Context())
	require.NoError(t, err)
	require.Equal(t, time.Hour, state.InForce)
}
