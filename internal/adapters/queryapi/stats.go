package queryapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/search"
)

// stats answers GET /api/v1/decisions/stats: how many decisions fit, by fields and by time.
func (r *routes) stats(c echo.Context) error {
	asked, err := search.ParseStats(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	stats, err := search.Count(c.Request().Context(), r.Decisions, scope(c), asked, r.now())
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.SpellStats(asked, stats))
}

const fieldPrefix = decisionPrefix + "fields/"

// facet answers GET /api/v1/decisions/fields/{field}: the most frequent values of a field, whose name may have a
// percent-encoded slash in it.
func (r *routes) facet(c echo.Context) error {
	field, err := url.PathUnescape(strings.TrimPrefix(c.Request().URL.EscapedPath(), fieldPrefix))
	if err != nil {
		return web.Problem(http.StatusBadRequest, "the field in the path is not percent-encoded: "+err.Error())
	}
	asked, err := search.ParseFacet(field, c.Request().URL.RawQuery, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	stats, err := search.Count(c.Request().Context(), r.Decisions, scope(c), asked, r.now())
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.SpellFacet(stats))
}
