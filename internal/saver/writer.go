package saver

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// probeTimeout is how fast a probe has to succeed for a row to be blamed instead of the store.
	probeTimeout = time.Second
	// blameReserve is what the search for guilty rows leaves of the handler's budget for publishing and committing.
	blameReserve = 8 * time.Second
	// publishReserve is what an attempt leaves of it, so that what was not stored can be parked.
	publishReserve = 4 * time.Second
	// probeEvery is how often a store that is away is asked, where no batch does.
	probeEvery = 500 * time.Millisecond
	// maxLinks bounds the traces that one batch's span links to.
	maxLinks = 128
)

// Writer saves records and finds the rows to blame when a batch fails. The saver and the parking role share one, and
// with it one breaker. It is safe for concurrent use.
type Writer struct {
	store     ports.DecisionWriter
	projector *domain.Projector
	breaker   circuitbreaker.CircuitBreaker[any]
	tracer    trace.Tracer
	now       func() time.Time
	trouble   atomic.Pointer[error] // why the store took nothing at the last attempt

	batchSize     prometheus.Histogram
	batchDuration prometheus.Histogram
	endToEnd      prometheus.Histogram
}

// NewWriter makes a Writer; reg may be nil in tests.
func NewWriter(store ports.DecisionWriter, p *domain.Projector, tracer trace.Tracer, reg prometheus.Registerer, logger *slog.Logger) *Writer {
	f := promauto.With(reg)
	w := &Writer{
		store: store, projector: p, tracer: tracer, now: time.Now,
		breaker: circuitbreaker.NewBuilder[any]().WithFailureThreshold(1).WithSuccessThreshold(1).
			WithRandomDelay(500*time.Millisecond, time.Second).
			OnStateChanged(func(e circuitbreaker.StateChangedEvent) { logBreaker(logger, e) }).Build(),
		batchSize: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_save_batch_size", Help: "Rows in one call to the store.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 12),
		}),
		batchDuration: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_save_batch_duration_seconds", Help: "Time of one call to the store.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		endToEnd: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_end_to_end_seconds", Help: "Time from the receipt of an upload to the commit of its row.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 21600, 86400},
		}),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_breaker_state", Help: "Breaker in front of the store: 0 closed, 1 half-open, 2 open.",
	}, func() float64 { return breakerLevel[w.breaker.State()] })
	return w
}

// logBreaker tells when the store goes away and when it is back. Every probe in between half-opens the breaker, which is
// nobody's news.
func logBreaker(logger *slog.Logger, e circuitbreaker.StateChangedEvent) {
	switch {
	case e.OldState == circuitbreaker.ClosedState:
		logger.Warn("the store is away; uploads are still taken, and what waits is parked until it is back")
	case e.NewState == circuitbreaker.ClosedState:
		logger.Info("the store is back")
	}
}

var breakerLevel = map[circuitbreaker.State]float64{
	circuitbreaker.ClosedState: 0, circuitbreaker.HalfOpenState: 1, circuitbreaker.OpenState: 2,
}

// Breaker reports the breaker's state as "closed", "half-open" or "open", and how long until the next probe.
func (w *Writer) Breaker() (state string, nextProbe time.Duration) {
	return w.breaker.State().String(), max(w.breaker.RemainingDelay(), 0)
}

// Verdict is what became of one record: a fate of the store's, or an error whose class says what is next. Invalid and
// Unknown blame the row; every other class leaves it innocent.
type Verdict struct {
	Fate domain.Fate
	Err  error
}

var errOpen = domain.Errorf(domain.Unavailable, "the store is away: the breaker is open")

// Save saves records and returns a verdict for each, in order. A row is blamed only when it fails alone in a
// transaction of its own and a probe right afterwards succeeds within a second; what time does not allow to find out
// is Unavailable.
func (w *Writer) Save(ctx context.Context, records []domain.Record) []Verdict {
	ctx, span := w.tracer.Start(ctx, "save decisions", trace.WithLinks(links(records)...), trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attribute.Int("messaging.batch.message_count", len(records))))
	defer span.End()
	rows := make([]domain.Decision, len(records))
	for i, r := range records {
		rows[i] = w.projector.Project(r)
	}
	verdicts := make([]Verdict, len(records))
	w.save(ctx, rows, verdicts)
	now := w.now()
	for i, v := range verdicts {
		if v.Fate == domain.Saved && !rows[i].ReceivedAt.IsZero() {
			w.endToEnd.Observe(max(now.Sub(rows[i].ReceivedAt).Seconds(), 0))
		}
		if v.Err != nil {
			span.SetStatus(codes.Error, string(domain.ClassOf(v.Err)))
		}
	}
	return verdicts
}

