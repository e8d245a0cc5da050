package queryapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
)

// deadLetters answers GET /api/v1/dead-letters.
func (r *routes) deadLetters(c echo.Context) error {
	q, err := r.query(c, domain.ParseDeadQuery)
	if err != nil {
		return err
	}
	page, err := r.Control.DeadLetters(c.Request().Context(), scope(c), q)
	if err != nil {
		return err
	}
	return c.Blob(
		http.StatusOK, echo.MIMEApplicationJSON, api.SpellPage(page.Items, page.Next, domain.DeadCursorOf, api.DeadLetterOf),
	)
}

// deadGroups answers GET /api/v1/dead-letters/groups.
func (r *routes) deadGroups(c echo.Context) error {
	q, err := r.query(c, domain.ParseDeadQuery)
	if err != nil {
		return err
	}
	for _, f := range []domain.Field{domain.FieldID, domain.FieldDecisionID, domain.FieldReplay} {
		if q.Where.Mentions(f) {
			return web.BadRequest(fmt.Errorf("%s chooses dead letters, not groups: ask /api/v1/dead-letters", f))
		}
	}
	groups, err := r.Control.DeadGroups(c.Request().Context(), scope(c), q.Filter)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.ItemsOf(groups, api.DeadGroupOf))
}

// find finds the dead letter that the path names.
func (r *routes) find(c echo.Context) (domain.DeadLetter, error) {
	id, err := url.PathUnescape(c.Param("id"))
	if err == nil {
		_, err = domain.ParsePosition(id)
	}
	if err != nil {
		return domain.DeadLetter{}, web.BadRequest(err)
	}
	l, found, err := r.Control.DeadLetter(c.Request().Context(), scope(c), id)
	if err == nil && !found {
		err = web.Problem(
			http.StatusNotFound,
			"there is no dead letter "+id+": it may have passed its topic's retention, be a copy of "+
				"another one, or not be indexed yet",
		)
	}
	return l, err
}

// deadLetter answers GET /api/v1/dead-letters/{id}: what the index knows, the record's headers, and the event or the
// beginning of what stands in for it.
func (r *routes) deadLetter(c echo.Context) error {
	if id := c.Param("id"); id == "discards" || id == "reindexes" { // which are made, and stand among the jobs
		return onlyPost(c)
	}
	l, err := r.find(c)
	if err != nil {
		return err
	}
	rec, found, err := deadletter.Bytes(c.Request().Context(), r.Log, &l)
	answer := api.DeadLetterWithBytes{
		DeadLetter: api.DeadLetterOf(l), Available: found, Headers: api.HeadersOf(rec.Headers),
	}
	event := []byte("null")
	switch {
	case err != nil: // what the index knows is an answer
		answer.ReadError = api.Text(err.Error())
	case found && l.Decision && utf8.Valid(rec.Value) && json.Valid(rec.Value):
		event = rec.Value
	case found:
		answer.Preview = api.Text(deadletter.Preview(&l, rec.Value))
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.With(api.Marshal(answer), "event", event))
}

// deadLetterRaw answers GET /api/v1/dead-letters/{id}/raw.
func (r *routes) deadLetterRaw(c echo.Context) error {
	l, err := r.find(c)
	if err != nil {
		return err
	}
	rec, found, err := deadletter.Bytes(c.Request().Context(), r.Log, &l)
	switch {
	case err != nil:
		return err
	case !found:
		return web.Problem(
			http.StatusNotFound,
			"the bytes of "+l.ID+" are not in the log any more: they have passed the retention of "+l.Topic,
		)
	case l.Decision:
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, rec.Value)
	default:
		c.Response().Header().Set("X-Content-Type-Options", "nosniff")
		return c.Blob(http.StatusOK, echo.MIMEOctetStream, rec.Value)
	}
}
