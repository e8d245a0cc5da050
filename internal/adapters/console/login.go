package console

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
)

// toLogin sends a person to the login, and back afterwards. What would have changed something is not repeated.
func (r *routes) toLogin(c echo.Context, why error) error {
	// A login would not help these.
	if r.Sessions == nil || r.Sessions.Demand(c.Request()) != nil || errors.Is(why, auth.ErrContradiction) {
		return web.Unidentified(why)
	}
	v := r.view(c)
	to := ""
	if c.Request().Method == http.MethodGet {
		to = c.Request().URL.RequestURI()
	}
	ended := ""
	if _, err := c.Request().Cookie(auth.SessionCookie); err == nil {
		ended = "yes"
	}
	return c.Redirect(http.StatusSeeOther, v.link(with("/login", url.Values{"to": {to}, "ended": {ended}})))
}

// loginPage answers GET /login.
func (r *routes) loginPage(c echo.Context) error {
	v := r.view(c)
	to := destination(c.QueryParam("to"))
	if r.Sessions == nil {
		return c.Redirect(http.StatusSeeOther, v.link(to))
	}
	why := ""
	if c.QueryParam("ended") != "" {
		why = "Your session has ended: its 12 hours are over, it was not used for two, somebody has ended it, docket was " +
			"started anew, or what you logged in with does not count any more."
	}
	return v.render(c, http.StatusOK, v.loginForm(to, why, c.QueryParam("out")))
}

// leave answers GET /login/with: it sends a person to an issuer, who vouches for them.
func (r *routes) leave(c echo.Context) error {
	v := r.view(c)
	to := destination(c.QueryParam("to"))
	if r.Sessions == nil {
		return c.Redirect(http.StatusSeeOther, v.link(to))
	}
	if err := r.Sessions.Demand(c.Request()); err != nil {
		return web.Unidentified(err)
	}
	there, cookie, err := r.Sessions.Leave(c.Request().Context(), c.QueryParam("issuer"), to, v.site(c))
	if err != nil {
		return v.noLogin(c, to, err)
	}
	c.SetCookie(cookie)
	c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
	return c.Redirect(http.StatusSeeOther, there)
}

// arrive answers where an issuer sends a person back to.
func (r *routes) arrive(c echo.Context) error {
	v := r.view(c)
	if r.Sessions == nil {
		return c.Redirect(http.StatusSeeOther, v.link("/"))
	}
	if err := r.Sessions.Demand(c.Request()); err != nil {
		return web.Unidentified(err)
	}
	begun, gone, to, err := r.Sessions.Return(c.Request(), v.site(c))
	c.SetCookie(gone)
	if err != nil {
		return v.noLogin(c, to, err)
	}
	c.SetCookie(begun)
	c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
	return c.Redirect(http.StatusSeeOther, v.link(destination(to)))
}

// noLogin shows the login with why one has come to nothing. What is not the person's own fault has been logged.
func (v *view) noLogin(c echo.Context, to string, err error) error {
	var p *api.Problem
	status := http.StatusUnauthorized
	if class := domain.ClassOf(err); class == domain.Unavailable || class == domain.Misconfigured {
		status = http.StatusServiceUnavailable
	} else if v.Sessions.Refused(c.Request(), err); errors.As(web.Unidentified(err), &p) {
		status = p.Status
	}
	return v.render(c, status, v.loginForm(destination(to), "You are not logged in: "+err.Error()+".", ""))
}

// renew gives a browser whose session goes on a new cookie of it. What is kept by others has none.
func (r *routes) renew(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		at := c.Request().URL.Path
		if strings.HasPrefix(at, "/assets/") || slices.Contains([]string{"/favicon.ico", "/login", "/logout"}, at) {
			return next(c)
		}
		if cookie := r.Sessions.Renew(c.Request(), r.view(c).site(c)); cookie != nil {
			c.SetCookie(cookie)
			c.Response().Header().Set(echo.HeaderCacheControl, "no-store")
		}
		return next(c)
	}
}

// login answers POST /login: a token, once, for a session.
func (r *routes) login(c echo.Context) error {
	v := r.view(c)
	if err := readForm(c); err != nil {
		return err
	}
	to := destination(c.Request().PostForm.Get("to"))
	if r.Sessions == nil {
		return c.Redirect(http.StatusSeeOther, v.link(to))
	}
	token := strings.TrimSpace(c.Request().PostForm.Get("token"))
	shown := c.Request().Clone(c.Request().Context())
	shown.Header.Set(echo.HeaderAuthorization, "Bearer "+token)
	_, err := r.Who.Authenticate(shown)
	var cookie *http.Cookie
	if err == nil {
		cookie, err = r.Sessions.Begin(c.Request(), token, v.site(c))
	}
	if err != nil {
		return v.render(c, http.StatusUnauthorized, v.loginForm(to, notLoggedIn(token, err), ""))
	}
	c.SetCookie(cookie)
	return c.Redirect(http.StatusSeeOther, v.link(to))
}

// notLoggedIn says why a token begins no session.
func notLoggedIn(token string, err error) string {
	switch {
	case token == "":
		return "Paste a token: there was none."
	case errors.Is(err, auth.ErrUnknown) && strings.Count(token, ".") == 2:
		return "This looks like a JSON web token, which programs show with each request. A session begins with a token of " +
			"docket's file: ask whoever runs docket for one."
	case errors.Is(err, auth.ErrUnknown):
		return "This token is not known here. Look whether it was copied as a whole, or ask whoever runs docket for another."
	}
	return "You are not logged in: " + err.Error() + "."
}

// logout answers POST /logout.
func (r *routes) logout(c echo.Context) error {
	v := r.view(c)
	out := ""
	if r.Sessions != nil {
		var gone *http.Cookie
		gone, out = r.Sessions.End(c.Request(), v.site(c))
		c.SetCookie(gone)
	}
	return c.Redirect(http.StatusSeeOther, v.link(with("/login", url.Values{"out": {out}})))
}

// site is where the browser of a request reaches the pages.
func (v *view) site(c echo.Context) auth.Site {
	return auth.Site{Path: v.Config.Prefix + "/", Secure: secure(c.Request())}
}

// secure reports that the browser came by TLS, to docket or to what stands in front of it. Whoever says so without it
// only keeps the cookie from coming back.
func secure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get(echo.HeaderXForwardedProto), "https")
}

// destination is where to go after the login: a path of docket's, and no other site's.
func destination(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.IsAbs() || u.Host != "" || strings.ContainsAny(to, "\\\r\n\t") || strings.HasPrefix(to, "//") {
		return "/"
	}
	clean := path.Clean(u.Path)
	if !strings.HasPrefix(to, "/") || u.Path != clean && u.Path != clean+"/" || strings.HasPrefix(clean, "/log") {
		return "/"
	}
	return to
}
