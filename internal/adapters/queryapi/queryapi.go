// Package queryapi are the routes of docket's API: what people, programs and the CLI ask and command on the console
// listener. It leaves the JSON to api, who asks to web, and what an operator may do to operate.
package queryapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/search"
	"github.com/docket-project/docket/internal/status"
	"github.com/docket-project/docket/internal/tail"
	"github.com/docket-project/docket/internal/trail"
)

// Control is what the API reads besides decisions.
type Control interface {
	ports.DeadLetterReader
	ports.OPAReader
	ports.CredentialReader
	ports.AuditReader
}

// Decisions is what the API reads of decisions.
type Decisions interface {
	ports.DecisionReader
	ports.DecisionCounts
	search.EventReader
}

// Parts are what the API works with.
type Parts struct {
	Decisions Decisions
	Control   Control
	Log       ports.LogReader
	Trail     *trail.Trail
	Operate   *operate.Service
	// Gate lets callers read.
	Gate     *access.Gate
	Pipeline func(context.Context) status.Pipeline
	Overview func(context.Context, domain.Scope) status.Overview
	// Statistics are counted for all who ask the same.
	Statistics *search.Statistics
	// Searches are those that callers have going on.
	Searches *web.Searches
	// Replay decides again by policies.
	Replay *replaypolicy.Service
	// Tail is what is shown as it is acknowledged.
	Tail *tail.Tail
	// Stopping is closed when the process stops: streams end then.
	Stopping <-chan struct{}
	// Disk is the part of the data directory's file system that is free; nil where nothing is kept there.
	Disk func() *float64
	Who  auth.Authenticator
	// Logger is told what a client cannot be told by a status. Without one, the door's is.
	Logger *slog.Logger
}

// routes serve people and programs.
type routes struct {
	Parts
	now            func() time.Time
	exports, tails *web.Turns
}

// New makes the handler of the console listener, with the API on it, and what else is mounted there.
func New(p Parts, d web.Door, others ...func(*echo.Echo)) http.Handler {
	if p.Logger == nil {
		p.Logger = d.Logger
	}
	e := web.New(d)
	e.Pre(web.SameOrigin, web.WellFormed)
	Mount(e, p)
	for _, mount := range others {
		mount(e)
	}
	return web.HeadAsGet(e)
}

// Mount adds the API's routes.
func Mount(e *echo.Echo, p Parts) {
	r := &routes{
		Parts: p, now: time.Now, exports: web.NewTurns(maxExports, "exports"), tails: web.NewTurns(maxTails, "tails"),
	}
	g := guarded{e.Group("/api/v1"), web.Authenticated(p.Who), p.Gate}
	g.GET("/decisions", access.SearchDecisions, r.searching("page", r.search))
	// Routes match the path as it is escaped: a decision whose id is one of these words is asked for as %65xport.
	g.GET("/decisions/export", access.ExportDecisions, r.export)
	g.GET("/decisions/tail", access.SearchDecisions, r.tail)
	g.GET("/decisions/stats", access.SearchDecisions, r.timed("stats", r.stats))
	g.GET("/decisions/fields/*", access.SearchDecisions, r.timed("values", r.values))
	g.GET("/decisions/compare", access.ReadDecision, r.searching("compare", r.compare))
	g.GET("/decisions/contrast", access.ReadDecision, r.searching("contrast", r.contrast))
	g.GET("/decisions/*", access.ReadDecision, r.decision)
	g.POST(
		"/decisions/replay-policy", r.searching("replay_policy", r.replayPolicy), web.Operators,
		web.Allowed(p.Gate, access.ReplayPolicy),
	)
	g.POST("/decisions/reprojections", r.createJob(domain.Reproject), web.Operators)
	g.POST("/decisions/erasures", r.createJob(domain.Erase), web.Operators)
	g.GET("/opas", access.ReadOPAs, r.opas, noParameters)
	g.GET("/credentials", access.ReadCredentials, r.credentials, noParameters)
	g.GET("/dead-letters", access.ReadDeadLetters, r.deadLetters)
	g.GET("/dead-letters/groups", access.ReadDeadLetters, r.deadGroups)
	g.GET("/dead-letters/guard", access.ReadDeadLetters, r.guard)
	g.POST("/dead-letters/guard/acceptances", r.accept, web.Operators)
	g.DELETE("/dead-letters/guard/acceptances/:fingerprint", r.revoke, web.Operators)
	g.POST("/dead-letters/replays", r.createJob(domain.Replay), web.Operators)
	g.POST("/dead-letters/discards", r.createJob(domain.Discard), web.Operators)
	g.POST("/dead-letters/reindexes", r.createJob(domain.Reindex), web.Operators)
	for _, jobs := range []string{"/jobs", "/dead-letters/replays"} { // the second is another name of the first
		g.GET(jobs, access.ReadJobs, r.jobs, noParameters)
		g.GET(jobs+"/:id", access.ReadJobs, r.job)
		for _, m := range domain.JobMoves {
			g.POST(jobs+"/:id/"+string(m), r.moveJob(m), web.Operators)
		}
	}
	g.GET("/dead-letters/:id", access.ReadDeadLetters, r.deadLetter)
	g.GET("/dead-letters/:id/raw", access.ReadDeadLetters, r.deadLetterRaw)
	g.GET("/audit", access.ReadAudit, r.audit)
	g.GET("/pipeline", access.ReadStatus, func(c echo.Context) error {
		return c.JSON(http.StatusOK, api.PipelineOf(r.Pipeline(c.Request().Context())))
	}, noParameters)
	g.GET("/status", access.ReadStatus, func(c echo.Context) error {
		return c.JSON(http.StatusOK, api.StatusOf(r.Overview(c.Request().Context(), scope(c)), r.Disk()))
	}, noParameters)
	e.GET(
		"/api/v1/openapi.yaml",
		func(c echo.Context) error { return c.Blob(http.StatusOK, "application/yaml", api.OpenAPI) },
	)
}

