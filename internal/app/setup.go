package app

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/trace"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/console"
	"github.com/docket-project/docket/internal/adapters/queryapi"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/uploadapi"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/dictionary"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/erase"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/job"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/policy"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/reproject"
	"github.com/docket-project/docket/internal/saver"
	"github.com/docket-project/docket/internal/search"
	"github.com/docket-project/docket/internal/sink"
	"github.com/docket-project/docket/internal/status"
	"github.com/docket-project/docket/internal/tail"
	"github.com/docket-project/docket/internal/trail"
)

// AdminListen is where each role's admin listener is unless a setting says so.
var AdminListen = map[status.Role]string{
	status.Serve: "127.0.0.1:9180", status.Ingest: "127.0.0.1:9181", status.Saver: "127.0.0.1:9182",
	status.Parking: "127.0.0.1:9183", status.Console: "127.0.0.1:9184",
}

// setup is one straight line: the order of wiring is the order of scope, and of stopping backwards.
func (a *App) setup(ctx context.Context) error {
	registerProcess(a.reg)
	tracing, err := newTracing(ctx)
	if err != nil {
		return err
	}
	a.onStop("telemetry", tracing.shutdown)
	projector, err := Projector(a.cfg)
	if err != nil {
		return err
	}
	assembler, err := a.assembler(projector)
	if err != nil {
		return err
	}
	who, err := a.authenticators(ctx)
	if err != nil {
		return err
	}
	if err := a.listenAll(ctx); err != nil {
		return err
	}

	// Opening the log may take a while. Whoever watches this process can already see that it lives and is not ready.
	report := func(verbose bool) status.Report { return a.health.Report(a.sampler.Load(), verbose) }
	a.admin.server.Handler = web.NewAdmin(a.admin.door, a.reg, report, a.overview)
	a.serve(a.admin)

	back, err := a.backends(ctx)
	if err != nil {
		return err
	}
	log := instrument(back.Log, a.topics, tracing.tracer, a.reg)

	// Whoever has the store knows whether it is away, and whether the dead-letter guard is on; the roles that save share
	// one writer.
	var s *store
	if a.role != status.Ingest {
		s = a.newStore(back, projector, tracing.tracer)
	}
	sampler := status.NewSampler(back.uploads(back.Log), a.consumed(), s.status(), a.reg, a.logger)
	a.sampler.Store(sampler)
	a.run("sampler", sampler.Run)
	a.consumers(log, s)
	if a.role.Is(status.Saver) {
		a.run("store upkeep", func(ctx context.Context) { a.tend(ctx, back.Decisions) })
	}
	if a.role.Is(status.Saver) && a.cfg.StoreEvents != EventsJSON {
		a.run("dictionaries", dictionary.New(back.Decisions, a.name, a.logger).Run)
	}
	if a.role.Is(status.Parking) {
		a.deadLetters(back, log, projector, assembler, s.erasures)
	}
	if a.role.Is(status.Parking) || a.role.Is(status.Console) {
		a.run("count of dead letters", func(ctx context.Context) { sampler.CountDead(ctx, back.Control.CountDeadLetters) })
	}
	heart := &status.Heart{
		Board: back.Control, Report: report, Logger: a.logger,
		Self: domain.Process{Name: a.name, Role: string(a.role), Host: hostName(), Started: time.Now().UTC()},
	}
	a.run("heart", heart.Run)
	if s != nil {
		a.run("store probe", s.breaker.Watch)
		a.run("dead-letter guard", s.guard.Run)
	}
	if a.role.Is(status.Ingest) || a.role.Is(status.Console) {
		a.run("callers", func(ctx context.Context) { a.lookAtCallers(ctx, who.known) })
		a.run("uses of credentials", func(ctx context.Context) { who.uses.Run(ctx, back.Control) })
		if who.sessions != nil {
			who.sessions.Ended.Open(ctx, back.Control)
			a.run("ended sessions", who.sessions.Ended.Run)
		}
	}
	if a.role.Is(status.Ingest) {
		inventory := ingest.NewInventory(back.Control, a.logger)
		a.run("OPA inventory", inventory.Run)
		quotas := policy.NewQuotas(a.cfg.Sections.Policies, a.reg)
		a.run("processes that share quotas", func(ctx context.Context) {
			quotas.Run(ctx, func(ctx context.Context) (int, error) { return uploading(ctx, back.Control) })
		})
		a.upload.server.Handler = uploadapi.New(uploadapi.Parts{
			Config: a.cfg.Upload, Who: who.upload, Inventory: inventory, Traces: tracing.provider,
			Ingest: ingest.New(
				assembler, a.cfg.Ingest.PublishTimeout, back.uploads(log), inventory, quotas, a.reg,
			),
			Door: a.upload.door,
		}, a.reg)
		a.upload.server.ConnContext = uploadapi.ConnContext
	}
	if a.role.Is(status.Console) {
		watch := &status.Watch{Store: back.Control, Sampler: sampler, Heart: heart}
		a.watch.Store(watch)
		a.run("overview", watch.Run)
		seenProcesses(a.reg, watch)
		look := struct {
			ports.DecisionReader
			ports.DeadLetterReader
			ports.LossReader
			ports.OPAReader
		}{back.Decisions, back.Control, back.Control, back.Control}
		statistics := search.NewStatistics(back.Decisions, a.reg, a.logger)
		a.run("statistics", func(ctx context.Context) {
			defer statistics.Stop()
			if err := statistics.Warm(ctx, warmed...); err != nil {
				a.logger.Debug("statistics are not warm yet", "error", err)
			}
			<-ctx.Done()
		})
		gate, err := a.gate(ctx, back.uploads(log))
		if err != nil {
			return err
		}
		stopping := make(chan struct{})
		a.console.server.RegisterOnShutdown(func() { close(stopping) })
		questions := queryapi.Parts{
			Decisions: back.Decisions, Control: back.Control, Log: back.Log,
			Operate: operate.New(back.Control, gate), Gate: gate,
			Trail: trail.New(look, back.Log, a.stages()), Pipeline: sampler.Pipeline, Who: who.console,
			Overview: watch.Look, Disk: back.free, Stopping: stopping, Searches: web.NewSearches(a.reg),
			Statistics: statistics,
			Replay:     replaypolicy.NewService(a.cfg.Replay, search.WithEvents(back.Decisions), stopping),
			Tail:       tail.New(back.Log, a.topics.Decisions, projector.Project, a.logger),
		}
		pages := console.Parts{
			Config: a.cfg.Console, Decisions: back.Decisions, Control: back.Control, Log: back.Log,
			Trail: questions.Trail, Operate: questions.Operate, Gate: gate, Pipeline: sampler.Pipeline, Overview: watch.Look,
			Statistics: statistics, Searches: questions.Searches, Disk: back.free, Who: who.console, Sessions: who.sessions,
			Replay: questions.Replay, Logger: a.logger,
		}
		if a.upload != nil {
			pages.Upload, pages.TokenFile = a.UploadURL(), a.OPATokenFile()
		}
		handler := queryapi.New(questions, a.console.door, func(e *echo.Echo) { console.Mount(e, pages) })
		a.console.server.Handler = console.Prefixed(a.cfg.Console.Prefix, handler)
	}
	return nil
}

