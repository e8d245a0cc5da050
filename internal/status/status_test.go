package status

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is one with a partition of each topic.
type log struct {
	mu     sync.Mutex
	topics map[string]ports.Backlog
	err    error
	ready  error
	asked  int
}

// change changes what the log answers.
func (l *log) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *log) Backlog(_ context.Context, _ string, topics ...string) (out []ports.Backlog, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range topics {
		b := l.topics[t]
		b.Topic = t
		out = append(out, b)
	}
	return out, l.err
}

func (l *log) Ready(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	return l.ready
}

// store is one as its breaker and guard see it.
type store struct {
	breaker string
	trouble error
	guard   bool
}

func (s *store) status() *Store {
	return &Store{
		Breaker: func() (string, time.Duration) { return s.breaker, time.Second },
		Trouble: func() error { return s.trouble },
		Guard:   func() bool { return s.guard },
		Limit:   func() int { return 3 },
	}
}

var consumed = []Consumed{
	{Group: "saver", Topic: "decisions", Role: Saver}, {Group: "parking", Topic: "parking", Role: Parking},
	{Group: "index", Topic: "dlq"},
}

func newSampler(l *log, s *store) *Sampler {
	return NewSampler(l, consumed, s.status(), nil, slog.New(slog.DiscardHandler))
}

func codes(r RoleHealth) (out []string) {
	for _, m := range r.Reasons {
		out = append(out, m.Code)
	}
	return out
}

// TestVerdict is what may be wrong with a process, by what it does.
func TestVerdict(t *testing.T) {
	away := errors.New("away")
	for _, c := range []struct {
		name    string
		role    Role
		log     *log
		store   store
		edit    func(h *Health)
		verdict Verdict
		of      Role
		codes   []string
	}{
		{"serve, all well", Serve, &log{}, store{}, nil, OK, Ingest, nil},
		{"serve, the log refuses", Serve, &log{ready: away}, store{}, nil, Down, Ingest, []string{LogRefuses}},
		{
			"serve, the store is away", Serve, &log{}, store{breaker: "open", trouble: away}, nil, Degraded, Saver,
			[]string{StoreRefuses, StoreAway},
		},
		{
			"saver, the store is away", Saver, &log{}, store{breaker: "open", trouble: away}, nil, Down, Saver,
			[]string{StoreRefuses, StoreAway},
		},
		{"saver, the log refuses", Saver, &log{ready: away}, store{}, nil, Down, Saver, []string{LogRefuses}},
		{"saver, the guard is on", Saver, &log{}, store{guard: true}, nil, Degraded, Saver, []string{GuardOn}},
		{"console, the store is away", Console, &log{}, store{breaker: "open"}, nil, OK, Console, nil},
		{"serve, a role has ended", Serve, &log{}, store{}, func(h *Health) { h.Ended(Saver, away) }, Degraded, Saver,
			[]string{RoleEnded}},
		{"parking, it has ended", Parking, &log{}, store{}, func(h *Health) { h.Ended(Parking, away) }, Down, Parking,
			[]string{RoleEnded}},
		{
			"saver, the log has lost records", Saver, &log{}, store{},
			func(h *Health) { h.Lost(domain.Say(LogLost, domain.Args{"topic": "decisions"})) }, Down, Saver, []string{LogLost},
		},
		{
			"serve, the disk fills", Serve, &log{}, store{},
			func(h *Health) { m := domain.Say(DiskFills, domain.Args{"percent": 86}); h.Disk(&m) }, Degraded, Ingest,
			[]string{DiskFills},
		},
		{
			"serve, nobody is known", Serve, &log{}, store{},
			func(h *Health) { m := domain.Say(CallersUnknown, nil); h.Callers(Ingest, &m) }, Degraded, Ingest,
			[]string{CallersUnknown},
		},
		{
			"serve, somebody is known again", Serve, &log{}, store{},
			func(h *Health) {
				m := domain.Say(CallersUnknown, nil)
				h.Callers(Ingest, &m)
				h.Callers(Ingest, nil)
			}, OK, Ingest, nil,
		},
		{"serve, it stops", Serve, &log{}, store{}, (*Health).Stopping, Down, Ingest, []string{Stopping}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.store.breaker == "" {
				c.store.breaker = "closed"
			}
			s := newSampler(c.log, &c.store)
			s.sample(t.Context())
			h := NewHealth(c.role)
			h.Started()
			if c.edit != nil {
				c.edit(h)
			}
			r := h.Report(s, true)
			require.Equal(t, c.verdict, r.Verdict)
			require.Equal(t, c.verdict != Down, r.Ready())
			require.Equal(t, c.codes, codes(r.Roles[c.of]))
			for role := range r.Roles {
				require.True(t, c.role.Is(role))
			}
			if role := r.Roles[Saver]; c.role.Is(Saver) {
				require.Equal(t, 3, role.Details["concurrency_limit"])
			}
		})
	}
}

