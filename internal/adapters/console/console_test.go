package console

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/html"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/rego"
	"github.com/docket-project/docket/internal/adapters/replaypolicy"
	"github.com/docket-project/docket/internal/adapters/sqlite"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/operate"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/search"
	"github.com/docket-project/docket/internal/status"
	"github.com/docket-project/docket/internal/trail"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "replay-policy" { // the process that decides
		if rego.Process(context.Background(), os.Stdin, os.Stdout) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var topics = domain.TopicsWithPrefix("docket.")

// bench is pages over a real store and log.
type bench struct {
	store *sqlite.Store
	log   *sqlite.Log
	t     *testing.T
}

func newBench(t *testing.T) *bench {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	fatal := func(err error) { t.Errorf("fatal: %v", err) }
	dir, err := sqlite.OpenDir(t.TempDir())
	require.NoError(t, err)
	store, err := sqlite.OpenStore(t.Context(), dir, sqlite.StoreOptions{
		Window: domain.Window{Retention: 24 * time.Hour, Ahead: time.Hour}, Log: logger, Migrate: true, Fatal: fatal,
	})
	require.NoError(t, err)
	log, err := sqlite.OpenLog(t.Context(), dir, sqlite.LogOptions{
		Topics: []sqlite.Topic{{Name: topics.Decisions}, {Name: topics.Parking}, {Name: topics.ParkingDLQ},
			{Name: topics.DLQ}},
		Fatal: fatal, Lost: func(domain.Loss) {}, Log: logger, Migrate: true,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, log.Close())
		require.NoError(t, store.Close())
		require.NoError(t, dir.Close())
	})
	return &bench{store, log, t}
}

// pages are what a caller sees. edit may change what they work with.
func (b *bench) pages(caller domain.Caller, edit ...func(*Parts)) http.Handler {
	look := struct {
		ports.DecisionReader
		ports.DeadLetterReader
		ports.LossReader
		ports.OPAReader
	}{b.store, b.store, b.store, b.store}
	statistics := search.NewStatistics(b.store, nil, slog.New(slog.DiscardHandler))
	b.t.Cleanup(statistics.Stop)
	pipeline := status.Pipeline{Breaker: "closed"}
	self, err := os.Executable()
	require.NoError(b.t, err)
	gate := access.NewGate(access.ByRole, nil, nil)
	p := Parts{
		Decisions: b.store, Control: b.store, Log: b.log, Operate: operate.New(b.store, gate), Gate: gate,
		Trail: trail.New(look, b.log, []trail.Stage{{Name: "saver", Topic: topics.Decisions, Group: "docket-saver"}}),
		Who:   auth.Anonymous{Caller: caller}, Statistics: statistics, Searches: web.NewSearches(nil),
		Replay:   replaypolicy.NewService(replaypolicy.Program{Path: self}, search.WithEvents(b.store), nil),
		Pipeline: func(context.Context) status.Pipeline { return pipeline },
		Overview: func(context.Context, domain.Scope) status.Overview {
			return status.Overview{Verdict: status.OK, Pipeline: pipeline, OPAs: &domain.OPAGroup{}}
		},
		Disk: func() *float64 { return nil }, Logger: slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(&p)
	}
	e := web.New(web.Door{Metrics: web.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler)})
	e.Pre(web.SameOrigin, web.WellFormed)
	e.GET("/api/v1/decisions", func(c echo.Context) error { return c.JSON(http.StatusOK, nil) })
	Mount(e, p)
	return Prefixed(p.Config.Prefix, web.HeadAsGet(e))
}

var (
	admin  = domain.Caller{Name: "ann", Tenants: domain.AllTenants(), Role: domain.Admin}
	viewer = domain.Caller{Name: "vera", Tenants: domain.AllTenants(), Role: domain.Viewer}
	acme   = domain.Caller{Name: "carl", Tenants: domain.Tenants("acme"), Role: domain.Operator}
)

// get asks for a page as a browser does.
func get(h http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	return do(h, http.MethodGet, path, "", headers...)
}