// gate is what callers of the console listener may do. What it says of those who are known is noted in the log.
func (a *App) gate(ctx context.Context, log ports.Publisher) (*access.Gate, error) {
	decide := access.Policy(access.ByRole)
	if a.cfg.LoadAccess != nil {
		var err error
		if decide, err = a.cfg.LoadAccess(ctx, a.cfg.AccessPolicy); err != nil {
			return nil, err
		}
	}
	if !a.cfg.asks(auth.ConsoleListener) {
		return access.NewGate(decide, nil, a.reg), nil
	}
	journal := access.NewJournal(log, ingest.Assembler{Topics: a.topics, Limits: a.cfg.Ingest.Limits()}, a.reg, a.logger)
	journal.Process, journal.Version = a.name, Version
	a.run("docket's own decisions", journal.Run)
	return access.NewGate(decide, journal, a.reg), nil
}

// consumed are the topics that concern a role: its own and, for the parking role and the console, the dead letters.
func (a *App) consumed() (out []status.Consumed) {
	if a.role.Is(status.Saver) || a.role == status.Console {
		out = append(out, status.Consumed{Group: a.topics.Group(saver.Group), Topic: a.topics.Decisions, Role: status.Saver})
	}
	if a.role.Is(status.Parking) || a.role == status.Console {
		out = append(
			out,
			status.Consumed{Group: a.topics.Group(parking.Group), Topic: a.topics.Parking, Role: status.Parking},
			status.Consumed{
				Group: a.topics.Group(parking.HeldGroup), Topic: a.topics.Held, Role: status.Parking, Name: status.HeldStage,
			},
			status.Consumed{Group: a.topics.Group(deadletter.IndexGroup), Topic: a.topics.DLQ},
			status.Consumed{Group: a.topics.Group(deadletter.IndexGroup), Topic: a.topics.ParkingDLQ},
		)
	}
	return out
}

