package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/docket-project/docket/internal/adapters/httpapi"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
)

const (
	topicPrefix = "docket."
	// dlqRetention is how long dead letters stay in their topics.
	dlqRetention = 30 * 24 * time.Hour
	// stopTimeout bounds a graceful stop, whatever is down.
	stopTimeout = 25 * time.Second
	// drainTimeout is its part for requests in flight; an upload is answered within 8 s.
	drainTimeout = 9 * time.Second
	adminServe   = "127.0.0.1:9180"
)

// App is a docket process: every role, its listeners, and what they share. Several can live in one process.
type App struct {
	cfg    Config
	logger *slog.Logger
	reg    *prometheus.Registry

	steps    []step
	started  atomic.Bool
	stopping atomic.Bool
	stopOnce sync.Once
	stopErr  error

	pipeline     *pipeline
	storeTrouble func() error
	upload       *listener
	console      *listener
	admin        *listener
	failed       chan error // a listener or a role that ended by itself

	mu      sync.Mutex
	trouble map[string]error // of roles that ended
}

// step undoes one step of starting.
type step struct {
	name string
	undo func(context.Context) error
}

// within bounds a step that knows no context; what it leaves behind ends with the process.
func within(undo func() error) func(context.Context) error {
	return func(ctx context.Context) error {
		done := make(chan error, 1)
		go func() { done <- undo() }()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return errors.New("did not end in time")
		}
	}
}

// listener is one address and its server.
type listener struct {
	name   string
	net    net.Listener
	server *http.Server
}

// onStop adds a step; they run last in, first out.
func (a *App) onStop(name string, undo func(context.Context) error) {
	a.steps = append(a.steps, step{name, undo})
}

// New opens what is kept on disk, wires every role and takes the ports; nothing is served yet. After an error
// everything is closed again.
func New(ctx context.Context, cfg Config, logger *slog.Logger) (_ *App, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.AdminListen == "" {
		cfg.AdminListen = adminServe
	}
	a := &App{cfg: cfg, logger: logger, reg: prometheus.NewRegistry(), failed: make(chan error, 8), trouble: map[string]error{}}
	defer func() {
		if err != nil {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			err = errors.Join(err, a.Stop(stopCtx))
		}
	}()
	return a, a.setup(ctx)
}

// setup is one straight line: the order of wiring is the order of scope, and of stopping backwards.
func (a *App) setup(ctx context.Context) error {
	cfg, topics := a.cfg, domain.TopicsWithPrefix(topicPrefix)
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
	if a.upload, err = a.listen(ctx, "upload", "listen", cfg.Listen, tlsConfig); err != nil {
		return err
	}
	if a.console, err = a.listen(ctx, "console", "console_listen", cfg.ConsoleListen, tlsConfig); err != nil {
		return err
	}
	if a.admin, err = a.listen(ctx, "admin", "admin_listen", cfg.AdminListen, nil); err != nil {
		return err
	}

	// Opening the log reads all of it. Whoever watches this process can already see that it lives and is not ready.
	a.admin.server.Handler = httpapi.NewAdmin(cfg.AdminListen, a.reg, a.readiness, a.logger)
	a.serve(a.admin)

	dir, err := sqlite.OpenDir(cfg.Data)
	if err != nil {
		return err
	}
	a.onStop("data directory", func(context.Context) error { return dir.Close() })
	newStore := dir.StoreIsNew()
	store, err := sqlite.OpenStore(ctx, dir, sqlite.StoreOptions{
		Window: domain.Window{Retention: time.Duration(cfg.Retention), Ahead: domain.DefaultAhead},
		Fatal:  a.fatal, Log: a.logger, Migrate: cfg.Migrate,
	})
	if err != nil {
		return err
	}
	a.onStop("store", within(store.Close))
	registerPool(a.reg, store.Pool)
	dataLoss := newDataLoss(a.reg)
	options := logOptions(topics, a.logger, a.fatal, func(_ string, n int64) { dataLoss.Add(float64(n)) })
	options.Migrate = cfg.Migrate
	embedded, err := sqlite.OpenLog(ctx, dir, options)
	if err != nil {
		return err
	}
	a.onStop("log", within(embedded.Close))
	if handed, err := embedded.Backlog(ctx, saver.Group, topics.Decisions); err == nil && newStore && handed[0].Committed > 0 {
		a.logger.Error("the store is new, but the log has handed decisions to one before: if its file was lost, stop docket and restore it from a backup",
			"data", cfg.Data, "decisions", handed[0].Committed)
	}
	log := instrument(embedded, topics, tracing.tracer, a.reg)

	roster := ingest.NewRoster(store, a.logger)
	accept := ingest.New(ingest.Config{
		Topics:         topics,
		Limits:         domain.Limits{Inflated: cfg.MaxInflatedBytes, Events: cfg.MaxEvents, Depth: cfg.MaxDepth, Event: cfg.MaxEventBytes},
		PublishTimeout: cfg.PublishTimeout,
	}, log, roster, a.reg)
	writer := saver.NewWriter(store, projector, tracing.tracer, a.reg, a.logger)
	a.storeTrouble = writer.Trouble
	metrics := saver.NewMetrics(a.reg)
	retry := saver.Retry{
		Topics: topics, MaxAttempts: cfg.ParkingMaxAttempts, BackoffMin: cfg.ParkingBackoffMin, BackoffMax: cfg.ParkingBackoffMax,
	}
	save := saver.New(writer, log, retry, metrics, a.logger.With("role", "saver"))
	park := parking.New(writer.Save, log, retry, metrics, a.reg, a.logger.With("role", "parking"))
	a.pipeline = newPipeline(embedded, topics, writer.Breaker, a.reg, a.logger)

	a.run("roster", roster.Run)
	a.run("pipeline", a.pipeline.run)
	a.consume("parking", log, ports.Subscription{Group: parking.Group, Topics: []string{topics.Parking}}, park.Handle)
	a.consume("saver", log, ports.Subscription{Group: saver.Group, Topics: []string{topics.Decisions}}, save.Handle)

	a.upload.server.Handler = httpapi.NewUpload(httpapi.UploadConfig{
		WireLimit: cfg.MaxWireBytes, InflatedLimit: cfg.MaxInflatedBytes, InFlight: cfg.MaxInFlightBytes, Tokens: uploadTokens,
	}, accept, roster, tracing.provider, a.reg, a.logger.With("role", "ingest"))
	a.console.server.Handler = httpapi.NewQuery(store, consoleTokens, a.pipeline.view, a.logger.With("role", "console"))
	return nil
}

