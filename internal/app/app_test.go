package app

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/config"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// How long a test waits for something that has to happen, and how often it looks.
const (
	testPatience = 30 * time.Second
	testTick     = 20 * time.Millisecond
)

// running is an App under test, with a client of its own so that no connection outlives it.
type running struct {
	*App
	client *http.Client
	stop   func()
}

// defaults are the settings of `docket serve` on free ports and an empty directory.
func defaults(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig()
	c.Data = t.TempDir()
	c.Listen, c.ConsoleListen, c.AdminListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	return c
}

func startApp(t *testing.T, edit func(*Config)) *running {
	t.Helper()
	c := defaults(t)
	if edit != nil {
		edit(&c)
	}
	return startConfig(t, c)
}

func startConfig(t *testing.T, c Config) *running { return startLogging(t, c, slog.DiscardHandler) }

func startLogging(t *testing.T, c Config, log slog.Handler) *running {
	t.Helper()
	a, err := New(t.Context(), status.Serve, c, slog.New(log))
	require.NoError(t, err)
	a.Start()
	transport := &http.Transport{}
	r := &running{
		App: a,
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	r.stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		transport.CloseIdleConnections()
		require.NoError(t, a.Stop(ctx))
	}
	t.Cleanup(r.stop)
	return r
}

func (r *running) get(t *testing.T, base, path string) (int, []byte) {
	t.Helper()
	resp, err := r.client.Get("http://" + base + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, body
}

// status of a decision in the query API.
func (r *running) status(t *testing.T, id string) int {
	t.Helper()
	code, _ := r.get(t, r.ConsoleAddr(), "/api/v1/decisions/"+url.PathEscape(id))
	return code
}

// drained waits until everything accepted is stored or dead-lettered.
func (r *running) drained(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		view := r.sampler.Load().Pipeline(t.Context())
		for _, s := range view.Stages {
			if s.Waiting > 0 {
				return false
			}
		}
		return len(view.Stages) > 0
	}, 3*time.Minute, 10*time.Millisecond) // 50,000 rows under the race detector
}

