package queryapi

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

const (
	// tailBeat is how often a tail of which nothing comes says that it is there: what stands between cuts what is silent.
	tailBeat = 15 * time.Second
	// tailLook is how soon a tail ends whose credential does not count any more.
	tailLook = 5 * time.Second
	// tailPatience is how long a client may take for what is sent at once.
	tailPatience = 30 * time.Second
)

// parseTail reads the query string of a tail: that of a search, but for time and pages.
func parseTail(raw string, now time.Time) (where domain.Expr, events bool, err error) {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return where, false, fmt.Errorf("the query string: %w", err)
	}
	for _, name := range []string{"cursor", "limit"} {
		if params.Has(name) {
			return where, false, errors.New(name + ": a tail has no pages; leave it out")
		}
	}
	if events, err = takeBool(params, "with_event", false); err != nil {
		return where, false, err
	}
	asked, err := search.ParseRequest(params.Encode(), now)
	if err != nil {
		return where, false, err
	}
	if asked.Dated {
		return where, false, errors.New("a tail shows what comes from now on: leave since and until out")
	}
	return search.Either(asked.Filter, asked.Otherwise), events, nil
}

// tail answers GET /api/v1/decisions/tail by server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html): decisions as they are acknowledged.
func (r *routes) tail(c echo.Context) error {
	where, events, err := parseTail(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	ctx := c.Request().Context()
	shows := access.SearchDecisions
	if events {
		shows = access.ReadDecision
	}
	if err := r.Gate.Allow(ctx, web.Caller(c), shows, nil); err != nil {
		return err
	}
	release, err := r.tails.Take(ctx, web.Caller(c))
	if err != nil {
		return err
	}
	defer release()
	look, err := r.Tail.Look(ctx, scope(c), where, events)
	if err != nil {
		return err
	}
	defer look.Close()
	answer := c.Response()
	answer.Header().Set(echo.HeaderContentType, "text/event-stream")
	answer.Header().Set("X-Accel-Buffering", "no") // nginx would keep it back
	stream(answer)
	if web.IsHead(c.Request()) {
		return nil
	}
	var b bytes.Buffer
	b.WriteString(": decisions as they are acknowledged\n\n")
	beat := time.NewTicker(tailBeat)
	defer beat.Stop()
	again := time.NewTicker(tailLook)
	defer again.Stop()
	for send(answer, &b, tailPatience) == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-r.Stopping:
			return nil
		case <-again.C: // a token may have been taken away meanwhile, or see other tenants
			if now, err := web.Authenticate(r.Who, c.Request()); err != nil || !now.Same(web.Caller(c)) {
				return nil
			}
			if r.Gate.Allow(ctx, web.Caller(c), shows, nil) != nil {
				return nil
			}
		case <-beat.C:
			b.WriteString(":\n\n")
		case <-look.More:
			decisions, lagged, missed := look.Take()
			for i := range decisions {
				b.WriteString("data: ")
				api.NDJSON{}.Decision(&b, api.DecisionOf(decisions[i]), decisions[i].Event, false)
				b.WriteByte('\n')
			}
			if lagged {
				fmt.Fprintf(&b, "event: lagged\ndata: %s\n\n", api.Marshal(api.LaggedOf(missed)))
			}
		}
	}
	return nil
}
