package queryapi

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/compare"
	"github.com/docket-project/docket/internal/domain"
)

// compare answers GET /api/v1/decisions/compare: in what the decisions a and b differ.
func (r *routes) compare(c echo.Context) error {
	params := c.QueryParams()
	for name := range params {
		switch name {
		case "a", "b", "a_tenant", "b_tenant", "a_timestamp", "b_timestamp":
		default:
			return web.Problem(http.StatusBadRequest, fmt.Sprintf(
				"unknown parameter %q: known are a and b, with a_tenant, a_timestamp, b_tenant, b_timestamp", name,
			))
		}
		if _, err := domain.Once(params, name); err != nil {
			return web.BadRequest(fmt.Errorf("%s: %w", name, err))
		}
	}
	sides := []string{"a", "b"}
	for _, side := range sides {
		if params.Get(side) == "" {
			return web.Problem(http.StatusBadRequest, side+" is missing: it is the id of a decision")
		}
	}
	var both [2]domain.Decision
	for i, side := range sides {
		id := params.Get(side)
		address := url.Values{}
		for _, name := range []string{"tenant", "timestamp"} {
			if params.Has(side + "_" + name) {
				address.Set(name, params.Get(side+"_"+name))
			}
		}
		rows, err := r.rows(c, id, address)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return noDecision(id)
		}
		both[i] = rows[0]
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.SpellComparison(both[0], both[1]))
}

// lastAllowed answers GET /api/v1/decisions/{decision_id}/last-allowed.
func (r *routes) lastAllowed(c echo.Context, d *domain.Decision) error {
	found, err := compare.LastAllowed(c.Request().Context(), r.Decisions, scope(c), d)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.LastAllowedOf(found))
}

// contrast answers GET /api/v1/decisions/contrast: what tells decisions that fit a query from others.
func (r *routes) contrast(c echo.Context) error {
	asked, err := compare.ParseContrast(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	found, err := compare.FindContrast(c.Request().Context(), r.Decisions, scope(c), asked)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.ContrastOf(found))
}
