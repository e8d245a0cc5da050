package porttest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// StoreHarness is the store of one test, empty at first.
type StoreHarness struct {
	Decisions ports.Decisions
	Control   ports.Control
	// Window is what the store was opened with, and Now its clock at every call.
	Window domain.Window
	Now    time.Time
	// JSON is how the store keeps events once it is reopened.
	JSON bool
	// SearchTime is how long a search may look at rows once the store is reopened; 0 is as long as ever.
	SearchTime time.Duration
	// Reopen closes the store and opens it again.
	Reopen func(t *testing.T) (ports.Decisions, ports.Control)
	// Poison makes the store refuse rows with this decision id: for ever when the class is Invalid, and for reasons
	// of its own when it is Unknown.
	Poison func(t *testing.T, id string, class domain.Class)
	// Skip makes the store skip rows with this decision id without an error; the returned func ends that.
	Skip func(t *testing.T, id string) (restore func())
	// Break makes every write fail with an error of the class; the returned func ends that.
	Break func(t *testing.T, class domain.Class) (restore func())
	// Exec changes what stands in the store behind its back. WrongDictionary are statements, parted by semicolons, that
	// give every dictionary other bytes.
	Exec            func(t *testing.T, statements ...string)
	WrongDictionary string
	// EventBytes is how many bytes a row keeps its event in.
	EventBytes func(t *testing.T, id string) int
	// Tamper tries to change the audit, and to delete from it, and requires that neither can be done.
	Tamper func(t *testing.T)
}

// Decisions runs the suite of decisions.go.
func Decisions(t *testing.T, harness func(t *testing.T) *StoreHarness) {
	t.Helper()
	runStore(t, harness, []storeCase{
		{"every column and byte comes back", storeRoundTrip},
		{"a batch resent stores nothing twice", storeIdempotent},
		{"the first bytes of a key win", storeConflict},
		{"placement by timestamp", storePlacement},
		{"a write skips what the other table holds", storeNeighbour},
		{"tenants do not see each other's keys", storeTenants},
		{"sanitised and unsearchable rows are stored", storeSanitised},
		{"a poison row fails its batch and only that", storePoison},
		{"a row that is skipped in silence is told of", storeSkipped},
		{"an outage is not the rows' fault", storeOutage},
		{"rows survive a restart", storeReopen},
		{"search filters", storeFilters},
		{"search pages without gaps or repeats", storePages},
		{"heavy pages end early", storeHeavyPages},
		{"searches find what fits", storeSearches},
		{"a search without time goes on where it ended", storeSearchesInSteps},
		{"a search that is given up is canceled", storeSearchesGivenUp},
		{"a canceled context stores nothing", storeCanceled},
		{"an id that is not there is no error", storeAbsent},
		{"a scope hides other tenants' decisions", scopeDecisions},
		{"columns are read with their events, and changed", storeColumns},
		{"decisions are erased, and taken out of the counts", storeEraseDecisions},
		{"events are packed with their tenant's dictionaries", storeDictionaries},
		{"packed events and JSON are read alike", storeBothKinds},
		{"dictionaries that a backup lacks are written down again", storeLosesDictionaries},
		{"a dictionary that is lost or wrong is damage", storeMissesDictionary},
		{"a lease has one owner", storeLeases},
		{"counts are exact", storeCounts},
		{"statistics are those of the rows", storeStats},
		{"counts go with their day", storeCountsOfDroppedDays},
		{"counts of paths that were made up are bounded", storeCountsOfMadeUpPaths},
		{"days are listed and dropped", storeDays},
		{"the retention in force stands in the store", storeRetention},
		{"a dry run tells what would happen and stores nothing", storeDryRun},
	})
}

