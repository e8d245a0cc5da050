package status

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// board is a store as the overview sees it.
type board struct {
	mu        *sync.Mutex // of what is told; nil where nobody asks meanwhile
	processes []domain.Process
	groups    []domain.OPAGroup
	open, new int64
	err       error
	told      []domain.Process
	left      []string
}

// lock is for tests with several goroutines.
func (b *board) lock() (unlock func()) {
	if b.mu == nil {
		return func() {}
	}
	b.mu.Lock()
	return b.mu.Unlock
}

// change changes what the store answers.
func (b *board) change(f func()) {
	defer b.lock()()
	f()
}

func (b *board) Processes(context.Context) ([]domain.Process, error) {
	defer b.lock()()
	return b.processes, b.err
}

func (b *board) OPAGroups(context.Context, domain.Scope, time.Time) ([]domain.OPAGroup, error) {
	defer b.lock()()
	return b.groups, b.err
}

func (b *board) CountDeadLetters(
	_ context.Context, _ domain.Scope, f domain.Filter,
) (map[domain.DeadState]int64, error) {
	defer b.lock()()
	n := b.open
	if !f.Since.IsZero() {
		n = b.new
	}
	return map[domain.DeadState]int64{domain.DeadOpen: n}, b.err
}

func (b *board) BeatProcess(_ context.Context, p domain.Process) error {
	defer b.lock()()
	b.told = append(b.told, p)
	return b.err
}

func (b *board) LeaveProcess(_ context.Context, name string) error {
	defer b.lock()()
	b.left = append(b.left, name)
	return b.err
}

// waiting is a topic of which so much waits, the oldest for so long.
func waiting(n int64, age time.Duration) ports.Backlog {
	return ports.Backlog{End: 100, Committed: 100 - n, Oldest: time.Now().Add(-age)}
}

// TestOverview is what a console says of all processes, by what is wrong.
func TestOverview(t *testing.T) {
	away := errors.New("away")
	alive := func(role Role, edit ...func(*domain.Process)) domain.Process {
		p := domain.Process{Name: string(role) + "-1", Role: string(role), Host: "h", Ready: true, Age: time.Second}
		for _, e := range edit {
			e(&p)
		}
		return p
	}
	all := []domain.Process{alive(Ingest), alive(Saver), alive(Parking)}
	trouble := func(role Role, codes ...string) func(*domain.Process) {
		return func(p *domain.Process) {
			p.Trouble = map[string][]domain.Message{}
			for _, code := range codes {
				p.Trouble[string(role)] = append(p.Trouble[string(role)], domain.Say(code, domain.Args{"error": "x"}))
			}
		}
	}
	for _, c := range []struct {
		name    string
		board   board
		log     *log
		store   store
		verdict Verdict
		codes   []string
	}{
		{"all well", board{processes: all, groups: []domain.OPAGroup{{App: "a", Live: 3, Silent: 1}}}, &log{}, store{}, OK,
			nil},
		{"a saver was killed", board{processes: []domain.Process{alive(Ingest), alive(Parking),
			alive(Saver, func(p *domain.Process) { p.Age = time.Minute })}}, &log{}, store{}, Degraded, []string{RoleMissing}},
		{"one of two savers was killed", board{processes: append(all, alive(Saver, func(p *domain.Process) {
			p.Name, p.Age = "saver-2", time.Minute
		}))}, &log{}, store{}, OK, nil},
		{"no ingest", board{processes: all[1:]}, &log{}, store{}, Down, []string{RoleMissing}},
		{"an ingest that cannot publish", board{processes: []domain.Process{
			alive(Ingest, trouble(Ingest, LogRefuses), func(p *domain.Process) { p.Ready = false }), all[1], all[2],
		}}, &log{}, store{}, Down, []string{LogRefuses}},
		{"one of two that cannot", board{processes: append(all, alive(Ingest, trouble(Ingest, LogRefuses),
			func(p *domain.Process) { p.Name, p.Ready = "i-2", false }))}, &log{}, store{}, Degraded, []string{LogRefuses}},
		{"a second one that starts", board{processes: append(all, alive(Ingest, trouble(Ingest, Starting),
			func(p *domain.Process) { p.Name, p.Ready = "i-2", false }))}, &log{}, store{}, OK, nil},
		{"a saver whose store refuses", board{processes: []domain.Process{all[0], alive(Saver, trouble(Saver, StoreRefuses)),
			alive(Parking, trouble(Parking, StoreRefuses))}}, &log{}, store{}, Degraded, []string{StoreRefuses}},
		{"the store is away", board{err: away}, &log{},
			store{breaker: "open", trouble: domain.Errorf(domain.Unavailable, "no route")}, Degraded, []string{StoreAway}},
		{"the store refuses, and its breaker knows", board{processes: all}, &log{},
			store{breaker: "open", trouble: domain.Errorf(domain.Misconfigured, "no column")}, Degraded,
			[]string{StoreAway, StoreRefuses}},
		{"the store does not answer yet", board{err: away}, &log{}, store{}, Degraded, []string{StoreSilent}},
		{"the log refuses", board{processes: all}, &log{ready: away}, store{}, Down, []string{LogRefuses}},
		{"the log is silent", board{processes: all}, &log{err: away}, store{}, Degraded, []string{LogSilent}},
		{"it is late", board{processes: all}, &log{topics: map[string]ports.Backlog{"decisions": waiting(5, 2*time.Minute)}},
			store{}, Degraded, []string{RoleIdle, Late}},
		{"a saver that does nothing, the store away", board{err: away},
			&log{topics: map[string]ports.Backlog{
				"decisions": waiting(5, 30*time.Second), "parking": waiting(5, 30*time.Second),
			}},
			store{breaker: "open"}, Degraded, []string{StoreAway, RoleIdle}},
		{"the guard", board{processes: all}, &log{}, store{guard: true}, Degraded, []string{GuardOn}},
		{"dead letters", board{processes: all, open: 3, new: 1}, &log{}, store{}, Degraded, []string{DeadOpen}},
		{"an app that is silent", board{processes: all, groups: []domain.OPAGroup{
			{App: "a", Live: 1, Silent: 5}, {App: "b", Silent: 2, Gone: 1}, {App: "c", Gone: 4},
		}}, &log{}, store{}, Degraded, []string{OPAsSilent}},
		{"a disk that fills", board{processes: []domain.Process{all[1], all[2], alive(Ingest, func(p *domain.Process) {
			p.Trouble = map[string][]domain.Message{"ingest": {domain.Say(DiskFills, domain.Args{
				"percent": 86, "refuses": true, "refusing": false,
			})}}
		})}}, &log{}, store{}, Degraded, []string{DiskFills}},
		{"a disk that is full", board{processes: []domain.Process{all[1], all[2], alive(Ingest, func(p *domain.Process) {
			p.Trouble = map[string][]domain.Message{"ingest": {domain.Say(DiskFills, domain.Args{"refusing": true})}}
		})}}, &log{}, store{}, Down, []string{DiskFills}},
		{"several things", board{processes: all[1:], open: 3}, &log{}, store{guard: true}, Down,
			[]string{RoleMissing, GuardOn, DeadOpen}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.store.breaker == "" {
					c.store.breaker = "closed"
				}
				for topic, b := range c.log.topics { // ages are of this bubble's clock
					age := time.Minute * 2
					if c.name != "it is late" {
						age = 30 * time.Second
					}
					b.Oldest = time.Now().Add(-age)
					c.log.topics[topic] = b
				}
				s := newSampler(c.log, &c.store)
				for range 9 {
					s.sample(t.Context())
					time.Sleep(time.Second)
				}
				h := NewHealth(Console)
				h.Started()
				heart := &Heart{
					Board: &c.board, Self: domain.Process{Name: "console-1", Role: string(Console)},
					Report: func(bool) Report { return h.Report(s, false) }, Logger: slog.New(slog.DiscardHandler),
				}
				w := &Watch{Store: &c.board, Sampler: s, Heart: heart}
				o := w.Look(t.Context(), domain.AllTenants())
				var codes []string
				for _, r := range o.Reasons {
					codes = append(codes, r.Code)
				}
				require.Equal(t, c.codes, codes)
				require.Equal(t, c.verdict, o.Verdict)
			})
		})
	}
}

