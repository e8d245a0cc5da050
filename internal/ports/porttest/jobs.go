package porttest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// job makes a job over the dead letters that fit.
func (h *StoreHarness) job(t *testing.T, id, query string, edit ...func(*domain.Job)) domain.Job {
	t.Helper()
	j := domain.Job{
		ID: id, Kind: domain.Replay, Filter: deadQuery(t, query).Filter, Tenants: domain.AllTenants(), Rate: 12.5, Max: 100,
		MaxReplays: 3, StopRatio: 0.1, Comment: "fixed", Caller: "ann", State: domain.JobPending,
		Message: domain.Say("waits", nil), Matched: 7, CreatedAt: h.Now.UTC().Truncate(time.Microsecond),
	}
	for _, e := range edit {
		e(&j)
	}
	twin, err := h.Control.CreateJob(t.Context(), j, domain.AuditEntry{
		At: j.CreatedAt, Caller: j.Caller, Tenants: j.Tenants, Action: "replay.create", Target: j.ID,
	})
	require.NoError(t, err)
	require.Empty(t, twin)
	return j
}

func (h *StoreHarness) claim(t *testing.T, lane domain.Lane, owner string, at time.Time) (domain.Job, bool) {
	t.Helper()
	j, found, err := h.Control.ClaimJob(t.Context(), lane, owner, at, at.Add(10*time.Second))
	require.NoError(t, err)
	return j, found
}

// move moves a job for a caller; without one the audit is told nothing.
func (h *StoreHarness) move(t *testing.T, id string, m domain.JobMove, caller string) bool {
	t.Helper()
	now := h.Now.UTC().Truncate(time.Microsecond)
	entry := domain.AuditEntry{}
	if caller != "" {
		entry = domain.AuditEntry{
			At: now, Caller: caller, Tenants: domain.AllTenants(), Action: "replay." + string(m), Target: id,
		}
	}
	moved, err := h.Control.MoveJob(t.Context(), domain.AllTenants(), id, m, domain.Say("moved", nil), now, entry)
	require.NoError(t, err)
	return moved
}