func do(h http.Handler, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Accept", "text/html,application/xhtml+xml")
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// shows requires that a page is there, and returns its text without the markup.
func shows(t *testing.T, w *httptest.ResponseRecorder, status int, texts ...string) {
	t.Helper()
	require.Equal(t, status, w.Code, w.Body.String())
	plain := textOf(t, w.Body.String())
	for _, text := range texts {
		require.Contains(t, plain, text)
	}
}

// textOf is what a person reads of a page.
func textOf(t *testing.T, page string) string {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	var b strings.Builder
	for n := range root.Descendants() {
		if n.Type == html.TextNode {
			b.WriteString(n.Data)
			b.WriteByte(' ')
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// save stores decisions of events.
func (b *bench) save(tenant string, events ...map[string]any) {
	b.t.Helper()
	projector, err := domain.NewProjector(nil)
	require.NoError(b.t, err)
	var rows []domain.Decision
	for _, e := range events {
		raw, err := json.Marshal(e)
		require.NoError(b.t, err)
		rows = append(rows, projector.Project(domain.Record{
			Value: raw, Headers: domain.Headers{Tenant: tenant, ReceivedAt: time.Now().UTC()},
		}))
	}
	_, err = b.store.SaveBatch(b.t.Context(), rows)
	require.NoError(b.t, err)
}

// event is a decision that something may be changed in.
func event(id string, at time.Time, edits ...func(map[string]any)) map[string]any {
	e := map[string]any{
		"decision_id": id, "timestamp": at.UTC().Format(time.RFC3339Nano), "path": "orders/allow",
		"labels":  map[string]any{"id": "opa-1", "app": "shop"},
		"input":   map[string]any{"user": "alice", "action": "DELETE", "resource": "/orders/7", "roles": []string{"guest"}},
		"result":  map[string]any{"allow": false, "reason": "not the owner"},
		"bundles": map[string]any{"authz": map[string]any{"revision": "r2"}},
		"metrics": map[string]any{"timer_rego_query_eval_ns": 81_000},
	}
	for _, edit := range edits {
		edit(e)
	}
	return e
}

func allowed(e map[string]any) {
	e["result"] = map[string]any{"allow": true}
	e["bundles"] = map[string]any{"authz": map[string]any{"revision": "r1"}}
}

func TestPages(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	b.save("acme", event("d1", now.Add(-time.Minute)), event("a1", now.Add(-time.Hour), allowed))
	h := b.pages(admin)
	for path, texts := range map[string][]string{
		"/":                                 {"OK", "denied 1", "Newest denials"},
		"/decisions":                        {"alice", "DELETE", "/orders/7", "denied 1", "allowed 1", "not the owner"},
		"/decisions?q=outcome:denied":       {"not the owner", "docket find -- 'outcome:denied'"},
		"/decisions?q=outcome:allowed":      {"allowed 1"},
		"/decisions?q=principal:nobody":     {"No decision fits this search", "look at 30 days"},
		"/decisions?q=&since=&until=":       {"not the owner"},
		"/decisions/d1":                     {"alice was denied DELETE on /orders/7 by orders/allow: not the owner.", "r2"},
		"/compare?a=d1&b=a1":                {"result.allow", "bundle.authz", `"r1"`},
		"/compare?a=d1":                     {"It has the same principal, action, resource and policy."},
		"/compare":                          {"Compare two decisions"},
		"/contrast?q=outcome:denied":        {"1 decisions of", "bundle.authz", "show only"},
		"/opas":                             {"There is none."},
		"/pipeline":                         {"Breaker closed"},
		"/audit":                            {"Nobody has changed anything."},
		"/credentials":                      {"There is none: nobody is asked who they are"},
		"/jobs":                             {"There is none."},
		"/dead-letters":                     {"There is none"},
		"/dead-letters/list?state=open":     {"No dead letter fits this."},
		"/decisions?since=7d&q=tenant:acme": {"alice"},
	} {
		t.Run(path, func(t *testing.T) {
			w := get(h, path)
			shows(t, w, http.StatusOK, texts...)
			require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			nonce := regexp.MustCompile(`script-src 'nonce-([^']+)'`).FindStringSubmatch(w.Header().Get("Content-Security-Policy"))
			require.Len(t, nonce, 2)
			require.Contains(t, w.Body.String(), `nonce="`+nonce[1]+`"`)
			require.NotContains(t, w.Body.String(), " style=")
			require.NotEqual(t, w.Header().Get("Content-Security-Policy"), get(h, path).Header().Get("Content-Security-Policy"))
			require.Empty(t, do(h, http.MethodHead, path, "").Body.String())
		})
	}
}

func TestNewRevisions(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	b.save("acme", event("d1", now.Add(-time.Minute)), event("a1", now.Add(-10*time.Hour), allowed))
	h := b.pages(admin)
	shows(t, get(h, "/decisions"), http.StatusOK, "new revision r2")
	require.NotContains(t, get(h, "/decisions").Body.String(), "revision%3Ar1\">r1</a> <time", "the first one is none")
	require.NotContains(t, textOf(t, get(h, "/decisions?q=principal:alice+revision:r2").Body.String()), "new revision")
}

func TestBeginning(t *testing.T) {
	shows(t, get(newBench(t).pages(admin), "/"), http.StatusOK, "OK", "No OPA has sent anything yet", "decision_logs:")
}

func TestPagesThatAreNot(t *testing.T) {
	b := newBench(t)
	h := b.pages(admin)
	for path, c := range map[string]struct {
		status int
		text   string
	}{
		"/nothing":                     {http.StatusNotFound, "there is nothing at GET /nothing"},
		"/decisions?q=outcome:(":       {http.StatusBadRequest, "Expected:"},
		"/decisions?colour=red":        {http.StatusBadRequest, "colour"},
		"/decisions?since=yesterday":   {http.StatusBadRequest, "since"},
		"/decisions/nowhere":           {http.StatusNotFound, "Docket has never received it"},
		"/decisions/%00":               {http.StatusBadRequest, "NUL"},
		"/compare?a=nowhere&b=nowhere": {http.StatusNotFound, "no decision nowhere is stored"},
		"/compare?pick=a":              {http.StatusBadRequest, "Choose two decisions"},
		"/contrast?q=x&against=(":      {http.StatusBadRequest, "Expected:"},
		"/jobs/none":                   {http.StatusNotFound, "there is no job none"},
		"/dead-letters/none":           {http.StatusBadRequest, "none"},
		"/dead-letters/docket.dlq:0:7": {http.StatusNotFound, "there is no dead letter"},
		"/audit?until=x":               {http.StatusBadRequest, "until"},
	} {
		t.Run(path, func(t *testing.T) {
			w := get(h, path)
			shows(t, w, c.status, c.text)
			require.Contains(t, w.Header().Get("Content-Type"), "text/html")
		})
	}
	w := get(h, "/nothing", "Accept", "*/*")
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), "programs get what they can read")
	w = get(h, "/api/v1/nothing")
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
}

func TestTenantsAreApart(t *testing.T) {
	b := newBench(t)
	b.save("acme", event("same", time.Now()))
	b.save("other", event("same", time.Now(), func(e map[string]any) {
		e["input"] = map[string]any{"user": "mallory"}
	}), event("theirs", time.Now()))
	h := b.pages(acme)
	for _, path := range []string{
		"/", "/decisions", "/decisions/same", "/contrast?q=outcome:denied", "/decisions?q=tenant:other",
		"/decisions/same?tenant=other", "/decisions/theirs", "/compare?a=same&b=theirs", "/compare?a=same",
	} {
		w := get(h, path)
		require.NotContains(t, w.Body.String(), "mallory", path)
	}
	shows(t, get(h, "/decisions/same"), http.StatusOK, "alice")
	shows(t, get(h, "/decisions/theirs"), http.StatusNotFound)
	shows(t, get(h, "/decisions/same?tenant=other"), http.StatusNotFound)
}

// TestPagesWithoutLogin has a console that knows programs and certificates only: there is nothing to log in with.
func TestPagesWithoutLogin(t *testing.T) {
	b := newBench(t)
	h := b.pages(domain.Caller{}, func(p *Parts) { p.Who = &auth.Credentials{} })
	for _, path := range []string{"/", "/decisions?q=a"} {
		shows(t, get(h, path), http.StatusUnauthorized, "this listener wants a bearer token")
	}
	require.Equal(t, http.StatusSeeOther, get(h, "/login").Code)
}

func TestLogin(t *testing.T) {
	b := newBench(t)
	file := filepath.Join(t.TempDir(), "tokens")
	hash := sha256.Sum256([]byte("secret"))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "vera viewer %x\n", hash), 0o600))
	tokens, err := auth.LoadTokens(file, auth.ConsoleUser, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	sessions, err := auth.NewSessions(
		&auth.Credentials{Tokens: tokens}, nil, "", slog.New(slog.DiscardHandler),
	)
	require.NoError(t, err)
	h := b.pages(domain.Caller{}, func(p *Parts) { p.Who, p.Sessions, p.Config.Prefix = sessions, sessions, "/docket" })

	w := get(h, "/docket/decisions?q=a")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "/docket/login?to=%2Fdecisions%3Fq%3Da", w.Header().Get("Location"))
	shows(t, get(h, "/docket/login?to=%2Fdecisions%3Fq%3Da"), http.StatusOK, "Console token")

	w = do(h, http.MethodPost, "/docket/login", "token=wrong&to=/decisions")
	shows(t, w, http.StatusUnauthorized, "This token is not known here")
	require.Empty(t, w.Result().Cookies())

	shows(t, do(h, http.MethodPost, "/docket/login", "token="), http.StatusUnauthorized, "Paste a token")
	w = do(h, http.MethodPost, "/docket/login", "token=a.b.c")
	shows(t, w, http.StatusUnauthorized, "This looks like a JSON web token")

	w = do(h, http.MethodPost, "/docket/login", "token=secret&to=/decisions%3Fq%3Da")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Equal(t, "/docket/decisions?q=a", w.Header().Get("Location"))
	cookie := w.Result().Cookies()[0]
	require.Equal(t, "docket_session", cookie.Name)
	require.Equal(t, "/docket/", cookie.Path)
	require.True(t, cookie.HttpOnly)
	require.False(t, cookie.Secure)
	w = do(h, http.MethodPost, "/docket/login", "token=secret", "X-Forwarded-Proto", "https")
	require.True(t, w.Result().Cookies()[0].Secure)

	w = get(h, "/docket/decisions", "Cookie", "docket_session="+cookie.Value)
	shows(t, w, http.StatusOK, "vera, viewer", "Log out")
	shows(t, get(h, "/docket/decisions", "Authorization", "Bearer secret"), http.StatusOK)
	require.Equal(t, http.StatusSeeOther, get(h, "/docket/decisions", "Cookie", "docket_session=forged").Code)
	w = do(h, http.MethodPost, "/docket/logout", "", "Cookie", "docket_session="+cookie.Value)
	require.Negative(t, w.Result().Cookies()[0].MaxAge)
	require.Equal(t, "/docket/login", w.Header().Get("Location"))
	w = get(h, "/docket/decisions", "Cookie", "docket_session="+cookie.Value)
	require.Equal(t, http.StatusSeeOther, w.Code, "a copy of the cookie counts no more")
	w = get(h, "/docket/login/with?issuer=https://evil.example")
	shows(t, w, http.StatusUnauthorized, "has no login with this issuer")
	shows(t, get(h, "/docket/login/callback?code=a&state=b"), http.StatusUnauthorized, "this browser has begun none")

	for _, to := range []string{"//evil.example", "https://evil.example/", `/\evil.example`, "evil", "", "/\tx", "/../evil", "/..//evil.example",
		"/logout", "/login/callback?code=a"} {
		w := do(h, http.MethodPost, "/docket/login", url.Values{"token": {"secret"}, "to": {to}}.Encode())
		require.Equal(t, "/docket/", w.Header().Get("Location"), to)
	}
	shows(t, get(h, "/docket/nothing"), http.StatusNotFound)
}