// logOptions are the embedded log's topics and hooks.
func logOptions(topics domain.Topics, logger *slog.Logger, fatal func(error), lost func(string, int64)) sqlite.LogOptions {
	return sqlite.LogOptions{
		Topics: []sqlite.Topic{
			{Name: topics.Decisions}, {Name: topics.Parking},
			{Name: topics.ParkingDLQ, Retention: dlqRetention}, {Name: topics.DLQ, Retention: dlqRetention},
		},
		Fatal: fatal, Lost: lost, Log: logger, Migrate: true,
	}
}

// fatal ends the process after an fsync that failed: what the kernel still shows may not be on the disk.
func (a *App) fatal(err error) {
	a.logger.Error("the disk lost a write; docket stops at once, because nothing it says would be certain. "+
		"What was acknowledged before is safe. Check the disk, then start docket again", "error", err)
	os.Exit(1)
}

func (a *App) tokens() (upload, console *httpapi.Tokens, err error) {
	if a.cfg.UploadTokensFile != "" {
		if upload, err = httpapi.LoadTokens(a.cfg.UploadTokensFile, nil, a.logger); err != nil {
			return nil, nil, err
		}
	}
	if a.cfg.ConsoleTokensFile != "" {
		if console, err = httpapi.LoadTokens(a.cfg.ConsoleTokensFile, httpapi.Roles, a.logger); err != nil {
			return nil, nil, err
		}
	}
	return upload, console, nil
}

func (a *App) tls() (*tls.Config, error) {
	if a.cfg.TLSCertFile == "" {
		return nil, nil
	}
	load := func() (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(a.cfg.TLSCertFile, a.cfg.TLSKeyFile)
		return &cert, err
	}
	if _, err := load(); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "load the TLS certificate: %w", err)
	}
	// Read at every handshake, so that a renewed certificate needs no restart; OPAs keep their connections.
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return load() },
	}, nil
}

// listen takes a port.
func (a *App) listen(ctx context.Context, name, setting, addr string, tlsConfig *tls.Config) (*listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "the %s listener cannot take %s: %w; choose another with %s", name, addr, err, setting)
	}
	a.onStop(name+" port", func(context.Context) error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	tlsConfig = tlsConfig.Clone() // each server completes its own
	if tlsConfig != nil {
		l = tls.NewListener(l, tlsConfig)
	}
	return &listener{name: name, net: l, server: &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       time.Minute,     // 8 MiB from far away
		WriteTimeout:      3 * time.Minute, // counts from the request's header on
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug),
		TLSConfig:         tlsConfig,
	}}, nil
}

// run starts a background task that ends with the process.
func (a *App) run(name string, task func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		task(ctx)
	}()
	a.onStop(name, within(func() error {
		cancel()
		<-done
		return nil
	}))
}

// consume starts a role that handles batches of the log.
func (a *App) consume(role string, log ports.Log, sub ports.Subscription, handle ports.Handler) {
	sub.MaxRecords, sub.MaxBytes, sub.MaxWait = a.cfg.SaverBatchRecords, a.cfg.SaverBatchBytes, a.cfg.SaverBatchWait
	a.run(role, func(ctx context.Context) {
		err := log.Consume(ctx, sub, handle)
		if err == nil && ctx.Err() == nil {
			err = errors.New("it ended by itself")
		}
		if err != nil {
			a.mu.Lock()
			a.trouble[role] = err
			a.mu.Unlock()
			a.logger.Error("this role has stopped; uploads are still taken", "role", role, "error", err)
		}
	})
}

