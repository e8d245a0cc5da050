package queryapi

import (
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"context"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

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
	"github.com/docket-project/docket/internal/tail"
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

// bench is the API over a real store and log, which have something of two tenants.
type bench struct {
	store *sqlite.Store
	log   *sqlite.Log
	stops chan struct{}
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
	return &bench{store, log, make(chan struct{}), t}
}

// handler is the API for one caller.
func (b *bench) handler(caller domain.Caller) http.Handler {
	look := struct {
		ports.DecisionReader
		ports.DeadLetterReader
		ports.LossReader
		ports.OPAReader
	}{b.store, b.store, b.store, b.store}
	projector, err := domain.NewProjector(nil)
	if err != nil {
		panic(err) // by no mappings
	}
	statistics := search.NewStatistics(b.store, nil, slog.New(slog.DiscardHandler))
	b.t.Cleanup(func() { statistics.Stop() })
	stages := []trail.Stage{{Name: "saver", Topic: topics.Decisions, Group: "docket-saver"}}
	self, err := os.Executable()
	require.NoError(b.t, err)
	gate := access.NewGate(access.ByRole, nil, nil)
	return New(Parts{
		Decisions: b.store, Control: b.store, Log: b.log, Operate: operate.New(b.store, gate), Gate: gate,
		Trail: trail.New(look, b.log, stages), Who: auth.Anonymous{Caller: caller},
		Statistics: statistics,
		Tail:       tail.New(b.log, topics.Decisions, projector.Project, slog.New(slog.DiscardHandler)),
		Stopping:   b.stops,
		Searches:   web.NewSearches(nil),
		Replay:     replaypolicy.NewService(replaypolicy.Program{Path: self}, search.WithEvents(b.store), nil),
		Pipeline:   func(context.Context) status.Pipeline { return status.Pipeline{Breaker: "closed"} },
	}, web.Door{Metrics: web.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler)})
}

// fill stores, dead-letters, queues and observes the same for a tenant.
func (b *bench) fill(t *testing.T, tenant string) (deadLetter string) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	event := []byte(`{"of":"` + tenant + `","path":"` + tenant + `"}`)
	_, err := b.store.SaveBatch(t.Context(), []domain.Decision{
		{
			Tenant: tenant, ID: tenant + "-decision", Timestamp: now, ReceivedAt: now, Outcome: domain.OutcomeDenied,
			Event: event, SHA256: sha256.Sum256(event),
		}, {
			Tenant: tenant, ID: "shared", Timestamp: now, ReceivedAt: now, Outcome: domain.OutcomeDenied,
			Event: event, SHA256: sha256.Sum256(event),
		},
	})
	require.NoError(t, err)
	require.NoError(t, b.store.RecordOPAs(t.Context(), []domain.Observation{{
		Tenant: tenant, OPA: tenant + "-opa", First: now, Last: now, Uploads: 1,
	}}))
	require.NoError(t, b.store.RecordCredentials(t.Context(), []domain.Credential{{
		Listener: "upload", How: domain.ByToken, Name: "edge", Tenant: tenant, Listed: now, Last: now, Uses: 1,
	}}))
	backlog, err := b.log.Backlog(t.Context(), "", topics.DLQ)
	require.NoError(t, err)
	dead := domain.Record{Topic: topics.DLQ, Offset: backlog[0].End, Key: tenant +
		"-dead", Value: event, Headers: domain.Headers{
		Tenant: tenant, ErrorClass: domain.Invalid, Error: "check 7", ReceivedAt: now,
	}}
	waiting := domain.Record{Topic: topics.Decisions, Key: tenant +
		"-waiting", Value: event, Headers: domain.Headers{Tenant: tenant}}
	require.NoError(t, b.log.Publish(t.Context(), []domain.Record{dead, waiting}))
	p, err := domain.NewProjector(nil)
	require.NoError(t, err)
	l := p.DeadLetter(dead, topics)
	require.NoError(t, b.store.IndexDeadLetters(t.Context(), []domain.DeadLetter{l}))
	_, err = b.store.ExchangeRejections(t.Context(), now, domain.RejectionTally{
		Judged: map[string]int64{tenant: 10},
		Rejections: []domain.Rejection{domain.RejectionOf(&domain.Error{Class: domain.Invalid, Text: "check"}, tenant,
			tenant)},
	})
	require.NoError(t, err)
	return l.ID
}