// Control runs the suite of control.go.
func Control(t *testing.T, harness func(t *testing.T) *StoreHarness) {
	t.Helper()
	runStore(t, harness, []storeCase{
		{"a scope hides other tenants' OPAs", scopeOPAs},
		{"a scope hides other tenants' credentials", scopeCredentials},
		{"a scope hides other tenants' rejections and acceptances", scopeRejections},
		{"a scope hides other tenants' dead letters", scopeDeadLetters},
		{"a scope hides other tenants' jobs and audit", scopeJobs},
		{"rejections add up, expire and are accepted", storeRejections},
		{"marks of the log move on, and not back", storeMarks},
		{"losses of the log are noted once", storeLosses},
		{"OPAs are counted and their interval is learned", storeOPAs},
		{"uses of credentials add up", storeCredentials},
		{"ended sessions stay ended for their time", storeEndedSessions},
		{"processes tell of themselves", storeProcesses},
		{"every column of a dead letter comes back", storeDeadLetters},
		{"copies of a dead letter are one", storeDeadCopies},
		{"a dead letter whose row exists closes itself", storeDeadStored},
		{"dead letters are filtered and paged", storeDeadSearch},
		{"dead letters are grouped, and forgotten with their records", storeDeadGroups},
		{"jobs are made, taken up, paused and ended", storeJobs},
		{"a job that is not over has no twin", storeTwins},
		{"erasures are ordered with their jobs, and forget whom they are about", storeErasures},
		{"dead letters are erased from the index", storeEraseLetters},
		{"a replay moves dead letters and counts what becomes of them", storeReplay},
		{"what fails in another class takes the place of what was replayed", storeReplayOfAnotherClass},
		{"the audit only grows", storeAudit},
	})
}

// storeCase is one case of a suite.
type storeCase struct {
	name string
	run  func(t *testing.T, h *StoreHarness)
}

func runStore(t *testing.T, harness func(t *testing.T) *StoreHarness, cases []storeCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, harness(t)) })
	}
}

// row makes a decision inside the window, n seconds before the harness's now.
func (h *StoreHarness) row(n int, edit ...func(*domain.Decision)) domain.Decision {
	at := h.Now.Add(-time.Duration(n) * time.Second).UTC().Truncate(time.Microsecond)
	d := domain.Decision{
		Tenant: "default", ID: fmt.Sprintf("id-%d", n), Timestamp: at, ReceivedAt: at.Add(2 * time.Second),
		Outcome: domain.OutcomeDenied, Event: fmt.Appendf(nil, `{"decision_id":"id-%d"}`, n),
	}
	for _, e := range edit {
		e(&d)
	}
	d.SHA256 = sha256.Sum256(d.Event)
	return d
}

func (h *StoreHarness) save(t *testing.T, want domain.SaveStatus, rows ...domain.Decision) {
	t.Helper()
	statuses, err := h.Decisions.SaveBatch(t.Context(), rows)
	require.NoError(t, err)
	require.Len(t, statuses, len(rows))
	for i, status := range statuses {
		require.Equal(t, want, status, "row %d (%s)", i, rows[i].ID)
	}
}

func (h *StoreHarness) get(t *testing.T, id string) []domain.Decision {
	t.Helper()
	rows, err := h.Decisions.Decisions(t.Context(), domain.AllTenants(), id)
	require.NoError(t, err)
	return rows
}

func storeRoundTrip(t *testing.T, h *StoreHarness) {
	want := h.row(1, func(d *domain.Decision) {
		d.Tenant, d.ID = "acme", "weird/%2F id\u2028💥"
		d.Path, d.Reason, d.Principal, d.Action, d.Resource = "http/authz/allow", "not the owner", "alice", "GET",
			"finance/salary"
		d.OPA, d.App, d.TraceID, d.RequestedBy = "opa-1", "shop", "4bf92f3577b34da6a3ce929d0e0e4736", "10.0.0.1:5"
		d.BatchID = "batch-1"
		d.Masked = "reason, principal"
		d.Error, d.Outcome = "eval_conflict_error: two", domain.OutcomeError
		d.Bundles = []domain.Bundle{{Name: "a", Revision: "1"}, {Name: "b", Revision: ""}}
		d.Event = []byte("{\"a\":\"\\u0000\\ud800\",\"a\":1e99999, \"n\":1.000000000000000000001}")
		d.Sanitised, d.Unsearchable = true, true
	})
	h.save(t, domain.Saved, want)
	got := h.get(t, want.ID)
	require.Len(t, got, 1)
	require.False(t, got[0].SavedAt.IsZero())
	got[0].SavedAt = time.Time{}
	require.Empty(t, cmp.Diff(want, got[0]))
}

