package sink

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// probeLimit bounds a probe that has to connect first; the store itself bounds the rest by ports.ProbeTimeout.
	probeLimit = ports.ProbeTimeout + 3*time.Second
	// An open breaker lets one attempt or probe through after a time drawn from these, so that ten savers do not storm a
	// database that recovers.
	probeMin, probeMax = 500 * time.Millisecond, time.Second
	// watchEvery is how often Watch looks whether it has to probe.
	watchEvery = 250 * time.Millisecond
	// idleProbe is how long a store that took the last batch is believed to take the next one: longer than a batch that
	// failed waits, so that its trouble is not forgotten.
	idleProbe = 8 * time.Second
)

// Breaker stands between a process and the store. It opens at the first failure that is the store's own, and closes at
// the first success. A process has one, whatever its roles. It is safe for concurrent use.
type Breaker struct {
	store   ports.Prober
	logger  *slog.Logger
	circuit circuitbreaker.CircuitBreaker[any]
	trouble atomic.Pointer[error] // why the store took nothing when it was last asked
	asked   atomic.Pointer[time.Time]

	mu   sync.Mutex
	back []func() // whom to tell when the store is back
}

// NewBreaker makes a Breaker; reg may be nil in tests.
func NewBreaker(store ports.Prober, reg prometheus.Registerer, logger *slog.Logger) *Breaker {
	b := &Breaker{store: store, logger: logger}
	b.circuit = circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(1).
		WithSuccessThreshold(1).
		WithRandomDelay(probeMin, probeMax).
		OnStateChanged(b.changed).
		Build()
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_breaker_state", Help: "Breaker in front of the store: 0 closed, 1 half-open, 2 open.",
	}, func() float64 { return breakerLevel[b.circuit.State()] })
	return b
}

// OnBack has f called each time that the store is back. It may be called at any time.
func (b *Breaker) OnBack(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.back = append(b.back, f)
}

// changed tells when the store goes away and when it is back. It does not tell that a probe half-opens the breaker,
// which happens about once a second in between.
func (b *Breaker) changed(e circuitbreaker.StateChangedEvent) {
	switch {
	case e.OldState == circuitbreaker.ClosedState:
		b.logger.Warn("the store is away; uploads are taken all the same, and nothing is lost", "error", b.Trouble())
	case e.NewState == circuitbreaker.ClosedState:
		b.mu.Lock()
		back := slices.Clone(b.back)
		b.mu.Unlock()
		for _, f := range back {
			f()
		}
		b.logger.Info("the store is back")
	}
}

var breakerLevel = map[circuitbreaker.State]float64{
	circuitbreaker.ClosedState: 0, circuitbreaker.HalfOpenState: 1, circuitbreaker.OpenState: 2,
}

// State reports the breaker as "closed", "half-open" or "open", and how long until the next probe.
func (b *Breaker) State() (state string, nextProbe time.Duration) {
	return b.circuit.State().String(), max(b.circuit.RemainingDelay(), 0)
}

// Trouble is why the store took nothing when it was last asked, or nil.
func (b *Breaker) Trouble() error {
	if err := b.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// allow reports whether the store may be asked now. Whoever is allowed has to record how it went.
func (b *Breaker) allow() bool { return b.circuit.TryAcquirePermit() }

// record tells how an attempt or a probe went.
func (b *Breaker) record(err error) {
	now := time.Now()
	b.asked.Store(&now)
	class := domain.ClassOf(err)
	switch {
	case err != nil && class == domain.Canceled:
		if !b.circuit.IsClosed() {
			b.circuit.RecordFailure() // nothing was learned
		}
		return
	case err != nil && (class == domain.Unavailable || class == domain.Misconfigured):
		b.trouble.Store(&err)
	default:
		b.trouble.Store(nil)
	}
	if err != nil && class == domain.Unavailable {
		b.circuit.RecordFailure()
	} else {
		b.circuit.RecordSuccess()
	}
}

// Watch asks a store that is away whether it is back, and one that has not been asked for idleProbe whether it is still
// there, until ctx is done: where no batch comes, nothing else would.
func (b *Breaker) Watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		idle := b.circuit.IsClosed()
		if asked := b.asked.Load(); idle && asked != nil && time.Since(*asked) < idleProbe || !b.allow() {
			continue
		}
		err := b.probe(ctx)
		if idle && err != nil { // one slow login is no outage
			err = b.probe(ctx)
		}
		b.record(err)
	}
}

// probe asks whether the store takes writes at all. Its failure is an outage, unless it has a class of its own.
func (b *Breaker) probe(ctx context.Context) error {
	try, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	err := b.store.Probe(try)
	switch {
	case err == nil || domain.ClassOf(err) == domain.Misconfigured || domain.ClassOf(err) == domain.Canceled:
		return err
	case ctx.Err() != nil:
		return domain.Errorf(domain.Canceled, "the probe was given up: %w", err)
	}
	return domain.Errorf(domain.Unavailable, "the store refuses a probe: %w", err)
}
