package app

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/docket-project/docket/internal/adapters/httpapi"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/trail"
)

// Role is what a process does.
type Role string

// The roles. Serve is all of them.
const (
	Serve   Role = "serve"
	Ingest  Role = "ingest"
	Saver   Role = "saver"
	Parking Role = "parking"
	Console Role = "console"
)

// adminListen is where each role's admin listener is unless a setting says so.
var adminListen = map[Role]string{
	Serve: "127.0.0.1:9180", Ingest: "127.0.0.1:9181", Saver: "127.0.0.1:9182", Parking: "127.0.0.1:9183", Console: "127.0.0.1:9184",
}

// is reports whether the process has a role.
func (r Role) is(other Role) bool { return r == Serve || r == other }

// setup is one straight line: the order of wiring is the order of scope, and of stopping backwards.
func (a *App) setup(ctx context.Context) error {
	cfg := a.cfg
	registerProcess(a.reg)

	tracing, err := newTracing(ctx)
	if err != nil {
		return err
	}
	a.onStop("telemetry", tracing.shutdown)

	projector, err := domain.NewProjector(cfg.Mappings)
	if err != nil {
		return err
	}
	uploadTokens, consoleTokens, err := a.tokens()
	if err != nil {
		return err
	}
	tlsConfig, err := a.tls()
	if err != nil {
		return err
	}

	// Ports before files: an occupied one is found before anything is touched. Nothing is accepted until Start.
	if a.role.is(Ingest) {
		if a.upload, err = a.listen(ctx, "upload", "listen", cfg.Listen, tlsConfig); err != nil {
			return err
		}
	}
	if a.role.is(Console) {
		if a.console, err = a.listen(ctx, "console", "console_listen", cfg.ConsoleListen, tlsConfig); err != nil {
			return err
		}
	}
	if a.admin, err = a.listen(ctx, "admin", "admin_listen", cfg.AdminListen, nil); err != nil {
		return err
	}

	// Opening the log may take a while. Whoever watches this process can already see that it lives and is not ready.
	a.admin.server.Handler = httpapi.NewAdmin(cfg.AdminListen, a.reg, a.readiness, a.logger)
	a.serve(a.admin)

	store, durable, err := a.backends(ctx)
	if err != nil {
		return err
	}
	log := instrument(durable, a.topics, tracing.tracer, a.reg)

	// Whoever has the store knows whether it is away, and whether a flood is stopped; the roles that save share one writer.
	var breaker *saver.Breaker
	var flood *saver.Flood
	if a.role != Ingest {
		breaker = saver.NewBreaker(store, a.reg, a.logger)
		flood = saver.NewFlood(store, breaker, a.reg, a.logger)
	}
	a.pipeline = newPipeline(durable, a.role, a.topics, breaker, flood, a.reg, a.logger)
	a.run("pipeline", a.pipeline.run)
	if a.role.is(Saver) || a.role.is(Parking) {
		a.consumers(store, log, breaker, flood, projector, tracing.tracer)
	}
	if a.role.is(Parking) {
		a.deadLetters(store, log, projector)
	}
	if a.role.is(Parking) || a.role.is(Console) {
		a.run("count of dead letters", func(ctx context.Context) { a.pipeline.countDead(ctx, store) })
	}
	if breaker != nil { // behind the writer, which wants to know when the store is back
		a.run("store probe", breaker.Watch)
		a.run("flood stop", flood.Run)
	}

	if a.role.is(Ingest) {
		roster := ingest.NewRoster(store, a.logger)
		a.run("roster", roster.Run)
		accept := ingest.New(ingest.Config{
			Topics:         a.topics,
			Limits:         cfg.limits(),
			PublishTimeout: cfg.PublishTimeout,
		}, log, roster, a.reg)
		a.upload.server.Handler = httpapi.NewUpload(httpapi.UploadConfig{
			WireLimit: cfg.MaxWireBytes, InflatedLimit: cfg.MaxInflatedBytes, InFlight: cfg.MaxInFlightBytes, Tokens: uploadTokens,
		}, accept, roster, tracing.provider, a.reg, a.logger.With("role", Ingest))
	}
	if a.role.is(Console) {
		follow := trail.New(store, durable, []trail.Stage{
			{Name: "saver", Topic: a.topics.Decisions, Group: saver.Group}, {Name: "parking role", Topic: a.topics.Parking, Group: parking.Group},
			{Name: "index", Topic: a.topics.DLQ, Group: parking.IndexGroup, Dead: true}, {Name: "index", Topic: a.topics.ParkingDLQ, Group: parking.IndexGroup, Dead: true},
		})
		a.console.server.Handler = httpapi.NewQuery(store, durable, follow, consoleTokens, a.pipeline.view, a.logger.With("role", Console))
	}
	return nil
}

