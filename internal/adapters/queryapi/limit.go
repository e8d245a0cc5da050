package queryapi

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
)

// What one caller may have going on at once. The store has few connections for searches: who asks much waits for
// itself, and not others for it. Who waits for longer than waitForTurn is refused.
const (
	maxSearches = 6
	maxExports  = 4 // which take as long as their clients
	maxTails    = 256
	waitForTurn = 3 * time.Second
)

// turns lets so many requests of each caller through at once. It is safe for concurrent use.
type turns struct {
	most int64
	what string

	mu      sync.Mutex
	callers map[string]*turn
}

// turn is a caller's. It is forgotten when nobody has or wants it.
type turn struct {
	*semaphore.Weighted
	users int
}

func newTurns(most int64, what string) *turns {
	return &turns{most: most, what: what, callers: map[string]*turn{}}
}

// take takes a caller's turn, and waits for it if need be. release gives it back.
func (t *turns) take(ctx context.Context, caller domain.Caller) (release func(), err error) {
	name := caller.How + " " + caller.Name
	t.mu.Lock()
	own := t.callers[name]
	if own == nil {
		own = &turn{Weighted: semaphore.NewWeighted(t.most)}
		t.callers[name] = own
	}
	own.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(t.callers, name)
		}
	}
	wait, cancel := context.WithTimeout(ctx, waitForTurn)
	defer cancel()
	if own.Acquire(wait, 1) != nil {
		leave()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, web.Problem(http.StatusTooManyRequests, fmt.Sprintf(
			"%s has %d %s going on, which is the most at once: wait for one of them, and try again", caller.Name, t.most, t.what,
		))
	}
	return func() {
		own.Release(1)
		leave()
	}, nil
}

// searching is a route that asks the store: within the caller's share, and timed.
func (r *routes) searching(kind string, next echo.HandlerFunc) echo.HandlerFunc {
	return r.timed(kind, func(c echo.Context) error {
		release, err := r.searches.take(c.Request().Context(), web.Caller(c))
		if err != nil {
			return err
		}
		defer release()
		return next(c)
	})
}

// timed times the answers of a route, but for those that were refused.
func (r *routes) timed(kind string, next echo.HandlerFunc) echo.HandlerFunc {
	observer := r.duration.WithLabelValues(kind)
	return func(c echo.Context) error {
		began := time.Now()
		err := next(c)
		if err == nil {
			observer.Observe(time.Since(began).Seconds())
		}
		return err
	}
}

func newDuration(reg prometheus.Registerer) *prometheus.HistogramVec {
	return promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
		Name: "docket_search_duration_seconds",
		Help: "Time until a question about decisions was answered, by kind: page, decision, stats, values, compare, " +
			"last_allowed, contrast.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"kind"})
}