// TestJourney reads top to bottom like the table in docs/architecture.md: upload, save, ask.
func TestJourney(t *testing.T) {
	a := startApp(t, nil)
	event := `{ "decision_id":"a/b c", "labels":{"id":"opa-1","version":"1.22.2"}, "path":"/http/authz/allow", "input":{"user":"bob"},` +
		` "result":{"allow":false,"reason":"not \u003cthe\u003e owner"}, "n":1.0e+2, "timestamp":"` + time.Now().UTC().Format(
		time.RFC3339Nano,
	) + `"}`

	// ingest
	answer, status := postLogs(t, a, zipped("["+event+","+event+"]"), "gzip")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"accepted":2,"quarantined":0,"reasons":{}}`, string(answer))

	// save
	a.drained(t)

	// ask: by id, raw, by search
	code, body := a.get(t, a.ConsoleAddr(), "/api/v1/decisions/a%2Fb%20c")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, string(body), `"event":`+event, "the event stands there as it was sent")
	var d struct{ Outcome, Reason, Path, Principal, OPA string }
	require.NoError(t, json.Unmarshal(body, &d))
	require.Equal(
		t,
		struct{ Outcome, Reason, Path, Principal, OPA string }{
			"denied",
			"not <the> owner",
			"http/authz/allow",
			"bob",
			"opa-1",
		},
		d,
	)
	code, body = a.get(t, a.ConsoleAddr(), "/api/v1/decisions/a%2Fb%20c/raw")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, event, string(body))
	code, body = a.get(t, a.ConsoleAddr(), "/api/v1/decisions?outcome=denied&path=http/authz/*&principal=!alice")
	require.Equal(t, http.StatusOK, code)
	var page struct {
		Items      []map[string]any
		NextCursor *string `json:"next_cursor"`
	}
	require.NoError(t, json.Unmarshal(body, &page))
	require.Len(t, page.Items, 1, "the same event twice is one decision")
	require.Nil(t, page.NextCursor)
	require.Len(t, page.Items[0], 19, "the fields of the contract and no other")

	// and the figures agree
	_, metrics := a.get(t, a.AdminAddr(), "/metrics")
	for _, line := range []string{
		`docket_ingest_requests_total{code="200"} 1`, `docket_ingest_events_total{result="accepted"} 2`,
		`docket_publish_records_total{result="ok",topic="docket.decisions"} 2`,
		`docket_save_records_total{result="saved"} 1`, `docket_save_records_total{result="duplicate"} 1`,
		`docket_end_to_end_seconds_count 1`, `docket_breaker_state 0`, `docket_log_data_loss_total 0`,
	} {
		require.Contains(t, string(metrics), line+"\n")
	}
}

func TestEveryMetricOfTheContract(t *testing.T) {
	a := startApp(t, nil)
	_, _ = postLogs(t, a, []byte(`[{"a":1},2]`), "")
	a.drained(t)
	_, metrics := a.get(t, a.AdminAddr(), "/metrics")
	for _, name := range []string{
		"docket_ingest_requests_total", "docket_ingest_events_total", "docket_ingest_request_duration_seconds_bucket",
		"docket_publish_records_total", "docket_publish_duration_seconds_bucket", "docket_save_records_total",
		"docket_save_batch_duration_seconds_bucket",
		"docket_save_batch_size_bucket", "docket_end_to_end_seconds_bucket", "docket_parked_records_total",
		"docket_parking_replayed_records_total",
		"docket_parking_attempts_bucket", "docket_parking_oldest_seconds", "docket_dead_letters_total",
		"docket_dead_letters_open",
		"docket_consumer_lag_records", "docket_consumer_oldest_seconds", "docket_store_pool_open_connections",
		"docket_breaker_state",
		"docket_log_data_loss_total", "docket_build_info", `docket_process_seen_seconds{role="saver"}`,
	} {
		require.Contains(t, string(metrics), "\n"+name, name)
	}
	require.Contains(t, string(metrics), `docket_dead_letters_total{class="invalid",topic="docket.dlq"} 1`)
}

func TestQueryErrors(t *testing.T) {
	a := startApp(t, nil)
	for path, want := range map[string]int{
		"/api/v1/decisions?colour=red":      http.StatusBadRequest,
		"/api/v1/decisions?limit=9999":      http.StatusBadRequest,
		"/api/v1/decisions?path=%zz":        http.StatusBadRequest,
		"/api/v1/decisions?tenant=a;b=c":    http.StatusBadRequest,
		"/api/v1/decisions?tenant=%00":      http.StatusBadRequest,
		"/api/v1/decisions?%ff=a":           http.StatusBadRequest,
		"/api/v1/decisions?q%00=a":          http.StatusBadRequest,
		"/api/v1/decisions/a%00b":           http.StatusBadRequest,
		"/api/v1/decisions/%ff/raw":         http.StatusBadRequest,
		"/api/v1/decisions/%00/trail":       http.StatusBadRequest,
		"/api/v1/decisions/a/trail?opa=%00": http.StatusBadRequest,
		"/api/v1/dead-letters?code=%00":     http.StatusBadRequest,
		"/api/v1/dead-letters/%ff":          http.StatusBadRequest,
		"/api/v1/jobs/%00":                  http.StatusBadRequest,
		"/api/v1/audit?limit=%00":           http.StatusBadRequest,
		"/api/v1/decisions?since=200000d":   http.StatusBadRequest,
		"/api/v1/decisions/absent":          http.StatusNotFound,
		"/api/v1/decisions/absent/raw":      http.StatusNotFound,
		"/api/v1/nothing":                   http.StatusNotFound,
		"/api/v1/decisions?since=4000d":     http.StatusOK,
		"/api/v1/pipeline":                  http.StatusOK,
		"/api/v1/opas":                      http.StatusOK,
		"/api/v1/openapi.yaml":              http.StatusOK,
		"/api/v1/decisions?limit=1":         http.StatusOK,
		"/api/v1/decisions?error=*":         http.StatusOK,
		"/api/v1/decisions?path=!http/*":    http.StatusOK,
	} {
		code, body := a.get(t, a.ConsoleAddr(), path)
		require.Equal(t, want, code, path)
		if want >= 400 {
			var p struct {
				Status        int
				Title, Detail string
			}
			require.NoError(t, json.Unmarshal(body, &p), path)
			require.Equal(t, want, p.Status)
			require.NotEmpty(t, p.Detail)
		}
	}
}

// verdict is what /api/v1/status says.
func (r *running) verdict(t *testing.T) (v struct {
	Verdict, Message string
	Reasons          []struct {
		Code  string
		Since time.Time
	}
	Roles       map[string]struct{ Live, Ready int }
	DeadLetters struct {
		Open        int
		NewLastHour int `json:"new_last_hour"`
	} `json:"dead_letters"`
	Disk struct {
		FreeRatio float64 `json:"free_ratio"`
	}
},
) {
	t.Helper()
	code, body := r.get(t, r.ConsoleAddr(), "/api/v1/status")
	require.Equal(t, http.StatusOK, code, "%s", body)
	require.NoError(t, json.Unmarshal(body, &v))
	return v
}

func TestAdmin(t *testing.T) {
	a := startApp(t, nil)
	code, body := a.get(t, a.AdminAddr(), "/livez")
	require.Equal(t, http.StatusOK, code, "%s", body)
	require.Eventually(t, func() bool {
		code, body = a.get(t, a.AdminAddr(), "/readyz?verbose")
		return code == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond)
	var r struct {
		Ready bool
		Roles map[string]struct {
			Ready   bool
			Reasons []string
			Details map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(body, &r))
	require.True(t, r.Ready)
	require.Len(t, r.Roles, 4)
	require.Contains(t, r.Roles["saver"].Details, "breaker")
	require.Eventually(t, func() bool { return a.verdict(t).Verdict == "OK" }, testPatience, testTick)
	_, _ = postLogs(t, a, []byte(`[1]`), "")
	require.Eventually(t, func() bool {
		v := a.verdict(t)
		return v.Verdict == "DEGRADED" && v.DeadLetters.Open == 1 && v.DeadLetters.NewLastHour == 1
	}, testPatience, testTick)
	v := a.verdict(t)
	require.Equal(t, "1 dead letter is open, 1 of them new within the last hour: docket dlq groups tells why", v.Message)
	require.WithinDuration(t, time.Now(), v.Reasons[0].Since, time.Minute)
	require.Equal(t, 1, v.Roles["parking"].Live)
	require.Positive(t, v.Disk.FreeRatio)
	_, body = a.get(t, a.AdminAddr(), "/readyz?verbose")
	require.Contains(t, string(body), `"verdict":"DEGRADED"`)
	require.Contains(t, string(body), `"code":"dead_letters_open"`)
	code, _ = a.get(t, a.AdminAddr(), "/debug/pprof/goroutine?debug=1")
	require.Equal(t, http.StatusOK, code)
}

func TestConsoleTokens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write := func(token string) {
		line := fmt.Sprintf("# who may look\nann, viewer, %x\n", sha256.Sum256([]byte(token)))
		require.NoError(t, os.WriteFile(file, []byte(line), 0o600))
	}
	write("first")
	a := startApp(t, func(c *Config) { c.ConsoleTokensFile = file })
	ask := func(authorization string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.ConsoleAddr()+"/api/v1/opas", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", authorization)
		resp, err := a.client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, http.StatusUnauthorized, ask(""))
	require.Equal(t, http.StatusUnauthorized, ask("Bearer wrong"))
	require.Equal(t, http.StatusUnauthorized, ask("Basic first"))
	require.Equal(t, http.StatusOK, ask("Bearer first"))
	require.Equal(t, http.StatusOK, ask("bearer first"))
	code, _ := a.get(t, a.AdminAddr(), "/metrics")
	require.Equal(t, http.StatusOK, code, "the admin listener has no tokens")

	write("second, and longer")
	require.Eventually(t, func() bool { return ask("Bearer second, and longer") == http.StatusOK }, testPatience, testTick)
	require.Equal(t, http.StatusUnauthorized, ask("Bearer first"))
}

// TestStopIsOrderly stops while uploads are on their way, starts again on the same directory, and finds all of them.
func TestStopIsOrderly(t *testing.T) {
	c := defaults(t)
	a := startConfig(t, c)
	for i := range 20 {
		_, status := postLogs(t, a, []byte(`[{"decision_id":"stop-`+string(rune('a'+i))+`"}]`), "")
		require.Equal(t, http.StatusOK, status)
	}
	a.stop()
	a = startConfig(t, c)
	a.drained(t)
	for i := range 20 {
		require.Equal(t, http.StatusOK, a.status(t, "stop-"+string(rune('a'+i))))
	}
}

func TestStopBeforeStart(t *testing.T) {
	a, err := New(t.Context(), status.Serve, defaults(t), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, a.Stop(t.Context()))
	require.NoError(t, a.Stop(t.Context()))
}

func TestNewCleansUp(t *testing.T) {
	c := defaults(t)
	first, err := New(t.Context(), status.Serve, c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, err = New(t.Context(), status.Serve, c, slog.New(slog.DiscardHandler))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.ErrorContains(t, err, "is in use by process")
	require.NoError(t, first.Stop(t.Context()))
	again, err := New(t.Context(), status.Serve, c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, again.Stop(t.Context()))
}

func TestMigrateOff(t *testing.T) {
	c := defaults(t)
	c.Migrate = false
	_, err := New(t.Context(), status.Serve, c, slog.New(slog.DiscardHandler))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.ErrorContains(t, err, "docket migrate")
	require.NoError(t, Migrate(t.Context(), c, slog.New(slog.DiscardHandler), io.Discard))
	a, err := New(t.Context(), status.Serve, c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, a.Stop(t.Context()))
}

func TestMappingsFromFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "docket.yaml")
	require.NoError(
		t,
		os.WriteFile(
			file, []byte("mappings:\n  - path: custom/*\n    allowed: [/result/verdict]\n    principal: [/input/who]\n"),
			0o600,
		),
	)
	a := startApp(t, func(c *Config) {
		_, err := config.Read(file, &c.Sections)
		require.NoError(t, err)
	})
	_, status := postLogs(
		t, a, []byte(`[{"decision_id":"m","path":"custom/x","result":{"verdict":false},"input":{"who":"eve"}}]`), "",
	)
	require.Equal(t, http.StatusOK, status)
	a.drained(t)
	_, body := a.get(t, a.ConsoleAddr(), "/api/v1/decisions/m")
	var d struct{ Outcome, Principal string }
	require.NoError(t, json.Unmarshal(body, &d))
	require.Equal(t, "denied", d.Outcome)
	require.Equal(t, "eve", d.Principal)
}

// TestAddressing tells decisions of one id apart by their timestamps.
func TestAddressing(t *testing.T) {
	a := startApp(t, nil)
	stamps := []string{time.Now().Add(-time.Hour).Format(time.RFC3339), time.Now().Format(time.RFC3339)}
	for i, stamp := range stamps {
		_, status := postLogs(t, a, fmt.Appendf(nil, `[{"decision_id":"one","timestamp":%q,"n":%d}]`, stamp, i), "")
		require.Equal(t, http.StatusOK, status)
	}
	a.drained(t)
	for path, want := range map[string]string{
		"one": `"n":1`, "one?timestamp=" + url.QueryEscape(stamps[0]): `"n":0`,
		"one?tenant=default&timestamp=" + url.QueryEscape(stamps[1]): `"n":1`, "one/raw?timestamp=" +
			url.QueryEscape(stamps[0]): `"n":0`,
	} {
		code, body := a.get(t, a.ConsoleAddr(), "/api/v1/decisions/"+path)
		require.Equal(t, http.StatusOK, code, "%s: %s", path, body)
		require.Contains(t, string(body), want, path)
	}
	for path, want := range map[string]int{
		"one?tenant=other": 404, "one?timestamp=1999-01-01T00:00:00Z": 404, "one?timestamp=noon": 400, "one?x=1": 400,
	} {
		code, body := a.get(t, a.ConsoleAddr(), "/api/v1/decisions/"+path)
		require.Equal(t, want, code, "%s: %s", path, body)
	}
	for _, path := range []string{"status", "pipeline", "opas", "jobs"} {
		code, _ := a.get(t, a.ConsoleAddr(), "/api/v1/"+path+"?x=1")
		require.Equal(t, http.StatusBadRequest, code, path)
	}
}

// TestReproject gives stored decisions the columns of a mapping that came later.
func TestReproject(t *testing.T) {
	c := defaults(t)
	a := startConfig(t, c)
	_, status := postLogs(
		t, a, []byte(`[{"decision_id":"m","path":"custom/x","result":{"verdict":false},"input":{"who":"eve"}}]`), "",
	)
	require.Equal(t, http.StatusOK, status)
	a.drained(t)
	a.stop()
	c.Sections.Mappings = Mappings{{
		Path: "custom/*", Allowed: []domain.Condition{{Pointer: "/result/verdict", When: domain.WhenTrue}},
		Principal: []string{"/input/who"},
	}}
	a = startConfig(t, c)
	create := func(body string) jobAnswer {
		code, answer := a.post(t, "decisions/reprojections", "", body)
		require.Equal(t, http.StatusAccepted, code, "%s", answer)
		var j jobAnswer
		require.NoError(t, json.Unmarshal(answer, &j))
		return a.rested(t, j.ID)
	}
	j := create(`{"filter":{"since":"1h"}}`)
	require.Equal(t, "1 decision looked at; the columns of 1 would change", j.Message)
	j = create(`{"filter":{"since":"1h","path":"custom/*"},"dry_run":false,"comment":"a new mapping"}`)
	require.Equal(t, "done", j.State)
	require.Equal(t, int64(1), j.Done)
	_, body := a.get(t, a.ConsoleAddr(), "/api/v1/decisions/m")
	var d struct{ Outcome, Principal string }
	require.NoError(t, json.Unmarshal(body, &d))
	require.Equal(t, "denied", d.Outcome)
	require.Equal(t, "eve", d.Principal)
	for body, says := range map[string]string{
		`{}`: "since is missing", `{"filter":{"since":"1h"},"max":1}`: "takes no max",
		`{"filter":{"since":"1h"},"dry_run":false}`: "a comment is wanted", `{"filter":{"since":"1h","state":"open"}}`: "unknown",
	} {
		code, answer := a.post(t, "decisions/reprojections", "", body)
		require.Equal(t, http.StatusBadRequest, code, "%s", answer)
		require.Contains(t, string(answer), says)
	}
}

// TestGuardAcceptances is what an operator may say of rejected rows, and who may say it.
func TestGuardAcceptances(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	hash := func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
	require.NoError(t, os.WriteFile(file, []byte("vera viewer "+hash("v")+"\nolga operator "+hash("o")+"\n"), 0o600))
	a := startApp(t, func(c *Config) { c.ConsoleTokensFile = file })
	post := func(token, contentType, body string) (int, string) {
		req, err := http.NewRequestWithContext(
			t.Context(), http.MethodPost, "http://"+a.ConsoleAddr()+"/api/v1/dead-letters/guard/acceptances",
			strings.NewReader(body),
		)
		require.NoError(t, err)
		req.Header.Set("Content-Type", contentType)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := a.client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(answer)
	}
	const good = `{"fingerprint":"0a1b2c3d4e5f","comment":"a test"}`
	for _, c := range []struct {
		name, token, contentType, body string
		status                         int
		says                           string
	}{
		{"nobody", "x", "application/json", good, 401, "not known"},
		{"a viewer", "v", "application/json", good, 403, "role operator"},
		{"a web page", "o", "text/plain", good, 415, "application/json"},
		{"no comment", "o", "application/json", `{"fingerprint":"0a1b2c3d4e5f","comment":" "}`, 400, "a comment is wanted"},
		{"no fingerprint", "o", "application/json", `{"fingerprint":"all","comment":"x"}`, 400, "is no fingerprint"},
		{"an unknown field", "o", "application/json", `{"fingerprints":["x"],"comment":"x"}`, 400, "unknown field"},
		{"no JSON", "o", "application/json", `x`, 400, "want {"},
		{"a NUL", "o", "application/json", `{"fingerprint":"0a1b2c3d4e5f","comment":"a\u0000b"}`, 400, "NUL"},
		{"no UTF-8", "o", "application/json", "{\"fingerprint\":\"0a1b2c3d4e5f\",\"comment\":\"\xff\"}", 400, "UTF-8"},
		{"something behind it", "o", "application/json", `{"fingerprint":"0a1b2c3d4e5f","comment":"x"} {}`, 400, "nothing behind"},
		{"a long one", "o", "application/json", `{"comment":"` + strings.Repeat("x", 70_000) + `"}`, 413, "longer"},
		{"an operator", "o", "application/json; charset=utf-8", good, 200, `"on":false`},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer := post(c.token, c.contentType, c.body)
			require.Equal(t, c.status, status, answer)
			require.Contains(t, answer, c.says)
		})
	}
	revoke := func(token, fingerprint string) int {
		req, err := http.NewRequestWithContext(
			t.Context(), http.MethodDelete, "http://"+a.ConsoleAddr()+"/api/v1/dead-letters/guard/acceptances/"+fingerprint,
			http.NoBody,
		)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := a.client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, http.StatusForbidden, revoke("v", "0a1b2c3d4e5f"))
	require.Equal(t, http.StatusNotFound, revoke("o", "000000000000"))
	require.Equal(t, http.StatusBadRequest, revoke("o", "all"))
	require.Equal(t, http.StatusOK, revoke("o", "0a1b2c3d4e5f"))
	require.Equal(t, http.StatusNotFound, revoke("o", "0a1b2c3d4e5f"), "it is over")
}
