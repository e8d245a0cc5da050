package console

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
)

// replayed is what the page of a replay shows.
type replayed struct {
	// params are the search's, as the form has them, and policy is the Rego of its text field.
	params url.Values
	policy string
	// file is the name of the policy's, where it is one.
	file string
	// wrong is what is wrong with the search, and fault with the policy.
	wrong error
	fault string
	found func() (*api.Replay, error)
}

// replayParams are what the address and the form of the page have, besides a policy.
var replayParams = []string{"q", "since", "until", "limit"}

// replayForm answers GET /replay-policy: a form for decisions that are to be decided again.
func (r *routes) replayForm(c echo.Context, v *view) error {
	a, err := parseAsked(c.Request().URL.RawQuery, r.now())
	if spelled, others := a.spelled(); err == nil && others {
		return c.Redirect(http.StatusSeeOther, v.link(with("/replay-policy", spelled)))
	}
	page := replayed{params: a.params}
	if _, page.wrong = replaypolicy.ParseAsked(page.asked().Encode(), r.now()); page.wrong != nil {
		return v.render(c, http.StatusBadRequest, v.replayPage(&page))
	}
	return v.render(c, http.StatusOK, v.replayPage(&page))
}

// asked is the search without fields that are empty.
func (p *replayed) asked() url.Values {
	out := url.Values{}
	for name, values := range p.params {
		if slices.Contains(replayParams, name) && p.params.Get(name) != "" {
			out[name] = values
		}
	}
	return out
}

// replayOf is a search for one decision.
func (v *view) replayOf(d *api.Decision) url.Values {
	id := domain.Expr{Op: domain.OpEqual, Field: domain.FieldDecisionID, Value: d.DecisionID}
	tenant := domain.Expr{Op: domain.OpEqual, Field: domain.FieldTenant, Value: d.Tenant}
	return only(domain.AllOf(id, tenant))
}

// command is how docket replay-policy asks the same.
func (p *replayed) command() string {
	parts := []string{"docket replay-policy --policy ./policy"}
	for _, name := range []string{"since", "until", "limit"} {
		if value := p.params.Get(name); value != "" {
			parts = append(parts, "--"+name, quoted(value))
		}
	}
	if q := p.params.Get("q"); q != "" {
		parts = append(parts, "--", quoted(q))
	}
	return strings.Join(parts, " ")
}

// replay answers POST /replay-policy: what the policy of the form says about the decisions of its search.
func (r *routes) replay(c echo.Context, v *view) error {
	policy, file, err := readPolicy(c)
	if err != nil {
		return err
	}
	page := replayed{params: c.Request().PostForm, policy: c.Request().PostForm.Get("policy"), file: file}
	asked, err := replaypolicy.ParseAsked(page.asked().Encode(), r.now())
	switch {
	case err != nil:
		page.wrong = err
	case len(policy) == 0:
		page.fault = "Give a policy: as text, or as a file."
	}
	if page.wrong != nil || page.fault != "" {
		return v.render(c, http.StatusBadRequest, v.replayPage(&page))
	}
	page.found = later(v, func(ctx context.Context) (out *api.Replay, err error) {
		err = r.Searches.Ask(ctx, v.caller, "replay_policy", func() error {
			out, err = r.Replay.Replay(ctx, v.caller.Tenants, asked, policy)
			if fault := (*replaypolicy.FaultError)(nil); errors.As(err, &fault) {
				return web.Problem(http.StatusBadRequest, err.Error())
			}
			return err
		})
		return out, err
	})
	return v.render(c, http.StatusOK, v.replayPage(&page))
}

// readPolicy reads the form, and the policy of it: the file where there is one, and otherwise the text.
func readPolicy(c echo.Context) (policy []byte, file string, err error) {
	c.Request().Body = http.MaxBytesReader(c.Response(), c.Request().Body, replaypolicy.MaxPolicy+maxForm)
	err = c.Request().ParseMultipartForm(replaypolicy.MaxPolicy + maxForm)
	if long := (*http.MaxBytesError)(nil); errors.As(err, &long) {
		return nil, "", web.Problem(
			http.StatusRequestEntityTooLarge, "a policy has at most 8 MiB here; docket replay-policy takes any",
		)
	}
	if errors.Is(err, http.ErrNotMultipart) {
		return nil, "", web.Problem(
			http.StatusUnsupportedMediaType, "want a form with a file (multipart/form-data); programs ask the API",
		)
	}
	if err != nil {
		return nil, "", web.Problem(http.StatusBadRequest, "the form cannot be read: "+err.Error())
	}
	files := c.Request().MultipartForm.File["file"]
	if len(files) == 0 || files[0].Size == 0 {
		return []byte(c.Request().PostForm.Get("policy")), "", nil
	}
	f, err := files[0].Open()
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	policy, err = io.ReadAll(f)
	return policy, files[0].Filename, err
}

// replaySentence is what came of a replay.
func replaySentence(r *api.Replay) string {
	switch {
	case r.Decisions == 0:
		return "No decision fits the search."
	case r.Decisions > 1:
	case r.Failed > 0:
		return "It cannot be decided."
	case r.Flipped > 0:
		return "It comes out with another outcome."
	case r.Hidden > 0:
		return "A mask hides what it was."
	case r.Changed > 0:
		return "It comes out as it was, but with another result."
	default:
		return "It comes out the same."
	}
	return r.Sentence() + "."
}

// doubtsOf are why decisions of a group are not exact, and how many.
func doubtsOf(g *api.ReplayGroup) (out []string) {
	for doubt, n := range g.Doubts {
		text := capital(api.DoubtText(doubt))
		if n < g.Count {
			text += ": " + strconv.Itoa(n)
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}