// stages are where a decision may wait.
func (a *App) stages() []trail.Stage {
	return []trail.Stage{
		{Name: "saver", Topic: a.topics.Decisions, Group: a.topics.Group(saver.Group)},
		{Name: "parking role", Topic: a.topics.Parking, Group: a.topics.Group(parking.Group)},
		{Name: "parking role", Topic: a.topics.Held, Group: a.topics.Group(parking.HeldGroup)},
		{Name: "index", Topic: a.topics.DLQ, Group: a.topics.Group(deadletter.IndexGroup), Dead: true},
		{Name: "index", Topic: a.topics.ParkingDLQ, Group: a.topics.Group(deadletter.IndexGroup), Dead: true},
	}
}

// assembler makes records of bodies, as the policies have it. A role that makes none needs no key of masks.
func (a *App) assembler(p *domain.Projector) (out ingest.Assembler, err error) {
	out = ingest.Assembler{Topics: a.topics, Limits: a.cfg.Ingest.Limits()}
	if makesRecords(a.role) {
		out.Content, err = Content(a.cfg, p, a.reg)
	}
	return out, err
}

// makesRecords reports a role that makes records of bodies: of uploads, or of those that were quarantined.
func makesRecords(role status.Role) bool { return role.Is(status.Ingest) || role.Is(status.Parking) }

// Content is what a configuration's policies say of events; nil where they say nothing. reg may be nil.
func Content(cfg Config, p *domain.Projector, reg prometheus.Registerer) (*policy.Content, error) {
	var key policy.Key
	if cfg.MaskKeysFile != "" {
		content, err := os.ReadFile(cfg.MaskKeysFile)
		if err == nil {
			key, err = policy.ReadKey(content)
		}
		if err != nil {
			return nil, domain.Errorf(domain.Misconfigured, "mask_keys_file %s: %w", cfg.MaskKeysFile, err)
		}
	}
	outcome := func(event []byte) domain.Outcome { return p.Project(domain.Record{Value: event}).Outcome }
	return policy.NewContent(cfg.Sections.Policies, key, outcome, cfg.Ingest.MaxEventBytes, reg), nil
}

// uploading counts the processes that live and take uploads.
func uploading(ctx context.Context, store ports.Processes) (n int, err error) {
	all, err := store.Processes(ctx)
	for _, p := range all {
		if p.Live() && status.Role(p.Role).Is(status.Ingest) {
			n++
		}
	}
	return n, err
}

// store is what stands in front of the store in a process that has one.
type store struct {
	breaker *sink.Breaker
	guard   *sink.Guard
	writer  *sink.Writer // nil in a process that saves nothing
	// erasures are what may not be kept.
	erasures *sink.Erasures
	// fresh and backlog are how many batches the saver and the parking role have at the store at once.
	fresh, backlog int
}

// newStore makes the breaker and the guard and, for the roles that save, one writer, and with it one limiter.
func (a *App) newStore(back backends, p *domain.Projector, tracer trace.Tracer) *store {
	s := &store{breaker: sink.NewBreaker(back.Decisions, a.reg, a.logger)}
	s.guard = sink.NewGuard(back.Control, s.breaker, a.reg, a.logger)
	s.erasures = sink.NewErasures(back.Control)
	if a.role.Is(status.Saver) {
		s.fresh = a.members(a.cfg.Saver.Concurrency)
	}
	if a.role.Is(status.Parking) {
		s.backlog = a.members(a.cfg.Parking.Concurrency)
	}
	if s.fresh+s.backlog > 0 {
		adaptive := a.cfg.Saver.Adaptive && (s.fresh > 0 || a.cfg.Parking.Adaptive)
		s.writer = sink.NewWriter(
			back.Decisions, s.breaker, sink.Concurrency{Ceiling: s.fresh + s.backlog, Adaptive: adaptive}, p,
			s.erasures, tracer, a.reg,
		)
	}
	return s
}

// members of a consumer group in this process; the embedded log's topics have one partition.
func (a *App) members(concurrency int) int {
	if !a.cfg.Kafka.On() {
		return 1
	}
	return concurrency
}

// status is what the health of a process asks of its store; nil without one.
func (s *store) status() *status.Store {
	if s == nil {
		return nil
	}
	out := &status.Store{Breaker: s.breaker.State, Trouble: s.breaker.Trouble, Guard: s.guard.On}
	if s.writer != nil {
		out.Limit = s.writer.Limit
		out.Troubles = func() (held []status.Trouble) {
			for _, t := range s.writer.Troubles() {
				held = append(held, status.Trouble{HeldFor: t.Key, Err: t.Err, Since: t.Since})
			}
			return held
		}
	}
	return out
}

