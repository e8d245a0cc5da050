// Package uploadapi is the HTTP API that OPA uploads to. It owns limits on the wire and the budget of bytes in flight.
// It leaves what an upload means to ingest, who sends it to auth, and listeners to its caller.
package uploadapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/contrib/instrumentation/github.com/labstack/echo/otelecho"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/policy"
)

// upload serves OPA.
type upload struct {
	cfg       Config
	who       auth.Authenticator
	ingest    *ingest.Service
	inventory *ingest.Inventory
	budget    *budget
	requests  *prometheus.CounterVec
	duration  prometheus.Histogram
	logger    *slog.Logger
	say       rate.Sometimes // of what a credential is not for
	sayQuota  rate.Sometimes
}

// Parts are what the upload API works with.
type Parts struct {
	Config    Config
	Who       auth.Authenticator
	Ingest    *ingest.Service
	Inventory *ingest.Inventory
	// Traces may be nil.
	Traces trace.TracerProvider
	Door   web.Door
}

// New makes the handler of the upload listener.
func New(p Parts, reg prometheus.Registerer) http.Handler {
	u := &upload{
		cfg: p.Config, who: p.Who, ingest: p.Ingest, inventory: p.Inventory,
		logger: p.Door.Logger, say: rate.Sometimes{First: 1, Interval: time.Minute},
		sayQuota: rate.Sometimes{First: 1, Interval: time.Minute},
		budget:   newBudget(p.Config.MaxInFlightBytes, p.Config.MaxWireBytes+int64(p.Ingest.LargestUpload())),
		requests: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "docket_ingest_requests_total", Help: "Uploads and status reports, by the status of the answer.",
		}, []string{"code"}),
		duration: promauto.With(reg).NewHistogram(prometheus.HistogramOpts{
			Name: "docket_ingest_request_duration_seconds", Help: "Time to answer an upload.",
			Buckets: []float64{.0005, .001, .002, .003, .005, .0075, .01, .02, .03, .05, .1, .25, .5, 1, 2.5, 5, 8},
		}),
	}
	u.requests.WithLabelValues("200")
	e := web.New(p.Door, u.measure)
	e.Pre(web.NoBrowsers)
	if p.Traces != nil {
		e.Use(otelecho.Middleware("docket-ingest", otelecho.WithTracerProvider(p.Traces)))
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

// brokenOff stands where a status would for an upload that got no answer, because its body broke off. nginx logs such
// requests so.
const brokenOff = 499

// measure counts requests. A handler's error is answered in here, so that its status is known.
func (u *upload) measure(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start, status := time.Now(), brokenOff // unless it comes back
		defer func() {
			u.duration.Observe(time.Since(start).Seconds())
			u.requests.WithLabelValues(strconv.Itoa(status)).Inc()
		}()
		if err := next(c); err != nil {
			c.Error(err)
		}
		status = c.Response().Status
		return nil
	}
}

// receipt is the answer to an upload.
type receipt struct {
	Accepted    int                  `json:"accepted"`
	Quarantined int                  `json:"quarantined"`
	Reasons     map[domain.Cause]int `json:"reasons"`
	Dropped     int                  `json:"dropped,omitempty"`
}

// logs takes an upload of decisions.
func (u *upload) logs(c echo.Context) error {
	partition := partitionOf(c)
	caller, err := web.Authenticate(u.who, c.Request())
	if err != nil {
		return err
	}
	if !caller.UploadsTo(partition) {
		return u.forbidden(c, fmt.Sprintf(
			"the credential %s is not for the partition %q: it may upload to others only (partitions=)", caller.Name, partition,
		))
	}
	return u.body(c, caller, false, func(ctx context.Context, in incoming) error {
		r, err := u.ingest.Accept(ctx, ingest.Upload{
			Caller: caller, Address: addressOf(c.Request()), Partition: partition, Wire: in.wire, Gzipped: in.gzipped,
			Charge: in.share.charge, Large: in.share.large, Admission: in.admission, Version: versionOf(c.Request().UserAgent()),
			ReceivedAt: time.Now().UTC(),
		})
		if err != nil {
			return u.notTaken(c, err)
		}
		answer, err := json.Marshal(receipt(r))
		if err != nil {
			return err
		}
		return c.JSONBlob(http.StatusOK, answer) // echo's JSON looks for ?pretty in the query
	})
}

