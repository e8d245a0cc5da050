package trail

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store knows some decisions; what it does not implement is not asked of it.
type store struct {
	Store
	rows   map[string]domain.Decision
	dead   map[string][]domain.DeadLetter
	opas   []domain.OPA
	losses []domain.Loss
	bodies int64
	err    error
	wait   time.Duration
	asked  int
	onAsk  func(asked int)
}

func (s *store) Decisions(ctx context.Context, _ domain.Scope, id string) ([]domain.Decision, error) {
	if s.asked++; s.onAsk != nil {
		s.onAsk(s.asked)
	}
	if s.wait > 0 {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(s.wait):
		}
	}
	if d, ok := s.rows[id]; ok {
		return []domain.Decision{d}, s.err
	}
	return nil, s.err
}

func (s *store) DeadLettersOf(_ context.Context, _ domain.Scope, id string) ([]domain.DeadLetter, error) {
	return s.dead[id], s.err
}
func (s *store) LogLosses(context.Context, string, int32) ([]domain.Loss, error) {
	return s.losses, s.err
}

func (s *store) OPAs(context.Context, domain.Scope) ([]domain.OPA, error) { return s.opas, s.err }
func (s *store) CountDeadLetters(context.Context, domain.Scope, domain.Filter) (map[domain.DeadState]int64, error) {
	return map[domain.DeadState]int64{domain.DeadOpen: s.bodies}, s.err
}

// log has so many records in one partition; hang makes reading wait for the context.
type log struct {
	Log
	n      int64
	named  map[int64]string // keys by offset
	tenant string
	hang   bool
	err    error
}

func (l *log) PartitionOf(context.Context, string, string) (int32, error) { return 0, l.err }

func (l *log) Backlog(_ context.Context, _ string, topics ...string) ([]ports.Backlog, error) {
	return []ports.Backlog{{Topic: topics[0], End: l.n, Oldest: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)}}, nil
}

func (l *log) Read(
	ctx context.Context, topic string, _ int32, from int64, visit func(domain.Record) bool,
) (int64, error) {
	if l.hang {
		<-ctx.Done()
		return from, ctx.Err()
	}
	for at := from; at < l.n; at++ {
		if !visit(
			domain.Record{
				Topic: topic, Offset: at, Key: l.named[at], WrittenAt: time.Unix(at, 0),
				Headers: domain.Headers{Tenant: l.tenant},
			},
		) {
			return at + 1, nil
		}
	}
	return l.n, nil
}

func follow(t *testing.T, s *store, l *log, id, opa string, from map[string]int64) Report {
	t.Helper()
	r, err := New(s, l, []Stage{{Name: "saver", Topic: "decisions", Group: "g"}}).Follow(
		t.Context(),
		domain.AllTenants(),
		Question{ID: id, OPA: opa, From: from},
	)
	require.NoError(t, err)
	return r
}

func TestFollow(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	row := domain.Decision{ID: "x", ReceivedAt: at, SavedAt: at.Add(1500 * time.Millisecond)}
	dead := func(state domain.DeadState) map[string][]domain.DeadLetter {
		return map[string][]domain.DeadLetter{
			"x": {{ID: "dlq:0:1", State: state, Cause: domain.Rejected, Error: "check", Replay: "r-1", ChangedAt: at}},
		}
	}
	opas := []domain.OPA{
		{
			Observation: domain.Observation{OPA: "one", Last: at},
		},
		{Observation: domain.Observation{OPA: "two", Last: at.Add(time.Hour)}},
		{Observation: domain.Observation{OPA: "status only"}},
	}
	for _, c := range []struct {
		name  string
		store store
		log   log
		opa   string
		state State
		last  string // the OPA of the last upload that is named
	}{
		{"stored", store{rows: map[string]domain.Decision{"x": row}}, log{}, "", Stored, ""},
		{"stored, whatever else waits", store{rows: map[string]domain.Decision{"x": row}}, log{n: 1000, hang: true}, "",
			Stored, ""},
		{"waiting", store{}, log{n: 10, named: map[int64]string{7: "x"}}, "", Waiting, ""},
		{"waiting, and the store is away", store{err: errors.New("away")}, log{n: 10, named: map[int64]string{7: "x"}}, "",
			Waiting, ""},
		{"dead", store{dead: dead(domain.DeadOpen)}, log{}, "", Dead, ""},
		{"replayed", store{dead: dead(domain.DeadReplayed)}, log{}, "", Replayed, ""},
		{"discarded", store{dead: dead(domain.DeadDiscarded)}, log{}, "", Discarded, ""},
		{"the store is away", store{err: errors.New("away")}, log{n: 10}, "", Unknown, ""},
		{"the log is away", store{}, log{err: errors.New("gone")}, "", Unknown, ""},
		{"nowhere", store{opas: opas}, log{n: 10}, "", NotFound, "two"},
		{"nowhere, of a known OPA", store{opas: opas}, log{}, "one", NotFound, "one"},
		{"nowhere, of one that is not known", store{opas: opas}, log{}, "three", NotFound, ""},
		{"nowhere, and nothing ever came", store{}, log{}, "", NotFound, ""},
		{"nowhere, but there are bodies", store{opas: opas, bodies: 3}, log{}, "", NotFound, "two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := follow(t, &c.store, &c.log, "x", c.opa, nil)
			require.Equal(t, c.state, r.State)
			if c.state == NotFound {
				require.True(t, r.Explained)
			}
			require.Equal(t, c.store.bodies, r.QuarantinedUploads)
			if c.last == "" {
				require.Nil(t, r.LastUpload)
			} else {
				require.Equal(t, c.last, r.LastUpload.OPA)
			}
		})
	}
	t.Run("nowhere, but the log has lost records", func(t *testing.T) {
		loss := func(caller string, first, last int64) domain.Loss {
			return domain.Loss{Caller: caller, Group: "saver", Topic: "decisions", First: first, Last: last}
		}
		s := store{losses: []domain.Loss{
			loss("ann", 10, 29), loss("", 10, 29), loss("", 10, 19), loss("", 40, 42),
			loss("", 0, -1),
		}}
		r := follow(t, &s, &log{n: 10}, "x", "", nil)
		require.Equal(t, NotFound, r.State)
		require.EqualValues(t, 20+3+1, r.LostRecords(), "what was found, and given up since, is one")
	})
	t.Run("dead, and not indexed yet", func(t *testing.T) {
		r, err := New(
			&store{}, &log{n: 5, named: map[int64]string{3: "x"}},
			[]Stage{{Name: "index", Topic: "dlq", Group: "i", Dead: true}},
		).Follow(t.Context(), domain.AllTenants(), Question{ID: "x"})
		require.NoError(t, err)
		require.Equal(t, Dead, r.State)
		require.Equal(t, "dlq:0:3", r.Waiting[0].Position().String())
	})
	t.Run("it passes from the log to the store meanwhile", func(t *testing.T) {
		s := &store{}
		s.onAsk = func(asked int) {
			if asked == 2 {
				s.rows = map[string]domain.Decision{"x": row}
			}
		}
		require.Equal(t, Stored, follow(t, s, &log{n: 5}, "x", "", nil).State)
	})
}

