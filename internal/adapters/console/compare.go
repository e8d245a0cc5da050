package console

import (
	"context"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/compare"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

// comparison is what the page of a comparison shows.
type comparison struct {
	a, b        api.Decision
	differences []compare.Difference
	complete    bool
	// relaxed tells of b, where it is the last decision like a that was allowed; "" where it was chosen.
	relaxed string
}

// compare answers GET /compare: the decisions a and b, addressed as the API does, or two that were picked from a list;
// with a alone, the last one like it that was allowed is b.
func (r *routes) compare(c echo.Context, v *view) error {
	err := knows(c, "a", "a_tenant", "a_timestamp", "b", "b_tenant", "b_timestamp", "pick")
	if err != nil {
		return err
	}
	params := c.QueryParams()
	if picked := params["pick"]; len(picked) > 0 {
		return v.picked(c, picked)
	}
	if !params.Has("a") {
		return v.render(c, http.StatusOK, v.compareForm(""))
	}
	a, err := v.side(params, "a")
	if err != nil {
		return err
	}
	out := comparison{a: api.DecisionOf(*a)}
	if params.Get("b") == "" {
		last, err := v.lastAllowed(v.ctx, a)
		if err != nil {
			return err
		}
		if last.Decision == nil {
			return web.Problem(http.StatusNotFound, "nothing like the decision "+a.ID+" was allowed before it")
		}
		out.b, out.relaxed = api.DecisionOf(*last.Decision), relaxedText(&last)
		out.differences, out.complete = last.differences, last.complete
		return v.render(c, http.StatusOK, v.comparePage(&out))
	}
	b, err := v.side(params, "b")
	if err != nil {
		return err
	}
	out.b = api.DecisionOf(*b)
	out.differences, out.complete = compare.Events(a.Event, b.Event)
	compare.Rank(out.differences)
	return v.render(c, http.StatusOK, v.comparePage(&out))
}

// picked goes to the comparison of two that were chosen from a list.
func (v *view) picked(c echo.Context, picked []string) error {
	const two = 2
	if len(picked) != two {
		return v.render(c, http.StatusBadRequest, v.compareForm("Choose two decisions from the list: "+
			number(int64(len(picked)))+" were chosen."))
	}
	params := url.Values{}
	for i, side := range []string{"b", "a"} { // the list has the newest first
		address, err := url.ParseQuery(picked[i])
		if err != nil {
			return web.Problem(http.StatusBadRequest, "what was chosen is no decision: "+err.Error())
		}
		params.Set(side, address.Get("id"))
		params.Set(side+"_tenant", address.Get("tenant"))
		params.Set(side+"_timestamp", address.Get("timestamp"))
	}
	return c.Redirect(http.StatusSeeOther, v.link(with("/compare", params)))
}

// side finds one of the decisions that are compared.
func (v *view) side(params url.Values, side string) (*domain.Decision, error) {
	id := params.Get(side)
	rows, err := v.lookup(id, params.Get(side+"_tenant"), params.Get(side+"_timestamp"))
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, web.Problem(http.StatusNotFound, "no decision "+id+" is stored")
	}
	return &rows[0], nil
}

// contrasted is what the page of a contrast shows.
type contrasted struct {
	asked
	against string
	// wrong is the query that an error is about.
	wrong string
	found func() (api.Contrast, error)
}

// contrast answers GET /contrast: what tells the decisions of a search from others.
func (r *routes) contrast(c echo.Context, v *view) error {
	if c.Request().URL.RawQuery == "" {
		return c.Redirect(http.StatusSeeOther, v.link("/contrast?q=outcome%3Adenied"))
	}
	params, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		return web.BadRequest(err)
	}
	against := params.Get("against")
	params.Del("against")
	a, err := parseAsked(params.Encode(), r.now())
	page := contrasted{asked: a, against: against, wrong: a.get("q")}
	var question compare.ContrastRequest
	if err == nil {
		page.wrong = against
		raw := a.edited("limit", "")
		if against != "" {
			raw.Set("against", against)
		}
		question, err = compare.ParseContrast(raw.Encode(), r.now())
	}
	if err != nil {
		return v.render(c, http.StatusBadRequest, v.contrastPage(&page, err))
	}
	page.found = later(v, func(ctx context.Context) (out api.Contrast, err error) {
		err = r.Searches.Ask(ctx, v.caller, "contrast", func() error {
			found, err := compare.FindContrast(ctx, r.Decisions, v.caller.Tenants, question)
			out = api.ContrastOf(found)
			return err
		})
		return out, err
	})
	return v.render(c, http.StatusOK, v.contrastPage(&page, nil))
}

// share is how many of a side have a trait, as a part of 100.
func share(n, of int) float64 {
	const whole = 100
	return whole * float64(n) / float64(max(of, 1))
}

// traitValue is a trait's value as people see it.
func traitValue(t *api.Trait) string {
	switch {
	case t.Value == nil:
		return "(none)"
	case *t.Value == "":
		return `""`
	}
	text, left := cut(*t.Value)
	if left > 0 {
		text += "…"
	}
	return text
}

// changeOf says what became of a value from a to b.
func changeOf(d *compare.Difference) string {
	switch {
	case d.A == nil:
		return api.Added
	case d.B == nil:
		return api.Removed
	}
	return api.Changed
}

// jsonText is a value as it was sent, cut to what a page shows.
func jsonText(v []byte) string {
	text, left := cut(string(v))
	if left > 0 {
		text += "… (" + number(int64(left)) + " characters more)"
	}
	return text
}

// fieldOf is how a query asks for what differs.
func fieldOf(d *compare.Difference) string { return search.FieldAt(d.Path) }