// dead puts a group of dead letters into the index.
func (b *bench) dead(n int, text string) {
	b.t.Helper()
	var letters []domain.DeadLetter
	for i := range n {
		l := domain.DeadLetter{
			Position: domain.Position{Topic: topics.DLQ, Offset: int64(i)}, State: domain.DeadOpen, Class: domain.Invalid,
			Cause: domain.Rejected, Text: text, Fingerprint: "0a1b2c3d4e5f", Tenant: "acme", DecisionID: text, Path: text,
			Decision: true, DiedAt: time.Now().Add(-time.Minute), ReceivedAt: time.Now().Add(-time.Hour), Copies: 1,
		}
		l.SHA256[0] = byte(i)
		l.ID = l.String()
		letters = append(letters, l)
	}
	require.NoError(b.t, b.store.IndexDeadLetters(b.t.Context(), letters))
}

func TestReplayByForms(t *testing.T) {
	b := newBench(t)
	b.dead(3, "check #")
	h := b.pages(admin)
	shows(t, get(h, "/dead-letters"), http.StatusOK, "rejected", "3 open", "Dry run of a replay")
	shows(t, get(h, "/dead-letters/list?fingerprint=0a1b2c3d4e5f"), http.StatusOK, "docket.dlq:0:2")
	shows(t, get(h, "/dead-letters/docket.dlq:0:2"), http.StatusOK, "Its bytes are not in the log any more", "0 Replays")

	w := do(h, http.MethodPost, "/dead-letters/replays", "filter=fingerprint%3D0a1b2c3d4e5f&dry_run=true")
	require.Equal(t, http.StatusSeeOther, w.Code, w.Body.String())
	job := w.Header().Get("Location")
	shows(t, get(h, job), http.StatusOK, "Dry run of a replay", "Matched 3", "Cancel")
	shows(t, get(h, "/jobs"), http.StatusOK, "dry run of a replay", "pending")

	shows(t, do(h, http.MethodPost, "/dead-letters/replays", "filter=fingerprint%3D0a1b2c3d4e5f&dry_run=false&sure=yes"),
		http.StatusBadRequest, "a comment is wanted")
	shows(t, do(h, http.MethodPost, "/dead-letters/discards", "filter=state%3Dopen&dry_run=false&comment=x"),
		http.StatusBadRequest, "say that you mean it")
	shows(t, do(h, http.MethodPost, "/dead-letters/discards", "dry_run=false&comment=x&sure=yes"),
		http.StatusBadRequest, "an empty one would choose everything")
	shows(t, do(h, http.MethodPost, "/dead-letters/discards", `{"filter":{}}`, "Content-Type", "application/json"),
		http.StatusUnsupportedMediaType, "want a form")
	w = do(h, http.MethodPost, "/dead-letters/replays",
		"filter=fingerprint%3D0a1b2c3d4e5f&dry_run=false&sure=yes&comment=the+column+is+wider&rate=10")
	require.Equal(t, http.StatusSeeOther, w.Code, w.Body.String())
	job = w.Header().Get("Location")
	shows(t, get(h, "/audit"), http.StatusOK, "replay.create", "the column is wider", "ann")
	require.Equal(t, http.StatusSeeOther, do(h, http.MethodPost, job+"/cancel", "").Code)
	shows(t, get(h, job), http.StatusOK, "canceled")
	shows(t, do(h, http.MethodPost, job+"/cancel", ""), http.StatusConflict, "you cannot cancel it")
	for _, wrong := range []string{"filter=state%3Dopen&rate=fast", "filter=%25zz", "filter=colour%3Dred"} {
		shows(t, do(h, http.MethodPost, "/dead-letters/replays", wrong), http.StatusBadRequest)
	}
	w = do(h, http.MethodPost, "/dead-letters/discards", "filter=&dry_run=false&comment=x", "Sec-Fetch-Site", "cross-site")
	shows(t, w, http.StatusForbidden, "a page of another site may not do this")
}

