package porttest

import (
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
		Position:      domain.Position{Topic: "docket.dlq", Partition: int32(n % 2), Offset: int64(n)},
		State:         domain.DeadOpen,
		Class:         domain.Invalid,
		Code:          "23514",
		Cause:         domain.Rejected,
		Error:         fmt.Sprintf("check %d", n),
		Text:          "check #",
		Fingerprint:   "f00d",
		Attempts:      1,
		Tenant:        row.Tenant,
		DecisionID:    row.ID,
		Path:          "http/authz/allow",
		Timestamp:     row.Timestamp,
		Decision:      true,
		SHA256:        row.SHA256,
		Bytes:         len(row.Event),
		Upload:        "ab",
		Origin:        "docket.decisions/0/1",
		ReceivedAt:    row.ReceivedAt,
		FirstFailedAt: row.ReceivedAt.Add(time.Second),
		DiedAt:        row.Timestamp.Add(time.Millisecond),
		Copies:        1,
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
	require.NoError(t, h.Control.IndexDeadLetters(t.Context(), letters))
}

func (h *StoreHarness) deadLetter(t *testing.T, id string) domain.DeadLetter {
	t.Helper()
	l, found, err := h.Control.DeadLetter(t.Context(), domain.AllTenants(), id)
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
	page, err := h.Control.DeadLetters(t.Context(), domain.AllTenants(), deadQuery(t, query))
	require.NoError(t, err)
	for _, l := range page.Items {
		ids = append(ids, l.ID)
	}
	return ids
}

func (h *StoreHarness) counts(t *testing.T, query string) map[domain.DeadState]int64 {
	t.Helper()
	n, err := h.Control.CountDeadLetters(t.Context(), domain.AllTenants(), deadQuery(t, query).Filter)
	require.NoError(t, err)
	return n
}

func storeDeadLetters(t *testing.T, h *StoreHarness) {
	whole := h.dead(9, func(l *domain.DeadLetter) {
		l.Decision, l.Whole, l.DecisionID, l.Path, l.Timestamp, l.Code, l.Error, l.Origin = false, true, "", "", time.Time{},
			"", "", ""
		l.Cause, l.Text, l.Fingerprint, l.FirstFailedAt, l.Attempts = domain.BadGzip, "bad_gzip", "beef", time.Time{}, 0
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
	_, found, err := h.Control.DeadLetter(t.Context(), domain.AllTenants(), "docket.dlq:0:77")
	require.NoError(t, err)
	require.False(t, found)
	_, found, err = h.Control.DeadLetter(t.Context(), domain.AllTenants(), "no place")
	require.NoError(t, err)
	require.False(t, found)
	of, err := h.Control.DeadLettersOf(t.Context(), domain.AllTenants(), want.DecisionID)
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
	require.Equal(t, again.Position, got.Position, "the newest copy is read")
	require.Equal(t, "check 2", got.Error)
	require.Equal(t, first.ID, h.deadLetter(t, again.ID).ID, "and finds it")
	h.index(t, first)
	require.Equal(t, again.Position, h.deadLetter(t, first.ID).Position, "an old record changes nothing")
	require.Equal(t, 2, h.deadLetter(t, first.ID).Copies)

	h.index(t, copyOf(first, 102, ""), copyOf(first, 103, ""))
	require.Equal(t, 4, h.deadLetter(t, first.ID).Copies, "two in a batch")
	other := h.dead(1, func(l *domain.DeadLetter) { l.Class, l.Offset = domain.Unknown, 200 })
	tenant := h.dead(1, func(l *domain.DeadLetter) { l.Tenant, l.Offset = "acme", 201 })
	h.index(t, other, tenant)
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 3}, h.counts(t, ""), "classes and tenants are apart")

	anew := h.dead(9, func(l *domain.DeadLetter) { l.Position = first.Position })
	h.index(t, anew)
	require.Equal(
		t, anew.DecisionID, h.deadLetter(t, first.ID).DecisionID, "the topic was made anew: its position has other bytes",
	)
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
	closed, next, err := h.Control.CloseStored(t.Context(), domain.DeadOpen, domain.Position{}, 1)
	require.NoError(t, err)
	require.Equal(t, late.Position, next, "in the log's order: partition 0 has the even ones")
	require.Equal(t, 1, closed)
	closed, next, err = h.Control.CloseStored(t.Context(), domain.DeadOpen, next, 10)
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
	_, _, err = h.Control.CloseStored(t.Context(), domain.DeadOpen, domain.Position{}, 100)
	require.NoError(t, err)
	require.Equal(t, domain.DeadOpen, h.deadLetter(t, whole.ID).State)
}

func storeDeadSearch(t *testing.T, h *StoreHarness) {
	edits := []func(*domain.DeadLetter){
		func(*domain.DeadLetter) {},
		func(l *domain.DeadLetter) { l.Class, l.Code, l.Fingerprint = domain.Unknown, "P0001", "cafe" },
		func(l *domain.DeadLetter) { l.Tenant, l.Fingerprint = "acme", "ace" },
		func(l *domain.DeadLetter) { l.Path, l.Fingerprint = "billing/allow", "b1" },
		func(l *domain.DeadLetter) { l.Topic, l.Cause = "docket.parking.dlq", domain.AttemptsExhausted },
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
		{"cause=attempts_exhausted", []int{4}},
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
		})
	}
	var paged []string
	q := deadQuery(t, "limit=2")
	for {
		page, err := h.Control.DeadLetters(t.Context(), domain.AllTenants(), q)
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
	_, _, err := h.Control.CloseStored(t.Context(), domain.DeadOpen, domain.Position{}, 100)
	require.NoError(t, err)
	groups, err := h.Control.DeadGroups(t.Context(), domain.AllTenants(), domain.Filter{})
	require.NoError(t, err)
	require.Len(t, groups, 2)
	require.Equal(t, domain.DeadGroup{
		Fingerprint: "f00d",
		Class:       domain.Invalid,
		Code:        "23514",
		Cause:       domain.Rejected,
		Text:        "check #",
		Path:        "http/authz/allow",
		Letters: map[domain.DeadState]int64{
			domain.DeadOpen:      3,
			domain.DeadStored:    1,
			domain.DeadReplayed:  0,
			domain.DeadDiscarded: 0,
		},
		First:  letters[3].DiedAt,
		Last:   letters[0].DiedAt,
		Sample: letters[0].ID,
	}, groups[0])
	require.Equal(t, "cafe", groups[1].Fingerprint)
	for query, want := range map[string]int{
		"class=unknown": 1, "state=stored": 2, "state=discarded": 0, "path=http*": 1, "tenant=acme": 0,
		"since=" + h.Now.Add(-3500*time.Millisecond).UTC().Format(time.RFC3339Nano): 1,
	} {
		groups, err := h.Control.DeadGroups(t.Context(), domain.AllTenants(), deadQuery(t, query).Filter)
		require.NoError(t, err)
		require.Len(t, groups, want, query)
		if query == "state=stored" {
			require.EqualValues(t, 3, groups[0].Letters[domain.DeadOpen], "its other states are told as well")
		}
	}
	gone, err := h.Control.ForgetDeadLetters(t.Context(), "docket.dlq", 1, 4)
	require.NoError(t, err)
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 1, domain.DeadStored: 1}, gone, "1 and 3, and not 5")
	require.Equal(t, map[domain.DeadState]int64{domain.DeadOpen: 3, domain.DeadStored: 1}, h.counts(t, ""))
}
