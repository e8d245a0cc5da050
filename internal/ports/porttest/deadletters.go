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
)

// dead makes the n-th dead letter of docket.dlq, which died n seconds before the harness's now.
func (h *StoreHarness) dead(n int, edit ...func(*domain.DeadLetter)) domain.DeadLetter {
	row := h.row(n)
	l := domain.DeadLetter{
		Place: domain.Place{Topic: "docket.dlq", Partition: int32(n % 2), Offset: int64(n)}, State: domain.DeadOpen,
		Class: domain.Invalid, Code: "23514", Reason: domain.Refused, Error: fmt.Sprintf("check %d", n), Text: "check #", Fingerprint: "f00d",
		Attempts: 1, Tenant: row.Tenant, DecisionID: row.ID, Path: "http/authz/allow", Timestamp: row.Timestamp, Decision: true, SHA256: row.SHA256,
		Bytes: len(row.Event), Upload: "ab", Origin: "docket.decisions/0/1", ReceivedAt: row.ReceivedAt, FirstFailedAt: row.ReceivedAt.Add(time.Second),
		DiedAt: row.Timestamp.Add(time.Millisecond), Copies: 1,
	}
	for _, e := range edit {
		e(&l)
	}
	l.ID = l.String()
	return l
}

// copyOf is the same bytes again, further on in the topic.
func copyOf(l domain.DeadLetter, offset int64, replay string) domain.DeadLetter {
	l.Offset, l.Replay = offset, replay
	l.ID, l.DiedAt = l.String(), l.DiedAt.Add(time.Duration(offset)*time.Microsecond)
	if replay != "" {
		l.Replays++
	}
	return l
}

func (h *StoreHarness) index(t *testing.T, letters ...domain.DeadLetter) {
	t.Helper()
	require.NoError(t, h.Store.IndexDeadLetters(t.Context(), letters))
}

func (h *StoreHarness) deadLetter(t *testing.T, id string) domain.DeadLetter {
	t.Helper()
	l, found, err := h.Store.DeadLetter(t.Context(), id)
	require.NoError(t, err)
	require.True(t, found, id)
	return l
}

func deadQuery(t *testing.T, text string) domain.Query {
	t.Helper()
	values, err := url.ParseQuery(text)
	require.NoError(t, err)
	q, err := domain.ParseDeadQuery(values, time.Now())
	require.NoError(t, err)
	return q
}

func (h *StoreHarness) deadIDs(t *testing.T, query string) (ids []string) {
	t.Helper()
	page, err := h.Store.DeadLetters(t.Context(), deadQuery(t, query))
	require.NoError(t, err)
	for _, l := range page.Items {
		ids = append(ids, l.ID)
	}
	return ids
}

func (h *StoreHarness) counts(t *testing.T, query string) map[domain.DeadState]int64 {
	t.Helper()
	n, err := h.Store.CountDeadLetters(t.Context(), deadQuery(t, query))
	require.NoError(t, err)
	return n
}

func storeDeadLetters(t *testing.T, h *StoreHarness) {
	whole := h.dead(9, func(l *domain.DeadLetter) {
		l.Decision, l.Whole, l.DecisionID, l.Path, l.Timestamp, l.Code, l.Error, l.Origin = false, true, "", "", time.Time{}, "", "", ""
		l.Reason, l.Text, l.Fingerprint, l.FirstFailedAt, l.Attempts = domain.BadGzip, "bad_gzip", "beef", time.Time{}, 0
	})
	want := h.dead(1)
	h.index(t, want, whole)
	for _, want := range []domain.DeadLetter{want, whole} {
		got := h.deadLetter(t, want.ID)
		require.WithinDuration(t, h.Now, got.IndexedAt, time.Second)
		require.Equal(t, got.IndexedAt, got.ChangedAt)
		got.IndexedAt, got.ChangedAt = time.Time{}, time.Time{}
		require.Empty(t, cmp.Diff(want, got))
	}
	_, found, err := h.Store.DeadLetter(t.Context(), "docket.dlq:0:77")
	require.NoError(t, err)
	require.False(t, found)
	_, found, err = h.Store.DeadLetter(t.Context(), "no place")
	require.NoError(t, err)
	require.False(t, found)
	of, err := h.Store.DeadLettersOf(t.Context(), want.DecisionID)
	require.NoError(t, err)
	require.Len(t, of, 1)
}