func TestViewersAreOfferedNothing(t *testing.T) {
	b := newBench(t)
	b.dead(1, "check #")
	h := b.pages(viewer)
	for _, path := range []string{"/dead-letters", "/dead-letters/list", "/dead-letters/docket.dlq:0:0", "/jobs"} {
		w := get(h, path)
		require.Equal(t, http.StatusOK, w.Code)
		require.NotContains(t, w.Body.String(), `method="post"`, path)
	}
	w := do(h, http.MethodPost, "/dead-letters/replays", "filter=state%3Dopen")
	shows(t, w, http.StatusForbidden, "may look and not change")
}

// hostile are texts that break out of markup, attributes, addresses and scripts, where they are not escaped.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onmouseover='alert(1)`, `javascript:alert(1)`,
	`</title><svg onload=alert(1)>`, `{{constructor.constructor('alert(1)')()}}`, "\u202Egnp.exe", "`${alert(1)}`",
	`]]><x>`, `<!--`, `&lt;script&gt;`, `http://evil.example/`, `data:text/html,<script>alert(1)</script>`,
}

func TestHostileContent(t *testing.T) {
	b := newBench(t)
	for i, x := range hostile {
		at := time.Now().Add(-time.Duration(i) * time.Second)
		b.save("t"+x, event(fmt.Sprintf("d%d-%s", i, x), at, func(e map[string]any) {
			e["path"] = x
			e["labels"] = map[string]any{"id": x, "app": x, x: x}
			e["input"] = map[string]any{"user": x, "action": x, "resource": x, x: []any{x, map[string]any{x: x}}}
			e["result"] = map[string]any{"allow": i%2 == 0, "reason": x}
			e["bundles"] = map[string]any{x: map[string]any{"revision": x}}
			e["nd_builtin_cache"] = map[string]any{x: map[string]any{x: x}}
			e["rule_labels"] = []any{map[string]any{x: x}}
			e["custom"] = map[string]any{x: x}
			e["trace_id"], e["requested_by"], e["batch_decision_id"] = x, x, x
			e["masked"], e["erased"] = []any{"/input/" + x}, []any{"/input/" + x + "2", x}
			e["metrics"] = map[string]any{"timer_" + x + "_ns": 7}
		}))
		require.NoError(t, b.store.RecordOPAs(t.Context(), []domain.Observation{{
			Tenant: "t" + x, OPA: x, App: x, Version: x, Uploads: 1, Events: 1, First: time.Now(), Last: time.Now(),
			Status:   fmt.Appendf(nil, `{"bundles":{%q:{"active_revision":%q,"message":%q,"code":"x"}}}`, x, x, x),
			StatusAt: time.Now(),
		}}))
	}
	b.dead(1, hostile[0])
	h := b.pages(admin, func(p *Parts) { p.Config.TraceURL = "https://trace.example/{trace_id}" })
	paths := []string{"/", "/decisions", "/opas", "/dead-letters", "/dead-letters/list", "/contrast?q=outcome:denied",
		"/dead-letters/docket.dlq:0:0", "/compare", "/login"}
	for i, x := range hostile {
		id := fmt.Sprintf("d%d-%s", i, x)
		paths = append(paths, "/decisions/"+url.PathEscape(id), "/decisions?q="+url.QueryEscape(x), "/"+url.PathEscape(x),
			"/decisions/"+url.PathEscape(x), "/decisions?since="+url.QueryEscape(x), "/login?to="+url.QueryEscape(x),
			"/contrast?q=a&against="+url.QueryEscape(x), "/jobs/"+url.PathEscape(x), "/opas?state="+url.QueryEscape(x),
			"/dead-letters/list?fingerprint="+url.QueryEscape(x),
			"/compare?a="+url.QueryEscape(id)+"&b="+url.QueryEscape("d0-"+hostile[0]))
	}
	for _, path := range paths {
		harmless(t, path, get(h, path))
	}
}

