package web

import (
	"context"
	"net/http"
	"net/http/pprof"
	"os"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/status"
)

// NewAdmin makes the handler of the admin listener. pprof is served on loopback only, and without the command line, in
// which somebody may have put a secret.
//
// overview is what a console knows of all processes; its verdict is the one that /readyz?verbose has. Elsewhere it is
// nil, as it is while docket starts.
func NewAdmin(
	d Door, g prometheus.Gatherer, report func(verbose bool) status.Report,
	overview func(context.Context) *status.Overview,
) http.Handler {
	e := New(d)
	e.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(g, promhttp.HandlerOpts{EnableOpenMetrics: true})))
	e.GET("/livez", func(c echo.Context) error { return c.JSON(http.StatusOK, map[string]bool{"live": true}) })
	e.GET("/readyz", func(c echo.Context) error {
		_, verbose := c.QueryParams()["verbose"]
		r := report(verbose)
		code := http.StatusOK
		if !r.Ready() {
			code = http.StatusServiceUnavailable
		}
		answer := api.ReadinessOf(r)
		if verbose {
			if o := overview(c.Request().Context()); o != nil {
				answer.Add(*o)
			}
		}
		return c.JSON(code, answer)
	})
	if d.Local {
		e.GET("/debug/pprof/cmdline", func(c echo.Context) error { return c.String(http.StatusOK, os.Args[0]) })
		e.GET("/debug/pprof/profile", echo.WrapHandler(http.HandlerFunc(pprof.Profile)))
		e.GET("/debug/pprof/symbol", echo.WrapHandler(http.HandlerFunc(pprof.Symbol)))
		e.GET("/debug/pprof/trace", echo.WrapHandler(http.HandlerFunc(pprof.Trace)))
		e.GET("/debug/pprof/*", echo.WrapHandler(http.HandlerFunc(pprof.Index)))
	}
	return HeadAsGet(e)
}
