// Package console are docket's pages: HTML from the server, which needs no script, and a few scripts of docket's own
// that add what HTML cannot. It leaves every answer to the use cases that the API has as well, who asks to web, and
// sentences to api. All that decisions say is hostile: it gets into a page as text, by templ, and as nothing else.
package console

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/a-h/templ"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/search"
	"github.com/docket-project/docket/internal/status"
	"github.com/docket-project/docket/internal/trail"
)

// Control is what pages read besides decisions.
type Control interface {
	ports.DeadLetterReader
	ports.OPAReader
	ports.CredentialReader
	ports.AuditReader
}

// Decisions is what pages read of decisions.
type Decisions interface {
	search.Reader
	search.Looker
}

// Parts are what pages work with.
type Parts struct {
	Config     Config
	Decisions  Decisions
	Control    Control
	Log        ports.LogReader
	Trail      *trail.Trail
	Operate    *operate.Service
	Gate       *access.Gate
	Pipeline   func(context.Context) status.Pipeline
	Overview   func(context.Context, domain.Scope) status.Overview
	Statistics *search.Statistics
	Searches   *web.Searches
	Replay     *replaypolicy.Service
	// Disk is the part of the data directory's file system that is free; nil where nothing is kept there.
	Disk func() *float64
	Who  auth.Authenticator
	// Sessions are those of people who have logged in; nil where nobody has to.
	Sessions *auth.Sessions
	// Upload is where OPAs post, for the example that a page shows; "" where another process takes uploads. TokenFile is
	// where an OPA has its token; "" where it needs none.
	Upload, TokenFile string
	Logger            *slog.Logger
}

// routes serve pages.
type routes struct {
	Parts
	now      func() time.Time
	assets   *assets
	failures *web.Failures
}

// Mount adds the pages to a listener that has the API. What is not an API's and asked for by a browser is answered by a
// page, errors included.
func Mount(e *echo.Echo, p Parts) {
	r := &routes{Parts: p, now: time.Now, assets: loadAssets(), failures: web.NewFailures(p.Logger)}
	problems := e.HTTPErrorHandler
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		if c.Response().Committed || !wantsPage(c.Request()) {
			problems(err, c)
			return
		}
		r.problem(err, c)
	}
	if p.Sessions != nil {
		e.Use(r.renew)
	}
	e.GET("/assets/:version/:name", r.asset, packed)
	e.GET("/favicon.ico", r.icon)
	e.GET("/login", r.loginPage)
	e.POST("/login", r.login)
	e.GET("/login/with", r.leave)
	e.GET(auth.Callback, r.arrive)
	e.POST("/logout", r.logout)
	e.GET("/", r.page(access.ReadStatus, r.overview))
	e.GET("/decisions", r.page(access.SearchDecisions, r.decisions))
	e.GET("/decisions/*", r.page(access.ReadDecision, r.decision))
	e.GET("/decision", r.page(access.ReadDecision, r.decision))
	e.GET("/compare", r.page(access.ReadDecision, r.compare))
	e.GET("/contrast", r.page(access.ReadDecision, r.contrast))
	e.GET("/replay-policy", r.page(access.SearchDecisions, r.replayForm))
	e.POST("/replay-policy", r.page(access.ReplayPolicy, r.replay))
	e.GET("/opas", r.page(access.ReadOPAs, r.opas))
	e.GET("/pipeline", r.page(access.ReadStatus, r.pipeline))
	e.GET("/audit", r.page(access.ReadAudit, r.audit))
	e.GET("/credentials", r.page(access.ReadCredentials, r.credentials))
	e.GET("/jobs", r.page(access.ReadJobs, r.jobs))
	e.GET("/jobs/:id", r.page(access.ReadJobs, r.job))
	for _, m := range domain.JobMoves {
		e.POST("/jobs/:id/"+string(m), r.act(r.moveJob(m)))
	}
	e.GET("/dead-letters", r.page(access.ReadDeadLetters, r.deadGroups))
	e.GET("/dead-letters/list", r.page(access.ReadDeadLetters, r.deadLetters))
	e.GET("/dead-letters/:id", r.page(access.ReadDeadLetters, r.deadLetter))
	e.POST("/dead-letters/replays", r.act(r.createJob(domain.Replay)))
	e.POST("/dead-letters/discards", r.act(r.createJob(domain.Discard)))
	e.POST("/dead-letters/guard/accept", r.act(r.accept))
	e.POST("/dead-letters/guard/revoke", r.act(r.revoke))
}