func TestAProcessThatStarts(t *testing.T) {
	h := NewHealth(Serve)
	require.Equal(t, []string{Starting}, codes(h.Report(nil, false).Roles[Ingest]))
	h.Phase(domain.Say(StartingKafka, domain.Args{"brokers": "a:1"}))
	r := h.Report(nil, false)
	require.Equal(t, Down, r.Verdict)
	require.Equal(t, []string{StartingKafka}, codes(r.Roles[Saver]))
	s := newSampler(&log{}, &store{breaker: "closed"})
	require.Equal(t, []string{StartingKafka}, codes(h.Report(s, false).Roles[Ingest]), "it does not serve yet")
	h.Started()
	r = h.Report(s, false)
	require.Equal(t, Down, r.Verdict)
	require.Equal(t, []string{Starting}, codes(r.Roles[Ingest]), "nobody knows of the log before it has been asked")
	s.sample(t.Context())
	require.Equal(t, OK, h.Report(s, false).Verdict)
}

// TestRates has a log that moves, and that then does not answer.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{topics: map[string]ports.Backlog{"decisions": {}, "parking": {}, "dlq": {Start: 5, End: 12, Committed: 10}}}
		s := newSampler(l, &store{breaker: "closed"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Run(ctx)
		}()
		oldest := time.Now()
		for n := range int64(30) {
			l.change(func() {
				l.topics["decisions"] = ports.Backlog{End: 100 * n, Committed: 60 * n, Oldest: oldest}
			})
			time.Sleep(time.Second)
		}
		synctest.Wait()
		p := s.Pipeline(t.Context())
		require.Len(t, p.Stages, 2)
		require.InDelta(t, 100, p.Stages[0].In, 11)
		require.InDelta(t, 60, p.Stages[0].Out, 7)
		require.EqualValues(t, 29*40, p.Stages[0].Waiting)
		require.Equal(t, []DeadTopic{{Topic: "dlq", Records: 7, Waiting: 2}}, p.DeadLetters)
		require.InDelta(t, 30, Age(s.Backlog(Saver).Oldest), 1)
		require.Zero(t, Age(time.Time{}))
		l.change(func() {
			require.LessOrEqual(t, l.asked, 7, "asking whether it takes records costs an fsync")
			l.err = errors.New("away")
		})
		before := p.SampledAt
		time.Sleep(5 * time.Second)
		p = s.Pipeline(t.Context())
		require.EqualValues(t, 29*40, p.Stages[0].Waiting, "what was known last")
		require.WithinDuration(t, before, p.SampledAt, time.Second, "with its time")
		cancel()
		<-ended
	})
}

// TestCountDead keeps the last answer while the store is away.
func TestCountDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSampler(&log{}, &store{breaker: "closed"})
		var away atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.CountDead(ctx, func(_ context.Context, scope domain.Scope, f domain.Filter) (map[domain.DeadState]int64, error) {
				if !scope.All() || !f.Countable() {
					t.Errorf("asked for %v of %s", f, scope)
				}
				if away.Load() {
					return nil, errors.New("away")
				}
				return map[domain.DeadState]int64{domain.DeadOpen: 7}, nil
			})
		}()
		synctest.Wait()
		away.Store(true)
		time.Sleep(3 * time.Second)
		require.EqualValues(t, 7, s.Pipeline(t.Context()).DeadLettersOpen)
		cancel()
		<-ended
	})
}