// harmless requires that a page has no markup but docket's.
func harmless(t *testing.T, path string, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code == http.StatusSeeOther {
		return
	}
	root, err := html.Parse(w.Body)
	require.NoError(t, err)
	scripts := 0
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			require.NotEqual(t, html.CommentNode, n.Type, path)
			continue
		}
		switch n.Data {
		case "script":
			scripts++
		case "img", "iframe", "object", "embed", "base", "x", "style", "template":
			t.Errorf("%s has an element %s", path, n.Data)
		}
		for _, a := range n.Attr {
			require.False(t, strings.HasPrefix(a.Key, "on") || a.Key == "style" || a.Key == "srcdoc", "%s: %s", path, a.Key)
			if a.Key == "href" || a.Key == "action" || a.Key == "src" {
				require.Regexp(t, `^(/($|[^/\\])|#main|https://trace\.example/|https://github\.com/docket-project/)`, a.Val, path)
			}
		}
	}
	require.Equal(t, 1, scripts, path)
}

// TestFirstDecision has a denial that is stored before its OPA is listed, and after the statistics were counted.
func TestFirstDecision(t *testing.T) {
	b := newBench(t)
	h := b.pages(admin)
	shows(t, get(h, "/"), http.StatusOK, "No OPA has sent anything yet")
	b.save("acme", event("d1", time.Now().Add(-time.Minute)))
	w := get(h, "/")
	shows(t, w, http.StatusOK, "not the owner")
	require.NotContains(t, w.Body.String(), "No OPA has sent anything yet")
}

