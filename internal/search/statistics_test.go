package search

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// countingStore counts how often it is asked.
type countingStore struct {
	takes time.Duration
	asked atomic.Int64
	fails atomic.Bool
	scans atomic.Int64
}

func (s *countingStore) CountDecisions(
	ctx context.Context, scope domain.Scope, _ domain.CountQuery,
) (domain.Counts, error) {
	n := s.asked.Add(1)
	select {
	case <-ctx.Done():
		return domain.Counts{}, ctx.Err()
	case <-time.After(s.takes):
	}
	if s.fails.Load() {
		return domain.Counts{}, domain.Errorf(domain.Unavailable, "away")
	}
	if scope.All() {
		n += 1_000_000
	}
	return domain.Counts{Complete: true, Items: []domain.DecisionCount{{Decisions: n}}}, nil
}

func (s *countingStore) Scan(
	context.Context, domain.Scope, domain.Filter, []domain.Expr, func(*domain.Decision) bool,
) error {
	s.scans.Add(1)
	return nil
}

func admitted(context.Context) (func(), error) { return func() {}, nil }

// remembering runs a test of Statistics over a store.
func remembering(t *testing.T, test func(t *testing.T, store *countingStore, s *Statistics)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store := &countingStore{takes: 50 * time.Millisecond}
		s := NewStatistics(store, nil, slog.New(slog.DiscardHandler))
		defer s.Stop()
		test(t, store, s)
	})
}

func (s *Statistics) ask(t *testing.T, scope domain.Scope, raw string, fresh bool) (Counted, error) {
	t.Helper()
	q, err := s.Question(scope, "", raw)
	require.NoError(t, err)
	return s.Count(t.Context(), q, fresh, admitted)
}

// TestStampede has 500 readers ask the same all the time: it is counted once for each time that it is due.
func TestStampede(t *testing.T) {
	remembering(t, func(t *testing.T, store *countingStore, s *Statistics) {
		const span = 10 * time.Second
		var readers sync.WaitGroup
		var slowest atomic.Int64
		for range 500 {
			readers.Go(func() {
				for begun := time.Now(); time.Since(begun) < span; {
					asked := time.Now()
					got, err := s.ask(t, domain.AllTenants(), "by=outcome", false)
					require.NoError(t, err)
					slowest.Store(max(slowest.Load(), int64(time.Since(asked))))
					require.Less(t, time.Since(got.At), 2*freshLeast)
					time.Sleep(60 * time.Millisecond)
				}
			})
		}
		readers.Wait()
		require.LessOrEqual(t, store.asked.Load(), int64(26), "10 s, each half a second fresh or a little less")
		require.GreaterOrEqual(t, store.asked.Load(), int64(14))
		require.Equal(t, int64(store.takes), slowest.Load(), "the first ones wait, and nobody later")
	})
}

func TestStatistics(t *testing.T) {
	remembering(t, func(t *testing.T, _ *countingStore, s *Statistics) {
		acme := domain.Tenants("acme")
		first, err := s.ask(t, acme, "by=outcome&since=1h", false)
		require.NoError(t, err)
		require.Equal(t, int64(1), first.Stats.Total)
		again, err := s.ask(t, acme, "since=1h&by=outcome", false)
		require.NoError(t, err)
		require.Equal(t, first, again, "in another order it is the same question")
		all, err := s.ask(t, domain.AllTenants(), "by=outcome&since=1h", false)
		require.NoError(t, err)
		require.Greater(t, all.Stats.Total, int64(1_000_000), "whose tenants are others")
		fresh, err := s.ask(t, acme, "by=outcome&since=1h", true)
		require.NoError(t, err)
		require.Equal(t, int64(3), fresh.Stats.Total)
		require.True(t, fresh.Asked.Since.After(first.Asked.Since), "an hour ago is another time by now")

		time.Sleep(620 * time.Millisecond)
		stale, err := s.ask(t, acme, "by=outcome&since=1h", false)
		require.NoError(t, err)
		require.Equal(t, int64(3), stale.Stats.Total, "what there is, while it is counted anew")
		time.Sleep(100 * time.Millisecond)
		anew, err := s.ask(t, acme, "by=outcome&since=1h", false)
		require.NoError(t, err)
		require.Equal(t, int64(4), anew.Stats.Total)
		time.Sleep(3 * time.Second)
		old, err := s.ask(t, acme, "by=outcome&since=1h", false)
		require.NoError(t, err)
		require.Equal(t, int64(5), old.Stats.Total, "nobody is shown what is so old")
		for result, n := range map[string]float64{"hit": 2, "stale": 1, "miss": 3, "fresh": 1} {
			require.InDelta(t, n, testutil.ToFloat64(s.results.WithLabelValues(result)), 0, result)
		}
	})
}

func TestStatisticsThatFail(t *testing.T) {
	remembering(t, func(t *testing.T, store *countingStore, s *Statistics) {
		store.fails.Store(true)
		_, err := s.ask(t, domain.AllTenants(), "", false)
		require.Equal(t, domain.Unavailable, domain.ClassOf(err))
		store.fails.Store(false)
		got, err := s.ask(t, domain.AllTenants(), "", false)
		require.NoError(t, err, "a failure is not remembered")
		require.Equal(t, int64(1_000_002), got.Stats.Total)

		q, err := s.Question(domain.AllTenants(), "", "by=tenant")
		require.NoError(t, err)
		refused := domain.Errorf(domain.Unavailable, "not your turn")
		_, err = s.Count(t.Context(), q, false, func(context.Context) (func(), error) { return nil, refused })
		require.ErrorIs(t, err, refused)
		// One whose turn does not come is no reason for others to be refused: they wait for the same.
		both := make(chan error, 2)
		for _, admit := range []Admit{
			func(context.Context) (func(), error) {
				time.Sleep(time.Second)
				return nil, refused
			}, admitted,
		} {
			go func() {
				_, err := s.Count(t.Context(), q, false, admit)
				both <- err
			}()
			synctest.Wait()
		}
		require.ErrorIs(t, <-both, refused)
		require.NoError(t, <-both)
		time.Sleep(time.Minute) // until that is forgotten
		// The one who asked first goes away: others wait for the same.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		first := make(chan error, 1)
		go func() {
			_, err := s.Count(ctx, q, false, admitted)
			first <- err
		}()
		synctest.Wait()
		_, err = s.Count(t.Context(), q, false, admitted)
		require.NoError(t, err)
		<-first
		require.Equal(t, int64(4), store.asked.Load())
		require.NoError(t, s.Warm(t.Context(), "by=outcome"))
		require.Error(t, s.Warm(t.Context(), "by=nobody"))
	})
}

func TestQuestionsAreChecked(t *testing.T) {
	remembering(t, func(t *testing.T, store *countingStore, s *Statistics) {
		for _, c := range [][2]string{{"", "by=usr"}, {"", "q=(a"}, {"usr", ""}, {"path", "every=5m"}, {"", "%zz"}} {
			_, err := s.Question(domain.AllTenants(), c[0], c[1])
			require.Error(t, err, "%v", c)
		}
		q, err := s.Question(domain.AllTenants(), "principal", "")
		require.NoError(t, err)
		_, err = s.Count(t.Context(), q, false, admitted)
		require.NoError(t, err)
		require.Positive(t, store.scans.Load())
		require.Zero(t, store.asked.Load())
	})
}