func storeDeadCopies(t *testing.T, h *StoreHarness) {
	first := h.dead(1)
	h.index(t, first)
	h.index(t, first)
	require.Equal(t, 1, h.deadLetter(t, first.ID).Copies, "a record that is delivered again is no copy")

	again := copyOf(first, 101, "")
	again.Error = "check 2"
	h.index(t, again)
	got := h.deadLetter(t, first.ID)
	require.Equal(t, 2, got.Copies)
	require.Equal(t, again.Place, got.Place, "the newest copy is read")
	require.Equal(t, "check 2", got.Error)
	require.Equal(t, first.ID, h.deadLetter(t, again.ID).ID, "and finds it")
	h.index(t, first)
	require.Equal(t, again.Place, h.deadLetter(t, first.ID).Place, "an old record changes nothing")
	require.Equal(t, 2, h.deadLetter(t, first.ID).Copies)

	h.index(t, copyOf(first, 102, ""), copyOf(first, 103, ""))
	require.Equal(t, 4, h.deadLetter(t, first.ID).Copies, "two in a batch")
	other := h.dead(1, func(l *domain.DeadLetter) { l.Class, l.Offset = domain.Unknown, 200 })
	tenant := h.dead(1, func(l *domain.DeadLetter) { l.Tenant, l.Offset = "acme", 201 })
	h.index(t, other, tenant)
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 3}, h.counts(t, ""), "classes and tenants are apart")

	anew := h.dead(9, func(l *domain.DeadLetter) { l.Place = first.Place })
	h.index(t, anew)
	require.Equal(t, anew.DecisionID, h.deadLetter(t, first.ID).DecisionID, "the topic was made anew: its place holds other bytes")
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 3}, h.counts(t, ""))
}

func storeDeadStored(t *testing.T, h *StoreHarness) {
	early, late, conflict := h.dead(1), h.dead(2), h.dead(3)
	unkeyed := h.dead(4, func(l *domain.DeadLetter) { l.Timestamp = time.Time{} })
	conflict.SHA256 = sha256.Sum256([]byte("other bytes"))
	h.save(t, domain.Saved, h.row(1), h.row(3))
	h.save(t, domain.Saved, h.row(4, func(d *domain.Decision) { d.Timestamp = time.Time{} }))
	h.index(t, early, late, conflict, unkeyed)
	require.Equal(t, domain.DeadStored, h.deadLetter(t, early.ID).State, "its row was there")
	require.Equal(t, domain.DeadStored, h.deadLetter(t, unkeyed.ID).State, "also without a timestamp")
	require.Equal(t, domain.DeadOpen, h.deadLetter(t, late.ID).State)
	require.Equal(t, domain.DeadOpen, h.deadLetter(t, conflict.ID).State, "the row holds other bytes")

	h.save(t, domain.Saved, h.row(2))
	closed, next, err := h.Store.CloseStored(t.Context(), domain.DeadOpen, domain.Place{}, 1)
	require.NoError(t, err)
	require.Equal(t, late.Place, next, "in the log's order: partition 0 has the even ones")
	require.Equal(t, 1, closed)
	closed, next, err = h.Store.CloseStored(t.Context(), domain.DeadOpen, next, 10)
	require.NoError(t, err)
	require.Zero(t, closed)
	require.Zero(t, next, "the end")
	require.Equal(t, domain.DeadStored, h.deadLetter(t, late.ID).State)
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 1, domain.DeadStored: 3}, h.counts(t, ""))

	// A copy of one that is known closes it as well, and bytes that are no decision are not looked at.
	again := h.dead(5)
	h.index(t, again)
	h.save(t, domain.Saved, h.row(5))
	h.index(t, copyOf(again, 500, ""))
	require.Equal(t, domain.DeadStored, h.deadLetter(t, again.ID).State)
	whole := h.dead(6, func(l *domain.DeadLetter) { l.Decision, l.Whole = false, true })
	h.index(t, whole)
	h.save(t, domain.Saved, h.row(6))
	_, _, err = h.Store.CloseStored(t.Context(), domain.DeadOpen, domain.Place{}, 100)
	require.NoError(t, err)
	require.Equal(t, domain.DeadOpen, h.deadLetter(t, whole.ID).State)
}

