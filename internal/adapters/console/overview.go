package console

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
	"github.com/docket-project/docket/internal/status"
)

// overview is what the first page shows.
type overview struct {
	asked
	status  func() (api.Status, error)
	chart   func() (chart, error)
	denials func() (domain.Page, error)
	opas    func() ([]domain.OPA, error)
}

// nothingYet reports that no OPA is known, and nothing was decided in this time. What is counted may be a moment old,
// and an OPA is listed a moment after its first decision: a denial that is found says otherwise.
func (o *overview) nothingYet() bool {
	opas, err := o.opas()
	if err != nil || len(opas) > 0 {
		return false
	}
	if c, err := o.chart(); err != nil || c.total > 0 {
		return false
	}
	page, err := o.denials()
	return err == nil && len(page.Items) == 0
}

// denialsShown is how many of the newest denials the first page has.
const denialsShown = 10

// overview answers GET /.
func (r *routes) overview(c echo.Context, v *view) error {
	for _, shown := range []access.Action{access.SearchDecisions, access.ReadOPAs} {
		if err := r.Gate.Allow(v.ctx, v.caller, shown, nil); err != nil {
			return err
		}
	}
	a, err := parseAsked(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return v.render(c, http.StatusBadRequest, v.decisionsPage(found{asked: a}, err))
	}
	if a.Since.IsZero() || a.Otherwise != nil { // an id is looked for by a search
		return c.Redirect(http.StatusSeeOther, v.link(with("/decisions", a.params)))
	}
	o := overview{asked: a}
	o.status = later(v, func(ctx context.Context) (api.Status, error) {
		return api.StatusOf(r.Overview(ctx, v.caller.Tenants), r.Disk()), nil
	})
	o.chart = later(v, func(ctx context.Context) (chart, error) { return v.chart(ctx, &a) })
	o.denials = later(v, func(ctx context.Context) (page domain.Page, err error) {
		denied := domain.AllOf(a.Where, domain.Equals(domain.FieldOutcome, string(domain.OutcomeDenied)))
		err = r.Searches.Ask(ctx, v.caller, "page", func() error {
			page, err = search.Find(ctx, r.Decisions, v.caller.Tenants, search.Request{Query: domain.Query{
				Filter: domain.Filter{Since: a.Since, Until: a.Until, Where: denied}, Limit: denialsShown,
			}})
			return err
		})
		return page, err
	})
	o.opas = later(v, func(ctx context.Context) ([]domain.OPA, error) { return r.Control.OPAs(ctx, v.caller.Tenants) })
	return v.render(c, http.StatusOK, v.overviewPage(&o))
}

// late is the age of the oldest record that waits in any stage.
func late(s *api.Status) (seconds float64, stage string) {
	for _, at := range s.Stages {
		if at.OldestSeconds > seconds {
			seconds, stage = at.OldestSeconds, at.Name
		}
	}
	return seconds, stage
}

// parked is how many records wait for the parking role.
func parked(s *api.Status) (n int64) {
	for _, at := range s.Stages {
		if at.Name == string(status.Parking) {
			n += at.Waiting
		}
	}
	return n
}

// uploadURL is where OPAs post, as far as this process knows.
func (v *view) uploadURL() string {
	return cmp.Or(v.Upload, "http://docket.example:8080")
}

// ago spells how long ago something was, from seconds.
func ago(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return "< 1 s"
	case d < 2*time.Minute:
		return length(d.Round(time.Second))
	case d < 2*time.Hour:
		return length(d.Round(time.Minute))
	case d < 48*time.Hour:
		return length(d.Round(time.Hour))
	}
	return length(d.Round(24 * time.Hour))
}