// TestCredentialsPage has a token that is used, one that is not, and a viewer, who does not see them.
func TestCredentialsPage(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	require.NoError(t, b.store.RecordCredentials(t.Context(), []domain.Credential{
		{
			Listener: "upload", How: domain.ByToken, Name: "edge-<eu>", ID: "9f86d081", Tenant: "acme", Listed: now,
			First: now.Add(-time.Hour), Last: now.Add(-time.Minute), Uses: 1234, Address: "192.0.2.1",
		},
		{Listener: "console", How: domain.ByToken, Name: "vera", ID: "60303ae2", Role: domain.Viewer, Listed: now},
		{Listener: "console", How: domain.ByToken, Name: "gone", ID: "11111111", Listed: now.Add(-time.Hour)},
	}))
	h := b.pages(admin)
	shows(t, get(h, "/credentials"), http.StatusOK,
		"edge-<eu>", "9f86d081", "acme", "1 234", "192.0.2.1", "never", "all", "removed", "active")
	shows(t, get(b.pages(viewer), "/credentials"), http.StatusForbidden, "operator")
	acme := domain.Caller{Name: "bob", Tenants: domain.Tenants("acme"), Role: domain.Operator}
	own := get(b.pages(acme), "/credentials")
	shows(t, own, http.StatusOK, "edge-<eu>")
	require.NotContains(t, own.Body.String(), "vera", "who may do what for all tenants is for those who have all")
}