func storeDeadSearch(t *testing.T, h *StoreHarness) {
	edits := []func(*domain.DeadLetter){
		func(*domain.DeadLetter) {},
		func(l *domain.DeadLetter) { l.Class, l.Code, l.Fingerprint = domain.Unknown, "P0001", "cafe" },
		func(l *domain.DeadLetter) { l.Tenant, l.Fingerprint = "acme", "ace" },
		func(l *domain.DeadLetter) { l.Path, l.Fingerprint = "billing/allow", "b1" },
		func(l *domain.DeadLetter) { l.Topic, l.Reason = "docket.parking.dlq", domain.GaveUp },
	}
	var letters []domain.DeadLetter
	for i, e := range edits {
		letters = append(letters, h.dead(i, e))
	}
	h.index(t, letters...)
	since := h.Now.Add(-2500 * time.Millisecond).UTC().Format(time.RFC3339Nano)
	for _, c := range []struct {
		query string
		want  []int
	}{
		{"", []int{0, 1, 2, 3, 4}},
		{"class=unknown", []int{1}},
		{"class=!unknown", []int{0, 2, 3, 4}},
		{"code=P0001", []int{1}},
		{"fingerprint=cafe&fingerprint=ace", []int{1, 2}},
		{"tenant=acme", []int{2}},
		{"path=http*", []int{0, 1, 2, 4}},
		{"path=/billing/allow", []int{3}},
		{"topic=docket.parking.dlq", []int{4}},
		{"reason=gave_up", []int{4}},
		{"state=open", []int{0, 1, 2, 3, 4}},
		{"state=stored", nil},
		{"decision_id=id-3", []int{3}},
		{"id=" + letters[2].ID, []int{2}},
		{"since=" + since, []int{0, 1, 2}},
		{"until=" + since, []int{3, 4}},
		{"class=invalid&tenant=default&path=http*", []int{0, 4}},
	} {
		t.Run(c.query, func(t *testing.T) {
			var want []string
			for _, n := range c.want {
				want = append(want, letters[n].ID)
			}
			require.Equal(t, want, h.deadIDs(t, c.query))
			n := h.counts(t, c.query)[domain.DeadOpen]
			require.EqualValues(t, len(want), n)
			again := deadQuery(t, c.query)
			require.Equal(t, again.Terms, deadQuery(t, again.Filter().Encode()).Terms, "a filter is spelled and read back")
		})
	}
	var paged []string
	q := deadQuery(t, "limit=2")
	for {
		page, err := h.Store.DeadLetters(t.Context(), q)
		require.NoError(t, err)
		for _, l := range page.Items {
			paged = append(paged, l.ID)
		}
		if q.After = page.Next; q.After == nil {
			break
		}
	}
	require.Equal(t, h.deadIDs(t, ""), paged)
}