// guarded are routes that ask who it is and, of what only reads, whether they may: operate asks about what changes
// something, once it is known what exactly. A group with a middleware of its own would take every path, and answer 404
// to a method that a route does not have.
type guarded struct {
	group *echo.Group
	who   echo.MiddlewareFunc
	gate  *access.Gate
}

func (g guarded) GET(path string, action access.Action, h echo.HandlerFunc, m ...echo.MiddlewareFunc) {
	g.group.GET(path, h, append([]echo.MiddlewareFunc{g.who, web.Allowed(g.gate, action)}, m...)...)
}

func (g guarded) POST(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) {
	g.group.POST(path, h, append([]echo.MiddlewareFunc{g.who}, m...)...)
}

func (g guarded) DELETE(path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) {
	g.group.DELETE(path, h, append([]echo.MiddlewareFunc{g.who}, m...)...)
}

// onlyPost answers a GET of what another route would take for an id.
func onlyPost(c echo.Context) error {
	c.Response().Header().Set(echo.HeaderAllow, http.MethodPost)
	return echo.ErrMethodNotAllowed
}

// noParameters refuses those of a route that takes none: whoever gives one means something by it.
func noParameters(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		for name := range c.QueryParams() {
			return web.Problem(http.StatusBadRequest, fmt.Sprintf("unknown parameter %q: this takes none", name))
		}
		return next(c)
	}
}

// scope is that of the caller.
func scope(c echo.Context) domain.Scope { return web.Caller(c).Tenants }

// search answers GET /api/v1/decisions.
func (r *routes) search(c echo.Context) error {
	asked, err := search.ParseRequest(c.Request().URL.RawQuery, r.now())
	if err != nil {
		return web.BadRequest(err)
	}
	page, err := search.Find(c.Request().Context(), r.Decisions, scope(c), asked)
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.SpellDecisions(page))
}

// query reads the query string.
func (r *routes) query(c echo.Context, parse func(url.Values, time.Time) (domain.Query, error)) (domain.Query, error) {
	params, err := url.ParseQuery(c.Request().URL.RawQuery) // echo's own drops what it cannot read
	if err != nil {
		return domain.Query{}, web.Problem(http.StatusBadRequest, "the query string: "+err.Error())
	}
	q, err := parse(params, r.now())
	if err != nil {
		return domain.Query{}, web.BadRequest(err)
	}
	return q, nil
}

const decisionPrefix = "/api/v1/decisions/"

// decision answers GET /api/v1/decisions/{decision_id}, …/raw, …/trail and …/last-allowed. An id may be anything, a
// percent-encoded slash included, so it is taken from the path as it was sent.
func (r *routes) decision(c echo.Context) error {
	escaped := strings.TrimPrefix(c.Request().URL.EscapedPath(), decisionPrefix)
	var about string
	for _, suffix := range []string{"/raw", "/trail", "/last-allowed"} {
		if id, ok := strings.CutSuffix(escaped, suffix); ok {
			escaped, about = id, suffix
			break
		}
	}
	id, err := url.PathUnescape(escaped)
	if err != nil {
		return web.Problem(http.StatusBadRequest, "the decision id in the path is not percent-encoded: "+err.Error())
	}
	switch about {
	case "/trail":
		return r.trail(c, id)
	case "/last-allowed":
		return r.searching("last_allowed", func(c echo.Context) error { return r.one(c, id, about) })(c)
	default:
		return r.timed("decision", func(c echo.Context) error { return r.one(c, id, about) })(c)
	}
}

// one answers what is asked about one decision.
func (r *routes) one(c echo.Context, id, about string) error {
	rows, err := r.rows(c, id, c.QueryParams())
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return noDecision(id)
	}
	switch about {
	case "/last-allowed":
		return r.lastAllowed(c, &rows[0])
	case "/raw":
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, rows[0].Event)
	}
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, api.SpellDecision(rows[0], rows[1:]))
}

func noDecision(id string) error {
	return web.Problem(
		http.StatusNotFound,
		"no decision "+id+" is stored: it may still be on its way, have been quarantined as a dead "+
			"letter, or never have come. Its trail tells: docket trail, or /api/v1/decisions/{decision_id}/trail",
	)
}

