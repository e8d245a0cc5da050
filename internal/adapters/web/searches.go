package web

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/domain"
)

// maxSearches is how many searches one caller may have going on at once, through the API and pages together. The store
// has few connections for them: who asks much waits for itself, and not others for it.
const maxSearches = 6

// Searches are the questions that the callers of a process ask about decisions: each within its caller's share, and
// timed. It is safe for concurrent use.
type Searches struct {
	turns    *Turns
	duration *prometheus.HistogramVec
}

// kinds are those of questions.
var kinds = []string{"page", "decision", "stats", "values", "compare", "last_allowed", "contrast", "replay_policy"}

// NewSearches registers how long they take; reg may be nil in tests.
func NewSearches(reg prometheus.Registerer) *Searches {
	s := &Searches{
		turns: NewTurns(maxSearches, "searches"),
		duration: promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
			Name:    "docket_search_duration_seconds",
			Help:    "Time until a question about decisions was answered, by kind: " + strings.Join(kinds, ", ") + ".",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"kind"}),
	}
	for _, kind := range kinds {
		s.duration.WithLabelValues(kind)
	}
	return s
}

// Ask asks something that takes a turn of the caller's.
func (s *Searches) Ask(ctx context.Context, caller domain.Caller, kind string, ask func() error) error {
	return s.Timed(kind, func() error {
		release, err := s.turns.Take(ctx, caller)
		if err != nil {
			return err
		}
		defer release()
		return ask()
	})
}

// Timed times an answer, unless it is an error.
func (s *Searches) Timed(kind string, ask func() error) error {
	began := time.Now()
	err := ask()
	if err == nil {
		s.duration.WithLabelValues(kind).Observe(time.Since(began).Seconds())
	}
	return err
}

// Admit takes a turn of the caller's; search.Statistics asks for it once it has to look for the answer.
func (s *Searches) Admit(caller domain.Caller) func(context.Context) (release func(), err error) {
	return func(ctx context.Context) (func(), error) { return s.turns.Take(ctx, caller) }
}

// waitForTurn is how long a caller waits for a turn before it is refused.
const waitForTurn = 3 * time.Second

// Turns lets so many requests of each caller through at once. It is safe for concurrent use.
type Turns struct {
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

// NewTurns makes Turns; what names what has them, for those who are refused.
func NewTurns(most int64, what string) *Turns {
	return &Turns{most: most, what: what, callers: map[string]*turn{}}
}

// Take takes a caller's turn, and waits for it if need be. release gives it back.
func (t *Turns) Take(ctx context.Context, caller domain.Caller) (release func(), err error) {
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
		return nil, Problem(http.StatusTooManyRequests, fmt.Sprintf(
			"%s has %d %s going on, which is the most at once: wait for one of them, and try again", caller.Name, t.most, t.what,
		))
	}
	return func() {
		own.Release(1)
		leave()
	}, nil
}