// Start serves. It returns at once.
func (a *App) Start() {
	a.serve(a.console)
	a.serve(a.upload)
	a.started.Store(true)
}

// serve starts a listener's server. Stopping one answers what is in flight: uploads within their time, anything else
// within two seconds, because nothing is lost by asking again.
func (a *App) serve(l *listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.server.Serve(l.net); !errors.Is(err, http.ErrServerClosed) {
			a.failed <- fmt.Errorf("the %s listener failed: %w", l.name, err)
		}
	}()
	patience := 2 * time.Second
	if l == a.upload {
		patience = drainTimeout
	}
	a.onStop(l.name+" requests", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if l.server.Shutdown(ctx) != nil {
			if err := l.server.Close(); err != nil {
				return err
			}
		}
		<-done
		return nil
	})
}

// Stop ends everything in the reverse order of starting: requests are answered, the batch in hand is finished and
// committed, and files are closed. It may be called more than once, and before Start.
func (a *App) Stop(ctx context.Context) error {
	a.stopOnce.Do(func() {
		a.stopping.Store(true)
		var errs []error
		for i := len(a.steps) - 1; i >= 0; i-- {
			if err := a.steps[i].undo(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", a.steps[i].name, err))
			}
		}
		a.stopErr = errors.Join(errs...)
	})
	return a.stopErr
}

// UploadAddr is the upload listener's address as it was taken.
func (a *App) UploadAddr() string { return a.upload.net.Addr().String() }

// ConsoleAddr is the console listener's.
func (a *App) ConsoleAddr() string { return a.console.net.Addr().String() }

// AdminAddr is the admin listener's.
func (a *App) AdminAddr() string { return a.admin.net.Addr().String() }

// readiness speaks for the listeners: uploads are taken whenever the log takes records, whatever the store does.
func (a *App) readiness(verbose bool) httpapi.Readiness {
	role := func(reasons ...string) httpapi.RoleReadiness {
		if reasons == nil {
			reasons = []string{}
		}
		return httpapi.RoleReadiness{Ready: len(reasons) == 0, Reasons: reasons}
	}
	if !a.started.Load() {
		starting := role("docket is starting: it verifies the log")
		return httpapi.Readiness{Roles: map[string]httpapi.RoleReadiness{"ingest": starting, "console": starting, "saver": starting, "parking": starting}}
	}
	var uploads []string
	if a.stopping.Load() {
		uploads = append(uploads, "stopping")
	}
	if err := a.pipeline.publishable(); err != nil {
		uploads = append(uploads, "the log takes no records: "+err.Error())
	}
	r := httpapi.Readiness{Roles: map[string]httpapi.RoleReadiness{"ingest": role(uploads...), "console": role()}}
	r.Ready = r.Roles["ingest"].Ready
	state, nextProbe := a.pipeline.breaker()
	for name, topic := range map[string]string{"saver": a.pipeline.topics.Decisions, "parking": a.pipeline.topics.Parking} {
		var reasons []string
		a.mu.Lock()
		if err := a.trouble[name]; err != nil {
			reasons = append(reasons, err.Error())
		}
		a.mu.Unlock()
		if err := a.storeTrouble(); err != nil {
			reasons = append(reasons, "the store takes no rows: "+err.Error())
		}
		if state != "closed" {
			reasons = append(reasons, "the store is away: breaker "+state)
		}
		status := role(reasons...)
		if verbose {
			b := a.pipeline.last(topic)
			status.Details = map[string]any{
				"breaker": state, "next_probe_seconds": nextProbe.Seconds(), "waiting": b.Waiting(), "oldest_seconds": age(b.Oldest),
			}
		}
		r.Roles[name] = status
	}
	return r
}

// boundMemory tells Go's collector what the settings promise: twice the bytes in flight, and what a process needs anyway.
// Without it a heap may grow to twice what is alive before it is looked at. GOMEMLIMIT beats it.
func boundMemory(cfg Config) {
	const process = 128 << 20
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2*cfg.MaxInFlightBytes + process)
	}
}

// Run serves until ctx is done or a listener fails, and then stops in good order. started is called once it serves.
func Run(ctx context.Context, cfg Config, logger *slog.Logger, started func(*App)) error {
	boundMemory(cfg)
	a, err := New(ctx, cfg, logger)
	if err != nil {
		return err
	}
	a.Start()
	started(a)
	var failure error
	select {
	case <-ctx.Done():
		logger.Info("stopping: requests in flight are answered and the batch in hand is finished")
	case failure = <-a.failed:
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(failure, a.Stop(stop))
}

// registerProcess adds what Prometheus clients usually tell about a Go process.
func registerProcess(reg *prometheus.Registry) {
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "docket_build_info", Help: "Always 1; the labels tell the build."}, []string{"version", "commit"})
	info.WithLabelValues(Version, Commit).Set(1)
	reg.MustRegister(info)
}