func storeIdempotent(t *testing.T, h *StoreHarness) {
	rows := []domain.Decision{h.row(1), h.row(2), h.row(3)}
	h.save(t, domain.Saved, rows...)
	h.save(t, domain.Duplicate, rows...)
	again := h.row(2, func(d *domain.Decision) { d.ReceivedAt = d.ReceivedAt.Add(time.Hour) })
	h.save(t, domain.Duplicate, again)

	statuses, err := h.Decisions.SaveBatch(t.Context(), []domain.Decision{h.row(4), h.row(4), h.row(1)})
	require.NoError(t, err)
	require.Equal(t, []domain.SaveStatus{domain.Saved, domain.Duplicate, domain.Duplicate}, statuses)
	require.Len(t, h.get(t, "id-4"), 1)

	statuses, err = h.Decisions.SaveBatch(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, statuses)
}

func storeConflict(t *testing.T, h *StoreHarness) {
	first := h.row(1)
	h.save(t, domain.Saved, first)
	other := h.row(1, func(d *domain.Decision) { d.Event = []byte(`{"decision_id":"id-1","forged":true}`) })
	h.save(t, domain.Conflicting, other)
	got := h.get(t, first.ID)
	require.Len(t, got, 1)
	require.Equal(t, first.Event, got[0].Event)

	inBatch := h.row(2, func(d *domain.Decision) { d.Event = []byte(`{"second":2}`) })
	statuses, err := h.Decisions.SaveBatch(t.Context(), []domain.Decision{h.row(2), inBatch})
	require.NoError(t, err)
	require.Equal(t, []domain.SaveStatus{domain.Saved, domain.Conflicting}, statuses)

	// Duplicates of every kind at once: inside, without a timestamp, ahead of the window, and twice in the batch.
	var mixed []domain.Decision
	for n := range 4 {
		mixed = append(mixed, h.row(100+n), h.row(200+n, func(d *domain.Decision) { d.Timestamp = time.Time{} }),
			h.row(300+n, func(d *domain.Decision) {
				d.Timestamp = h.Now.Add(h.Window.Ahead + time.Duration(n+1)*time.Hour).UTC().Truncate(time.Microsecond)
			}))
	}
	h.save(t, domain.Saved, mixed...)
	h.save(t, domain.Duplicate, append(mixed, mixed...)...)

	// Another timestamp is another key.
	later := h.row(1, func(d *domain.Decision) { d.Timestamp = d.Timestamp.Add(time.Minute) })
	h.save(t, domain.Saved, later)
	require.Len(t, h.get(t, "id-1"), 2)
}