// TestScopeHidesWhatWaits has a record of another tenant.
func TestScopeHidesWhatWaits(t *testing.T) {
	l := &log{n: 10, named: map[int64]string{7: "x"}, tenant: "initech"}
	for scope, want := range map[domain.Scope]State{
		domain.Tenants("acme"): NotFound, domain.Tenants("initech"): Waiting, domain.AllTenants(): Waiting,
	} {
		r, err := New(&store{}, l, []Stage{{Name: "saver", Topic: "decisions", Group: "g"}}).Follow(
			t.Context(),
			scope,
			Question{ID: "x"},
		)
		require.NoError(t, err)
		require.Equal(t, want, r.State, scope.String())
		require.Equal(t, want == Waiting, len(r.Waiting) > 0)
	}
}

// TestLookIsBounded looks at no more than its share, and goes on where it stopped.
func TestLookIsBounded(t *testing.T) {
	l := &log{n: 2*lookAt + 50, named: map[int64]string{2*lookAt + 7: "x"}}
	from := map[string]int64{}
	for n := range 2 {
		r := follow(t, &store{}, l, "x", "", from)
		require.Equal(t, Unknown, r.State)
		left, broken := r.Left()
		require.NoError(t, broken)
		require.Equal(t, l.n-int64(n+1)*lookAt, left)
		require.Equal(t, "2026-11-20T00:00:00Z", r.Search[0].Oldest.Format(time.RFC3339))
		require.EqualValues(t, lookAt, r.Search[0].LookedAt)
		from["decisions"] = r.Search[0].Next
	}
	r := follow(t, &store{}, l, "x", "", from)
	require.Equal(t, Waiting, r.State)
	require.EqualValues(t, 2*lookAt+7, r.Waiting[0].Offset)
}

// TestLookTakesThreeSeconds, whatever hangs, and an answer not much more.
func TestLookTakesThreeSeconds(t *testing.T) {
	for name, c := range map[string]struct {
		store store
		log   log
		most  time.Duration
	}{
		"the log hangs":                        {store{}, log{n: 10, hang: true}, 3 * time.Second},
		"the store does":                       {store{wait: time.Hour}, log{n: 10}, 2 * time.Second},
		"both do":                              {store{wait: time.Hour}, log{n: 10, hang: true}, 3 * time.Second},
		"the log hangs, and the store is slow": {store{wait: 1900 * time.Millisecond}, log{n: 10, hang: true}, answerWithin},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				r := follow(t, &c.store, &c.log, "x", "", nil)
				require.Equal(t, Unknown, r.State)
				require.LessOrEqual(t, time.Since(began), c.most)
			})
		})
	}
}

func TestFollowEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New(&store{}, &log{n: 5, hang: true}, []Stage{{Name: "saver", Topic: "decisions", Group: "g"}}).Follow(
		ctx,
		domain.AllTenants(),
		Question{ID: "x"},
	)
	require.Equal(t, domain.Canceled, domain.ClassOf(err), "%v", err)
}