// Prefixed takes the prefix off the path of a request, where there is one: a proxy may leave it there, or not.
func Prefixed(prefix string, next http.Handler) http.Handler {
	if prefix == "" {
		return next
	}
	stripped := http.StripPrefix(prefix, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == prefix:
			to := url.URL{Path: prefix + "/", RawQuery: r.URL.RawQuery}
			http.Redirect(w, r, to.String(), http.StatusFound)
		case strings.HasPrefix(r.URL.Path, prefix+"/"):
			stripped.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// wantsPage reports a request of a person's browser for something that is not the API's.
func wantsPage(r *http.Request) bool {
	return !strings.HasPrefix(r.URL.Path, "/api/") && strings.Contains(r.Header.Get(echo.HeaderAccept), "text/html")
}

// view is what all pages of a request have in common.
type view struct {
	*routes
	ctx    context.Context //nolint:containedctx // a view lives as long as its request
	nonce  string
	origin string // scheme and host as the browser names them
	caller domain.Caller
	// at is the page's own path, without the prefix.
	at string
	// running are questions that the page still asks.
	running *sync.WaitGroup
}

// packed sends what is long as gzip. Whoever watches the network and has somebody's browser ask for pages could learn
// of a page's content by its length (BREACH). There is no token in a page, the cookie is not sent by what other sites
// load within their own pages, and what a search finds changes all the time: it is accepted for a tenth of the size. A
// client certificate goes along with everything that a browser loads: whoever shows one gets pages as they are.
var packed = middleware.GzipWithConfig(middleware.GzipConfig{
	Level: packLevel, MinLength: packFrom,
	Skipper: func(c echo.Context) bool {
		state := c.Request().TLS
		return state != nil && len(state.PeerCertificates) > 0
	},
})

const (
	packLevel = 4
	packFrom  = 1 << 10
)

// page is a route that shows something to those who are known and may do that.
func (r *routes) page(action access.Action, show func(echo.Context, *view) error) echo.HandlerFunc {
	return packed(r.known(func(c echo.Context, v *view) error {
		if err := r.Gate.Allow(v.ctx, v.caller, action, nil); err != nil {
			return err
		}
		return show(c, v)
	}))
}

// known is a route for those who are known; others are sent to the login.
func (r *routes) known(show func(echo.Context, *view) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		v := r.view(c)
		if err := v.identify(c.Request()); err != nil {
			return r.toLogin(c, err)
		}
		ctx, cancel := context.WithCancel(c.Request().Context())
		defer v.running.Wait()
		defer cancel()
		v.ctx = ctx
		return show(c, v)
	}
}

// identify finds out who the caller is; its error is that nobody knows. A stranger who only comes by, and one whose
// session has ended, is not somebody who guesses tokens: nobody is asked about them.
func (v *view) identify(r *http.Request) error {
	if v.Sessions != nil && r.Header.Get(echo.HeaderAuthorization) == "" {
		caller, err := v.Sessions.Authenticate(r)
		v.caller = caller
		return err
	}
	caller, err := v.Who.Authenticate(r)
	v.caller = caller
	return err
}

// act is a route that changes something and then shows a page.
func (r *routes) act(do func(echo.Context, *view) (see string, err error)) echo.HandlerFunc {
	return r.known(func(c echo.Context, v *view) error {
		if err := readForm(c); err != nil {
			return err
		}
		see, err := do(c, v)
		if err != nil {
			return err
		}
		return c.Redirect(http.StatusSeeOther, v.link(see))
	})
}

// knows refuses parameters that a page has no use for: whoever gives one means something by it.
func knows(c echo.Context, names ...string) error {
	params, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		return web.Problem(http.StatusBadRequest, "the address: "+err.Error())
	}
	for name := range params {
		if !slices.Contains(names, name) {
			return web.Problem(http.StatusBadRequest, fmt.Sprintf("unknown parameter %q: %s", name,
				cmp.Or(strings.Join(names, ", "), "none")+" can stand here"))
		}
	}
	return nil
}

