package porttest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

func storeOPAs(t *testing.T, h *StoreHarness) {
	at := func(seconds int) time.Time {
		return h.Now.Add(time.Duration(seconds) * time.Second).UTC().Truncate(time.Microsecond)
	}
	record := func(s ...domain.Observation) {
		t.Helper()
		require.NoError(t, h.Control.RecordOPAs(t.Context(), s))
	}
	record(
		domain.Observation{Tenant: "default", OPA: "a", Version: "1.0.0", First: at(0), Last: at(0), Uploads: 1, Events: 3},
	)
	record(
		domain.Observation{
			Tenant: "default", OPA: "a", Version: "1.22.2", First: at(300), Last: at(300), Uploads: 1, Events: 2,
		},
		domain.Observation{Tenant: "default", OPA: "b", First: at(10), Last: at(14), Uploads: 5, Events: 5},
	)
	record(domain.Observation{Tenant: "acme", OPA: "a", Status: []byte(`{"s":1}`), StatusAt: at(400)})
	opas, err := h.Control.OPAs(t.Context(), domain.AllTenants())
	require.NoError(t, err)
	require.Len(t, opas, 3)
	byKey := map[string]domain.OPA{}
	for _, o := range opas {
		byKey[o.Tenant+"/"+o.OPA] = o
	}
	a := byKey["default/a"]
	require.Equal(t, "1.22.2", a.Version)
	require.Equal(t, at(0), a.First)
	require.Equal(t, at(300), a.Last)
	require.EqualValues(t, 2, a.Uploads)
	require.EqualValues(t, 5, a.Events)
	require.Equal(t, 5*time.Minute, a.Interval)
	require.True(t, a.Slow())
	require.Equal(t, time.Second, byKey["default/b"].Interval)
	require.False(t, byKey["default/b"].Slow())
	require.Equal(t, []byte(`{"s":1}`), byKey["acme/a"].Status)
	require.Equal(t, at(400), byKey["acme/a"].StatusAt)
	require.True(t, byKey["acme/a"].Last.IsZero())
	groupedOPAs(t, h)
	boundedOPAs(t, h)
}

// groupedOPAs counts OPAs by app and by how long they are silent.
func groupedOPAs(t *testing.T, h *StoreHarness) {
	at := func(d time.Duration) time.Time { return h.Now.Add(-d).UTC().Truncate(time.Microsecond) }
	var all []domain.Observation
	for id, quiet := range map[string]time.Duration{
		"now": 0, "late": 14 * time.Minute, "silent": 16 * time.Minute, "day": 23 * time.Hour, "gone": 25 * time.Hour,
	} {
		all = append(all, domain.Observation{
			Tenant: "groups", OPA: id, App: "shop", First: at(quiet), Last: at(quiet), Uploads: 1, Events: 1,
		})
	}
	slow := domain.Observation{Tenant: "groups", OPA: "slow", First: at(2 * time.Hour), Last: at(time.Hour), Uploads: 2}
	status := domain.Observation{
		Tenant: "groups", OPA: "status", First: at(2 * time.Hour), Last: at(2 * time.Hour), Uploads: 1, Status: []byte("{}"),
		StatusAt: at(time.Minute),
	}
	require.NoError(t, h.Control.RecordOPAs(t.Context(), append(all, slow, status)))
	groups, err := h.Control.OPAGroups(t.Context(), domain.Tenants("groups"), h.Now)
	require.NoError(t, err)
	require.Equal(t, []domain.OPAGroup{
		{Tenant: "groups", App: "shop", Live: 2, Silent: 2, Gone: 1}, {Tenant: "groups", Live: 2},
	}, groups)
	opas, err := h.Control.OPAs(t.Context(), domain.Tenants("groups"))
	require.NoError(t, err)
	states := map[domain.OPAState]int64{}
	for _, o := range opas {
		states[o.State(h.Now)]++
		if o.OPA == "now" {
			require.Equal(t, "shop", o.App)
		}
	}
	require.Equal(t, map[domain.OPAState]int64{domain.OPALive: 4, domain.OPASilent: 2, domain.OPAGone: 1}, states,
		"as the groups count")
}