func storePlacement(t *testing.T, h *StoreHarness) {
	at := func(ts time.Time) func(*domain.Decision) {
		return func(d *domain.Decision) { d.Timestamp, d.ReceivedAt = ts, h.Now.UTC().Truncate(time.Microsecond) }
	}
	const margin = time.Minute
	for i, c := range []struct {
		name string
		ts   time.Time
		want domain.SaveStatus
	}{
		{"now", h.Now, domain.Saved},
		{"the oldest that is kept", h.Now.Add(-h.Window.Retention + margin), domain.Saved},
		{"too old", h.Now.Add(-h.Window.Retention - margin), domain.TooOld},
		{"a century ago", h.Now.AddDate(-100, 0, 0), domain.TooOld},
		{"a little ahead", h.Now.Add(h.Window.Ahead - margin), domain.Saved},
		{"too far ahead", h.Now.Add(h.Window.Ahead + margin), domain.Saved},
		{"the year 9999", time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC), domain.Saved},
		{"none", time.Time{}, domain.Saved},
	} {
		ts := c.ts.UTC().Truncate(time.Microsecond)
		d := h.row(1000+i, at(ts))
		statuses, err := h.Decisions.SaveBatch(t.Context(), []domain.Decision{d})
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, statuses[0], c.name)
		got := h.get(t, d.ID)
		if c.want == domain.TooOld {
			require.Empty(t, got, c.name)
			continue
		}
		require.Len(t, got, 1, c.name)
		require.Equal(t, ts, got[0].Timestamp, c.name)
		require.Equal(t, d.Time(), got[0].Time(), c.name)
		// The same event again is the same row, wherever it is kept.
		h.save(t, domain.Duplicate, d)
	}
	// Where a row belongs goes by when it was logged, whatever the store's clock says.
	for i, c := range []struct {
		name   string
		logged time.Duration // from now
		ts     time.Duration
		want   domain.SaveStatus
		key    bool // the timestamp is part of it
	}{
		{"ahead of its time in the log", -10 * time.Hour, h.Window.Ahead - 5*time.Hour, domain.Saved, false},
		{"not ahead of its time in the log", 10 * time.Hour, h.Window.Ahead + 5*time.Hour, domain.Saved, true},
		{"too old when it was logged", 10 * time.Hour, -h.Window.Retention + 5*time.Hour, domain.TooOld, false},
		{"not too old when it was logged", -10 * time.Hour, -h.Window.Retention - 5*time.Hour, domain.Saved, true},
	} {
		edit := func(d *domain.Decision) { d.LoggedAt = h.Now.Add(c.logged) }
		ts := h.Now.Add(c.ts).UTC().Truncate(time.Microsecond)
		h.save(t, c.want, h.row(3000+i, at(ts), edit))
		if c.want == domain.Saved {
			again := map[bool]domain.SaveStatus{true: domain.Saved, false: domain.Duplicate}[c.key]
			h.save(t, again, h.row(3000+i, at(ts.Add(time.Second)), edit))
		}
	}
	// Out of the window the key has no timestamp.
	absent := h.row(2000, at(time.Time{}))
	h.save(t, domain.Saved, absent)
	future := h.row(
		2000, at(h.Now.Add(48*time.Hour).Truncate(time.Microsecond)),
		func(d *domain.Decision) { d.Event = []byte(`{"x":1}`) },
	)
	h.save(t, domain.Conflicting, future)
}

func storeNeighbour(t *testing.T, h *StoreHarness) {
	// A decision ahead of the window is kept outside of it. When OPA sends it again later, its timestamp is inside.
	ahead := h.row(0, func(d *domain.Decision) {
		d.Timestamp = h.Now.Add(h.Window.Ahead + time.Hour).UTC().Truncate(time.Microsecond)
	})
	h.save(t, domain.Saved, ahead)
	h.Now = h.Now.Add(2 * time.Hour)
	h.save(t, domain.Duplicate, ahead)
	forged := ahead
	forged.Event = []byte(`{"forged":true}`)
	forged.SHA256 = sha256.Sum256(forged.Event)
	h.save(t, domain.Conflicting, forged)
	require.Len(t, h.get(t, ahead.ID), 1)

	// The other way round, a clock that is set back.
	inside := h.row(1, func(d *domain.Decision) {
		d.Timestamp = h.Now.Add(h.Window.Ahead - time.Minute).UTC().Truncate(time.Microsecond)
	})
	h.save(t, domain.Saved, inside)
	h.Now = h.Now.Add(-2 * time.Hour)
	h.save(t, domain.Duplicate, inside)
	require.Len(t, h.get(t, inside.ID), 1)

	page, err := h.Decisions.Search(
		t.Context(), domain.AllTenants(), domain.Query{Filter: domain.Filter{Since: h.Now.Add(-time.Hour)}, Limit: 10},
	)
	require.NoError(t, err)
	require.Len(t, page.Items, 2, "both tables, without repeats")
}

func storeTenants(t *testing.T, h *StoreHarness) {
	h.save(
		t, domain.Saved, h.row(1), h.row(1, func(d *domain.Decision) { d.Tenant = "other"; d.Event = []byte(`{"o":1}`) }),
	)
	require.Len(t, h.get(t, "id-1"), 2)
}

