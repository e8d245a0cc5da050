package sink

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
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
	// publishReserve is what an attempt leaves of it, so that what was not stored can be parked.
	publishReserve = 6 * time.Second
	// The limiter looks at the store's latency this often, if so many batches have told it.
	limitWindow  = time.Second
	limitSamples = 10
	// maxLinks bounds the traces that one batch's span links to.
	maxLinks = 128
)

// Writer saves records and finds the rows that the store rejects when a batch fails. The saver and the parking role of
// a process share one. It is safe for concurrent use.
type Writer struct {
	store     ports.DecisionWriter
	breaker   *Breaker
	limiter   adaptivelimiter.AdaptiveLimiter[any]
	projector *domain.Projector
	erasures  *Erasures
	tracer    trace.Tracer
	now       func() time.Time
	rejected  atomic.Uint64 // a share of rows, as the bits of a float64
	troubles  *troubles

	batchSize     prometheus.Histogram
	batchDuration prometheus.Histogram
	endToEnd      prometheus.Histogram
}

// Concurrency says how many batches are at the store at once.
type Concurrency struct {
	// Ceiling is the most of them.
	Ceiling int
	// Adaptive lets the number follow how long the store takes and how much comes in; otherwise it is the ceiling.
	Adaptive bool
}

// NewWriter makes a Writer in front of b's store, which saves nothing that e says may not be kept; e is nil where there
// can be no such thing, and reg may be nil in tests.
func NewWriter(
	store ports.DecisionWriter, b *Breaker, c Concurrency, p *domain.Projector, e *Erasures, tracer trace.Tracer,
	reg prometheus.Registerer,
) *Writer {
	f := promauto.With(reg)
	w := &Writer{
		store: store, breaker: b, limiter: newLimiter(c), projector: p, erasures: e, tracer: tracer, now: time.Now,
		troubles: &troubles{logger: b.logger, now: time.Now, byKey: map[string]*Trouble{}},
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
	b.OnBack(w.limiter.Reset) // a store that is back is approached anew
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_save_concurrency_limit",
		Help: "Batches that may be at the store at once, as its latency and the inflow allow.",
	}, func() float64 { return float64(w.limiter.Limit()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_save_concurrency_in_use", Help: "Batches that are at the store.",
	}, func() float64 { return float64(w.limiter.Inflight()) })
	return w
}

// newLimiter begins with half of the ceiling, also when the store was away.
func newLimiter(c Concurrency) adaptivelimiter.AdaptiveLimiter[any] {
	least, first := uint(1), uint(c.Ceiling+1)/2
	if !c.Adaptive {
		least, first = uint(c.Ceiling), uint(c.Ceiling)
	}
	return adaptivelimiter.NewBuilder[any]().WithLimits(least, uint(c.Ceiling), first).
		WithRecentWindow(limitWindow, 10*limitWindow, limitSamples).Build()
}

// Limit is how many batches may be at the store at once, for now.
func (w *Writer) Limit() int { return w.limiter.Limit() }

// Busy reports that as many batches are at the store as may be.
func (w *Writer) Busy() bool { return !w.limiter.CanAcquirePermit() }

// Troubles are the days and tenants whose rows the store, in good health, does not take.
func (w *Writer) Troubles() []Trouble { return w.troubles.List() }

// Verdict is what became of one record: a save status of the store's, or an error whose class says what is next.
// Invalid and Unknown are the row's own fault; no other class is.
type Verdict struct {
	Status domain.SaveStatus
	Err    error
	// HeldFor, unless empty, is what the row waits for while the store takes others; Err is why.
	HeldFor string
	// Tenant and Path are those of a row that is rejected or held.
	Tenant, Path string
}

// Rejected reports that the row itself was rejected.
func (v Verdict) Rejected() bool {
	class := domain.ClassOf(v.Err)
	return v.Err != nil && (class == domain.Invalid || class == domain.Unknown)
}

// Rejection is what a rejected row counts as.
func (v Verdict) Rejection() domain.Rejection { return domain.RejectionOf(v.Err, v.Tenant, v.Path) }

var errOpen = domain.Errorf(domain.Unavailable, "the store is away: the breaker is open")

// Save saves records and returns a verdict for each, in order. A row is rejected only when it fails alone in a
// transaction of its own and a probe right afterwards succeeds within a second; what time does not allow to find out is
// Unavailable.
func (w *Writer) Save(ctx context.Context, records []domain.Record) []Verdict {
	ctx, span := w.tracer.Start(
		ctx, "save decisions", trace.WithLinks(links(records)...), trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attribute.Int("messaging.batch.message_count", len(records))),
	)
	defer span.End()
	rows := make([]domain.Decision, len(records))
	for i, r := range records {
		rows[i] = w.projector.Project(r)
	}
	verdicts := make([]Verdict, len(records))
	if len(rows) > 0 {
		(&isolation{w: w, ctx: ctx, sifted: map[string]bool{}}).run(pieceOf(rows, verdicts))
	}
	now := w.now()
	for i, v := range verdicts {
		if v.Status == domain.Saved && !rows[i].ReceivedAt.IsZero() {
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

// attempt makes one call to the store, past the breaker and the limiter, about what may be kept.
func (w *Writer) attempt(ctx context.Context, rows []domain.Decision) ([]domain.SaveStatus, error) {
	if !w.breaker.allow() {
		return nil, errOpen
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-publishReserve))
		defer cancel()
	}
	in, asked, err := w.erasures.inForce(ctx)
	if err != nil {
		if asked && ctx.Err() == nil {
			w.breaker.record(err)
		} else {
			w.breaker.record(context.Canceled) // it is what the store said before, or our time ran out
		}
		return nil, err
	}
	kept := sift(in, rows)
	if len(kept.rows) == 0 {
		w.breaker.record(context.Canceled) // the store was not asked
		return kept.statuses, nil
	}
	permit, err := w.limiter.AcquirePermit(ctx)
	if err != nil {
		w.breaker.record(context.Canceled) // the store was not asked
		return nil, domain.Errorf(domain.ClassOf(err), "wait for a turn at the store: %w", err)
	}
	if w.breaker.circuit.IsOpen() { // meanwhile
		permit.Drop()
		return nil, errOpen
	}
	start := w.now()
	statuses, err := w.store.SaveBatch(ctx, kept.rows)
	if err == nil {
		permit.Record()
	} else {
		permit.Drop() // how long a failure took says nothing about load
	}
	w.batchSize.Observe(float64(len(kept.rows)))
	w.batchDuration.Observe(w.now().Sub(start).Seconds())
	switch {
	case err != nil && ctx.Err() != nil:
		w.breaker.record(context.Canceled) // it was our time that ran out
	case domain.Answered(err) && !(Verdict{Err: err}).Rejected():
		// Whether it is the store's trouble is found out by a probe, and recorded then.
	default:
		w.breaker.record(err)
	}
	if err != nil {
		return nil, err
	}
	return kept.all(statuses), nil
}
