package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/deadletter"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
)

// opas answers GET /opas.
func (r *routes) opas(c echo.Context, v *view) error {
	if err := knows(c, "state"); err != nil {
		return err
	}
	known, err := r.Control.OPAs(v.ctx, v.caller.Tenants)
	if err != nil {
		return err
	}
	if state := c.QueryParam("state"); state != "" && !slices.Contains(opaStates, domain.OPAState(state)) {
		return web.Problem(http.StatusBadRequest, fmt.Sprintf("state: %q is none: there are live, silent and gone", state))
	}
	now := r.now()
	var shown []api.OPA
	counts := map[domain.OPAState]int{}
	for _, o := range known {
		out := api.OPAOf(o, now)
		counts[out.State]++
		if state := c.QueryParam("state"); state == "" || state == string(out.State) {
			shown = append(shown, out)
		}
	}
	return v.render(c, http.StatusOK, v.opasPage(shown, counts, c.QueryParam("state")))
}

// opaStates are those of OPAs, in the order of the page.
var opaStates = []domain.OPAState{domain.OPALive, domain.OPASilent, domain.OPAGone}

// pipeline answers GET /pipeline.
func (r *routes) pipeline(c echo.Context, v *view) error {
	if err := knows(c); err != nil {
		return err
	}
	waiting := later(v, func(ctx context.Context) (api.Status, error) {
		return api.StatusOf(r.Overview(ctx, v.caller.Tenants), r.Disk()), nil
	})
	p := api.PipelineOf(r.Pipeline(v.ctx))
	s, err := waiting()
	if err != nil {
		return err
	}
	return v.render(c, http.StatusOK, v.pipelinePage(&p, &s))
}

// credentials answers GET /credentials.
func (r *routes) credentials(c echo.Context, v *view) error {
	if err := knows(c); err != nil {
		return err
	}
	known, err := r.Control.Credentials(v.ctx, v.caller.Tenants)
	if err != nil {
		return err
	}
	now := r.now()
	return v.render(c, http.StatusOK, v.credentialsPage(api.ItemsOf(known, func(k domain.Credential) api.Credential {
		return api.CredentialOf(k, now)
	}).Items))
}

// audit answers GET /audit.
func (r *routes) audit(c echo.Context, v *view) error {
	if err := knows(c, "until"); err != nil {
		return err
	}
	before := time.Time{}
	if until := c.QueryParam("until"); until != "" {
		var err error
		if before, err = domain.ParseInstant(until, r.now()); err != nil {
			return web.Problem(http.StatusBadRequest, "until: "+err.Error())
		}
	}
	entries, err := r.Control.Audits(v.ctx, v.caller.Tenants, before, domain.DefaultPage+1)
	if err != nil {
		return err
	}
	items := api.ItemsOf(first(entries, domain.DefaultPage), api.AuditEntryOf).Items
	return v.render(c, http.StatusOK, v.auditPage(items, len(entries) > len(items)))
}

// jobs answers GET /jobs.
func (r *routes) jobs(c echo.Context, v *view) error {
	if err := knows(c); err != nil {
		return err
	}
	jobs, err := r.Operate.Jobs(v.ctx, v.caller.Tenants)
	if err != nil {
		return err
	}
	now := r.now()
	return v.render(c, http.StatusOK, v.jobsPage(
		api.ItemsOf(jobs, func(j domain.Job) api.Job { return api.JobOf(j, now) }).Items,
	))
}

// job answers GET /jobs/{id}.
func (r *routes) job(c echo.Context, v *view) error {
	j, err := r.Operate.Job(v.ctx, v.caller.Tenants, c.Param("id"))
	if err != nil {
		return err
	}
	return v.render(c, http.StatusOK, v.jobPage(api.JobOf(j, r.now()), movesOf(&j)))
}

// movesOf are what may be done to a job.
func movesOf(j *domain.Job) (out []domain.JobMove) {
	for _, m := range domain.JobMoves {
		if j.State.Can(m) {
			out = append(out, m)
		}
	}
	return out
}

// moveJob answers POST /jobs/{id}/cancel, …/pause and …/resume.
func (r *routes) moveJob(m domain.JobMove) func(echo.Context, *view) (string, error) {
	return func(c echo.Context, v *view) (string, error) {
		j, err := r.Operate.MoveJob(v.ctx, v.caller, c.Param("id"), m)
		return "/jobs/" + url.PathEscape(j.ID), err
	}
}

// createJob answers POST /dead-letters/replays and …/discards: a filter as a query string, and what JobRequest has.
func (r *routes) createJob(kind domain.JobKind) func(echo.Context, *view) (string, error) {
	return func(c echo.Context, v *view) (string, error) {
		form := c.Request().PostForm
		if form.Get("filter") == "" {
			return "", web.Problem(http.StatusBadRequest, "filter is missing: an empty one would choose everything")
		}
		if form.Get("dry_run") == "false" && form.Get("sure") != "yes" {
			return "", web.Problem(http.StatusBadRequest, "nothing was done: say that you mean it")
		}
		filter, err := url.ParseQuery(form.Get("filter"))
		if err != nil {
			return "", web.Problem(http.StatusBadRequest, "filter: "+err.Error())
		}
		dryRun := form.Get("dry_run") != "false"
		req := operate.JobRequest{Kind: kind, Filter: filter, DryRun: &dryRun, Comment: form.Get("comment")}
		if rate := form.Get("rate"); rate != "" {
			n, err := strconv.ParseFloat(rate, 64)
			if err != nil {
				return "", web.Problem(http.StatusBadRequest, "rate: it is a number of dead letters a second")
			}
			req.Rate = &n
		}
		j, err := r.Operate.CreateJob(v.ctx, v.caller, req)
		return "/jobs/" + url.PathEscape(j.ID), err
	}
}

