package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/api"
)

// TestAnswersTo is about listeners that docs/upload-contract.md has no row for.
func TestAnswersTo(t *testing.T) {
	for _, c := range []struct {
		name  string
		local bool
		names []string
		host  string
		want  bool
	}{
		{"off loopback, any name", false, nil, "opa-logs.corp:8080", true},
		{"off loopback, a name that is allowed", false, []string{"opa-logs.corp"}, "opa-logs.corp:8080", true},
		{"off loopback, another one", false, []string{"opa-logs.corp"}, "rebound.example", false},
		{"off loopback, an address: a probe", false, []string{"opa-logs.corp"}, "10.1.2.3:8080", true},
		{"on loopback, an address with a zone", true, nil, "[fe80::1%25lo]:80", true},
		{"on loopback, an address without brackets", true, nil, "::1", true},
		{"on loopback, a number that is no address", true, nil, "2130706433", false},
		{"on loopback, no name: HTTP/1.0", true, nil, "", true},
		{"on loopback, a dot", true, nil, ".", false},
		{"an allowed name with a dot behind", true, []string{"a.example."}, "A.example", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, Door{Local: c.local, AllowedHosts: c.names}.answersTo(c.host))
		})
	}
}

// TestPanics has a defect of ours, which is counted, logged and answered, and a connection that is closed on purpose.
func TestPanics(t *testing.T) {
	var said bytes.Buffer
	reg := prometheus.NewRegistry()
	d := Door{Metrics: NewMetrics(reg), Logger: slog.New(slog.NewTextHandler(&said, nil))}
	e := New(d)
	e.GET("/nil", func(echo.Context) error { panic(errors.New("a nil map")) })
	e.GET("/abort", func(echo.Context) error { panic(http.ErrAbortHandler) })
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/nil", nil))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	var p api.Problem
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	require.NotContains(t, p.Detail, "nil map")
	require.InDelta(t, 1, reading(t, d.Metrics.panics), 0)
	require.Contains(t, said.String(), "level=ERROR")
	require.Contains(t, said.String(), "a nil map")
	require.Contains(t, said.String(), "door_test.go", "the stack says where")
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		e.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/abort", nil))
	})
	require.InDelta(t, 1, reading(t, d.Metrics.panics), 0)
}
