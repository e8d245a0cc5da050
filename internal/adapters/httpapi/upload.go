package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/contrib/instrumentation/github.com/labstack/echo/otelecho"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
)

// UploadConfig configures the upload API.
type UploadConfig struct {
	// WireLimit is the most bytes of a body as received.
	WireLimit int64
	// InflatedLimit is the most bytes that a body may inflate to.
	InflatedLimit int
	// InFlight is the most bytes of all bodies at once, wire and inflated; a multiple of 64 KiB.
	InFlight int64
	// Tokens are the uploaders'; nil lets everyone in as the default tenant.
	Tokens *Tokens
}

// upload serves OPA.
type upload struct {
	cfg      UploadConfig
	ingest   *ingest.Service
	roster   *ingest.Roster
	budget   budget
	requests *prometheus.CounterVec
	duration prometheus.Histogram
}

// NewUpload makes the handler of the upload listener.
func NewUpload(cfg UploadConfig, s *ingest.Service, r *ingest.Roster, tp trace.TracerProvider, reg prometheus.Registerer, logger *slog.Logger) http.Handler {
	u := &upload{
		cfg: cfg, ingest: s, roster: r,
		budget: budget{semaphore.NewWeighted(cfg.InFlight)},
		requests: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "docket_ingest_requests_total", Help: "Uploads and status reports, by the status of the answer.",
		}, []string{"code"}),
		duration: promauto.With(reg).NewHistogram(prometheus.HistogramOpts{
			Name: "docket_ingest_request_duration_seconds", Help: "Time to answer an upload.",
			Buckets: []float64{.0005, .001, .002, .003, .005, .0075, .01, .02, .03, .05, .1, .25, .5, 1, 2.5, 5, 8},
		}),
	}
	u.requests.WithLabelValues("200")
	e := newEcho(logger)
	e.Use(u.measure)
	if tp != nil {
		e.Use(otelecho.Middleware("docket-ingest", otelecho.WithTracerProvider(tp)))
	}
	// Both spellings are routes: OPA follows a redirect with a GET and loses the body.
	for _, path := range []string{"/logs", "/logs/*"} {
		e.POST(path, u.logs)
	}
	for _, path := range []string{"/status", "/status/*"} {
		e.POST(path, u.status)
	}
	return e
}

// measure counts requests. A handler's error is answered in here, so that its status is known.
func (u *upload) measure(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		if err := next(c); err != nil {
			c.Error(err)
		}
		u.duration.Observe(time.Since(start).Seconds())
		u.requests.WithLabelValues(strconv.Itoa(c.Response().Status)).Inc()
		return nil
	}
}

// receipt is the answer to an upload.
type receipt struct {
	Accepted    int                   `json:"accepted"`
	Quarantined int                   `json:"quarantined"`
	Reasons     map[domain.Reason]int `json:"reasons"`
}

// logs takes an upload of decisions.
func (u *upload) logs(c echo.Context) error {
	return u.body(c, func(ctx context.Context, in incoming) error {
		r, err := u.ingest.Accept(ctx, ingest.Upload{
			Tenant: in.tenant, Partition: strings.TrimSuffix(c.Param("*"), "/"), Wire: in.wire, Body: in.body, SizeHint: in.hint,
			Reserve: in.reserve, Version: versionOf(c.Request().UserAgent()), ReceivedAt: time.Now().UTC(),
		})
		if err != nil {
			return notDurable(err)
		}
		return c.JSON(http.StatusOK, receipt(r))
	})
}

// status takes OPA's report on itself. Whatever is in it, the answer is 200.
func (u *upload) status(c echo.Context) error {
	return u.body(c, func(_ context.Context, in incoming) error {
		report, err := io.ReadAll(io.LimitReader(in.body, 2<<20))
		var broken *domain.BodyError
		if err != nil && !errors.As(err, &broken) {
			return err
		}
		u.roster.Status(in.tenant, versionOf(c.Request().UserAgent()), report, time.Now().UTC())
		return c.JSON(http.StatusOK, struct{}{})
	})
}

// notDurable is the one way an upload is refused once its body was read: send it again. What the log says is kept, under
// the status that OPA's operators know.
func notDurable(err error) error {
	class := domain.ClassOf(err)
	if class != domain.Invalid && class != domain.Unknown {
		return err
	}
	return &domain.Error{Class: domain.Unavailable, Text: "not durable: " + err.Error(), Err: err}
}

// incoming is a request whose body has been read.
type incoming struct {
	tenant  string
	wire    []byte
	body    io.Reader // inflates wire
	hint    int       // of the inflated length
	reserve func(bytes int) error
}

// body authenticates, reads the body and lends a reader that inflates it.
func (u *upload) body(c echo.Context, take func(context.Context, incoming) error) error {
	r := c.Request()
	who, err := u.cfg.Tokens.authenticate(r)
	if err != nil {
		return err
	}
	gzipped, err := encodingOf(r)
	if err != nil {
		return err
	}
	s := &share{budget: &u.budget}
	defer s.release()
	wire, err := readWire(r, u.cfg.WireLimit, s)
	if errors.Is(err, errCutOff) {
		panic(http.ErrAbortHandler) // no answer: the connection is closed
	}
	if err != nil {
		return err
	}
	in := incoming{tenant: tenantOf(who), wire: wire, hint: sizeHint(wire, gzipped, u.cfg.InflatedLimit), reserve: s.charge}
	if err := s.prepay(in.hint); err != nil {
		return err
	}
	if !gzipped {
		in.body = charged{bytes.NewReader(wire), s}
		return take(r.Context(), in)
	}
	f := inflate(wire)
	defer f.release()
	in.body = charged{f, s}
	return take(r.Context(), in)
}

func tenantOf(who principal) string {
	if who.Grant == "" {
		return domain.DefaultTenant
	}
	return who.Grant
}

// versionOf reads OPA's user agent: "Open Policy Agent/0.39.0 (…)" or "Open-Policy-Agent/1.22.2 (…)".
func versionOf(userAgent string) string {
	name, rest, ok := strings.Cut(userAgent, "/")
	if !ok || !strings.EqualFold(strings.ReplaceAll(name, " ", "-"), "Open-Policy-Agent") {
		return ""
	}
	version, _, _ := strings.Cut(rest, " ")
	return version
}