func TestStoreAway(t *testing.T) {
	b := newBench(t)
	h := b.pages(admin, func(p *Parts) { p.Decisions, p.Control = away{}, away{} })
	shows(t, get(h, "/"), http.StatusOK, "OK", "The newest denials cannot be shown: the store is away")
	shows(t, get(h, "/decisions"), http.StatusOK, "The decisions cannot be shown: the store is away")
	for _, path := range []string{"/decisions/d1", "/opas", "/audit", "/credentials", "/dead-letters", "/compare?a=d1"} {
		shows(t, get(h, path), http.StatusServiceUnavailable, "the store is away")
	}
	shows(t, get(h, "/pipeline"), http.StatusOK, "Stages")
}

var errAway = domain.Errorf(domain.Unavailable, "the store is away")

// away is a store that does not answer.
type away struct {
	ports.DeadLetterReader
	ports.OPAReader
}

func (away) StoredEvents(context.Context, domain.Scope, domain.Query) (domain.Page, error) {
	return domain.Page{}, errAway
}

func (away) Search(context.Context, domain.Scope, domain.Query) (domain.Page, error) {
	return domain.Page{}, errAway
}

func (away) Decisions(context.Context, domain.Scope, string) ([]domain.Decision, error) {
	return nil, errAway
}
func (away) OPAs(context.Context, domain.Scope) ([]domain.OPA, error) { return nil, errAway }
func (away) Audits(context.Context, domain.Scope, time.Time, int) ([]domain.AuditEntry, error) {
	return nil, errAway
}
func (away) Credentials(context.Context, domain.Scope) ([]domain.Credential, error) {
	return nil, errAway
}

func (away) DeadGroups(context.Context, domain.Scope, domain.Filter) ([]domain.DeadGroup, error) {
	return nil, errAway
}

func TestPagesArePacked(t *testing.T) {
	b := newBench(t)
	b.save("acme", event("d1", time.Now()))
	h := b.pages(admin)
	for _, path := range []string{"/decisions", "/decisions/d1", "/assets/0/console.css"} {
		w := get(h, path, "Accept-Encoding", "gzip")
		require.Equal(t, "gzip", w.Header().Get("Content-Encoding"), path)
		r, err := gzip.NewReader(w.Body)
		require.NoError(t, err)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NotEmpty(t, body)
	}
	w := get(h, "/decisions/nowhere", "Accept-Encoding", "gzip")
	require.Equal(t, http.StatusNotFound, w.Code)
	w = get(h, "/jobs/none", "Accept-Encoding", "gzip")
	shows(t, w, http.StatusNotFound, "there is no job none")
	require.Empty(t, w.Header().Get("Content-Encoding"))
}