func storeJobs(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	now := h.Now.UTC().Truncate(time.Microsecond)
	want := h.job(t, "r-1", "class=invalid&path=http*&since="+now.Add(-time.Hour).Format(time.RFC3339))
	got, found, err := h.Control.Job(ctx, domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, want, got)
	_, found, err = h.Control.Job(ctx, domain.AllTenants(), "r-0")
	require.NoError(t, err)
	require.False(t, found)

	twin := want
	twin.ID = "r-2"
	same, err := h.Control.CreateJob(ctx, twin, domain.AuditEntry{At: now, Action: "replay.create", Target: "r-2"})
	require.NoError(t, err)
	require.Equal(t, "r-1", same, "the same is being done already")
	dry := h.job(t, "r-3", "class=invalid", func(j *domain.Job) { j.DryRun = true })
	h.job(t, "r-4", "class=invalid", func(j *domain.Job) { j.CreatedAt = j.CreatedAt.Add(time.Second) })

	taken, found := h.claim(t, domain.DeadLetterJobs, "one", now)
	require.True(t, found)
	require.Equal(t, "r-1", taken.ID, "the oldest")
	require.Equal(t, domain.JobRunning, taken.State)
	require.Equal(t, now, taken.StartedAt)
	_, found = h.claim(t, domain.DeadLetterJobs, "two", now)
	require.False(t, found, "one at a time, and it is taken")
	taken, found = h.claim(t, domain.DryRuns, "two", now)
	require.True(t, found, "dry runs do not wait for it")
	require.Equal(t, dry.ID, taken.ID)
	_, found = h.claim(t, domain.DeadLetterJobs, "one", now)
	require.True(t, found, "the owner may ask again")
	taken, found = h.claim(t, domain.DeadLetterJobs, "two", now.Add(11*time.Second))
	require.True(t, found, "and others once its lease is over")
	require.Equal(t, "two", taken.Owner)

	report := &domain.DryRunReport{
		Histogram: []domain.Tally{{Cause: domain.Rejected, Letters: 3}}, Tried: 3,
		Statuses: map[domain.SaveStatus]int{domain.Saved: 3},
	}
	after, err := h.Control.AdvanceJob(
		ctx,
		domain.JobStep{Job: "r-1", Owner: "one", At: now, LeaseUntil: now, State: domain.JobDone},
	)
	require.NoError(t, err)
	require.Equal(t, domain.JobRunning, after.State, "it is not the owner any more")
	position := domain.Position{Topic: "docket.dlq", Partition: 1, Offset: 7}
	after, err = h.Control.AdvanceJob(ctx, domain.JobStep{
		Job: "r-1", Owner: "two", At: now, LeaseUntil: now.Add(time.Minute), After: position, Skipped: 2, Done: 9,
		Matched: 99,
		Report:  report, Message: domain.Say("half-way", nil),
	})
	require.NoError(t, err)
	require.Equal(t, position, after.After)
	require.Equal(t, report, after.Report)
	require.Equal(t, []int64{2, 9, 99}, []int64{after.Skipped, after.Done, after.Matched})
	require.Equal(t, domain.Say("half-way", nil), after.Message)

	require.True(t, h.move(t, "r-1", domain.Pause, "ann"))
	require.False(t, h.move(t, "r-1", domain.Pause, "ann"), "it is paused already")
	after, err = h.Control.AdvanceJob(
		ctx,
		domain.JobStep{Job: "r-1", Owner: "two", At: now, LeaseUntil: now, State: domain.JobDone},
	)
	require.NoError(t, err)
	require.Equal(t, domain.JobPaused, after.State, "who was working on it sees that")
	require.Equal(t, position, after.After)
	late, err := h.Control.MoveLetters(ctx, domain.LetterStep{
		JobStep: domain.JobStep{Job: "r-1", Owner: "two", At: now, LeaseUntil: now, After: domain.Position{Topic: "z"}},
		Moved:   []domain.DeadLetter{h.dead(77)}, To: domain.DeadReplayed, Reparsed: 1,
	})
	require.NoError(t, err)
	require.Equal(t, []int64{10, 1}, []int64{late.Done, late.Reparsed}, "what was dealt with counts also after that")
	require.Equal(t, position, late.After)
	require.True(t, h.move(t, "r-1", domain.Resume, ""))
	_, found = h.claim(t, domain.DeadLetterJobs, "three", now)
	require.True(t, found, "the oldest is taken up again")
	require.True(t, h.move(t, "r-1", domain.Pause, ""))
	_, found = h.claim(t, domain.DeadLetterJobs, "four", now)
	require.True(t, found, "the next one meanwhile")
	require.True(t, h.move(t, "r-1", domain.Resume, ""))
	_, found = h.claim(t, domain.DeadLetterJobs, "five", now)
	require.False(t, found, "and one at a time then as well")
	require.True(t, h.move(t, "r-4", domain.Cancel, ""))
	after, _, err = h.Control.Job(ctx, domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.EqualValues(t, 10, after.BaseDone, "failures are judged from here on")
	require.True(t, h.move(t, "r-1", domain.Cancel, "ann"))
	after, _, err = h.Control.Job(ctx, domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.Equal(t, now, after.FinishedAt)
	h.job(
		t, "r-5", "", func(j *domain.Job) { j.Filter = want.Filter },
	) // which the one that is over does not keep from being made
	entries, err := h.Control.Audits(ctx, domain.AllTenants(), time.Time{}, 100)
	require.NoError(t, err)
	actions := map[string]int{}
	for _, e := range entries {
		actions[e.Action+" "+e.Target]++
	}
	require.Equal(t, map[string]int{
		"replay.create r-1": 1,
		"replay.create r-3": 1,
		"replay.create r-4": 1,
		"replay.create r-5": 1,
		"replay.pause r-1":  1,
		"replay.cancel r-1": 1,
	}, actions, "what was done, and nothing that was not")
	list, err := h.Control.Jobs(ctx, domain.AllTenants())
	require.NoError(t, err)
	require.Len(t, list, 4)
	require.Equal(t, "r-4", list[0].ID, "the newest first")
}

// storeTwins has a job in every state: one that is not over keeps the same from being made.
func storeTwins(t *testing.T, h *StoreHarness) {
	for _, state := range domain.JobStates {
		edit := func(id string, dry bool) domain.Job {
			return domain.Job{
				ID: id, Kind: domain.Replay, DryRun: dry, Filter: deadQuery(t, "path="+string(state)).Filter, Tenants: ownScope,
				MaxReplays: 3, StopRatio: 0.1, Comment: "x", Caller: "ann", State: domain.JobPending,
				CreatedAt: h.Now.UTC().Truncate(time.Microsecond),
			}
		}
		first := edit("first-"+string(state), false)
		first.State = state
		create := func(j domain.Job) string {
			t.Helper()
			twin, err := h.Control.CreateJob(t.Context(), j, domain.AuditEntry{})
			require.NoError(t, err)
			return twin
		}
		require.Empty(t, create(first))
		want := first.ID
		if state.Over() {
			want = ""
		}
		require.Empty(t, create(edit("dry-"+string(state), true)), "a dry run is nobody's twin")
		elsewhere := edit("elsewhere-"+string(state), false)
		elsewhere.Tenants = domain.Tenants(foreign)
		require.Empty(t, create(elsewhere), "nor is a job of other tenants")
		discard := edit("discard-"+string(state), false)
		discard.Kind = domain.Discard
		require.Empty(t, create(discard), "nor one that does something else")
		over := edit("over-"+string(state), false)
		over.State, over.CreatedAt = domain.JobDone, over.CreatedAt.Add(time.Second)
		require.Empty(t, create(over), "one that had nothing to do is over at once")
		require.Equal(t, want, create(edit("second-"+string(state), false)), state)
	}
}

func storeReplay(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	now := h.Now.UTC().Truncate(time.Microsecond)
	var letters []domain.DeadLetter
	for n := range 8 {
		letters = append(letters, h.dead(n+1, func(l *domain.DeadLetter) {
			if n == 7 {
				l.Replays = 3
			}
		}))
	}
	h.index(t, letters...)
	j := h.job(t, "r-1", "state=open")
	ids := func(limit int) (ids []string) {
		t.Helper()
		next, err := h.Control.LettersOfJob(ctx, j, limit)
		require.NoError(t, err)
		for _, l := range next {
			ids = append(ids, l.ID)
		}
		return ids
	}
	require.Equal(t, []string{"docket.dlq:0:2", "docket.dlq:0:4", "docket.dlq:0:6"}, ids(3), "in the log's order")
	require.Len(t, ids(100), 7, "without what was replayed too often")
	n, err := h.Control.CountLettersOfJob(ctx, j)
	require.NoError(t, err)
	require.EqualValues(t, 7, n)
	tallies, err := h.Control.TallyLettersOfJob(ctx, j)
	require.NoError(t, err)
	require.Equal(
		t,
		[]domain.Tally{
			{
				Cause:   domain.Rejected,
				Path:    "http/authz/allow",
				Class:   domain.Invalid,
				Code:    "23514",
				Error:   "check #",
				Letters: 7,
			},
		},
		tallies,
	)

	_, found := h.claim(t, domain.DeadLetterJobs, "one", now)
	require.True(t, found)
	// The first comes back before it is written down that it was sent, the third is stored by then, and the second fails
	// at once.
	first, second, third, fourth := letters[1], letters[3], letters[5], letters[0]
	back := copyOf(first, 300, "r-1")
	h.index(t, back)
	h.save(t, domain.Saved, h.row(6))
	j, err = h.Control.MoveLetters(ctx, domain.LetterStep{
		JobStep: domain.JobStep{Job: "r-1", Owner: "one", At: now, LeaseUntil: now.Add(time.Minute), After: fourth.Position},
		Moved:   []domain.DeadLetter{first, third, fourth},
		Failed:  []domain.Position{second.Position},
		To:      domain.DeadReplayed,
	})
	require.NoError(t, err)
	require.Equal(t, []int64{4, 1, 2, 1}, []int64{j.Done, j.Stored, j.Failed, j.OnTheWay()})
	require.Equal(t, domain.DeadOpen, h.deadLetter(t, first.ID).State, "it has come back")
	require.Equal(t, domain.DeadOpen, h.deadLetter(t, second.ID).State)
	require.Equal(t, 1, h.deadLetter(t, second.ID).Replays)
	require.Equal(t, domain.DeadStored, h.deadLetter(t, third.ID).State)
	require.Equal(t, domain.DeadReplayed, h.deadLetter(t, fourth.ID).State)
	require.Equal(t, "r-1", h.deadLetter(t, fourth.ID).Replay)
	require.Equal(t, []string{"docket.dlq:1:3", "docket.dlq:1:5", "docket.dlq:1:7"}, ids(100))
	j.After = domain.Position{}
	require.Equal(
		t, []string{"docket.dlq:1:3", "docket.dlq:1:5", "docket.dlq:1:7"}, ids(100), "nothing twice, wherever it begins",
	)

	h.save(t, domain.Saved, h.row(1))
	closed, _, err := h.Control.CloseStored(ctx, domain.DeadReplayed, domain.Position{}, 100)
	require.NoError(t, err)
	require.Equal(t, 1, closed)
	h.Now = h.Now.Add(time.Millisecond)
	h.index(t, back)
	j, _, err = h.Control.Job(ctx, domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.Equal(
		t, []int64{4, 2, 2, 0}, []int64{j.Done, j.Stored, j.Failed, j.OnTheWay()}, "what comes again is not counted again",
	)
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 6, domain.DeadStored: 2}, h.counts(t, ""))
	h.Now = h.Now.Add(time.Millisecond)
	h.index(t, copyOf(second, 301, ""))
	j, _, err = h.Control.Job(ctx, domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.EqualValues(t, 2, j.Failed, "a copy that nobody has replayed is no failure of the last job")

	end := domain.JobStep{
		Job:        "r-1",
		Owner:      "one",
		At:         now,
		LeaseUntil: now,
		State:      domain.JobDone,
		Audit: domain.AuditEntry{
			At: now, Caller: "docket", Tenants: domain.AllTenants(), Action: "replay.done", Target: "r-1",
		},
	}
	for range 2 { // the second time it is over
		j, err = h.Control.AdvanceJob(ctx, end)
		require.NoError(t, err)
		require.Equal(t, domain.JobDone, j.State)
	}
	entries, err := h.Control.Audits(ctx, domain.AllTenants(), time.Time{}, 1)
	require.NoError(t, err)
	require.Equal(t, end.Audit, entries[0])
	entries, err = h.Control.Audits(ctx, domain.AllTenants(), time.Time{}, 10)
	require.NoError(t, err)
	require.Len(t, entries, 2)

	discard := h.job(
		t, "d-1", "state=open&decision_id=id-8",
		func(j *domain.Job) { j.Kind, j.CreatedAt = domain.Discard, now.Add(time.Second) },
	)
	next, err := h.Control.LettersOfJob(ctx, discard, 10)
	require.NoError(t, err)
	require.Len(t, next, 1, "the guard against loops is for replays")
	_, err = h.Control.MoveLetters(ctx, domain.LetterStep{
		JobStep: domain.JobStep{Job: "d-1", At: now, LeaseUntil: now}, Moved: next, To: domain.DeadDiscarded,
	})
	require.NoError(t, err)
	require.Equal(t, domain.DeadDiscarded, h.deadLetter(t, next[0].ID).State)
	h.index(t, copyOf(letters[7], 400, ""))
	require.Equal(
		t, domain.DeadDiscarded, h.deadLetter(t, next[0].ID).State, "a copy that nobody has replayed stays discarded",
	)
	newer := h.dead(20, func(l *domain.DeadLetter) { l.DiedAt = now.Add(time.Minute) })
	h.index(t, newer)
	require.NotContains(t, ids(100), newer.ID, "what died later is not the job's")
}

func storeAudit(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	now := h.Now.UTC().Truncate(time.Microsecond)
	first := domain.AuditEntry{
		At:      now,
		Caller:  "ann",
		Tenants: domain.AllTenants(),
		Action:  "replay.create",
		Target:  "r-1",
		Filter:  deadQuery(t, "class=invalid&path=!http*").Filter,
		Matched: 7,
		Comment: "fixed",
		Outcome: domain.Say("pending", domain.Args{"n": "1"}),
	}
	second := domain.AuditEntry{
		At:      now.Add(time.Second),
		Caller:  "docket",
		Tenants: domain.Tenants("acme", "default"),
		Action:  "replay.done",
		Target:  "r-1",
		Matched: 7,
		Done:    6,
		Failed:  1,
		Outcome: domain.Say("done", nil),
	}
	require.NoError(t, h.Control.Audit(ctx, first))
	require.NoError(t, h.Control.Audit(ctx, second))
	all, err := h.Control.Audits(ctx, domain.AllTenants(), time.Time{}, 10)
	require.NoError(t, err)
	require.Equal(t, []domain.AuditEntry{second, first}, all)
	older, err := h.Control.Audits(ctx, domain.AllTenants(), second.At, 10)
	require.NoError(t, err)
	require.Equal(t, []domain.AuditEntry{first}, older)
	limited, err := h.Control.Audits(ctx, domain.AllTenants(), time.Time{}, 1)
	require.NoError(t, err)
	require.Len(t, limited, 1)
	h.Tamper(t)
}

func storeDryRun(t *testing.T, h *StoreHarness) {
	h.save(t, domain.Saved, h.row(1), h.row(2))
	rows := []domain.Decision{
		h.row(1), h.row(3), h.row(3), h.row(4, func(d *domain.Decision) { d.Timestamp = time.Time{} }),
		h.row(2, func(d *domain.Decision) { d.Event = []byte(`{"other":1}`) }),
		h.row(5, func(d *domain.Decision) { d.Timestamp = h.Now.Add(-h.Window.Retention - time.Hour) }),
	}
	for range 2 {
		statuses, err := h.Decisions.DryRunBatch(t.Context(), rows)
		require.NoError(t, err)
		require.Equal(
			t,
			[]domain.SaveStatus{
				domain.Duplicate, domain.Saved, domain.Duplicate, domain.Saved, domain.Conflicting, domain.TooOld,
			},
			statuses,
		)
	}
	require.Empty(t, h.get(t, "id-3"), "nothing is stored")
	require.Empty(t, h.get(t, "id-4"))
	h.Poison(t, "id-6", domain.Unknown)
	_, err := h.Decisions.DryRunBatch(t.Context(), []domain.Decision{h.row(6)})
	require.Equal(t, domain.Unknown, domain.ClassOf(err), "%v", err)
	restore := h.Break(t, domain.Unavailable)
	defer restore()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = h.Decisions.DryRunBatch(ctx, []domain.Decision{h.row(7)})
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
}

// storeReplayOfAnotherClass has dead letters that come back in another class: after it was written down that they were
// sent, and before.
func storeReplayOfAnotherClass(t *testing.T, h *StoreHarness) {
	ctx, now := t.Context(), h.Now.UTC().Truncate(time.Microsecond)
	late, early, other := h.dead(1), h.dead(3), h.dead(5)
	h.index(t, late, early, other)
	h.job(t, "r-1", "state=open")
	_, found := h.claim(t, domain.DeadLetterJobs, "one", now)
	require.True(t, found)
	again := func(l domain.DeadLetter, offset int64) domain.DeadLetter {
		l = copyOf(l, offset, "r-1")
		l.Class, l.Code, l.Error = domain.Unknown, "XX000", "something else"
		return l
	}
	h.Now = h.Now.Add(time.Millisecond)
	h.index(t, again(early, 303))
	j, err := h.Control.MoveLetters(ctx, domain.LetterStep{
		JobStep: domain.JobStep{Job: "r-1", Owner: "one", At: now, LeaseUntil: now.Add(time.Minute), After: other.Position},
		Moved:   []domain.DeadLetter{late, early, other}, To: domain.DeadReplayed,
	})
	require.NoError(t, err)
	require.Equal(t, []int64{3, 1, 2}, []int64{j.Done, j.Failed, j.OnTheWay()})
	h.Now = h.Now.Add(time.Millisecond)
	h.index(t, again(late, 301))
	require.Equal(
		t, map[domain.DeadState]int64{domain.DeadOpen: 2, domain.DeadReplayed: 1}, h.counts(t, ""),
		"those that came back are open, and nothing of them stays replayed",
	)
	for _, l := range []domain.DeadLetter{late, early} {
		letters, err := h.Control.DeadLettersOf(ctx, domain.AllTenants(), l.DecisionID)
		require.NoError(t, err)
		require.Len(t, letters, 1)
		require.Equal(t, domain.Unknown, letters[0].Class)
	}
	j, _, err = h.Control.Job(ctx, domain.AllTenants(), "r-1")
	require.NoError(t, err)
	require.Equal(t, []int64{3, 2, 1}, []int64{j.Done, j.Failed, j.OnTheWay()})
	// The topics are read into the index again, in another order.
	h.Now = h.Now.Add(time.Millisecond)
	h.index(t, late, again(late, 301))
	h.index(t, again(early, 303), early)
	require.Equal(
		t, map[domain.DeadState]int64{domain.DeadOpen: 2, domain.DeadReplayed: 1}, h.counts(t, ""), "nobody comes back by it",
	)
}
