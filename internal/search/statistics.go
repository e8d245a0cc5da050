package search

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
)

// What was counted is shown to everybody who asks the same for ten times as long as it took, so that counting takes a
// tenth of a core at most, whoever asks; and no longer than is bearable. After that, the first who asks has it counted
// anew, and all are shown what there is meanwhile. Nobody is shown what is twice as old.
const (
	freshFor   = 10
	freshLeast = 500 * time.Millisecond
	freshMost  = time.Minute
	// freshSpread is by what part of it that differs, up and down: what was counted at one time is not due at one time.
	freshSpread = 0.2
	// loadWithin bounds what is counted for many: it goes on when the one who asked first is gone.
	loadWithin = 12 * time.Second
	// maxRemembered bounds what is remembered, in bytes, about.
	maxRemembered = 64 << 20
)

// Statistics counts for many who ask the same: what was counted a moment ago is not counted again, and what is being
// counted is waited for. It is safe for concurrent use.
type Statistics struct {
	in      Counter
	life    context.Context //nolint:containedctx // what is counted for many ends with it
	stop    context.CancelFunc
	now     func() time.Time
	cache   *otter.Cache[Question, Counted]
	results *prometheus.CounterVec
	age     prometheus.Histogram
}

// Question is who asks for what: the tenants that the caller sees are a part of it.
type Question struct {
	scope domain.Scope
	field string // of which the values are wanted; "" for statistics
	raw   string
	// several says that field has several names, parted by fieldMark, which none has in it.
	several bool
}

const fieldMark = "\x00"

// Counted is what was counted, and when.
type Counted struct {
	Asked StatsRequest
	Stats Stats
	// Facets are the values of several fields, where these were asked for instead.
	Facets []Stats
	At     time.Time
	fresh  time.Duration
}

// NewStatistics counts in a store. Stop ends it.
func NewStatistics(in Counter, reg prometheus.Registerer, logger *slog.Logger) *Statistics {
	f := promauto.With(reg)
	life, stop := context.WithCancel(context.Background())
	s := &Statistics{
		in: in, now: time.Now, life: life, stop: stop,
		results: f.NewCounterVec(prometheus.CounterOpts{
			Name: "docket_cache_requests_total",
			Help: "Statistics that were asked for, by where they came from: hit (counted a moment ago), stale (as well, and " +
				"counted anew behind it), miss (counted, or waited for), fresh (counted anew because the client wanted it).",
		}, []string{"result"}),
		age: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_cache_age_seconds", Help: "Age of the statistics that were shown.",
			Buckets: []float64{.001, .1, .5, 1, 2, 5, 10, 30, 60, 120},
		}),
	}
	for _, result := range []string{"hit", "stale", "miss", "fresh"} {
		s.results.WithLabelValues(result)
	}
	const perItem = 160
	s.cache = otter.Must(&otter.Options[Question, Counted]{
		MaximumWeight: maxRemembered,
		Weigher: func(q Question, c Counted) uint32 {
			weight := len(q.raw) + 2*perItem
			for _, stats := range slices.Concat(c.Facets, []Stats{c.Stats}) {
				for i := range stats.Items {
					weight += perItem
					for _, v := range stats.Items[i].Values {
						weight += len(v.Text)
					}
				}
			}
			return uint32(min(weight, math.MaxUint32))
		},
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[Question, Counted]) time.Duration {
			return 2 * e.Value.fresh
		}),
		RefreshCalculator: otter.RefreshWritingFunc(func(e otter.Entry[Question, Counted]) time.Duration {
			return e.Value.fresh
		}),
		Logger: cacheLog{logger},
	})
	return s
}

// Stop ends what is counted, and what the cache does by itself.
func (s *Statistics) Stop() {
	s.stop()
	s.cache.StopAllGoroutines()
}

// refused is what Admit has said.
type refused struct{ error }

func (r *refused) Unwrap() error { return r.error }

// Admit lets a caller's question through to the store, or refuses it. release is called behind it.
type Admit func(context.Context) (release func(), err error)