func storeDeadGroups(t *testing.T, h *StoreHarness) {
	var letters []domain.DeadLetter
	for n := range 6 {
		letters = append(letters, h.dead(n, func(l *domain.DeadLetter) {
			if n >= 4 {
				l.Class, l.Code, l.Fingerprint, l.Text, l.Path = domain.Unknown, "", "cafe", "not today", ""
			}
		}))
	}
	h.index(t, letters...)
	h.save(t, domain.Saved, h.row(1), h.row(5))
	_, _, err := h.Store.CloseStored(t.Context(), domain.DeadOpen, domain.Place{}, 100)
	require.NoError(t, err)
	groups, err := h.Store.DeadGroups(t.Context(), domain.Query{})
	require.NoError(t, err)
	require.Len(t, groups, 2)
	require.Equal(t, domain.DeadGroup{
		Fingerprint: "f00d", Class: domain.Invalid, Code: "23514", Reason: domain.Refused, Text: "check #", Path: "http/authz/allow",
		Letters: map[domain.DeadState]int64{domain.DeadOpen: 3, domain.DeadStored: 1, domain.DeadReplayed: 0, domain.DeadDiscarded: 0},
		First:   letters[3].DiedAt, Last: letters[0].DiedAt, Sample: letters[0].ID,
	}, groups[0])
	require.Equal(t, "cafe", groups[1].Fingerprint)
	for query, want := range map[string]int{
		"class=unknown": 1, "state=stored": 2, "state=discarded": 0, "path=http*": 1, "tenant=acme": 0,
		"since=" + h.Now.Add(-3500*time.Millisecond).UTC().Format(time.RFC3339Nano): 1,
	} {
		groups, err := h.Store.DeadGroups(t.Context(), deadQuery(t, query))
		require.NoError(t, err)
		require.Len(t, groups, want, query)
		if query == "state=stored" {
			require.EqualValues(t, 3, groups[0].Letters[domain.DeadOpen], "its other states are told as well")
		}
	}
	gone, err := h.Store.ForgetDeadLetters(t.Context(), "docket.dlq", 1, 4)
	require.NoError(t, err)
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 1, domain.DeadStored: 1}, gone, "1 and 3, and not 5")
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 3, domain.DeadStored: 1}, h.counts(t, ""))
}

// job makes a job over the dead letters that fit.
func (h *StoreHarness) job(t *testing.T, id, query string, edit ...func(*domain.Job)) domain.Job {
	t.Helper()
	j := domain.Job{
		ID: id, Kind: domain.Replay, Filter: deadQuery(t, query), Rate: 12.5, Max: 100, MaxReplays: 3, StopRatio: 0.1, Reason: "mended", Who: "ann",
		State: domain.JobPending, Message: "waits", Matched: 7, CreatedAt: h.Now.UTC().Truncate(time.Microsecond),
	}
	for _, e := range edit {
		e(&j)
	}
	created, err := h.Store.CreateJob(t.Context(), j, domain.AuditEntry{At: j.CreatedAt, Who: j.Who, Action: "replay.create", Target: j.ID})
	require.NoError(t, err)
	require.True(t, created)
	return j
}

func (h *StoreHarness) claim(t *testing.T, dry bool, owner string, at time.Time) (domain.Job, bool) {
	t.Helper()
	j, found, err := h.Store.ClaimJob(t.Context(), dry, owner, at, at.Add(10*time.Second))
	require.NoError(t, err)
	return j, found
}

