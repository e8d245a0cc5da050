package queryapi

import (
	"errors"
	"io"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/web"
)

// replayPolicy answers POST /api/v1/decisions/replay-policy: what a policy, which is the body, says about the decisions
// of a search.
func (r *routes) replayPolicy(c echo.Context) error {
	asked, err := replaypolicy.ParseAsked(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	policy, err := io.ReadAll(http.MaxBytesReader(c.Response(), c.Request().Body, replaypolicy.MaxPolicy))
	if long := (*http.MaxBytesError)(nil); errors.As(err, &long) {
		return web.Problem(http.StatusRequestEntityTooLarge, "a policy that comes with a request has at most 8 MiB; "+
			"docket replay-policy takes any")
	}
	if err != nil {
		return web.Problem(http.StatusBadRequest, "the request broke off: "+err.Error())
	}
	if len(policy) == 0 {
		return web.Problem(http.StatusBadRequest, "the body is the policy: a file of Rego, or a bundle as opa build makes it")
	}
	found, err := r.Replay.Replay(c.Request().Context(), scope(c), asked, policy)
	if fault := (*replaypolicy.FaultError)(nil); errors.As(err, &fault) {
		return web.Problem(http.StatusBadRequest, err.Error())
	}
	if errors.Is(err, replaypolicy.ErrNoDecider) {
		return web.Problem(http.StatusNotImplemented, err.Error())
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, found)
}
