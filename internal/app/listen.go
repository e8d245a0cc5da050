package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/status"
)

// listener is one address and its server.
type listener struct {
	name   string
	net    net.Listener
	server *http.Server
	door   web.Door
}

// listenAll takes the ports. Ports before files: an occupied one is found before anything is touched. Nothing is
// accepted until Start.
func (a *App) listenAll(ctx context.Context) error {
	tlsConfig, err := a.tls()
	if err != nil {
		return err
	}
	shares := connectionShares(openFiles(), a.role)
	metrics := web.NewMetrics(a.reg)
	take := func(name, setting, addr string, limit int, tlsConfig *tls.Config) (*listener, error) {
		l, err := a.listen(ctx, name, setting, addr)
		if err != nil {
			return nil, err
		}
		a.guard(l, limit, metrics, tlsConfig)
		return l, nil
	}
	if a.role.Is(status.Ingest) {
		asking := a.askFor(tlsConfig, auth.UploadListener)
		if a.upload, err = take("upload", "listen", a.cfg.Listen, shares.upload, asking); err != nil {
			return err
		}
	}
	if a.role.Is(status.Console) {
		asking := a.askFor(tlsConfig, auth.ConsoleListener)
		if a.console, err = take("console", "console_listen", a.cfg.ConsoleListen, shares.console, asking); err != nil {
			return err
		}
		a.console.server.MaxHeaderBytes = maxConsoleHeader
	}
	a.admin, err = take("admin", "admin_listen", a.cfg.AdminListen, shares.admin, nil)
	return err
}

// listen takes a port.
func (a *App) listen(ctx context.Context, name, setting, addr string) (*listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, domain.Errorf(
			domain.Misconfigured, "the %s listener cannot take %s: %w; choose another with %s", name, addr, err, setting,
		)
	}
	a.onStop(name+" port", func(context.Context) error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return &listener{name: name, net: l}, nil
}

// maxHeader bounds the header of an upload, in bytes. The console takes longer ones: two queries of 8,192
// characters, which it tells to be too long where they are more than 8 KiB, each byte percent-encoded.
const (
	maxHeader        = 32 << 10
	maxConsoleHeader = 256 << 10
)

// maxStreams is how many requests an HTTP/2 connection may have at once; RFC 9113 section 6.5.2 recommends no fewer.
const maxStreams = 100

// guard puts the connections' limit, TLS and the door in front of a listener, and makes its server.
func (a *App) guard(l *listener, limit int, metrics *web.Metrics, tlsConfig *tls.Config) {
	logger := a.logger.With("listener", l.name)
	connections := web.Limit(l.net, l.name, limit, metrics, logger)
	l.door = web.Door{
		Local: web.Loopback(l.addr()), AllowedHosts: a.cfg.AllowedHosts, Metrics: metrics, Logger: logger,
	}
	l.net = connections
	tlsConfig = tlsConfig.Clone() // each server completes its own
	if tlsConfig != nil {
		l.net = tls.NewListener(connections, tlsConfig)
	}
	l.server = &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       time.Minute,     // 8 MiB from far away
		WriteTimeout:      3 * time.Minute, // counts from the request's header on
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		ConnState:         connections.State,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		TLSConfig:         tlsConfig,
	}
}

// shares are how many connections each listener may have.
type shares struct{ upload, console, admin int }

// Bounds of connections, whatever the system allows: a connection takes about 20 KiB of memory, and what docket itself
// needs of file descriptors (the log's, the store's, files) is a few dozen.
const (
	maxConnections = 16384
	minReserve     = 64
	maxReserve     = 512
	maxAdmin       = 32
	minShare       = 4
)

// connectionShares parts the file descriptors that a process may have open, less a reserve for log and store. Uploads
// come first: people and programs who ask can wait.
func connectionShares(files uint64, role status.Role) (s shares) {
	all := int(min(files, maxConnections+maxReserve))
	all -= min(max(all/4, minReserve), maxReserve)
	s.admin = max(min(all/8, maxAdmin), minShare)
	all -= s.admin
	switch {
	case role.Is(status.Ingest) && role.Is(status.Console):
		s.console = max(all/8, minShare)
		s.upload = max(all-s.console, minShare)
	default: // one of them
		s.upload, s.console = max(all, minShare), max(all, minShare)
	}
	return s
}

// openFiles is how many file descriptors this process may have.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return maxConnections
	}
	return limit.Cur
}

// tls is nil without a certificate.
func (a *App) tls() (*tls.Config, error) {
	if a.cfg.TLSCertFile == "" {
		return nil, nil
	}
	certificate, err := web.LoadCertificate(a.cfg.TLSCertFile, a.cfg.TLSKeyFile, a.reg, a.logger)
	if err != nil {
		return nil, err
	}
	return certificate.Config(), nil
}

// askFor is the TLS of a listener, which asks clients for a certificate where one counts for something. Whether it is
// good is the authenticator's to say, with words: a handshake could only end.
func (a *App) askFor(shared *tls.Config, listener string) *tls.Config {
	required := slices.Contains(a.cfg.TLSClientRequired, listener)
	if shared == nil || !required && !auth.Granted(listener, nil, a.cfg.Sections.ClientCertificates) {
		return shared
	}
	asking := shared.Clone()
	asking.ClientAuth = tls.RequestClientCert
	return asking
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

func (l *listener) addr() string {
	if l == nil {
		return ""
	}
	return l.net.Addr().String()
}