func ask(h http.Handler, method, path, body string) (int, string) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, _ := io.ReadAll(w.Body)
	return w.Code, string(b)
}

// TestScopeOfTheCaller asks for everything that there is of another tenant: by list, by id, raw, its trail, dead
// letters, groups, jobs, audit, OPAs and the guard.
func TestScopeOfTheCaller(t *testing.T) {
	b := newBench(t)
	mine, theirs := b.fill(t, "acme"), b.fill(t, "initech")
	caller := func(name string) domain.Caller {
		return domain.Caller{Name: name, Tenants: domain.Tenants(name), Role: domain.Operator}
	}
	h, other := b.handler(caller("acme")), b.handler(caller("initech"))
	job := func(h http.Handler) string {
		code, answer := ask(h, http.MethodPost, "/api/v1/dead-letters/discards", `{"dry_run":false,"comment":"x"}`)
		require.Equal(t, http.StatusAccepted, code, answer)
		var j struct {
			ID      string
			Matched int64
			Tenants []string
		}
		require.NoError(t, json.Unmarshal([]byte(answer), &j))
		require.EqualValues(t, 1, j.Matched, "of one tenant")
		require.Len(t, j.Tenants, 1)
		return j.ID
	}
	myJob, theirJob := job(h), job(other)

	for _, path := range []string{
		"/api/v1/decisions", "/api/v1/dead-letters", "/api/v1/dead-letters/groups", "/api/v1/dead-letters/guard",
		"/api/v1/jobs", "/api/v1/dead-letters/replays", "/api/v1/audit", "/api/v1/opas", "/api/v1/decisions/shared",
		"/api/v1/credentials",
		"/api/v1/decisions/shared/raw",
	} {
		code, answer := ask(h, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, code, "%s: %s", path, answer)
		require.Contains(t, answer, "acme", path)
		require.NotContains(t, answer, "initech", path)
		_, answer = ask(other, http.MethodGet, path, "")
		require.Contains(t, answer, "initech", path)
	}
	for path, want := range map[string]int{
		"/api/v1/decisions?tenant=initech":                   http.StatusOK,
		"/api/v1/dead-letters?tenant=initech&state=*":        http.StatusOK,
		"/api/v1/dead-letters/groups?tenant=initech":         http.StatusOK,
		"/api/v1/decisions/initech-decision":                 http.StatusNotFound,
		"/api/v1/decisions/initech-decision/raw":             http.StatusNotFound,
		"/api/v1/dead-letters/" + theirs:                     http.StatusNotFound,
		"/api/v1/dead-letters/" + theirs + "/raw":            http.StatusNotFound,
		"/api/v1/jobs/" + theirJob:                           http.StatusNotFound,
		"/api/v1/dead-letters/replays/" + theirJob:           http.StatusNotFound,
		"/api/v1/dead-letters?decision_id=initech-dead":      http.StatusOK,
		"/api/v1/decisions/initech-decision/trail":           http.StatusOK,
		"/api/v1/decisions/initech-waiting/trail":            http.StatusOK,
		"/api/v1/decisions/initech-dead/trail":               http.StatusOK,
		"/api/v1/decisions/nowhere/trail?opa=initech-opa":    http.StatusOK,
		"/api/v1/dead-letters?fingerprint=*&path=!nothing&":  http.StatusOK,
		"/api/v1/decisions?path=!nothing&principal=!initech": http.StatusOK,
	} {
		code, answer := ask(h, http.MethodGet, path, "")
		require.Equal(t, want, code, "%s: %s", path, answer)
		require.NotContains(t, answer, `"of":"initech"`, path)
		require.NotContains(t, answer, `"tenant":"initech"`, path)
		if strings.HasSuffix(path, "/trail") {
			require.Contains(t, answer, `"state":"not_found"`, path)
		}
	}
	for _, move := range domain.JobMoves {
		code, answer := ask(h, http.MethodPost, "/api/v1/jobs/"+theirJob+"/"+string(move), "")
		require.Equal(t, http.StatusNotFound, code, "%s: %s", move, answer)
	}
	code, answer := ask(h, http.MethodGet, "/api/v1/dead-letters/"+mine+"/raw", "")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"of":"acme","path":"acme"}`, answer)
	code, answer = ask(h, http.MethodPost, "/api/v1/jobs/"+myJob+"/cancel", "")
	require.Equal(t, http.StatusOK, code, answer)
}

// TestBytesOfAnotherRecord has an index whose position has another tenant's record: the topic was made anew.
func TestBytesOfAnotherRecord(t *testing.T) {
	b := newBench(t)
	b.fill(t, "initech")
	stale := domain.DeadLetter{
		Position: domain.Position{Topic: topics.DLQ}, State: domain.DeadOpen, Class: domain.Invalid, Cause: domain.Rejected,
		Fingerprint: "f", Tenant: "acme", DecisionID: "x", Decision: true, DiedAt: time.Now(), ReceivedAt: time.Now(),
		Copies: 1,
	}
	stale.ID = stale.String()
	require.NoError(t, b.store.IndexDeadLetters(t.Context(), []domain.DeadLetter{stale}))
	h := b.handler(domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Operator})
	code, answer := ask(h, http.MethodGet, "/api/v1/dead-letters/"+stale.ID, "")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, answer, `"available":false`)
	require.NotContains(t, answer, "initech")
	code, answer = ask(h, http.MethodGet, "/api/v1/dead-letters/"+stale.ID+"/raw", "")
	require.Equal(t, http.StatusNotFound, code, answer)
	require.NotContains(t, answer, "initech")
}

// TestChangesComeFromTheSameSite keeps a web page elsewhere from changing anything with a browser's help.
func TestChangesComeFromTheSameSite(t *testing.T) {
	b := newBench(t)
	h := b.handler(domain.Caller{Name: "olga", Tenants: domain.AllTenants(), Role: domain.Operator})
	for method, path := range map[string]string{
		http.MethodPost:   "/api/v1/jobs/r-1/cancel",
		http.MethodDelete: "/api/v1/dead-letters/guard/acceptances/0a1b2c3d4e5f",
	} {
		r := httptest.NewRequest(method, path, http.NoBody)
		r.Header.Set("Origin", "https://elsewhere.example")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, http.StatusForbidden, w.Code, "%s: %s", path, w.Body)
		r.Header.Set("Origin", "http://"+r.Host)
		w = httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, http.StatusNotFound, w.Code, "%s: %s", path, w.Body)
	}
	code, answer := ask(b.handler(domain.Caller{Name: "vera", Tenants: domain.AllTenants(), Role: domain.Viewer}),
		http.MethodPost, "/api/v1/dead-letters/reindexes", `{}`)
	require.Equal(t, http.StatusForbidden, code, answer)
}

// TestParametersThatStandTwice are refused: nobody can tell which of them counts.
func TestParametersThatStandTwice(t *testing.T) {
	h := newBench(t).handler(domain.Caller{Name: "ann", Tenants: domain.AllTenants(), Role: domain.Viewer})
	for path, name := range map[string]string{
		"decisions?since=1h&since=2h":                     "since",
		"decisions?until=1h&until=2h":                     "until",
		"decisions?limit=1&limit=2":                       "limit",
		"decisions/stats?since=1h&since=2h":               "since",
		"decisions/fields/path?until=1h&until=2h":         "until",
		"decisions/export?format=csv&format=csv":          "format",
		"decisions/tail?with_event=true&with_event=true":  "with_event",
		"decisions/contrast?limit=1&limit=2":              "limit",
		"decisions/compare?a=1&a=2&b=3":                   "a",
		"decisions/compare?a=1&b=2&b_tenant=x&b_tenant=y": "b_tenant",
		"decisions/1?tenant=x&tenant=y":                   "tenant",
		"decisions/1/raw?timestamp=1h&timestamp=2h":       "timestamp",
		"decisions/1/last-allowed?tenant=x&tenant=y":      "tenant",
		"decisions/1/trail?opa=x&opa=y":                   "opa",
		"audit?until=1h&until=2h":                         "until",
		"dead-letters?limit=1&limit=2":                    "limit",
		"dead-letters/groups?since=1h&since=2h":           "since",
	} {
		t.Run(path, func(t *testing.T) {
			code, answer := ask(h, http.MethodGet, "/api/v1/"+path, "")
			require.Equal(t, http.StatusBadRequest, code, answer)
			require.Contains(t, answer, name)
			require.Regexp(t, "2 times|more than once", answer)
		})
	}
}