func storeSanitised(t *testing.T, h *StoreHarness) {
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	raw := []byte(
		`{"decision_id":"nul","path":"a\u0000b","labels":{"id":"\ud800"},"timestamp":"` + h.Now.Format(
			time.RFC3339Nano,
		) + `","result":true,"input":{"user":"x\udfffy"}}`,
	)
	d := p.Project(domain.Record{Value: raw, Headers: domain.Headers{ReceivedAt: h.Now}})
	require.True(t, d.Sanitised && d.Unsearchable)
	h.save(t, domain.Saved, d, h.row(1))
	got := h.get(t, "nul")
	require.Len(t, got, 1)
	require.Equal(t, raw, got[0].Event)
	require.Equal(t, "a\uFFFDb", got[0].Path)
	require.True(t, got[0].Sanitised && got[0].Unsearchable)
	page, err := h.Decisions.Search(
		t.Context(), domain.AllTenants(), domain.Query{Filter: domain.Filter{Since: h.Now.Add(-time.Hour)}, Limit: 10},
	)
	require.NoError(t, err)
	require.Len(t, page.Items, 2, "one such row does not break a search")
}

func storePoison(t *testing.T, h *StoreHarness) {
	h.Poison(t, "id-2", domain.Invalid)
	h.Poison(t, "id-3", domain.Unknown)
	for id, class := range map[int]domain.Class{2: domain.Invalid, 3: domain.Unknown} {
		_, err := h.Decisions.SaveBatch(t.Context(), []domain.Decision{h.row(1), h.row(id), h.row(4)})
		require.Equal(t, class, domain.ClassOf(err), "%v", err)
		require.Empty(t, h.get(t, "id-1"), "nothing of a failed batch is stored")
		require.NoError(t, h.Decisions.Probe(t.Context()), "the store itself is well")
	}
	h.save(t, domain.Saved, h.row(1), h.row(4))
}

func storeSkipped(t *testing.T, h *StoreHarness) {
	restore := h.Skip(t, "id-2")
	inside := []domain.Decision{h.row(1), h.row(2), h.row(3)}
	timeless := h.row(2, func(d *domain.Decision) { d.Timestamp = time.Time{} })
	want := []domain.SaveStatus{domain.Saved, domain.Skipped, domain.Saved}
	statuses, err := h.Decisions.DryRunBatch(t.Context(), inside)
	require.NoError(t, err)
	require.Equal(t, want, statuses, "in a dry run")
	statuses, err = h.Decisions.SaveBatch(t.Context(), inside)
	require.NoError(t, err)
	require.Equal(t, want, statuses)
	require.Len(t, h.get(t, "id-3"), 1, "the others are stored")
	h.save(t, domain.Skipped, inside[1])
	h.save(t, domain.Skipped, timeless)
	restore()
	h.save(t, domain.Saved, inside[1])
	h.save(t, domain.Duplicate, inside[1])
}

func storeOutage(t *testing.T, h *StoreHarness) {
	for _, class := range []domain.Class{domain.Unavailable, domain.Misconfigured} {
		restore := h.Break(t, class)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := h.Decisions.SaveBatch(ctx, []domain.Decision{h.row(1)})
		require.Equal(t, class, domain.ClassOf(err), "%v", err)
		require.Error(t, h.Decisions.Probe(ctx))
		cancel()
		restore()
	}
	require.NoError(t, h.Decisions.Probe(t.Context()))
	h.save(t, domain.Saved, h.row(1))
	require.Empty(t, h.get(t, "probe"), "a probe leaves nothing behind")
}

func storeReopen(t *testing.T, h *StoreHarness) {
	h.save(t, domain.Saved, h.row(1))
	h.Decisions, h.Control = h.Reopen(t)
	require.Len(t, h.get(t, "id-1"), 1)
	h.save(t, domain.Duplicate, h.row(1))
}