// links are the traces of the uploads that a batch's records came with.
func links(records []domain.Record) []trace.Link {
	var out []trace.Link
	seen := map[string]bool{}
	for _, r := range records {
		tp := r.Headers.TraceParent
		if tp == "" || seen[tp] || len(out) == maxLinks {
			continue
		}
		seen[tp] = true
		ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": tp})
		if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
			out = append(out, trace.Link{SpanContext: sc})
		}
	}
	return out
}

// save stores rows, or splits them until the guilty ones stand alone. It fills verdicts, which runs beside rows.
func (w *Writer) save(ctx context.Context, rows []domain.Decision, verdicts []Verdict) {
	fates, err := w.attempt(ctx, rows)
	if err == nil {
		for i, f := range fates {
			verdicts[i].Fate = f
		}
		return
	}
	if class := domain.ClassOf(err); class != domain.Invalid && class != domain.Unknown {
		sentence(verdicts, err)
		return
	}
	if probeErr := w.probe(ctx); probeErr != nil {
		sentence(verdicts, probeErr)
		return
	}
	if len(rows) == 1 {
		verdicts[0].Err = err
		return
	}
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(w.now()) < blameReserve {
		sentence(verdicts, domain.Errorf(domain.Unavailable, "no time left to find the rows to blame: %w", err))
		return
	}
	half := len(rows) / 2
	w.save(ctx, rows[:half], verdicts[:half])
	if v := verdicts[half-1]; v.Err != nil && domain.ClassOf(v.Err) != domain.Invalid && domain.ClassOf(v.Err) != domain.Unknown {
		sentence(verdicts[half:], v.Err) // the store has gone away meanwhile
		return
	}
	w.save(ctx, rows[half:], verdicts[half:])
}

// sentence gives all of them the same error.
func sentence(verdicts []Verdict, err error) {
	for i := range verdicts {
		verdicts[i].Err = err
	}
}

// attempt makes one call to the store, past the breaker.
func (w *Writer) attempt(ctx context.Context, rows []domain.Decision) ([]domain.Fate, error) {
	if !w.breaker.TryAcquirePermit() {
		return nil, errOpen
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-publishReserve))
		defer cancel()
	}
	start := w.now()
	fates, err := w.store.SaveBatch(ctx, rows)
	w.batchSize.Observe(float64(len(rows)))
	w.batchDuration.Observe(w.now().Sub(start).Seconds())
	w.record(err)
	return fates, err
}

// record tells the breaker, and whoever asks for trouble, how an attempt or a probe went.
func (w *Writer) record(err error) {
	class := domain.ClassOf(err)
	if err != nil && class == domain.Unavailable {
		w.breaker.RecordFailure()
	} else {
		w.breaker.RecordSuccess()
	}
	if err != nil && (class == domain.Unavailable || class == domain.Misconfigured) {
		w.trouble.Store(&err)
	} else {
		w.trouble.Store(nil)
	}
}

// Watch asks a store that is away whether it is back, until ctx is done: where no batch comes, nothing else would.
func (w *Writer) Watch(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.breaker.IsClosed() || !w.breaker.TryAcquirePermit() {
			continue
		}
		if err := w.probe(ctx); ctx.Err() == nil {
			w.record(err)
		} else {
			w.breaker.RecordFailure()
		}
	}
}

// Trouble is why the store took nothing at the last attempt, or nil.
func (w *Writer) Trouble() error {
	if err := w.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// probe asks whether the store takes writes at all. Its failure is an outage, unless it has a class of its own.
func (w *Writer) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := w.store.Probe(ctx)
	if err == nil || domain.ClassOf(err) == domain.Misconfigured || domain.ClassOf(err) == domain.Canceled {
		return err
	}
	return domain.Errorf(domain.Unavailable, "the store refuses a probe: %w", err)
}