// consumers starts the roles that save. In one process they share a writer, and with it the limiter.
func (a *App) consumers(store ports.Store, log ports.Log, b *saver.Breaker, flood *saver.Flood, p *domain.Projector, tracer trace.Tracer) {
	cfg := a.cfg
	fresh, backlog := 0, 0
	if a.role.is(Saver) {
		fresh = a.members(cfg.SaverConcurrency)
	}
	if a.role.is(Parking) {
		backlog = a.members(cfg.ParkingConcurrency)
	}
	adaptive := cfg.SaverAdaptive && (fresh > 0 || cfg.ParkingAdaptive)
	a.writer = saver.NewWriter(store, b, saver.Concurrency{Ceiling: fresh + backlog, Adaptive: adaptive}, p, tracer, a.reg)
	metrics := saver.NewMetrics(a.reg)
	retry := saver.Retry{
		Topics: a.topics, MaxAttempts: cfg.ParkingMaxAttempts, BackoffMin: cfg.ParkingBackoffMin, BackoffMax: cfg.ParkingBackoffMax,
	}
	if a.role.is(Parking) {
		park := parking.New(parking.Config{
			Save: a.writer.Save, Busy: func() bool { return fresh > 0 && a.writer.Busy() }, Log: log, Retry: retry, Flood: flood,
			Concurrency: saver.Concurrency{Ceiling: backlog, Adaptive: cfg.ParkingAdaptive},
			Metrics:     metrics, Logger: a.logger.With("role", Parking),
		}, a.reg)
		a.consume(Parking, log, backlog, ports.Subscription{Group: parking.Group, Topics: []string{a.topics.Parking}}, park.Handle)
	}
	if a.role.is(Saver) {
		save := saver.New(a.writer, log, retry, flood, metrics, a.logger.With("role", Saver))
		a.consume(Saver, log, fresh, ports.Subscription{Group: saver.Group, Topics: []string{a.topics.Decisions}}, save.Handle)
	}
}

// members of a consumer group in this process; the embedded log's topics have one partition.
func (a *App) members(concurrency int) int {
	if len(a.cfg.KafkaBrokers) == 0 {
		return 1
	}
	return concurrency
}

// deadLetters starts what the parking role does about them: the index, and the operators' jobs.
func (a *App) deadLetters(store ports.Store, log ports.Log, p *domain.Projector) {
	logger := a.logger.With("role", Parking)
	index := &parking.Index{Store: store, Log: log, Projector: p, Topics: a.topics, Logger: logger}
	a.consume(Parking, log, 1, ports.Subscription{Group: parking.IndexGroup, Topics: []string{a.topics.DLQ, a.topics.ParkingDLQ}}, index.Handle)
	a.run("index of dead letters", index.Tend)
	jobs := parking.NewJobs(parking.JobConfig{
		Store: store, Log: log, Index: index, Topics: a.topics, Projector: p, Rehearse: saver.NewRehearsal(store, p).Save,
		Limits: a.cfg.limits(), Inflate: httpapi.Inflate, Owner: processName(), Logger: logger,
	})
	a.run("jobs", jobs.Run)
}

// processName tells this process from others that share the store, also from one that had its number before.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%x", host, os.Getpid(), time.Now().UnixNano())
}
