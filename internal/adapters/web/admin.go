package web

import (
	"log/slog"
	"net/http"
	"net/http/pprof"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/status"
)

// NewAdmin makes the handler of the admin listener. pprof is served on loopback addresses only.
func NewAdmin(
	listen string, g prometheus.Gatherer, report func(verbose bool) status.Report, logger *slog.Logger,
) http.Handler {
	e := New(logger)
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	e.GET("/livez", func(c echo.Context) error { return c.JSON(http.StatusOK, map[string]bool{"live": true}) })
	e.GET("/readyz", func(c echo.Context) error {
		_, verbose := c.QueryParams()["verbose"]
		r := report(verbose)
		code := http.StatusOK
		if !r.Ready() {
			code = http.StatusServiceUnavailable
		}
		return c.JSON(code, api.ReadinessOf(r))
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
