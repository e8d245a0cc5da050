package queryapi

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/search"
)

// counted answers a question of statistics, from what was counted a moment ago unless the client wants it anew
// (RFC 9111 section 5.2.1.4). The answer says how old it is, in seconds.
func (r *routes) counted(c echo.Context, field string) (search.Counted, error) {
	caller := web.Caller(c)
	q, err := r.Statistics.Question(caller.Tenants, field, c.Request().URL.RawQuery)
	if err != nil {
		return search.Counted{}, web.BadRequest(err)
	}
	fresh := strings.Contains(c.Request().Header.Get(echo.HeaderCacheControl), "no-cache")
	counted, err := r.Statistics.Count(
		c.Request().Context(), q, fresh, r.Searches.Admit(caller),
	)
	if err == nil {
		c.Response().Header().Set("Age", strconv.Itoa(int(max(0, time.Since(counted.At)).Seconds())))
	}
	return counted, err
}

// stats answers GET /api/v1/decisions/stats: how many decisions fit, by fields and by time.
func (r *routes) stats(c echo.Context) error {
	counted, err := r.counted(c, "")
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.SpellStats(counted.Asked, counted.Stats))
}

const fieldPrefix = decisionPrefix + "fields/"

// values answers GET /api/v1/decisions/fields/{field}: the most frequent values of a field, whose name may have a
// percent-encoded slash in it.
func (r *routes) values(c echo.Context) error {
	field, err := url.PathUnescape(strings.TrimPrefix(c.Request().URL.EscapedPath(), fieldPrefix))
	if err != nil {
		return web.Problem(http.StatusBadRequest, "the field in the path is not percent-encoded: "+err.Error())
	}
	if field == "" {
		return web.Problem(http.StatusBadRequest, "name a field behind fields/, such as fields/principal")
	}
	counted, err := r.counted(c, field)
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.SpellFacet(counted.Stats))
}