func TestAssets(t *testing.T) {
	h := newBench(t).pages(admin)
	page := get(h, "/").Body.String()
	links := regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`).FindAllStringSubmatch(page, -1)
	require.Len(t, links, 3)
	for _, l := range links {
		w := get(h, l[1])
		require.Equal(t, http.StatusOK, w.Code, l[1])
		require.Contains(t, w.Header().Get("Cache-Control"), "immutable")
		again := get(h, l[1], "If-None-Match", w.Header().Get("ETag"))
		require.Equal(t, http.StatusNotModified, again.Code)
		body, err := io.ReadAll(again.Body)
		require.NoError(t, err)
		require.Empty(t, body)
	}
	old := get(h, "/assets/0/console.css")
	require.Equal(t, "no-cache", old.Header().Get("Cache-Control"), "of another version")
	require.Equal(t, http.StatusNotFound, get(h, "/assets/0/passwd").Code)
}

func TestParametersStandInTheQuery(t *testing.T) {
	h := newBench(t).pages(admin)
	for given, want := range map[string]string{
		"outcome=denied&principal=bob&limit=10": "/decisions?limit=10&q=outcome:denied principal:bob",
		"outcome=denied&q=action:read":          "/decisions?q=action:read outcome:denied",
		"outcome=denied&since=7d":               "/decisions?q=outcome:denied&since=7d",
		"decision_id=y":                         "/decisions?q=id:y",
	} {
		w := get(h, "/decisions?"+given)
		require.Equal(t, http.StatusSeeOther, w.Code, given)
		to, err := url.QueryUnescape(w.Header().Get("Location"))
		require.NoError(t, err)
		require.Equal(t, want, to)
		require.Equal(t, http.StatusOK, get(h, w.Header().Get("Location")).Code)
	}
}

// links are those of a page to others of docket's.
func links(page string) (out []string) {
	for _, m := range regexp.MustCompile(`(?:href|data-search|data-tail)="(/[^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(m[1], "/assets/") && !strings.HasPrefix(m[1], "/api/") {
			out = append(out, html.UnescapeString(m[1]))
		}
	}
	return out
}

func TestLinksLeadSomewhere(t *testing.T) {
	b := newBench(t)
	now := time.Now()
	for _, id := range []string{"d1", "..", ".", "a/b%2fc", "-neg", "stats", "fields", "q?x=1#y", "é \u202e\"'"} {
		b.save("acme", event(id, now.Add(-time.Minute)))
	}
	b.save("acme", event("a1", now.Add(-time.Hour), allowed), event("odd", now, func(e map[string]any) {
		e["input"] = map[string]any{"1001": "read", "roles": map[string]any{"0": "admin"}, "list": []any{[]any{"a"}}}
	}), event("late", now, func(e map[string]any) { e["timestamp"] = "9999-12-31T23:59:59Z" }),
		event("undated", now, func(e map[string]any) { delete(e, "timestamp") }))
	require.NoError(t, b.store.RecordOPAs(t.Context(), []domain.Observation{
		{Tenant: "acme", OPA: "", Uploads: 1, Events: 1, First: now, Last: now},
		{Tenant: "acme", OPA: domain.OtherOPAs, Uploads: 1, Events: 1, First: now, Last: now},
	}))
	b.dead(2, "check #")
	h := b.pages(admin)
	seen := map[string]bool{}
	todo := []string{"/", "/opas", "/decisions?q=since:1h+outcome:denied", "/decisions?q=outcome:denied+OR+action:read"}
	for len(todo) > 0 && len(seen) < 300 {
		path := todo[0]
		todo = todo[1:]
		if seen[path] || strings.Contains(path, "/logout") {
			continue
		}
		seen[path] = true
		w := get(h, path)
		if w.Code == http.StatusSeeOther {
			todo = append(todo, w.Header().Get("Location"))
			continue
		}
		require.Equal(t, http.StatusOK, w.Code, "%s: %s", path, textOf(t, w.Body.String()))
		todo = append(todo, links(w.Body.String())...)
	}
	require.Greater(t, len(seen), 100)
}

func TestPanicsAreTheRequests(t *testing.T) {
	h := newBench(t).pages(admin, func(p *Parts) {
		p.Overview = func(context.Context, domain.Scope) status.Overview { panic("a defect") }
	})
	shows(t, get(h, "/pipeline"), http.StatusInternalServerError, "docket failed at this request")
	require.Equal(t, http.StatusOK, get(h, "/decisions").Code)
}