// consumers starts the roles that save.
func (a *App) consumers(log ports.Log, s *store) {
	if s == nil || s.writer == nil {
		return
	}
	router := &sink.Router{Topics: a.topics, Retry: a.cfg.Parking.Retry(), Guard: s.guard, Metrics: sink.NewMetrics(a.reg)}
	if a.role.Is(status.Parking) {
		park := parking.New(parking.Parts{
			Save: s.writer.Save, Busy: func() bool { return s.fresh > 0 && s.writer.Busy() }, Log: log, Router: router,
			Concurrency: sink.Concurrency{Ceiling: s.backlog, Adaptive: a.cfg.Parking.Adaptive},
			Logger:      a.logger.With("role", status.Parking),
		}, a.reg)
		a.consume(status.Parking, log, s.backlog, a.subscription(parking.Group, a.topics.Parking), park.Handle)
		held := parking.NewHeld(parking.HeldParts{
			Save: s.writer.Save, Kept: s.writer.Kept, Log: log, Router: router,
			Logger: a.logger.With("role", status.Parking),
		})
		a.consume(status.Parking, log, 1, a.subscription(parking.HeldGroup, a.topics.Held), held.Handle)
	}
	if a.role.Is(status.Saver) {
		save := saver.New(s.writer, router, log, a.logger.With("role", status.Saver))
		a.consume(status.Saver, log, s.fresh, a.subscription(saver.Group, a.topics.Decisions), save.Handle)
	}
}

// tendEvery is how often a store does what it has to do for itself. What was written since is read by every search for
// a rare value: at 2,500 rows a second a minute of it took 130 ms.
const tendEvery = 15 * time.Second

// tendPatience is how often in a row it may be the store's being away that keeps it from that.
const tendPatience = 20

// tend has it do so.
func (a *App) tend(ctx context.Context, store ports.Upkeep) {
	for failed := 0; sleep(ctx, tendEvery) == nil; {
		err := store.Tend(ctx, a.name)
		if err == nil {
			failed = 0
			continue
		}
		if failed++; ctx.Err() == nil && (domain.ClassOf(err) != domain.Unavailable || failed%tendPatience == 0) {
			a.logger.Warn(
				"the store's upkeep failed; searches take longer until it is made up for", "error", err, "times", failed,
			)
		}
	}
}

// subscription of a group to topics.
func (a *App) subscription(group string, topics ...string) ports.Subscription {
	return ports.Subscription{Group: a.topics.Group(group), Topics: topics}
}

// deadLetters starts what the parking role does about them: the index, and the operators' jobs.
func (a *App) deadLetters(
	back backends, log ports.Log, p *domain.Projector, assembler ingest.Assembler, erasures *sink.Erasures,
) {
	logger := a.logger.With("role", status.Parking)
	index := &deadletter.Index{
		Store: back.Control, Log: log, Projector: p, Erasures: erasures, Topics: a.topics, Logger: logger,
	}
	a.consume(
		status.Parking, log, 1, a.subscription(deadletter.IndexGroup, a.topics.DLQ, a.topics.ParkingDLQ), index.Handle,
	)
	a.run("index of dead letters", index.Tend)
	jobs := &deadletter.Jobs{
		Letters: back.Control, Log: log, Index: index, Topics: a.topics,
		DryRun: sink.NewDryRun(back.Decisions, p, erasures).Save, Assembler: assembler,
	}
	runner := job.New(back.Control, a.name, logger)
	jobs.Register(runner)
	(&reproject.Jobs{Store: back.Decisions, Projector: p}).Register(runner)
	(&erase.Jobs{
		Store: back.Decisions, Control: back.Control, Log: log, Topics: a.topics, Projector: p,
	}).Register(runner)
	a.run("jobs", runner.Run)
}

// processName tells this process from others that share the store, also from one that had its number before.
func processName() string {
	return fmt.Sprintf("%s/%d/%x", hostName(), os.Getpid(), time.Now().UnixNano())
}

func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// overview is what a console knows of all processes; nil elsewhere, and while docket starts.
func (a *App) overview(ctx context.Context) *status.Overview {
	watch := a.watch.Load()
	if watch == nil {
		return nil
	}
	o := watch.Look(ctx, domain.AllTenants())
	return &o
}

// seenProcesses tells Prometheus how long ago a process of each role was heard of.
func seenProcesses(reg prometheus.Registerer, w *status.Watch) {
	f := promauto.With(reg)
	for _, role := range status.Roles {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "docket_process_seen_seconds", Help: "How long ago a process of the role was heard of.",
			ConstLabels: prometheus.Labels{"role": string(role)},
		}, func() float64 { return w.SinceSeen(role) })
	}
}

// warmed are the statistics that people look at first.
var warmed = []string{"by=outcome&every=15m0s", "by=outcome"}