// accept answers POST /dead-letters/guard/accept.
func (r *routes) accept(c echo.Context, v *view) (string, error) {
	form := c.Request().PostForm
	_, err := r.Operate.Accept(v.ctx, v.caller, form.Get("fingerprint"), form.Get("comment"))
	return "/dead-letters", err
}

// revoke answers POST /dead-letters/guard/revoke.
func (r *routes) revoke(c echo.Context, v *view) (string, error) {
	_, err := r.Operate.Revoke(v.ctx, v.caller, c.Request().PostForm.Get("fingerprint"))
	return "/dead-letters", err
}

// deadGroups answers GET /dead-letters: what failed, by the way in which it failed.
func (r *routes) deadGroups(c echo.Context, v *view) error {
	if err := knows(c); err != nil {
		return err
	}
	guard := later(v, func(ctx context.Context) (api.Guard, error) {
		report, err := r.Operate.Rejections(ctx, v.caller.Tenants)
		return api.GuardOf(report), err
	})
	groups, err := r.Control.DeadGroups(v.ctx, v.caller.Tenants, domain.Filter{})
	if err != nil {
		return err
	}
	g, err := guard()
	if err != nil {
		return err
	}
	return v.render(c, http.StatusOK, v.deadGroupsPage(api.ItemsOf(groups, api.DeadGroupOf).Items, g))
}

// letters is what the list of dead letters shows.
type letters struct {
	params url.Values
	items  []api.DeadLetter
	next   string
}

// deadLetters answers GET /dead-letters/list, whose parameters are the API's.
func (r *routes) deadLetters(c echo.Context, v *view) error {
	params, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		return web.BadRequest(err)
	}
	for name, values := range params {
		if len(values) == 1 && values[0] == "" {
			delete(params, name)
		}
	}
	q, err := domain.ParseDeadQuery(params, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	page, err := r.Control.DeadLetters(v.ctx, v.caller.Tenants, q)
	if err != nil {
		return err
	}
	params.Del("cursor")
	params.Del("limit")
	out := letters{params: params, items: api.ItemsOf(page.Items, api.DeadLetterOf).Items}
	if page.Next != nil {
		out.next = page.Next.String()
	}
	return v.render(c, http.StatusOK, v.deadLettersPage(&out))
}

// letter is what the page of a dead letter shows.
type letter struct {
	api.DeadLetterWithBytes
	event []byte
	tree  *tree
}

// deadLetter answers GET /dead-letters/{id}.
func (r *routes) deadLetter(c echo.Context, v *view) error {
	id, err := url.PathUnescape(c.Param("id"))
	if err == nil {
		_, err = domain.ParsePosition(id)
	}
	if err != nil {
		return web.BadRequest(err)
	}
	l, found, err := r.Control.DeadLetter(v.ctx, v.caller.Tenants, id)
	if err != nil {
		return err
	}
	if !found {
		return web.Problem(http.StatusNotFound, "there is no dead letter "+id+": it may have passed its topic's retention, "+
			"be a copy of another one, or not be indexed yet")
	}
	rec, there, err := deadletter.Bytes(v.ctx, r.Log, &l)
	out := letter{DeadLetterWithBytes: api.DeadLetterWithBytes{
		DeadLetter: api.DeadLetterOf(l), Available: there, Headers: api.HeadersOf(rec.Headers),
	}}
	switch {
	case err != nil: // what the index knows is an answer
		out.ReadError = api.Text(err.Error())
	case there && l.Decision && utf8.Valid(rec.Value) && json.Valid(rec.Value):
		out.event, out.tree = rec.Value, newTree(rec.Value)
	case there:
		out.Preview = api.Text(deadletter.Preview(&l, rec.Value))
	}
	return v.render(c, http.StatusOK, v.deadLetterPage(&out))
}

// filterOf is a job's filter as people read it.
func filterOf(params url.Values) string {
	if len(params) == 0 {
		return "everything"
	}
	text, err := url.QueryUnescape(params.Encode())
	if err != nil {
		return params.Encode()
	}
	return strings.ReplaceAll(text, "&", " ")
}

// jobID is what jobs are called.
var jobID = regexp.MustCompile(`^[a-z]-\d{8}-\d{6}-[0-9a-f]+$`)

// progress is how far a job is, and of how many.
func progress(j *api.Job) (done, of int64) {
	done = j.Done + j.Failed + j.Skipped
	return min(done, j.Matched), j.Matched
}