func storeJobs(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	now := h.Now.UTC().Truncate(time.Microsecond)
	want := h.job(t, "r-1", "class=invalid&path=http*&since="+now.Add(-time.Hour).Format(time.RFC3339))
	got, found, err := h.Store.Job(ctx, "r-1")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, want.Filter.Filter(), got.Filter.Filter())
	got.Filter = want.Filter
	require.Equal(t, want, got)
	_, found, err = h.Store.Job(ctx, "r-0")
	require.NoError(t, err)
	require.False(t, found)

	twin := want
	twin.ID = "r-2"
	created, err := h.Store.CreateJob(ctx, twin, domain.AuditEntry{At: now, Action: "replay.create", Target: "r-2"})
	require.NoError(t, err)
	require.False(t, created, "the same is being done already")
	dry := h.job(t, "r-3", "class=invalid", func(j *domain.Job) { j.DryRun = true })
	h.job(t, "r-4", "class=invalid", func(j *domain.Job) { j.CreatedAt = j.CreatedAt.Add(time.Second) })

	taken, found := h.claim(t, false, "one", now)
	require.True(t, found)
	require.Equal(t, "r-1", taken.ID, "the oldest")
	require.Equal(t, domain.JobRunning, taken.State)
	require.Equal(t, now, taken.StartedAt)
	_, found = h.claim(t, false, "two", now)
	require.False(t, found, "one at a time, and it is taken")
	taken, found = h.claim(t, true, "two", now)
	require.True(t, found, "dry runs do not wait for it")
	require.Equal(t, dry.ID, taken.ID)
	_, found = h.claim(t, false, "one", now)
	require.True(t, found, "the owner may ask again")
	taken, found = h.claim(t, false, "two", now.Add(11*time.Second))
	require.True(t, found, "and others once its lease is over")
	require.Equal(t, "two", taken.Owner)

	report := &domain.Rehearsal{Histogram: []domain.Tally{{Reason: domain.Refused, Letters: 3}}, Tried: 3, Fates: map[string]int{"saved": 3}}
	after, err := h.Store.AdvanceJob(ctx, domain.JobStep{Job: "r-1", Owner: "one", At: now, LeaseUntil: now, State: domain.JobDone})
	require.NoError(t, err)
	require.Equal(t, domain.JobRunning, after.State, "it is not the owner any more")
	place := domain.Place{Topic: "docket.dlq", Partition: 1, Offset: 7}
	after, err = h.Store.AdvanceJob(ctx, domain.JobStep{
		Job: "r-1", Owner: "two", At: now, LeaseUntil: now.Add(time.Minute), After: place, Skipped: 2, Indexed: 9, Matched: 99,
		Report: report, Message: "half-way",
	})
	require.NoError(t, err)
	require.Equal(t, place, after.After)
	require.Equal(t, report, after.Report)
	require.Equal(t, []int64{2, 9, 99}, []int64{after.Skipped, after.Done, after.Matched})
	require.Equal(t, "half-way", after.Message)

	moved, err := h.Store.MoveJob(ctx, "r-1", domain.Active, domain.JobPaused, "by ann", now, domain.AuditEntry{At: now, Who: "ann", Action: "replay.pause", Target: "r-1"})
	require.NoError(t, err)
	require.True(t, moved)
	moved, err = h.Store.MoveJob(ctx, "r-1", domain.Active, domain.JobPaused, "by ann", now, domain.AuditEntry{At: now, Who: "ann", Action: "replay.pause", Target: "r-1"})
	require.NoError(t, err)
	require.False(t, moved, "it is paused already")
	after, err = h.Store.AdvanceJob(ctx, domain.JobStep{Job: "r-1", Owner: "two", At: now, LeaseUntil: now, State: domain.JobDone})
	require.NoError(t, err)
	require.Equal(t, domain.JobPaused, after.State, "who was working on it sees that")
	require.Equal(t, place, after.After)
	late, err := h.Store.AdvanceJob(ctx, domain.JobStep{
		Job: "r-1", Owner: "two", At: now, LeaseUntil: now, Moved: []domain.DeadLetter{h.dead(77)}, To: domain.DeadReplayed, Reparsed: 1, After: domain.Place{Topic: "z"},
	})
	require.NoError(t, err)
	require.Equal(t, []int64{10, 1}, []int64{late.Done, late.Reparsed}, "what was dealt with counts also after that")
	require.Equal(t, place, late.After)
	moved, err = h.Store.MoveJob(ctx, "r-1", domain.Resumable, domain.JobPending, "", now, domain.AuditEntry{})
	require.NoError(t, err)
	require.True(t, moved)
	_, found = h.claim(t, false, "three", now)
	require.True(t, found, "the oldest is taken up again")
	moved, err = h.Store.MoveJob(ctx, "r-1", domain.Active, domain.JobPaused, "", now, domain.AuditEntry{})
	require.NoError(t, err)
	require.True(t, moved)
	_, found = h.claim(t, false, "four", now)
	require.True(t, found, "the next one meanwhile")
	moved, err = h.Store.MoveJob(ctx, "r-1", domain.Resumable, domain.JobPending, "", now, domain.AuditEntry{})
	require.NoError(t, err)
	require.True(t, moved)
	_, found = h.claim(t, false, "five", now)
	require.False(t, found, "and one at a time then as well")
	moved, err = h.Store.MoveJob(ctx, "r-4", domain.Active, domain.JobCanceled, "", now, domain.AuditEntry{})
	require.NoError(t, err)
	require.True(t, moved)
	after, _, err = h.Store.Job(ctx, "r-1")
	require.NoError(t, err)
	require.EqualValues(t, 10, after.BaseDone, "failures are judged from here on")
	moved, err = h.Store.MoveJob(ctx, "r-1", domain.Active, domain.JobCanceled, "by ann", now, domain.AuditEntry{At: now, Who: "ann", Action: "replay.cancel", Target: "r-1"})
	require.NoError(t, err)
	require.True(t, moved)
	after, _, err = h.Store.Job(ctx, "r-1")
	require.NoError(t, err)
	require.Equal(t, now, after.FinishedAt)
	h.job(t, "r-5", want.Filter.Filter().Encode()) // which the one that is over does not keep from being made
	entries, err := h.Store.Audits(ctx, time.Time{}, 100)
	require.NoError(t, err)
	actions := map[string]int{}
	for _, e := range entries {
		actions[e.Action+" "+e.Target]++
	}
	require.Equal(t, map[string]int{
		"replay.create r-1": 1, "replay.create r-3": 1, "replay.create r-4": 1, "replay.create r-5": 1, "replay.pause r-1": 1, "replay.cancel r-1": 1,
	}, actions, "what was done, and nothing that was not")
	list, err := h.Store.Jobs(ctx)
	require.NoError(t, err)
	require.Len(t, list, 4)
	require.Equal(t, "r-4", list[0].ID, "the newest first")
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
		next, err := h.Store.JobLetters(ctx, j, limit)
		require.NoError(t, err)
		for _, l := range next {
			ids = append(ids, l.ID)
		}
		return ids
	}
	require.Equal(t, []string{"docket.dlq:0:2", "docket.dlq:0:4", "docket.dlq:0:6"}, ids(3), "in the log's order")
	require.Len(t, ids(100), 7, "without what was replayed too often")
	n, err := h.Store.CountJob(ctx, j)
	require.NoError(t, err)
	require.EqualValues(t, 7, n)
	tallies, err := h.Store.Tallies(ctx, j)
	require.NoError(t, err)
	require.Equal(t, []domain.Tally{{Reason: domain.Refused, Path: "http/authz/allow", Class: domain.Invalid, Code: "23514", Error: "check #", Letters: 7}}, tallies)

	_, found := h.claim(t, false, "one", now)
	require.True(t, found)
	// The first comes back before it is written down that it was sent, the third is stored by then, and the second fails at once.
	first, second, third, fourth := letters[1], letters[3], letters[5], letters[0]
	back := copyOf(first, 300, "r-1")
	h.index(t, back)
	h.save(t, domain.Saved, h.row(6))
	j, err = h.Store.AdvanceJob(ctx, domain.JobStep{
		Job: "r-1", Owner: "one", At: now, LeaseUntil: now.Add(time.Minute), Moved: []domain.DeadLetter{first, third, fourth}, Failed: []domain.Place{second.Place},
		To: domain.DeadReplayed, After: fourth.Place,
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
	j.After = domain.Place{}
	require.Equal(t, []string{"docket.dlq:1:3", "docket.dlq:1:5", "docket.dlq:1:7"}, ids(100), "nothing twice, wherever it begins")

	h.save(t, domain.Saved, h.row(1))
	closed, _, err := h.Store.CloseStored(ctx, domain.DeadReplayed, domain.Place{}, 100)
	require.NoError(t, err)
	require.Equal(t, 1, closed)
	h.Now = h.Now.Add(time.Millisecond)
	h.index(t, back)
	j, _, err = h.Store.Job(ctx, "r-1")
	require.NoError(t, err)
	require.Equal(t, []int64{4, 2, 2, 0}, []int64{j.Done, j.Stored, j.Failed, j.OnTheWay()}, "what comes again is not counted again")
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 6, domain.DeadStored: 2}, h.counts(t, ""))
	h.Now = h.Now.Add(time.Millisecond)
	h.index(t, copyOf(second, 301, ""))
	j, _, err = h.Store.Job(ctx, "r-1")
	require.NoError(t, err)
	require.EqualValues(t, 2, j.Failed, "a copy that nobody has replayed is no failure of the last job")

	end := domain.JobStep{Job: "r-1", Owner: "one", At: now, LeaseUntil: now, State: domain.JobDone, Audit: domain.AuditEntry{At: now, Who: "docket", Action: "replay.done", Target: "r-1"}}
	for range 2 { // the second time it is over
		j, err = h.Store.AdvanceJob(ctx, end)
		require.NoError(t, err)
		require.Equal(t, domain.JobDone, j.State)
	}
	entries, err := h.Store.Audits(ctx, time.Time{}, 1)
	require.NoError(t, err)
	require.Equal(t, end.Audit, entries[0])
	entries, err = h.Store.Audits(ctx, time.Time{}, 10)
	require.NoError(t, err)
	require.Len(t, entries, 2)

	discard := h.job(t, "d-1", "state=open&decision_id=id-8", func(j *domain.Job) { j.Kind, j.CreatedAt = domain.Discard, now.Add(time.Second) })
	next, err := h.Store.JobLetters(ctx, discard, 10)
	require.NoError(t, err)
	require.Len(t, next, 1, "the guard against loops is for replays")
	_, err = h.Store.AdvanceJob(ctx, domain.JobStep{Job: "d-1", At: now, LeaseUntil: now, Moved: next, To: domain.DeadDiscarded})
	require.NoError(t, err)
	require.Equal(t, domain.DeadDiscarded, h.deadLetter(t, next[0].ID).State)
	h.index(t, copyOf(letters[7], 400, ""))
	require.Equal(t, domain.DeadDiscarded, h.deadLetter(t, next[0].ID).State, "a copy that nobody has replayed stays given up")
	newer := h.dead(20, func(l *domain.DeadLetter) { l.DiedAt = now.Add(time.Minute) })
	h.index(t, newer)
	require.NotContains(t, ids(100), newer.ID, "what died later is not the job's")
}