func storeProcesses(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	p := domain.Process{
		Name: "host/1/a", Role: "saver", Host: "host", Started: h.Now.Add(-time.Hour).UTC().Truncate(time.Microsecond),
		Ready: true,
		Trouble: map[string][]domain.Message{"saver": {
			domain.Say("store_refuses", domain.Args{"error": "no column", "n": int64(7)}), domain.Say("guard_on", nil),
		}},
	}
	other := domain.Process{Name: "host/2/b", Role: "ingest", Host: "other", Started: p.Started}
	require.NoError(t, h.Control.BeatProcess(ctx, p))
	require.NoError(t, h.Control.BeatProcess(ctx, other))
	p.Ready = false
	require.NoError(t, h.Control.BeatProcess(ctx, p))
	all, err := h.Control.Processes(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
	got := all[slices.IndexFunc(all, func(p domain.Process) bool { return p.Role == "saver" })]
	require.True(t, got.Live())
	require.False(t, got.Seen.IsZero())
	got.Seen, got.Age = time.Time{}, 0
	require.Equal(t, p, got)
	require.NoError(t, h.Control.LeaveProcess(ctx, p.Name))
	require.NoError(t, h.Control.LeaveProcess(ctx, "never there"))
	all, err = h.Control.Processes(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, other.Name, all[0].Name)
}

// boundedOPAs has more OPAs of one tenant than are told apart, most of which came once.
func boundedOPAs(t *testing.T, h *StoreHarness) {
	record := func(tenant, prefix string, n int, seen time.Time, uploads int64) {
		t.Helper()
		var all []domain.Observation
		for i := range n {
			all = append(all, domain.Observation{
				Tenant: tenant, OPA: fmt.Sprintf("%s-%05d", prefix, i), First: seen, Last: seen, Uploads: uploads, Events: 2,
				Version: "1.0.0",
			})
		}
		require.NoError(t, h.Control.RecordOPAs(t.Context(), all))
	}
	counted := func() (others int64) {
		t.Helper()
		opas, err := h.Control.OPAs(t.Context(), domain.Tenants("crowd"))
		require.NoError(t, err)
		for _, o := range opas {
			if o.OPA == domain.OtherOPAs {
				others = o.Events
				require.Empty(t, o.Version)
			}
		}
		return others
	}
	now := h.Now.UTC().Truncate(time.Microsecond)
	record("crowd", "real", 20, now.Add(-time.Hour), 7)
	record("crowd", "made-up", domain.MaxOPAs, now.Add(-30*time.Minute), 1)
	others := counted()
	require.EqualValues(t, 20*2, others, "there was no room for so many")
	opas, err := h.Control.OPAs(t.Context(), domain.Tenants("crowd"))
	require.NoError(t, err)
	require.Len(t, opas, 1000)
	names := map[string]bool{}
	for _, o := range opas[:21] {
		names[o.OPA] = true
	}
	for i := range 20 {
		require.True(t, names[fmt.Sprintf("real-%05d", i)], "those that came more than once come first")
	}
	record("crowd", "real", 20, now, 1)
	record("crowd", "late", 5, now, 1)
	others = counted()
	require.EqualValues(t, 25*2, others, "who has a line keeps it")
	record("crowd", "made-up", domain.MaxOPAs, now.Add(-30*time.Hour), 1)
	more := counted()
	require.EqualValues(t, others+20*2, more, "an older observation makes nobody younger")

	record("quiet", "gone", domain.MaxOPAs, now.Add(-30*time.Hour), 1)
	record("quiet", "gone", 3, now.Add(-29*time.Hour), 1) // still quiet, and back with the new ones
	var back []domain.Observation
	for i := range 2 {
		back = append(back, domain.Observation{
			Tenant: "quiet", OPA: fmt.Sprintf("gone-%05d", domain.MaxOPAs-1-i), First: now, Last: now, Uploads: 1, Events: 2,
		}, domain.Observation{
			Tenant: "quiet", OPA: fmt.Sprintf("with-%05d", i), First: now, Last: now, Uploads: 2, Events: 2,
		})
	}
	require.NoError(t, h.Control.RecordOPAs(t.Context(), back))
	record("quiet", "new", 5, now, 2)
	opas, err = h.Control.OPAs(t.Context(), domain.Tenants("quiet"))
	require.NoError(t, err)
	uploads := map[string]int64{}
	for _, o := range opas {
		uploads[o.OPA] = o.Uploads
	}
	for i := range 5 {
		require.EqualValues(t, 2, uploads[fmt.Sprintf("new-%05d", i)], "those not seen for a day made room")
	}
	for i := range 2 {
		require.EqualValues(t, 2, uploads[fmt.Sprintf("gone-%05d", domain.MaxOPAs-1-i)], "and not those that just came back")
	}
}

func storeMarks(t *testing.T, h *StoreHarness) {
	mark := func(group, topicID string, partition int32, offset int64) domain.Mark {
		return domain.Mark{Group: group, Topic: "docket.decisions", TopicID: topicID, Partition: partition, Offset: offset}
	}
	var history string
	var err error
	advance := func(want bool, steps ...domain.MarkStep) {
		t.Helper()
		advanced, err := h.Control.AdvanceLogMarks(t.Context(), steps)
		require.NoError(t, err)
		require.Equal(t, want, advanced)
	}
	marks := func(group string) []domain.Mark {
		t.Helper()
		marks, now, err := h.Control.LogMarks(t.Context(), group)
		require.NoError(t, err)
		require.Equal(t, history, now, "nobody else has taken over")
		slices.SortFunc(marks, func(a, b domain.Mark) int { return int(a.Partition - b.Partition) })
		return marks
	}
	_, history, err = h.Control.LogMarks(t.Context(), "saver")
	require.NoError(t, err)
	require.Empty(t, marks("saver"))
	advance(true)
	advance(true, domain.MarkStep{Mark: mark("saver", "a", 0, 7)}, domain.MarkStep{Mark: mark("saver", "a", 1, 8)},
		domain.MarkStep{Mark: mark("parking", "a", 0, 99)})
	require.Equal(t, []domain.Mark{mark("saver", "a", 0, 7), mark("saver", "a", 1, 8)}, marks("saver"))
	advance(true, domain.MarkStep{Mark: mark("saver", "a", 0, 20), Before: 7})
	advance(true, domain.MarkStep{Mark: mark("saver", "a", 0, 10), Before: 7})
	require.EqualValues(t, 20, marks("saver")[0].Offset, "never back")
	// A store that was restored is behind what was written before: nothing moves.
	advance(false, domain.MarkStep{Mark: mark("saver", "a", 0, 40), Before: 20},
		domain.MarkStep{Mark: mark("saver", "a", 1, 41), Before: 30})
	advance(false, domain.MarkStep{Mark: mark("saver", "a", 2, 5), Before: 1})
	require.Equal(t, []domain.Mark{mark("saver", "a", 0, 20), mark("saver", "a", 1, 8)}, marks("saver"))
	// Another server has taken over since, if the store can tell; then nothing moves either.
	advance(true, domain.MarkStep{Mark: mark("saver", "a", 0, 21), Before: 20, History: history})
	advance(history == "", domain.MarkStep{Mark: mark("saver", "a", 0, 22), Before: 21, History: "another"})
	// A topic that was made anew has marks of its own.
	advance(true, domain.MarkStep{Mark: mark("saver", "b", 3, 1)})
	require.Len(t, marks("saver"), 3)
	require.NoError(t, h.Control.SetLogMarks(t.Context(), []domain.Mark{mark("saver", "a", 0, 2), mark("new", "a", 0, 3)}))
	require.EqualValues(t, 2, marks("saver")[0].Offset, "an operator moves it back")
	require.Equal(t, []domain.Mark{mark("new", "a", 0, 3)}, marks("new"))
}

func storeLosses(t *testing.T, h *StoreHarness) {
	loss := func(minute int, caller string, partition int32, first, last int64) domain.Loss {
		return domain.Loss{
			At: h.Now.Add(time.Duration(minute) * time.Minute).UTC().Truncate(time.Microsecond), Caller: caller,
			Group: "docket-saver", Topic: "docket.decisions", Partition: partition, First: first, Last: last,
		}
	}
	found, given := loss(0, "", 1, 3, 9), loss(2, "ann", 1, 3, 9)
	later := loss(1, "", 1, 20, 29)
	unknown := loss(3, "", 2, 0, -1)
	again := found
	again.At = again.At.Add(90 * time.Second)
	for _, l := range []domain.Loss{found, later, given, unknown, again, found} {
		require.NoError(t, h.Control.NoteLoss(t.Context(), l))
	}
	noted := func(partition int32) []domain.Loss {
		t.Helper()
		losses, err := h.Control.LogLosses(t.Context(), "docket.decisions", partition)
		require.NoError(t, err)
		for i := range losses {
			losses[i].At = losses[i].At.UTC()
		}
		return losses
	}
	require.Equal(t, []domain.Loss{given, again, later}, noted(1), "the newest first")
	require.Equal(t, []domain.Loss{unknown}, noted(2))
	require.Empty(t, noted(3))
}

// storeRejections has two processes that report to one table.
func storeRejections(t *testing.T, h *StoreHarness) {
	at := h.Now.Truncate(time.Minute).Add(30 * time.Second)
	rejection := func(text, path string) domain.Rejection {
		return domain.RejectionOf(&domain.Error{Class: domain.Invalid, Code: "23514", Text: text}, "default", path)
	}
	rejected := rejection("row 7 violates a check", "http/authz/allow")
	alike := rejection("row 8 violates a check", "http/authz/allow")
	elsewhere := rejection("row 9 violates a check", "kafka/authz/allow")
	require.Equal(t, rejected.Fingerprint, alike.Fingerprint, "numbers do not count")
	require.NotEqual(t, rejected.Fingerprint, elsewhere.Fingerprint)
	exchange := func(at time.Time, judged int64, rejections ...domain.Rejection) domain.RejectionReport {
		return h.exchange(t, at, "default", judged, rejections...)
	}
	require.Equal(t, domain.RejectionReport{}, exchange(at, 0))

	rejected.Rows = 70
	exchange(at.Add(-5*time.Minute), 6000, rejected)
	elsewhere.Rows = 10
	exchange(at, 2000, elsewhere, rejected)
	report := exchange(at, 3000)
	rejected.Rows = 140
	require.Equal(t, domain.RejectionReport{Judged: 11000, Rejections: []domain.Rejection{rejected, elsewhere}}, report)
	require.EqualValues(t, 150, report.Rejected())
	require.True(t, report.GuardOn())
	require.Equal(t, report, exchange(at.Add(-30*time.Second), 0), "clocks differ by a little")
	require.EqualValues(t, 5000, exchange(at.Add(6*time.Minute), 0).Judged, "the first minutes are past")
	require.Equal(t, domain.RejectionReport{}, exchange(at.Add(11*time.Minute), 0))
	exchange(at.Add(time.Hour), 1)
	require.Equal(t, report, exchange(at, 0), "a clock that is ahead takes nothing away, and does not count")

	require.NoError(t, h.Control.SetGuard(t.Context(), at, false))
	for range 2 {
		require.NoError(t, h.Control.SetGuard(t.Context(), at, true))
		require.True(t, exchange(at, 0).On)
	}
	require.NoError(t, h.Control.SetGuard(t.Context(), at, false))
	require.False(t, exchange(at, 0).On)

	accepted := domain.Acceptance{
		Fingerprint: rejected.Fingerprint, Tenants: domain.AllTenants(), At: at.UTC(), Until: at.Add(time.Hour).UTC(),
		Caller: "ann", Comment: "a test row",
	}
	entry := domain.AuditEntry{
		At: at.UTC(), Caller: "ann", Tenants: domain.AllTenants(), Action: "guard.accept", Target: rejected.Fingerprint,
	}
	require.NoError(t, h.Control.AcceptRejections(t.Context(), accepted, entry))
	report = exchange(at.Add(time.Second), 0)
	require.Equal(t, []domain.Acceptance{accepted}, report.Acceptances)
	require.EqualValues(t, 10, report.Rejected())
	require.False(t, report.GuardOn())
	require.NotEmpty(t, exchange(at.Add(30*time.Minute), 0).Acceptances, "also when no such row has come for long")
	read, err := h.Control.RejectionReport(t.Context(), domain.AllTenants(), at.Add(time.Second))
	require.NoError(t, err)
	require.Equal(t, report, read, "a reader sees what the processes tell each other")
	accepted.At, accepted.Until = at.Add(time.Second).UTC(), at.Add(2*time.Second).UTC()
	require.NoError(t, h.Control.AcceptRejections(t.Context(), accepted, entry))
	require.Empty(t, exchange(at.Add(3*time.Second), 0).Acceptances, "the last one has expired")

	revoke := func(at time.Time) bool {
		revoked, err := h.Control.RevokeAcceptance(
			t.Context(),
			domain.AllTenants(),
			rejected.Fingerprint,
			at,
			domain.AuditEntry{
				At: at.UTC(), Caller: "bob", Tenants: domain.AllTenants(), Action: "guard.revoke", Target: rejected.Fingerprint,
			},
		)
		require.NoError(t, err)
		return revoked
	}
	require.False(t, revoke(at.Add(3*time.Second)), "none is in force")
	accepted.At, accepted.Until = at.Add(4*time.Second).UTC(), at.Add(time.Hour).UTC()
	require.NoError(t, h.Control.AcceptRejections(t.Context(), accepted, entry))
	require.True(t, revoke(at.Add(5*time.Second)))
	require.Empty(t, exchange(at.Add(6*time.Second), 0).Acceptances)
	require.False(t, revoke(at.Add(6*time.Second)))
	require.Equal(
		t, []string{"guard.revoke", "guard.accept", "guard.accept", "guard.accept"}, h.actions(t, domain.AllTenants()),
		"each with its entry in the audit, and nothing for what was not done",
	)
}

// exchange reports what a process has judged of one tenant's rows.
func (h *StoreHarness) exchange(
	t *testing.T, at time.Time, tenant string, judged int64, rejections ...domain.Rejection,
) domain.RejectionReport {
	t.Helper()
	tally := domain.RejectionTally{Rejections: rejections}
	if judged > 0 {
		tally.Judged = map[string]int64{tenant: judged}
	}
	r, err := h.Control.ExchangeRejections(t.Context(), at, tally)
	require.NoError(t, err)
	return r
}

// actions are what the audit has, the newest first.
func (h *StoreHarness) actions(t *testing.T, scope domain.Scope) (actions []string) {
	t.Helper()
	entries, err := h.Control.Audits(t.Context(), scope, time.Time{}, 1000)
	require.NoError(t, err)
	for _, e := range entries {
		actions = append(actions, e.Action)
	}
	return actions
}