// rows are those with an id; with tenant, timestamp or both, which address one of several, that one. The first has its
// event.
func (r *routes) rows(c echo.Context, id string, params url.Values) ([]domain.Decision, error) {
	within := scope(c)
	for name := range params {
		if name != "tenant" && name != "timestamp" {
			return nil, web.Problem(
				http.StatusBadRequest, fmt.Sprintf("unknown parameter %q: known are tenant, timestamp", name),
			)
		}
		if _, err := domain.Once(params, name); err != nil {
			return nil, web.BadRequest(fmt.Errorf("%s: %w", name, err))
		}
	}
	if tenant := params.Get("tenant"); tenant != "" {
		if !within.Includes(tenant) {
			return nil, nil
		}
		within = domain.Tenants(tenant)
	}
	if !params.Has("timestamp") {
		return search.Lookup(c.Request().Context(), r.Decisions, within, id, time.Time{})
	}
	at, err := domain.ParseInstant(params.Get("timestamp"), r.now())
	if err != nil {
		return nil, web.Problem(http.StatusBadRequest, "timestamp: "+err.Error())
	}
	return search.Lookup(c.Request().Context(), r.Decisions, within, id, at)
}

// trail answers GET /api/v1/decisions/{decision_id}/trail.
func (r *routes) trail(c echo.Context, id string) error {
	q := trail.Question{ID: id}
	params := c.QueryParams()
	for name := range params {
		value, err := domain.Once(params, name)
		switch {
		case name != "opa" && name != "cursor":
			return web.BadRequest(fmt.Errorf("unknown parameter %q: known are opa and cursor", name))
		case err != nil:
		case name == "opa":
			q.OPA = value
		default:
			q.From, err = api.ParseTrailCursor(value)
		}
		if err != nil {
			return web.BadRequest(fmt.Errorf("%s: %w", name, err))
		}
	}
	report, err := r.Trail.Follow(c.Request().Context(), scope(c), q)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.TrailOf(report))
}

// opas answers GET /api/v1/opas.
func (r *routes) opas(c echo.Context) error {
	known, err := r.Control.OPAs(c.Request().Context(), scope(c))
	if err != nil {
		return err
	}
	now := r.now()
	return c.JSON(http.StatusOK, api.ItemsOf(known, func(o domain.OPA) api.OPA { return api.OPAOf(o, now) }))
}

// credentials answers GET /api/v1/credentials.
func (r *routes) credentials(c echo.Context) error {
	known, err := r.Control.Credentials(c.Request().Context(), scope(c))
	if err != nil {
		return err
	}
	now := r.now()
	return c.JSON(http.StatusOK, api.ItemsOf(known, func(k domain.Credential) api.Credential {
		return api.CredentialOf(k, now)
	}))
}

// audit answers GET /api/v1/audit.
func (r *routes) audit(c echo.Context) error {
	limit, before := domain.DefaultPage, time.Time{}
	params := c.QueryParams()
	for name := range params {
		value, err := domain.Once(params, name)
		switch {
		case name != "limit" && name != "until":
			return web.BadRequest(fmt.Errorf("unknown parameter %q: known are until and limit", name))
		case err != nil:
		case name == "limit":
			limit, err = domain.ParseLimit(value)
		default:
			before, err = domain.ParseInstant(value, r.now())
		}
		if err != nil {
			return web.BadRequest(fmt.Errorf("%s: %w", name, err))
		}
	}
	entries, err := r.Control.Audits(c.Request().Context(), scope(c), before, limit)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.ItemsOf(entries, api.AuditEntryOf))
}

// maxRequest bounds the body of what an operator asks for, in bytes.
const maxRequest = 64 << 10

// request reads a small JSON body that looks like the example.
func request(c echo.Context, into any, example string) error {
	if kind, _, _ := mime.ParseMediaType(
		c.Request().Header.Get(echo.HeaderContentType),
	); kind != echo.MIMEApplicationJSON {
		return web.Problem(
			http.StatusUnsupportedMediaType,
			"want Content-Type: application/json",
		) // no page of a browser's may send it unasked
	}
	body, err := io.ReadAll(io.LimitReader(c.Request().Body, maxRequest+1))
	switch {
	case err != nil:
		return web.Problem(http.StatusBadRequest, "the request broke off: "+err.Error())
	case len(body) > maxRequest:
		return web.Problem(http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is longer than %d bytes", maxRequest))
	case !utf8.Valid(body), bytes.Contains(body, []byte(`\u0000`)):
		return web.Problem(http.StatusBadRequest, "the request has a NUL in it, or is no UTF-8")
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) { // null is something to Go
		return web.Problem(http.StatusBadRequest, "want "+example)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return web.Problem(http.StatusBadRequest, "want "+example+": "+err.Error())
	}
	if dec.More() {
		return web.Problem(http.StatusBadRequest, "want "+example+", and nothing behind it")
	}
	return nil
}
