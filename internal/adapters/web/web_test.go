package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stranger is a listener that knows nobody.
type stranger struct{ err error }

func (s stranger) Authenticate(*http.Request) (domain.Caller, error) { return domain.Caller{}, s.err }

func testDoor() Door { return Door{Metrics: NewMetrics(nil), Logger: slog.New(slog.DiscardHandler)} }

// TestProblems is every kind of failure, and its answer.
func TestProblems(t *testing.T) {
	refuse := func(k operate.Kind) error {
		return &operate.Refusal{Kind: k, Message: domain.Say(operate.NoJob, domain.Args{"job": "r-1"})}
	}
	for _, c := range []struct {
		name   string
		err    error
		status int
		class  domain.Class
		says   string
	}{
		{"what the client sent", BadRequest(errors.New("since: no time")), http.StatusBadRequest, "", "since: no time"},
		{"a mistake", refuse(operate.Mistaken), http.StatusBadRequest, "", "there is no job r-1"},
		{"a role that is missing", refuse(operate.NotAllowed), http.StatusForbidden, "", "r-1"},
		{"what is not there", refuse(operate.Absent), http.StatusNotFound, "", "r-1"},
		{"a conflict", refuse(operate.Conflicting), http.StatusConflict, "", "r-1"},
		{"no route", echo.ErrNotFound, http.StatusNotFound, "", "there is nothing at GET /x"},
		{"a store that is away", domain.Errorf(domain.Unavailable, "away"), http.StatusServiceUnavailable, domain.Unavailable,
			"away"},
		{"anything else", errors.New("boom"), http.StatusInternalServerError, domain.Unknown, "boom"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := New(testDoor())
			e.GET("/x", func(echo.Context) error { return c.err })
			w := httptest.NewRecorder()
			e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/x", nil))
			require.Equal(t, c.status, w.Code)
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			var p api.Problem
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
			require.Equal(t, c.class, p.Class)
			require.Contains(t, p.Detail, c.says)
			require.Equal(t, c.status >= 500, w.Header().Get("Retry-After") != "")
		})
	}
	require.Less(
		t, len(Problem(http.StatusBadRequest, strings.Repeat("x", 5000)).Detail), 1000, "OPA logs the first 1,024 bytes",
	)
}

func TestAuthenticated(t *testing.T) {
	viewer := auth.Anonymous{Caller: domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Viewer}}
	operator := auth.Anonymous{Caller: domain.Caller{Name: "bob", Tenants: domain.AllTenants(), Role: domain.Operator}}
	for _, c := range []struct {
		name        string
		who         auth.Authenticator
		read, write int
	}{
		{"nobody", stranger{auth.ErrNoCredentials}, http.StatusUnauthorized, http.StatusUnauthorized},
		{"an unknown token", stranger{auth.ErrUnknown}, http.StatusUnauthorized, http.StatusUnauthorized},
		{"a viewer", viewer, http.StatusOK, http.StatusForbidden},
		{"an operator", operator, http.StatusOK, http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := New(testDoor())
			g := e.Group("", Authenticated(c.who))
			ok := func(c echo.Context) error {
				return c.String(http.StatusOK, Caller(c).Name+" "+Caller(c).Tenants.String())
			}
			g.GET("/x", ok)
			g.POST("/x", ok, Operators)
			for method, want := range map[string]int{http.MethodGet: c.read, http.MethodPost: c.write} {
				w := httptest.NewRecorder()
				e.ServeHTTP(w, httptest.NewRequest(method, "/x", nil))
				require.Equal(t, want, w.Code, method)
				require.Equal(t, want == http.StatusUnauthorized, w.Header().Get("WWW-Authenticate") != "")
			}
		})
	}
}

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "127.8.8.8:0": true, "0.0.0.0:1": false, ":1": false,
		"[::]:1": false, "10.0.0.1:1": false, "nonsense": false,
	} {
		require.Equal(t, want, Loopback(listen), listen)
	}
}

func TestPprofOnlyOnLoopback(t *testing.T) {
	for listen, want := range map[string]int{"127.0.0.1:1": http.StatusOK, "0.0.0.0:1": http.StatusNotFound} {
		report := status.Report{
			Verdict: status.Down,
			Roles: map[status.Role]status.RoleHealth{
				status.Saver: {Reasons: []domain.Message{domain.Say(status.Starting, nil)}},
			},
		}
		d := testDoor()
		d.Local = Loopback(listen)
		overview := func(context.Context) *status.Overview {
			reasons := []status.Reason{{Message: domain.Say(status.GuardOn, nil)}}
			return &status.Overview{Verdict: status.Degraded, Reasons: reasons}
		}
		h := NewAdmin(d, prometheus.NewRegistry(), func(bool) status.Report { return report }, overview)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/debug/pprof/cmdline", nil))
		require.Equal(t, want, w.Code)
		for _, arg := range os.Args[1:] {
			require.NotContains(t, w.Body.String(), arg, "an argument may be a secret")
		}
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/readyz", nil))
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Contains(t, w.Body.String(), "docket is starting")
		require.Contains(t, w.Body.String(), `"verdict":"DOWN"`)
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/readyz?verbose", nil))
		require.Equal(t, http.StatusServiceUnavailable, w.Code, "whether this process is ready is its own matter")
		require.Contains(t, w.Body.String(), `"verdict":"DEGRADED"`)
		require.Contains(t, w.Body.String(), `"code":"guard_on"`)
	}
}

func TestFailuresAreLoggedSparsely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		f := NewFailures(slog.New(slog.NewTextHandler(&logged, nil)))
		fail := func(times int) int {
			logged.Reset()
			for range times {
				f.Log(domain.Errorf(domain.Unavailable, "the log is away"), "route", "/logs")
			}
			return strings.Count(logged.String(), "request failed")
		}
		require.Equal(t, firstFailures, fail(1000))
		require.NotContains(t, logged.String(), "unlogged")
		time.Sleep(3 * time.Second)
		require.Equal(t, 3, fail(1000))
		require.Contains(t, logged.String(), "unlogged=980")
		f.Log(Problem(http.StatusBadRequest, "a client's mistake"))
		f.Log(context.Canceled)
		time.Sleep(time.Second)
		require.Equal(t, 1, fail(1), "what is not a failure takes nobody's place")
		require.Contains(t, logged.String(), "unlogged=997")
	})
}
