package httpapi

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready bool                     `json:"ready"`
	Roles map[string]RoleReadiness `json:"roles"`
}

// RoleReadiness is one role's part. A role may be in trouble without unreadying the process.
type RoleReadiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
	// Details are shown with ?verbose.
	Details map[string]any `json:"details,omitempty"`
}

// NewAdmin makes the handler of the admin listener. pprof is served on loopback addresses only.
func NewAdmin(listen string, g prometheus.Gatherer, ready func(verbose bool) Readiness, logger *slog.Logger) http.Handler {
	e := newEcho(logger)
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	e.GET("/livez", func(c echo.Context) error { return c.JSON(http.StatusOK, map[string]bool{"live": true}) })
	e.GET("/readyz", func(c echo.Context) error {
		_, verbose := c.QueryParams()["verbose"]
		r := ready(verbose)
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
		}
		return c.JSON(status, r)
	})
	if Loopback(listen) {
		e.GET("/debug/pprof/cmdline", echo.WrapHandler(http.HandlerFunc(pprof.Cmdline)))
		e.GET("/debug/pprof/profile", echo.WrapHandler(http.HandlerFunc(pprof.Profile)))
		e.GET("/debug/pprof/symbol", echo.WrapHandler(http.HandlerFunc(pprof.Symbol)))
		e.GET("/debug/pprof/trace", echo.WrapHandler(http.HandlerFunc(pprof.Trace)))
		e.GET("/debug/pprof/*", echo.WrapHandler(http.HandlerFunc(pprof.Index)))
	}
	return e
}

// Loopback reports whether an address to listen on can be reached from this machine only.
func Loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
