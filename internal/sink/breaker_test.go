package sink

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// asked is a store that notes when it is asked.
type asked struct {
	mu   sync.Mutex
	err  error
	when []time.Time
}

func (a *asked) Probe(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.when = append(a.when, time.Now())
	return a.err
}

// times are when it was asked.
func (a *asked) times() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.when)
}

func (a *asked) answer(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// TestTenSaversDoNotStorm has an hour's outage: each of ten asks about once a second, never in step, and none later
// than a second and a bit after the store is back.
func TestTenSaversDoNotStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := make([]*asked, 10)
		var breakers []*Breaker
		var watching sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for i := range stores {
			stores[i] = &asked{err: domain.Errorf(domain.Unavailable, "away")}
			b := NewBreaker(stores[i], nil, slog.New(slog.DiscardHandler))
			b.record(stores[i].err)
			breakers = append(breakers, b)
			watching.Go(func() { b.Watch(ctx) })
		}
		time.Sleep(time.Hour)
		inStep := 0
		first := stores[0].times()
		for i, s := range stores {
			when := s.times()
			require.Greater(t, len(when), 3600/2, "the store is asked at least every 1.25 s, and half of that on average")
			for n := 1; n < len(when); n++ {
				gap := when[n].Sub(when[n-1])
				require.GreaterOrEqual(t, gap, probeMin)
				require.LessOrEqual(t, gap, probeMax+watchEvery)
			}
			if i > 0 && when[len(when)-1].Equal(first[len(first)-1]) {
				inStep++
			}
			state, next := breakers[i].State()
			require.Contains(t, []string{"open", "half-open"}, state)
			require.LessOrEqual(t, next, probeMax)
			require.ErrorContains(t, breakers[i].Trouble(), "away")
		}
		require.Less(t, inStep, 9, "jitter parts them")
		for _, s := range stores {
			s.answer(nil)
		}
		time.Sleep(probeMax + watchEvery)
		synctest.Wait()
		for _, b := range breakers {
			state, _ := b.State()
			require.Equal(t, "closed", state)
			require.NoError(t, b.Trouble())
		}
		cancel()
		watching.Wait()
	})
}

// TestAnOutageThatNoBatchMeets is found all the same.
func TestAnOutageThatNoBatchMeets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store asked
		b := NewBreaker(&store, nil, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go b.Watch(ctx)
		time.Sleep(time.Minute)
		require.InDelta(t, 60/idleProbe.Seconds(), float64(len(store.times())), 2, "an idle store is not bothered more often")
		store.answer(domain.Errorf(domain.Unavailable, "away"))
		time.Sleep(idleProbe + watchEvery)
		state, _ := b.State()
		require.NotEqual(t, "closed", state)
		store.answer(domain.Errorf(domain.Misconfigured, "no such table"))
		time.Sleep(probeMax + watchEvery)
		state, _ = b.State()
		require.Equal(t, "closed", state, "it answers")
		require.Equal(t, domain.Misconfigured, domain.ClassOf(b.Trouble()))
	})
}

// TestShutdownTeachesNothing: an attempt that was canceled neither opens nor closes the breaker.
func TestShutdownTeachesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBreaker(&asked{}, nil, slog.New(slog.DiscardHandler))
		b.record(context.Canceled)
		state, _ := b.State()
		require.Equal(t, "closed", state)
		b.record(domain.Errorf(domain.Unavailable, "away"))
		time.Sleep(probeMax)
		require.True(t, b.allow())
		b.record(context.Canceled)
		require.False(t, b.allow(), "the next attempt is as far off as ever")
		time.Sleep(probeMax)
		require.True(t, b.allow())
		b.record(nil)
		state, _ = b.State()
		require.Equal(t, "closed", state)
	})
}

// TestLimiter has a store at which batches get in each other's way: with every one more at once, all take longer and no
// more gets done. The limiter finds that out, and finds back when it is over.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ceiling = 8
		l := newLimiter(Concurrency{Ceiling: ceiling, Adaptive: true})
		var crowded atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		var members sync.WaitGroup
		for range ceiling {
			members.Go(func() {
				for ctx.Err() == nil {
					permit, err := l.AcquirePermit(ctx)
					if err != nil {
						return
					}
					took := 20 * time.Millisecond
					if crowded.Load() {
						took = time.Duration(l.Inflight()*l.Inflight()) * 10 * time.Millisecond
					}
					time.Sleep(took)
					permit.Record()
				}
			})
		}
		require.Equal(t, ceiling/2, l.Limit(), "half at first")
		time.Sleep(20 * time.Second)
		require.Equal(t, ceiling, l.Limit())
		crowded.Store(true)
		least := ceiling
		for range 120 {
			time.Sleep(time.Second)
			least = min(least, l.Limit())
		}
		require.Less(t, least, ceiling, "fewer at once, so that more gets done")
		crowded.Store(false)
		time.Sleep(2 * time.Minute)
		require.Equal(t, ceiling, l.Limit())
		cancel()
		members.Wait()

		fixed := newLimiter(Concurrency{Ceiling: 3})
		require.Equal(t, 3, fixed.Limit())
	})
}
