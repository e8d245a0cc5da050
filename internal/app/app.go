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
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/docket-project/docket/internal/adapters/httpapi"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
)

const (
	// stopTimeout bounds a graceful stop, whatever is down.
	stopTimeout = 25 * time.Second
	// drainTimeout is its part for requests in flight; an upload is answered within 8 s.
	drainTimeout = 9 * time.Second
)

// App is a docket process: a role or all of them, the listeners, and what they share. Several can live in one process.
type App struct {
	role   Role
	cfg    Config
	logger *slog.Logger
	reg    *prometheus.Registry
	topics domain.Topics

	steps    []step
	started  atomic.Bool
	stopping atomic.Bool
	stopOnce sync.Once
	stopErr  error

	pipeline *pipeline
	writer   *saver.Writer // of the roles that save
	upload   *listener
	console  *listener
	admin    *listener
	failed   chan error // a listener or a role that ended by itself

	mu      sync.Mutex
	phase   string         // of starting
	trouble map[Role]error // of roles that ended
	lost    string         // what the log turned out to have lost
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

// New opens the log and the store, wires the role and takes the ports; nothing is served yet. It waits for Kafka until ctx
// is done. After an error everything is closed again.
func New(ctx context.Context, role Role, cfg Config, logger *slog.Logger) (_ *App, err error) {
	if err := cfg.validate(role); err != nil {
		return nil, err
	}
	if cfg.AdminListen == "" {
		cfg.AdminListen = adminListen[role]
	}
	a := &App{
		role: role, cfg: cfg, logger: logger, reg: prometheus.NewRegistry(), topics: domain.TopicsWithPrefix(cfg.TopicPrefix),
		failed: make(chan error, 8), trouble: map[Role]error{}, phase: "docket is starting",
	}
	defer func() {
		if err != nil {
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			err = errors.Join(err, a.Stop(stopCtx))
		}
	}()
	return a, a.setup(ctx)
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

// consume starts a role that handles batches of the log, as so many members of its group.
func (a *App) consume(role Role, log ports.Log, members int, sub ports.Subscription, handle ports.Handler) {
	sub.MaxRecords, sub.MaxBytes, sub.MaxWait = a.cfg.SaverBatchRecords, a.cfg.SaverBatchBytes, a.cfg.SaverBatchWait
	a.run(string(role), func(ctx context.Context) {
		var group sync.WaitGroup
		for range members {
			group.Go(func() {
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
		group.Wait()
	})
}

// Start serves. It returns at once.
func (a *App) Start() {
	for _, l := range []*listener{a.console, a.upload} {
		if l != nil {
			a.serve(l)
		}
	}
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

// UploadAddr is the upload listener's address as it was taken, or "" for a role without one.
func (a *App) UploadAddr() string { return a.upload.addr() }

// ConsoleAddr is the console listener's.
func (a *App) ConsoleAddr() string { return a.console.addr() }

// AdminAddr is the admin listener's.
func (a *App) AdminAddr() string { return a.admin.addr() }

func (l *listener) addr() string {
	if l == nil {
		return ""
	}
	return l.net.Addr().String()
}

// boundMemory tells Go's collector what the settings promise: twice the bytes in flight, and what a process needs anyway.
// Without it a heap may grow to twice what is alive before it is looked at. GOMEMLIMIT beats it.
//
// What it returns is to be kept, and nobody touches it, so that it takes address space only. The collector runs when the heap is
// twice what was alive; ingest has 5 MiB alive and allocates ten times that a second. GOGC beats it.
func boundMemory(role Role, cfg Config) (ballast []byte) {
	const process = 128 << 20
	limit := int64(process)
	if role.is(Ingest) {
		limit += 2 * cfg.MaxInFlightBytes
	} else {
		limit += 4 * int64(cfg.SaverBatchBytes) * int64(cfg.SaverConcurrency+cfg.ParkingConcurrency)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return make([]byte, 8<<20)
}

// Run serves until ctx is done or a listener fails, and then stops in good order. started is called once it serves.
func Run(ctx context.Context, role Role, cfg Config, logger *slog.Logger, started func(*App)) error {
	defer runtime.KeepAlive(boundMemory(role, cfg))
	a, err := New(ctx, role, cfg, logger)
	if err != nil && ctx.Err() != nil && domain.ClassOf(err) == domain.Canceled {
		return nil // told to stop before it had started
	}
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