// readForm reads what a page's form has sent.
func readForm(c echo.Context) error {
	kind, _, _ := mime.ParseMediaType(c.Request().Header.Get(echo.HeaderContentType))
	if c.Request().ContentLength != 0 && kind != echo.MIMEApplicationForm {
		return web.Problem(
			http.StatusUnsupportedMediaType, "want a form ("+echo.MIMEApplicationForm+"); programs ask the API",
		)
	}
	c.Request().Body = http.MaxBytesReader(c.Response(), c.Request().Body, maxForm)
	if err := c.Request().ParseForm(); err != nil {
		return web.Problem(http.StatusBadRequest, "the form cannot be read: "+err.Error())
	}
	return nil
}

// maxForm bounds what a form may bring, in bytes.
const maxForm = 64 << 10

func (r *routes) view(c echo.Context) *view {
	scheme := "http"
	if secure(c.Request()) {
		scheme = "https"
	}
	return &view{
		routes: r, ctx: c.Request().Context(), nonce: newNonce(), at: c.Request().URL.Path, running: &sync.WaitGroup{},
		origin: scheme + "://" + c.Request().Host,
	}
}

// render writes a page.
func (v *view) render(c echo.Context, status int, page templ.Component) error {
	v.header(c.Response().Header())
	c.Response().WriteHeader(status)
	if web.IsHead(c.Request()) {
		return nil
	}
	if err := page.Render(v.ctx, c.Response()); err != nil { // the client is gone, or has a part of it
		v.Logger.Debug("a page was not sent to its end", "page", v.at, "error", err)
	}
	return nil
}

// header is what every page says to the browser. It keeps no page, runs no script but docket's, and lets no other site
// frame it. Scripts can make elements, not markup.
func (v *view) header(h http.Header) {
	h.Set(echo.HeaderContentType, "text/html; charset=utf-8")
	h.Set(echo.HeaderCacheControl, "no-store")
	h.Set(echo.HeaderContentSecurityPolicy, "default-src 'none'; script-src 'nonce-"+v.nonce+"'; style-src 'self'; "+
		"img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "+
		"require-trusted-types-for 'script'; trusted-types 'none'")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set(echo.HeaderXContentTypeOptions, "nosniff")
}

// problem shows what went wrong.
func (r *routes) problem(err error, c echo.Context) {
	p := web.ProblemOf(err, c, r.failures)
	v := r.view(c)
	_ = v.identify(c.Request()) // whoever is not known sees no way around
	web.TurnAway(c, p.Status)
	if err := v.render(c, p.Status, v.problemPage(p)); err != nil {
		r.Logger.Debug("answer not sent", "error", err)
	}
}

// link is a path of docket's, as a browser reaches it.
func (v *view) link(path string) string { return v.Config.Prefix + path }

// url is link for templ.
func (v *view) url(path string) templ.SafeURL { return templ.SafeURL(v.link(path)) } //nolint:gosec // paths are escaped

// operates reports whether the caller may change anything: what one may not do is not offered.
func (v *view) operates() bool { return operate.Allow(v.caller) == nil }

// with is a path with parameters; those without a value are left out.
func with(path string, params url.Values) string {
	for name, values := range params {
		if len(values) == 0 || len(values) == 1 && values[0] == "" {
			delete(params, name)
		}
	}
	if len(params) == 0 {
		return path
	}
	return path + "?" + params.Encode()
}

// later asks something beside others, and returns what waits for the answer. A panic is the request's, and not the end
// of the process: it is logged here, and goes on where the answer is waited for. What fails is logged as it is where a
// page fails as a whole.
func later[T any](v *view, ask func(context.Context) (T, error)) func() (T, error) {
	var out T
	var err error
	var panicked any
	done := make(chan struct{})
	v.running.Go(func() {
		defer close(done)
		defer func() {
			if panicked = recover(); panicked != nil {
				v.Logger.Error(
					"a part of a page panicked: this is a defect of docket's. Please report it with this line", "page", v.at,
					"panic", panicked, "stack", string(debug.Stack()),
				)
			}
		}()
		out, err = ask(v.ctx)
		v.failures.Log(err, "page", v.at)
	})
	return func() (T, error) {
		<-done
		if panicked != nil {
			panic(panicked)
		}
		return out, err
	}
}
