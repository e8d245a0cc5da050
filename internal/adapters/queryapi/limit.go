package queryapi

import (
	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/web"
)

// What one caller may have going on at once, besides searches.
const (
	maxExports = 4 // which take as long as their clients
	maxTails   = 256
)

// searching is a route that asks the store: within the caller's share, and timed.
func (r *routes) searching(kind string, next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		return r.Searches.Ask(c.Request().Context(), web.Caller(c), kind, func() error { return next(c) })
	}
}

// timed times the answers of a route, but for those that were refused.
func (r *routes) timed(kind string, next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error { return r.Searches.Timed(kind, func() error { return next(c) }) }
}
