// Package web is what docket's listeners have in common: problem details and the one table from failure to status,
// identity of the caller, and the admin listener. It leaves routes and what they mean to uploadapi, queryapi and the
// pages.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/search"
)

const maxDetail = 700

// Problem makes a problem detail of a status.
func Problem(status int, detail string) *api.Problem {
	if len(detail) > maxDetail {
		detail = detail[:maxDetail] + "…"
	}
	return &api.Problem{Status: status, Title: http.StatusText(status), Detail: detail}
}

// BadRequest is a problem with what the client sent. Of a query it says where.
func BadRequest(err error) error {
	var query *search.Error
	if !errors.As(err, &query) {
		return Problem(http.StatusBadRequest, err.Error())
	}
	about := strings.TrimSuffix(err.Error(), query.Error()) // which query, where there are several
	p := Problem(http.StatusBadRequest, about+query.Where())
	p.Column, p.Expected = query.Column, query.Expected
	return p
}

// StatusOf is total over the classes. None of them is a 4xx: what a client did wrong is a Problem, or a refusal, from
// the start.
func StatusOf(c domain.Class) int {
	switch c {
	case domain.Unavailable, domain.Canceled, domain.Misconfigured:
		return http.StatusServiceUnavailable
	case domain.Invalid, domain.Unknown:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}

// statusOfRefusal is total over the kinds of refusals.
func statusOfRefusal(k operate.Kind) int {
	switch k {
	case operate.Mistaken:
		return http.StatusBadRequest
	case operate.NotAllowed:
		return http.StatusForbidden
	case operate.Absent:
		return http.StatusNotFound
	case operate.Conflicting:
		return http.StatusConflict
	}
	return http.StatusBadRequest
}

// answerError is every listener's error handler.
func answerError(logger *slog.Logger) echo.HTTPErrorHandler {
	failures := NewFailures(logger)
	return func(err error, c echo.Context) {
		if c.Response().Committed {
			return
		}
		p := ProblemOf(err, c, failures)
		TurnAway(c, p.Status)
		if p.Status >= http.StatusInternalServerError || p.Status == http.StatusTooManyRequests {
			if c.Response().Header().Get(echo.HeaderRetryAfter) == "" {
				c.Response().Header().Set(echo.HeaderRetryAfter, "1")
			}
		}
		body, err := json.Marshal(p)
		if err != nil {
			panic(err) // texts and a number
		}
		if err := c.Blob(p.Status, "application/problem+json", body); err != nil {
			logger.Debug("answer not sent", "error", err)
		}
	}
}

// TurnAway sets the headers of an answer to somebody who is not known, or may not do this. Over TLS the connection
// ends: a client keeps it, and with it the certificate that it had when it connected, for as long as docket answers.
func TurnAway(c echo.Context, status int) {
	if status == http.StatusUnauthorized {
		c.Response().Header().Set(echo.HeaderWWWAuthenticate, `Bearer realm="docket"`)
	}
	if c.Request().TLS != nil && (status == http.StatusUnauthorized || status == http.StatusForbidden) {
		c.Response().Header().Set(echo.HeaderConnection, "close")
	}
}

// ProblemOf is what a handler's error comes to. It logs what is docket's own failure.
func ProblemOf(err error, c echo.Context, failures *Failures) *api.Problem {
	var p *api.Problem
	var refusal *operate.Refusal
	var denied *access.Denied
	var he *echo.HTTPError
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &denied):
		return Problem(http.StatusForbidden, denied.Error())
	case errors.As(err, &refusal):
		return Problem(statusOfRefusal(refusal.Kind), api.Word(refusal.Message))
	case errors.As(err, &he):
		what := "there is nothing at "
		if he.Code == http.StatusMethodNotAllowed {
			what = "there is something, but not for this method, at "
		}
		return Problem(he.Code, what+c.Request().Method+" "+c.Request().URL.Path)
	}
	class := domain.ClassOf(err)
	p = Problem(StatusOf(class), err.Error())
	p.Class = class
	failures.Log(err, "method", c.Request().Method, "route", c.Path(), "status", p.Status)
	return p
}

// Failures logs requests that failed: the first ones, and then one each second, which says how many there were in
// between. Strangers could fill a disk otherwise, and so could hundreds of OPAs while the log is away.
type Failures struct {
	logger  *slog.Logger
	allowed *rate.Limiter
	unsaid  atomic.Int64
}

// firstFailures are logged at once.
const firstFailures = 20

// NewFailures logs to logger.
func NewFailures(logger *slog.Logger) *Failures {
	return &Failures{logger: logger, allowed: rate.NewLimiter(1, firstFailures)}
}

// Log logs what failed in docket, and not what a client asked wrongly or does not wait for any more. where tells which
// request it was.
func (f *Failures) Log(err error, where ...any) {
	var p *api.Problem
	var refusal *operate.Refusal
	var denied *access.Denied
	class := domain.ClassOf(err)
	asked := errors.As(err, &p) || errors.As(err, &refusal) || errors.As(err, &denied)
	if err == nil || asked || class == domain.Canceled || errors.Is(err, context.Canceled) {
		return
	}
	if !f.allowed.Allow() {
		f.unsaid.Add(1)
		return
	}
	where = append(where, "class", class, "error", err)
	if n := f.unsaid.Swap(0); n > 0 {
		where = append(where, "unlogged", n)
	}
	f.logger.Error("request failed", where...)
}

// callerKey is where the caller of a request is kept.
const callerKey = "docket-caller"

// Authenticated asks who a request comes from, and answers 401 to those whom a does not know.
func Authenticated(a auth.Authenticator) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			caller, err := Authenticate(a, c.Request())
			if err != nil {
				return err
			}
			c.Set(callerKey, caller)
			return next(c)
		}
	}
}

// Authenticate says who a request comes from; its error is that of Unidentified.
func Authenticate(a auth.Authenticator, r *http.Request) (domain.Caller, error) {
	caller, err := a.Authenticate(r)
	if err != nil {
		return caller, Unidentified(err)
	}
	return caller, nil
}

// Unidentified is how an Authenticator's error is answered: a Problem, unless nobody can tell at the moment.
func Unidentified(err error) error {
	switch {
	case domain.ClassOf(err) == domain.Unavailable:
		p := Problem(http.StatusServiceUnavailable, err.Error())
		p.Class = domain.Unavailable
		return p
	case errors.Is(err, auth.ErrNotGranted):
		return Problem(http.StatusForbidden, err.Error())
	}
	return Problem(http.StatusUnauthorized, err.Error())
}

// Caller is who a request behind Authenticated comes from.
func Caller(c echo.Context) domain.Caller {
	caller, _ := c.Get(callerKey).(domain.Caller)
	return caller
}

// Allowed lets callers do something that a gate lets them do. It comes behind Authenticated.
func Allowed(gate *access.Gate, action access.Action) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if err := gate.Allow(c.Request().Context(), Caller(c), action, nil); err != nil {
				return err
			}
			return next(c)
		}
	}
}

// Operators refuses those who may not change anything. It comes behind Authenticated.
func Operators(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if err := operate.Allow(Caller(c)); err != nil {
			return err
		}
		return next(c)
	}
}

// Loopback reports whether an address to listen on can be reached from this machine only.
func Loopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
