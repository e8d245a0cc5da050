// Package app puts docket together: composition by role, lifecycle and telemetry. It has no rule of its own about
// decisions; the command line is command's.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/status"
)

const (
	// stopTimeout bounds a graceful stop, whatever is down.
	stopTimeout = 25 * time.Second
	// drainTimeout is its part for requests in flight; an upload is answered within 8 s.
	drainTimeout = 9 * time.Second
)

// App is a docket process: a role or all of them, the listeners, and what they share. Several can live in one process.
type App struct {
	role   status.Role
	cfg    Config
	logger *slog.Logger
	reg    *prometheus.Registry
	topics domain.Topics

	steps    []step
	stopOnce sync.Once
	stopErr  error

	health  *status.Health
	sampler atomic.Pointer[status.Sampler] // nil until there is a log
	watch   atomic.Pointer[status.Watch]   // nil until then, and in a process without a console
	name    string                         // tells it from other processes
	// embedded is the embedded log, once it is open.
	embedded atomic.Pointer[sqlite.Log]
	upload   *listener
	console  *listener
	admin    *listener
	failed   chan error // a listener that ended by itself
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

// onStop adds a step; they run last in, first out.
func (a *App) onStop(name string, undo func(context.Context) error) {
	a.steps = append(a.steps, step{name, undo})
}

// New opens the log and the store, wires the role and takes the ports; nothing is served yet. It waits for Kafka until
// ctx is done. After an error everything is closed again.
func New(ctx context.Context, role status.Role, cfg Config, logger *slog.Logger) (_ *App, err error) {
	if err := cfg.Validate(role); err != nil {
		return nil, err
	}
	if cfg.AdminListen == "" {
		cfg.AdminListen = AdminListen[role]
	}
	a := &App{
		role: role, cfg: cfg, logger: logger, reg: prometheus.NewRegistry(), topics: cfg.Topics(),
		failed: make(chan error, 8), health: status.NewHealth(role), name: processName(),
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
func (a *App) consume(role status.Role, log ports.Log, members int, sub ports.Subscription, handle ports.Handler) {
	sub.MaxRecords, sub.MaxBytes, sub.MaxWait = a.cfg.Saver.BatchRecords, a.cfg.Saver.BatchBytes, a.cfg.Saver.BatchWait
	a.run(string(role), func(ctx context.Context) {
		var group sync.WaitGroup
		for range members {
			group.Go(func() {
				err := log.Consume(ctx, sub, handle)
				if err == nil && ctx.Err() == nil {
					err = errors.New("it ended by itself")
				}
				if err != nil {
					a.health.Ended(role, err)
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
	a.health.Started()
}

// Stop ends everything in the reverse order of starting: requests are answered, the batch in hand is finished and
// committed, and files are closed. It may be called more than once, and before Start.
func (a *App) Stop(ctx context.Context) error {
	a.stopOnce.Do(func() {
		a.health.Stopping()
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

// Role is what the process does, and Config what it was started with.
func (a *App) Role() status.Role { return a.role }

// Config is what the process was started with.
func (a *App) Config() Config { return a.cfg }

// UploadURL is where OPAs post.
func (a *App) UploadURL() string { return a.urlOf(a.upload) }

// ConsoleURL is where people look.
func (a *App) ConsoleURL() string { return a.urlOf(a.console) + a.cfg.Console.Prefix }

func (a *App) urlOf(l *listener) string {
	if a.cfg.TLSCertFile != "" {
		return "https://" + l.addr()
	}
	return "http://" + l.addr()
}

// OPATokenFile is where an OPA is to have its token; "" where it needs none.
func (a *App) OPATokenFile() string {
	if a.cfg.UploadTokensFile == "" {
		return ""
	}
	return "/etc/docket/token"
}

// UploadAddr is the upload listener's address as it was taken, or "" for a role without one.
func (a *App) UploadAddr() string { return a.upload.addr() }

// ConsoleAddr is the console listener's.
func (a *App) ConsoleAddr() string { return a.console.addr() }

// AdminAddr is the admin listener's.
func (a *App) AdminAddr() string { return a.admin.addr() }

// boundMemory tells Go's collector what the settings promise: the bytes in flight, and what a process needs anyway.
// Without it a heap may grow to twice what is alive before it is looked at. GOMEMLIMIT beats it.
//
// What is in flight is charged for what it takes, so that the collector can keep ingest within it: with a limit beneath
// what is alive it would run all the time.
//
// The caller keeps what it returns and never writes to it, so that it takes address space only. The collector runs when
// the heap is twice what was alive; ingest has 5 MiB alive and allocates ten times that a second. GOGC beats it.
func boundMemory(role status.Role, cfg Config) (ballast []byte) {
	const process, consumers = 24 << 20, 96 << 20 // what consumers keep of records is among theirs
	limit := consumers + 4*int64(cfg.Saver.BatchBytes)*int64(cfg.Saver.Concurrency+cfg.Parking.Concurrency)
	if role == status.Ingest {
		limit = 0 // it consumes nothing
	}
	if role.Is(status.Ingest) {
		limit += process + cfg.Upload.MaxInFlightBytes
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
	if os.Getenv("GOGC") != "" {
		return nil
	}
	return make([]byte, 8<<20)
}

// Version, Commit and Date are set by the linker.
var (
	Version = "dev"
	Commit  = ""
	Date    = ""
)

// Run serves until ctx is done or a listener fails, and then stops in good order. started is called once it serves.
func Run(ctx context.Context, role status.Role, cfg Config, logger *slog.Logger, started func(*App)) error {
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
	info := prometheus.NewGaugeVec(
		prometheus.GaugeOpts{Name: "docket_build_info", Help: "Always 1; the labels tell the build."},
		[]string{"version", "commit"},
	)
	info.WithLabelValues(Version, Commit).Set(1)
	reg.MustRegister(info)
}