// status takes OPA's report on itself. Whatever is in it, the answer is 200, unless it is another OPA's. The partition
// in its path says nothing: OPA has a name of its own for that.
func (u *upload) status(c echo.Context) error {
	caller, err := web.Authenticate(u.who, c.Request())
	if err != nil {
		return err
	}
	return u.body(c, caller, true, func(_ context.Context, in incoming) error {
		body, done := ingest.Open(in.wire, in.gzipped)
		defer done()
		report, err := io.ReadAll(io.LimitReader(charged{body, in.share}, maxReport))
		if domain.ClassOf(err) == domain.Unavailable { // charge's
			return err
		}
		err = u.inventory.Status(caller, versionOf(c.Request().UserAgent()), report, time.Now().UTC())
		if err != nil {
			return u.notTaken(c, err)
		}
		in.admission.Took(0, len(report))
		return c.JSON(http.StatusOK, struct{}{})
	})
}

// partitionOf is the {partition} of the path, or "".
func partitionOf(c echo.Context) string { return strings.TrimSuffix(c.Param("*"), "/") }

// notTaken is how an upload is refused once its body was read: it is another OPA's, or it is to be sent again. What the
// log says is kept, under the status that OPA's operators know.
func (u *upload) notTaken(c echo.Context, err error) error {
	var foreign *ingest.ForeignOPA
	if errors.As(err, &foreign) {
		return u.forbidden(c, err.Error())
	}
	class := domain.ClassOf(err)
	if class != domain.Invalid && class != domain.Unknown {
		return err
	}
	return &domain.Error{Class: domain.Unavailable, Text: "not durable: " + err.Error(), Err: err}
}

// forbidden refuses what the credential is not for, and logs the first of a minute: somebody uploads in another's name,
// or an OPA's credential does not say all that it is for, and decisions wait there.
func (u *upload) forbidden(c echo.Context, why string) error {
	u.say.Do(func() {
		u.logger.Error(
			"an upload was refused, because its credential is not for what it brought; "+
				"docket_ingest_requests_total{code=\"403\"} counts those of the next minute. If it is an OPA of yours, its "+
				"decisions wait there",
			"why", why, "from", c.Request().RemoteAddr,
		)
	})
	return web.Problem(http.StatusForbidden, why)
}

// maxReport bounds what is read of a status report, inflated, in bytes.
const maxReport = 2 << 20

// incoming is a request whose body has been read.
type incoming struct {
	wire      []byte
	gzipped   bool
	share     *share
	admission policy.Admission
}

// body reads the body of an upload, or of a report, once the quotas let it in.
func (u *upload) body(
	c echo.Context, caller domain.Caller, report bool, take func(context.Context, incoming) error,
) error {
	r := c.Request()
	admission, err := u.ingest.Admit(caller, report)
	if err != nil {
		return u.overQuota(c, err)
	}
	defer admission.Done()
	gzipped, err := encodingOf(r)
	if err != nil {
		return err
	}
	s, err := u.budget.open(r.Context(), caller.Tenant())
	defer s.release()
	if err != nil {
		unread(c)
		return err
	}
	wire, err := readWire(c.Response(), r, u.cfg.MaxWireBytes, s)
	if errors.Is(err, errCutOff) {
		panic(http.ErrAbortHandler) // no answer: the connection is closed
	}
	if errors.Is(err, errSlow) || errors.Is(err, errSlowOnes) {
		c.Response().Header().Set(echo.HeaderConnection, "close")
	}
	if err != nil {
		return err
	}
	gzipped = gzipped || ingest.LooksGzipped(wire)
	return take(r.Context(), incoming{wire: wire, gzipped: gzipped, share: s, admission: admission})
}

// overQuota refuses an upload, and logs the first of a minute: the OPA keeps it in its memory until it is taken.
func (u *upload) overQuota(c echo.Context, err error) error {
	u.sayQuota.Do(func() {
		u.logger.Warn(
			"a quota refused an upload; docket_quota_refused_total counts those of the next minute. OPA keeps the decisions in "+
				"memory, and drops the oldest once its buffer is full", "why", err, "from", c.Request().RemoteAddr,
		)
	})
	unread(c)
	var exceeded *policy.Exceeded
	if errors.As(err, &exceeded) && exceeded.Wait > time.Second { // OPA does not read it
		c.Response().Header().Set(echo.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(exceeded.Wait.Seconds()))))
	}
	return web.Problem(http.StatusTooManyRequests, err.Error())
}

// unread has a body that is refused not waited for: a small one would otherwise be read before the answer, however
// slowly it comes.
func unread(c echo.Context) {
	_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Now().Add(time.Second)) // a test's has none
}

// addressOf is the other end of the connection: a proxy's, where there is one. What a header says of others is
// anybody's word.
func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
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