// TestSince: a reason has the time when it began, and a new one once it was away.
func TestSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, l, st := &board{mu: &sync.Mutex{}}, &log{}, &store{breaker: "closed"}
		s := newSampler(l, st)
		s.sample(t.Context())
		h := NewHealth(Serve)
		h.Started()
		w := &Watch{Store: b, Sampler: s, Heart: &Heart{
			Board: b, Self: domain.Process{Name: "me", Role: string(Serve)}, Logger: slog.New(slog.DiscardHandler),
			Report: func(bool) Report { return h.Report(s, false) },
		}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx)
		}()
		time.Sleep(time.Second)
		require.Equal(t, OK, w.Look(ctx, domain.AllTenants()).Verdict)
		require.Less(t, w.SinceSeen(Saver), 5.0)
		began := time.Now()
		b.change(func() { b.open = 1 })
		time.Sleep(time.Minute)
		o := w.Look(ctx, domain.AllTenants())
		require.Len(t, o.Reasons, 1)
		require.WithinDuration(t, began, o.Reasons[0].Since, lookEvery)
		b.change(func() { b.open = 2 })
		require.Equal(t, o.Reasons[0].Since, w.Look(ctx, domain.AllTenants()).Reasons[0].Since, "the figures do not count")
		b.change(func() { b.open = 0 })
		time.Sleep(lookEvery)
		b.change(func() { b.open = 1 })
		require.WithinDuration(t, time.Now(), w.Look(ctx, domain.AllTenants()).Reasons[0].Since, time.Second)
		cancel()
		<-done
	})
}

func TestHeart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{mu: &sync.Mutex{}}
		report := Report{Verdict: Degraded, Roles: map[Role]RoleHealth{
			Saver: {Reasons: []domain.Message{domain.Say(GuardOn, nil)}}, Ingest: {Ready: true},
		}}
		h := &Heart{
			Board: b, Self: domain.Process{Name: "me", Role: "serve"}, Logger: slog.New(slog.DiscardHandler),
			Report: func(bool) Report { return report },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			h.Run(ctx)
		}()
		time.Sleep(11 * time.Second)
		b.change(func() {
			require.Len(t, b.told, 3, "at once, and every five seconds")
			require.True(t, b.told[2].Ready)
			require.Equal(t, map[string][]domain.Message{"saver": {domain.Say(GuardOn, nil)}}, b.told[2].Trouble)
			require.Empty(t, b.left)
		})
		b.change(func() { b.err = errors.New("away") })
		time.Sleep(5 * time.Second)
		b.change(func() { require.Len(t, b.told, 4, "it goes on") })
		cancel()
		<-done
		require.Equal(t, []string{"me"}, b.left)
	})
}