func storeAudit(t *testing.T, h *StoreHarness) {
	ctx := t.Context()
	now := h.Now.UTC().Truncate(time.Microsecond)
	first := domain.AuditEntry{At: now, Who: "ann", Action: "replay.create", Target: "r-1", Filter: "class=invalid", Matched: 7, Reason: "mended", Outcome: "pending"}
	second := domain.AuditEntry{At: now.Add(time.Second), Who: "docket", Action: "replay.done", Target: "r-1", Matched: 7, Done: 6, Failed: 1, Outcome: "done"}
	require.NoError(t, h.Store.Audit(ctx, first))
	require.NoError(t, h.Store.Audit(ctx, second))
	all, err := h.Store.Audits(ctx, time.Time{}, 10)
	require.NoError(t, err)
	require.Equal(t, []domain.AuditEntry{second, first}, all)
	older, err := h.Store.Audits(ctx, second.At, 10)
	require.NoError(t, err)
	require.Equal(t, []domain.AuditEntry{first}, older)
	limited, err := h.Store.Audits(ctx, time.Time{}, 1)
	require.NoError(t, err)
	require.Len(t, limited, 1)
	h.Tamper(t)
}

func storeRehearsal(t *testing.T, h *StoreHarness) {
	h.save(t, domain.Saved, h.row(1), h.row(2))
	rows := []domain.Decision{
		h.row(1), h.row(3), h.row(3), h.row(4, func(d *domain.Decision) { d.Timestamp = time.Time{} }),
		h.row(2, func(d *domain.Decision) { d.Event = []byte(`{"other":1}`) }),
		h.row(5, func(d *domain.Decision) { d.Timestamp = h.Now.Add(-h.Window.Retention - time.Hour) }),
	}
	for range 2 {
		fates, err := h.Store.RehearseBatch(t.Context(), rows)
		require.NoError(t, err)
		require.Equal(t, []domain.Fate{domain.Duplicate, domain.Saved, domain.Duplicate, domain.Saved, domain.Conflicting, domain.TooOld}, fates)
	}
	require.Empty(t, h.get(t, "id-3"), "nothing is stored")
	require.Empty(t, h.get(t, "id-4"))
	h.Poison(t, "id-6", domain.Unknown)
	_, err := h.Store.RehearseBatch(t.Context(), []domain.Decision{h.row(6)})
	require.Equal(t, domain.Unknown, domain.ClassOf(err), "%v", err)
	mend := h.Break(t, domain.Unavailable)
	defer mend()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = h.Store.RehearseBatch(ctx, []domain.Decision{h.row(7)})
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "%v", err)
}