// Count answers a question. With fresh, what was counted before is not shown.
func (s *Statistics) Count(ctx context.Context, q Question, fresh bool, admit Admit) (Counted, error) {
	var mine atomic.Bool
	load := otter.LoaderFunc[Question, Counted](func(_ context.Context, q Question) (Counted, error) {
		mine.Store(true)
		ctx, cancel := context.WithTimeout(s.life, loadWithin)
		defer cancel()
		release, err := admit(ctx)
		if err != nil {
			return Counted{}, &refused{err}
		}
		defer release()
		return s.load(ctx, q)
	})
	out, result, err := s.get(ctx, q, fresh, load)
	var no *refused
	for errors.As(err, &no) && !mine.Load() && ctx.Err() == nil { // another caller's share is not this one's
		out, result, err = s.get(ctx, q, fresh, load)
	}
	switch {
	case errors.As(err, &no):
		return out, no.error
	case err != nil:
		return out, err
	}
	s.results.WithLabelValues(result).Inc()
	s.age.Observe(max(0, s.now().Sub(out.At).Seconds()))
	return out, nil
}

func (s *Statistics) get(
	ctx context.Context, q Question, fresh bool, load otter.Loader[Question, Counted],
) (out Counted, result string, err error) {
	if fresh {
		select {
		case r := <-s.cache.Refresh(ctx, q, load):
			return r.Value, "fresh", r.Err
		case <-ctx.Done():
			return out, "", ctx.Err()
		}
	}
	result = "miss"
	if e, there := s.cache.GetEntryQuietly(q); there {
		if result = "hit"; e.RefreshableAfter() <= 0 {
			result = "stale"
		}
	}
	out, err = s.cache.Get(ctx, q, load)
	return out, result, err
}

// Warm counts what will be asked for first, by query strings for ParseStats, for who sees all tenants.
func (s *Statistics) Warm(ctx context.Context, raws ...string) error {
	admit := func(context.Context) (func(), error) { return func() {}, nil }
	for _, raw := range raws {
		q, err := s.Question(domain.AllTenants(), "", raw)
		if err == nil {
			_, err = s.Count(ctx, q, false, admit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Question reads a query string for ParseStats or, with a field, for ParseFacet, so that what is wrong with it is told
// before anything is looked for.
func (s *Statistics) Question(scope domain.Scope, field, raw string) (Question, error) {
	if _, err := parseStatistics(field, raw, s.now()); err != nil {
		return Question{}, err
	}
	params, err := url.ParseQuery(raw)
	return Question{scope: scope, field: field, raw: params.Encode()}, err
}

// Facets is Question for ParseFacets.
func (s *Statistics) Facets(scope domain.Scope, fields []string, raw string) (Question, error) {
	if _, err := ParseFacets(fields, raw, s.now()); err != nil {
		return Question{}, err
	}
	params, err := url.ParseQuery(raw)
	return Question{scope: scope, field: strings.Join(fields, fieldMark), raw: params.Encode(), several: true}, err
}

func parseStatistics(field, raw string, now time.Time) (StatsRequest, error) {
	if field != "" {
		return ParseFacet(field, raw, now)
	}
	return ParseStats(raw, now)
}

// load counts, from now on: the last 24 hours are others than a moment ago.
func (s *Statistics) load(ctx context.Context, q Question) (Counted, error) {
	out := Counted{At: s.now()}
	var err error
	if q.several {
		asked, err := ParseFacets(strings.Split(q.field, fieldMark), q.raw, out.At)
		if err == nil {
			out.Facets, err = Facets(ctx, s.in, q.scope, asked, out.At)
		}
		out.fresh = s.freshness(out.At)
		return out, err
	}
	if out.Asked, err = parseStatistics(q.field, q.raw, out.At); err != nil {
		return out, err
	}
	if out.Stats, err = Count(ctx, s.in, q.scope, out.Asked, out.At); err != nil {
		return out, err
	}
	out.fresh = s.freshness(out.At)
	return out, nil
}

// freshness is how long what has been counted since a time is fresh.
func (s *Statistics) freshness(began time.Time) time.Duration {
	fresh := min(max(freshFor*s.now().Sub(began), freshLeast), freshMost)
	return time.Duration(float64(fresh) * (1 - freshSpread + 2*freshSpread*rand.Float64()))
}

// cacheLog tells of what was not counted anew behind what is shown.
type cacheLog struct{ *slog.Logger }

// Warn implements otter.Logger.
func (l cacheLog) Warn(_ context.Context, msg string, err error) {
	var no *refused
	if errors.As(err, &no) || errors.Is(err, context.Canceled) { // who asked has been told, or is gone
		return
	}
	l.Logger.Warn("statistics were not counted anew; the old ones are shown a little longer", "error", err, "what", msg)
}

// Error implements otter.Logger.
func (l cacheLog) Error(ctx context.Context, msg string, err error) { l.Warn(ctx, msg, err) }
