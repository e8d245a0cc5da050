// Package httpapi is docket's HTTP side: the upload API that OPA speaks to, the query API for people and consoles, and
// the admin endpoints. It owns limits on the wire, inflating, identity, and the one table from failure to status. It
// leaves what an upload means to ingest, what is stored to the store, and listeners to its caller.
package httpapi

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/domain"
)

// Problem is an RFC 9457 problem detail. It fits into the first 1,024 bytes of an answer, which is all that OPA logs.
type Problem struct {
	Status int          `json:"status"`
	Title  string       `json:"title"`
	Detail string       `json:"detail,omitempty"`
	Class  domain.Class `json:"class,omitempty"`
}

// Error is the detail, so that a handler can return a Problem.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

const maxDetail = 700

// problem makes a Problem of a status.
func problem(status int, detail string) *Problem {
	if len(detail) > maxDetail {
		detail = detail[:maxDetail] + "…"
	}
	return &Problem{Status: status, Title: http.StatusText(status), Detail: detail}
}

// statusOf is total over the classes. None of them is a 4xx: what a client did wrong is a Problem from the start.
func statusOf(c domain.Class) int {
	switch c {
	case domain.Unavailable, domain.Canceled, domain.Misconfigured:
		return http.StatusServiceUnavailable
	case domain.Invalid, domain.Unknown:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}

// answerError is every server's error handler.
func answerError(logger *slog.Logger) echo.HTTPErrorHandler {
	return func(err error, c echo.Context) {
		if c.Response().Committed {
			return
		}
		var p *Problem
		var he *echo.HTTPError
		switch {
		case errors.As(err, &p):
		case errors.As(err, &he):
			p = problem(he.Code, "there is nothing at "+c.Request().Method+" "+c.Request().URL.Path)
		default:
			class := domain.ClassOf(err)
			p = problem(statusOf(class), err.Error())
			p.Class = class
			if class != domain.Canceled {
				logger.Error("request failed", "method", c.Request().Method, "route", c.Path(), "status", p.Status, "class", class, "error", err)
			}
		}
		if p.Status == http.StatusUnauthorized {
			c.Response().Header().Set(echo.HeaderWWWAuthenticate, `Bearer realm="docket"`)
		}
		if p.Status >= http.StatusInternalServerError {
			c.Response().Header().Set(echo.HeaderRetryAfter, "1")
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

// newEcho makes a router with docket's error handling and nothing printed.
func newEcho(logger *slog.Logger) *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = answerError(logger)
	return e
}
