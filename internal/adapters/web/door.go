package web

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Door is what stands in front of every route of a listener: which names it answers to, and what becomes of a handler
// that panics.
type Door struct {
	// Local says that the listener is bound to loopback, so that only this machine reaches it. A name that somebody else's
	// DNS gave to this address is refused there, because behind it is a page in a browser (DNS rebinding).
	Local bool
	// AllowedHosts are the names that a request's Host may have besides addresses and localhost. Without any, a listener
	// off loopback takes every name.
	AllowedHosts []string
	Metrics      *Metrics
	Logger       *slog.Logger
}

// Metrics are what the listeners of a process count together.
type Metrics struct {
	panics      prometheus.Counter
	acceptFails *prometheus.CounterVec
	refused     *prometheus.CounterVec
	open        *prometheus.GaugeVec
}

// NewMetrics registers them; reg may be nil in tests.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	listener := []string{"listener"}
	return &Metrics{
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "docket_http_panics_total", Help: "Requests whose handler panicked: each is a defect of docket's.",
		}),
		acceptFails: f.NewCounterVec(prometheus.CounterOpts{
			Name: "docket_http_accept_errors_total", Help: "Connections that the system did not give to docket.",
		}, listener),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "docket_http_connections_refused_total",
			Help: "Connections that were closed at once, because the listener had as many as it may have and none was idle.",
		}, listener),
		open: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "docket_http_connections", Help: "Connections that are open.",
		}, listener),
	}
}

// New makes a router with docket's error handling behind the door, and nothing printed. What is outside sees every
// request, also those that the door refuses, and the answer to a handler that panicked.
func New(d Door, outside ...echo.MiddlewareFunc) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = answerError(d.Logger)
	e.Pre(append(outside, d.caught, d.named)...)
	return e
}

// caught answers for a handler that panics. http.ErrAbortHandler is no defect: it closes the connection on purpose.
func (d Door) caught(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			found := recover()
			if found == nil {
				return
			}
			if found == http.ErrAbortHandler { //nolint:errorlint // net/http compares it the same way
				panic(found)
			}
			d.Metrics.panics.Inc()
			d.Logger.Error(
				"a request's handler panicked: this is a defect of docket's. Please report it with this line",
				"method", c.Request().Method, "route", c.Path(), "panic", found, "stack", string(debug.Stack()),
			)
			err = Problem(http.StatusInternalServerError, "docket failed at this request; its log says where")
		}()
		return next(c)
	}
}

// named refuses a Host that this listener does not answer to.
func (d Door) named(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Response().Header().Set(echo.HeaderXContentTypeOptions, "nosniff")
		if host := c.Request().Host; !d.answersTo(host) {
			return Problem(
				http.StatusMisdirectedRequest, "this listener does not answer to the name "+quoted(host)+
					": ask for its address or for localhost, or add the name to allowed_hosts (DOCKET_ALLOWED_HOSTS)",
			)
		}
		return next(c)
	}
}

// quoted bounds what a stranger has said.
func quoted(s string) string {
	const longest = 100
	if len(s) > longest {
		s = s[:longest] + "…"
	}
	return strings.ToValidUTF8(`"`+s+`"`, "�")
}

// answersTo reports whether a request may be for this host. HTTP/1.0 may name none, which no browser does.
func (d Door) answersTo(host string) bool {
	if host == "" || !d.Local && len(d.AllowedHosts) == 0 {
		return true
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if _, err := netip.ParseAddr(host); err == nil || strings.EqualFold(host, "localhost") {
		return true
	}
	return slices.ContainsFunc(d.AllowedHosts, func(allowed string) bool {
		return strings.EqualFold(strings.TrimSuffix(allowed, "."), host)
	})
}

// NoBrowsers refuses whatever a browser sends, for a listener that only programs have a use for: any page could
// otherwise post to it, from the machine of whoever looks at the page.
func NoBrowsers(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Request().Header
		if len(h.Values(echo.HeaderOrigin)) > 0 || len(h.Values("Sec-Fetch-Site")) > 0 {
			return Problem(http.StatusForbidden, "this listener takes uploads from OPA, and nothing from a browser")
		}
		return next(c)
	}
}

// SameOrigin refuses what pages of other sites ask to change.
func SameOrigin(next echo.HandlerFunc) echo.HandlerFunc {
	protection := http.NewCrossOriginProtection()
	return func(c echo.Context) error {
		if protection.Check(c.Request()) != nil {
			return Problem(http.StatusForbidden, "a page of another site may not do this")
		}
		return next(c)
	}
}

// WellFormed refuses a path or parameters with a NUL or with bytes that are no UTF-8: no store takes such a text, and
// nothing in one can be found by it.
func WellFormed(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		texts := []string{u.Path}
		for name, values := range u.Query() {
			if name == "q" { // of a query it is told where
				continue
			}
			texts = append(append(texts, name), values...)
		}
		for _, text := range texts {
			if strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
				return Problem(http.StatusBadRequest, "the path or a parameter has a NUL in it, or is no UTF-8")
			}
		}
		return next(c)
	}
}

// head marks a request that was HEAD.
type head struct{}

// IsHead reports that nobody reads the body of an answer: a stream has none then.
func IsHead(r *http.Request) bool { return r.Context().Value(head{}) != nil }

// HeadAsGet answers HEAD wherever GET is answered (RFC 9110 section 9.3.2); the server leaves the body out.
func HeadAsGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			r = r.WithContext(context.WithValue(r.Context(), head{}, true))
			r.Method = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}
