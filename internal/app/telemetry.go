package app

import (
	"context"
	"database/sql"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// tracing is docket's own, or nothing at all: it is off unless an endpoint is set.
type tracing struct {
	provider trace.TracerProvider // nil when off
	tracer   trace.Tracer
	shutdown func(context.Context) error
}

// newTracing follows OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT and the others).
func newTracing(ctx context.Context) (tracing, error) {
	const scope = "github.com/docket-project/docket"
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" ||
		os.Getenv("OTEL_SDK_DISABLED") == "true" {
		return tracing{
			tracer:   noop.NewTracerProvider().Tracer(scope),
			shutdown: func(context.Context) error { return nil },
		}, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return tracing{}, domain.Errorf(domain.Misconfigured, "set up traces: %w", err)
	}
	// The environment's own resource attributes come later and so win.
	res, err := resource.New(
		ctx,
		resource.WithAttributes(attribute.String("service.name", "docket"), attribute.String("service.version", Version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK(),
	)
	if err != nil {
		return tracing{}, domain.Errorf(domain.Misconfigured, "set up traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
	return tracing{provider: provider, tracer: provider.Tracer(scope), shutdown: func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // a collector that is away must not hold up the stop
		defer cancel()
		return provider.Shutdown(ctx)
	}}, nil
}

// instrumented is a log whose publishing is counted, timed and traced, whichever role does it.
type instrumented struct {
	ports.Log
	topics   domain.Topics
	tracer   trace.Tracer
	records  *prometheus.CounterVec
	duration prometheus.Histogram
	dead     *prometheus.CounterVec
}

func instrument(log ports.Log, topics domain.Topics, tracer trace.Tracer, reg prometheus.Registerer) *instrumented {
	f := promauto.With(reg)
	i := &instrumented{
		Log: log, topics: topics, tracer: tracer,
		records: f.NewCounterVec(prometheus.CounterOpts{
			Name: "docket_publish_records_total", Help: "Records published to the log, by topic and result: ok or failed.",
		}, []string{"topic", "result"}),
		duration: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_publish_duration_seconds", Help: "Time until all records of a call were durable.",
			Buckets: []float64{.0005, .001, .002, .003, .005, .0075, .01, .02, .03, .05, .1, .25, .5, 1, 2.5, 5, 8},
		}),
		dead: f.NewCounterVec(prometheus.CounterOpts{
			Name: "docket_dead_letters_total", Help: "Records that went to a dead-letter topic, by the class of the failure.",
		}, []string{"topic", "class"}),
	}
	for _, t := range topics.All() {
		i.records.WithLabelValues(t, "ok")
		i.records.WithLabelValues(t, "failed")
	}
	return i
}

// Publish counts, times and traces the log's.
func (i *instrumented) Publish(ctx context.Context, records []domain.Record) error {
	ctx, span := i.tracer.Start(ctx, "publish", trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.Int("messaging.batch.message_count", len(records)), attribute.String("messaging.operation.type", "send")))
	defer span.End()
	start := time.Now()
	err := i.Log.Publish(ctx, records)
	i.duration.Observe(time.Since(start).Seconds())
	result := "ok"
	if err != nil {
		result = "failed"
		span.SetStatus(codes.Error, string(domain.ClassOf(err)))
	}
	for first := 0; first < len(records); { // the records of a topic stand together, and are counted so
		topic, n := records[first].Topic, 0
		for at := first; at < len(records) && records[at].Topic == topic; at++ {
			n++
			if err == nil && (topic == i.topics.DLQ || topic == i.topics.ParkingDLQ) {
				i.dead.WithLabelValues(topic, string(records[at].Headers.ErrorClass)).Inc()
			}
		}
		i.records.WithLabelValues(topic, result).Add(float64(n))
		first += n
	}
	return err
}

func newDataLoss(reg prometheus.Registerer) prometheus.Counter {
	return promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "docket_log_data_loss_total", Help: "Acknowledged records that the log turned out to have lost. Any is a page.",
	})
}

// newWeaknesses counts what the check of the topics finds; an alert asks for none.
func newWeaknesses(reg prometheus.Registerer, n int) prometheus.Gauge {
	g := promauto.With(reg).NewGauge(prometheus.GaugeOpts{
		Name: "docket_log_weaknesses",
		Help: "Ways in which the topics' settings make acknowledged records less safe than promised.",
	})
	g.Set(float64(n))
	return g
}

// registerPool exports the connections of the store.
func registerPool(reg prometheus.Registerer, stats func() sql.DBStats) {
	f := promauto.With(reg)
	for name, g := range map[string]struct {
		help string
		read func(sql.DBStats) float64
	}{
		"open_connections": {"Connections to the " +
			"store.", func(s sql.DBStats) float64 { return float64(s.OpenConnections) }},
		"in_use_connections": {"Connections to the store that are busy.",
			func(s sql.DBStats) float64 { return float64(s.InUse) }},
		"max_connections": {"Most connections to the " +
			"store.", func(s sql.DBStats) float64 { return float64(s.MaxOpenConnections) }},
	} {
		f.NewGaugeFunc(
			prometheus.GaugeOpts{Name: "docket_store_pool_" + name, Help: g.help},
			func() float64 { return g.read(stats()) },
		)
	}
	f.NewCounterFunc(
		prometheus.CounterOpts{Name: "docket_store_pool_waits_total", Help: "Times a connection had to be waited for."},
		func() float64 { return float64(stats().WaitCount) },
	)
	f.NewCounterFunc(
		prometheus.CounterOpts{Name: "docket_store_pool_wait_seconds_total", Help: "Time spent waiting for connections."},
		func() float64 { return stats().WaitDuration.Seconds() },
	)
}