func storeFilters(t *testing.T, h *StoreHarness) {
	set := func(edit func(*domain.Decision)) func(*domain.Decision) { return edit }
	h.save(t, domain.Saved,
		h.row(10, set(func(d *domain.Decision) {
			d.Path, d.Principal, d.Action, d.Outcome = "http/authz/allow", "alice", "GET", domain.OutcomeAllowed
			d.Bundles = []domain.Bundle{{Name: "authz", Revision: "r1"}, {Name: "data", Revision: "r9"}}
		})),
		h.row(20, set(func(d *domain.Decision) {
			d.Path, d.Principal, d.Action = "http/authz/deny", "bob", "POST"
			d.Bundles = []domain.Bundle{{Name: "authz", Revision: "r2"}}
		})),
		h.row(30, set(func(d *domain.Decision) { d.Path, d.Tenant, d.OPA = "k8s/admission", "acme", "opa%1" })),
		h.row(40, set(func(d *domain.Decision) { d.Error, d.Outcome, d.App = "boom: x", domain.OutcomeError, "shop" })),
		h.row(50, set(func(d *domain.Decision) { d.Timestamp = time.Time{}; d.TraceID, d.Resource = "abc", "a_b" })),
		h.row(int((48 * time.Hour).Seconds())),
	)
	for query, want := range map[string][]string{
		"":                               {"id-10", "id-20", "id-30", "id-40", "id-50"},
		"since=35s":                      {"id-10", "id-20", "id-30"},
		"since=3d":                       {"id-10", "id-20", "id-30", "id-40", "id-50", "id-172800"},
		"until=25s":                      {"id-30", "id-40"}, // id-50 was received 48 s ago and goes by that
		"outcome=allowed":                {"id-10"},
		"outcome=allowed&outcome=error":  {"id-10", "id-40"},
		"outcome=!denied":                {"id-10", "id-40"},
		"path=http/authz/*":              {"id-10", "id-20"},
		"path=/http/authz/allow":         {"id-10"},
		"path=http/*&path=k8s/admission": {"id-10", "id-20", "id-30"},
		"path=!http/*":                   {"id-30", "id-40", "id-50"},
		"resource=a_**":                  {},
		"resource=!!a":                   {},
		"path=http/*&path=!*/deny":       {"id-10", "id-20"},
		"path=http/*&principal=!alice":   {"id-20"},
		"principal=alice&action=POST":    {},
		"tenant=acme":                    {"id-30"},
		"opa=opa%25*":                    {"id-30"},
		"opa=opa_1":                      {},
		"resource=a_*":                   {"id-50"},
		"resource=a%25":                  {},
		"app=shop":                       {"id-40"},
		"error=*":                        {"id-40"},
		"error=boom*":                    {"id-40"},
		"error=!*":                       {"id-10", "id-20", "id-30", "id-50"},
		"trace_id=abc":                   {"id-50"},
		"revision=r9":                    {"id-10"},
		"revision=r*":                    {"id-10", "id-20"},
		"revision=!r1":                   {"id-20", "id-30", "id-40", "id-50"},
	} {
		t.Run(query, func(t *testing.T) {
			values, err := url.ParseQuery(query)
			require.NoError(t, err)
			q, err := domain.ParseQuery(values, h.Now)
			require.NoError(t, err)
			if query == "until=25s" {
				want = append(want, "id-50")
			}
			page, err := h.Decisions.Search(t.Context(), domain.AllTenants(), q)
			require.NoError(t, err)
			got := []string{}
			for _, d := range page.Items {
				got = append(got, d.ID)
				require.Nil(t, d.Event, "a list does not carry events")
			}
			require.ElementsMatch(t, want, got)
		})
	}
}

func storeCanceled(t *testing.T, h *StoreHarness) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.Decisions.SaveBatch(ctx, []domain.Decision{h.row(1)})
	require.Equal(t, domain.Canceled, domain.ClassOf(err), "%v", err)
	require.Empty(t, h.get(t, "id-1"))
}

func storeAbsent(t *testing.T, h *StoreHarness) {
	require.Empty(t, h.get(t, "never-seen"))
	require.Empty(t, h.get(t, ""))
}
