package uploadapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
	"github.com/docket-project/docket/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type publisher func(context.Context, []domain.Record) error

func (p publisher) Publish(ctx context.Context, r []domain.Record) error { return p(ctx, r) }

type noRecorder struct{}

func (noRecorder) RecordOPAs(context.Context, []domain.Observation) error { return nil }

func newTestUpload(p publisher, inFlight int64) http.Handler {
	return newUploadFor(p, inFlight, auth.AnonymousUploader())
}

func newUploadFor(p publisher, inFlight int64, who auth.Authenticator, policies ...policy.Policy) http.Handler {
	quotas := policy.NewQuotas(policies, nil)
	logger := slog.New(slog.DiscardHandler)
	inventory := ingest.NewInventory(noRecorder{}, logger)
	assembler := ingest.Assembler{Topics: domain.TopicsWithPrefix("docket."), Limits: domain.DefaultLimits}
	cfg := Default()
	cfg.MaxInFlightBytes = inFlight
	return New(Parts{
		Config: cfg, Who: who, Inventory: inventory, Door: web.Door{Metrics: web.NewMetrics(nil), Logger: logger},
		Ingest: ingest.New(assembler, ingest.Default().PublishTimeout, p, inventory, quotas, nil),
	}, prometheus.NewRegistry())
}

// TestTenantIsTheCallers has an upload that says another in its path and its body.
func TestTenantIsTheCallers(t *testing.T) {
	var got []domain.Record
	h := newUploadFor(func(_ context.Context, r []domain.Record) error { got = append(got, r...); return nil }, 1<<30,
		auth.Anonymous{Caller: domain.Caller{Name: "edge", Tenants: domain.Tenants("acme")}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/logs/initech", strings.NewReader(`[{"tenant":"initech"}]`)))
	require.Equal(t, http.StatusOK, w.Code)
	require.Len(t, got, 1)
	require.Equal(t, "acme", got[0].Headers.Tenant)
	require.Equal(t, "initech", got[0].Headers.OPAPartition)
	require.Equal(t, "edge", got[0].Headers.Uploader)
	require.Equal(t, "192.0.2.1", got[0].Headers.RemoteAddress, "without the port")
}

// TestBoundedCredential has a credential that is for one partition and some OPAs.
func TestBoundedCredential(t *testing.T) {
	published := 0
	h := newUploadFor(func(context.Context, []domain.Record) error { published++; return nil }, 1<<30,
		auth.Anonymous{Caller: domain.Caller{
			Name: "edge", Tenants: domain.Tenants("acme"), Partitions: []string{"eu"}, OPAs: []string{"edge-*"},
		}})
	own, foreign := `{"labels":{"id":"edge-1"}}`, `{"labels":{"id":"victim"}}`
	for name, c := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"its own":                   {"/logs/eu", "[" + own + "]", 200, ""},
		"with a slash at the end":   {"/logs/eu/", "[" + own + "]", 200, ""},
		"its own status":            {"/status/eu", own, 200, ""},
		"a status without a name":   {"/status/eu", `{}`, 200, ""},
		"another partition":         {"/logs/us", "[" + own + "]", 403, `the credential edge is not for the partition \"us\"`},
		"below its own":             {"/logs/eu/x", "[" + own + "]", 403, `partition \"eu/x\"`},
		"none":                      {"/logs", "[" + own + "]", 403, `partition \"\"`},
		"its status elsewhere":      {"/status", own, 200, ""},
		"another's decision":        {"/logs/eu", "[" + own + "," + foreign + "]", 403, `is not for the OPA \"victim\"`},
		"another's status":          {"/status/eu", foreign, 403, `is not for the OPA \"victim\"`},
		"a decision without a name": {"/logs/eu", "[{}]", 403, `is not for the OPA \"\"`},
	} {
		t.Run(name, func(t *testing.T) {
			published = 0
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, c.path, strings.NewReader(c.body)))
			require.Equal(t, c.status, w.Code, w.Body.String())
			require.Contains(t, w.Body.String(), c.says)
			require.Equal(t, c.status == 200 && strings.HasPrefix(c.path, "/logs"), published > 0)
		})
	}
}

// TestEveryRequestIsCounted has the answers that come from in front of the handler, and from behind a panic.
func TestEveryRequestIsCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	logger := slog.New(slog.DiscardHandler)
	inventory := ingest.NewInventory(noRecorder{}, logger)
	assembler := ingest.Assembler{Topics: domain.TopicsWithPrefix("docket."), Limits: domain.DefaultLimits}
	publish := publisher(func(_ context.Context, r []domain.Record) error {
		if r[0].Key == "panic" {
			panic("a defect")
		}
		return nil
	})
	h := New(Parts{
		Config: Default(), Who: auth.AnonymousUploader(), Inventory: inventory,
		Door:   web.Door{Local: true, Metrics: web.NewMetrics(nil), Logger: logger},
		Ingest: ingest.New(assembler, ingest.Default().PublishTimeout, publish, inventory, policy.NewQuotas(nil, nil), nil),
	}, reg)
	for _, c := range []struct{ host, origin, id, code string }{
		{"localhost", "", "good", "200"}, {"localhost", "", "panic", "500"}, {"rebound.example", "", "good", "421"},
		{"localhost", "http://evil.example", "good", "403"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/logs", strings.NewReader(`[{"decision_id":"`+c.id+`"}]`))
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, c.code, fmt.Sprint(w.Code))
	}
	families, err := reg.Gather()
	require.NoError(t, err)
	counted := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "docket_ingest_requests_total" {
				counted[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	require.Equal(t, map[string]float64{"200": 1, "403": 1, "421": 1, "500": 1}, counted)
}

func TestConfig(t *testing.T) {
	require.NoError(t, Default().Validate())
	c := Default()
	c.MaxWireBytes = 0
	require.ErrorContains(t, c.Validate(), "max_wire_bytes")
}

func TestStatusOfEveryClass(t *testing.T) {
	for class, want := range map[domain.Class]int{
		domain.Unavailable: 503, domain.Misconfigured: 503, domain.Canceled: 503, domain.Invalid: 500, domain.Unknown: 500,
	} {
		h := newTestUpload(func(context.Context, []domain.Record) error {
			return domain.Errorf(class, "because %s", strings.Repeat("x", 3000))
		}, 1<<30)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/logs", strings.NewReader(`[{},{},{}]`)))
		require.Equal(t, want, web.StatusOf(class))
		require.Equal(
			t, http.StatusServiceUnavailable, w.Code,
			"an upload that is not durable is to be sent again, whatever the class: %s", class,
		)
		require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
		require.Less(t, w.Body.Len(), 1024, "OPA logs no more")
		var p api.Problem
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
		if want == http.StatusServiceUnavailable {
			require.Equal(t, class, p.Class)
		}
		require.Contains(t, p.Detail, "because")
	}
	require.Len(t, domain.Classes, 5)
}

func TestBudget(t *testing.T) {
	accepted := 0
	h := newTestUpload(func(context.Context, []domain.Record) error { accepted++; return nil }, 1<<20)
	post := func(size int) int {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		fmt.Fprintf(z, `[{"x":%q}]`, strings.Repeat("y", size))
		require.NoError(t, z.Close())
		r := httptest.NewRequest(http.MethodPost, "/logs", &b)
		r.Header.Set("Content-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	require.Equal(t, http.StatusServiceUnavailable, post(2<<20))
	for range 50 {
		require.Equal(t, http.StatusOK, post(500<<10), "what was charged is given back")
	}
	require.Equal(t, 50, accepted)
}

func TestVersionOf(t *testing.T) {
	for agent, want := range map[string]string{
		"Open-Policy-Agent/1.22.2 (linux, amd64)": "1.22.2", "Open Policy Agent/0.39.0 (linux, amd64)": "0.39.0",
		"curl/8.0": "", "": "",
	} {
		require.Equal(t, want, versionOf(agent))
	}
}

// BenchmarkUpload is the whole way through the HTTP API without network and log: three events, gzip. Their OPA is one
// of 200, or one that nobody has heard of.
func BenchmarkUpload(b *testing.B) {
	for name, opas := range map[string]int{"of 200 OPAs": 200, "of an OPA of its own": 20_000} {
		b.Run(name, func(b *testing.B) {
			h := newTestUpload(func(context.Context, []domain.Record) error { return nil }, 1<<30)
			bodies := make([][]byte, opas)
			for n := range bodies {
				var wire bytes.Buffer
				z := gzip.NewWriter(&wire)
				event := fmt.Sprintf(
					`{"labels":{"id":"opa-%08d","version":"1"},"decision_id":"id","path":"http/authz/allow",`+
						`"input":{"user":"alice","pad":%q},"result":false}`, n, strings.Repeat("abc ", 300),
				)
				_, _ = io.WriteString(z, "["+event+","+event+","+event+"]")
				_ = z.Close()
				bodies[n] = wire.Bytes()
			}
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				r := httptest.NewRequest(http.MethodPost, "/logs", bytes.NewReader(bodies[n%opas]))
				r.Header.Set("Content-Encoding", "gzip")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// TestOverQuota: 429 before the body is read, with the reason in what OPA logs of an answer.
func TestOverQuota(t *testing.T) {
	published := 0
	publish := publisher(func(_ context.Context, r []domain.Record) error {
		published += len(r)
		return nil
	})
	h := newUploadFor(
		publish, Default().MaxInFlightBytes, auth.AnonymousUploader(),
		policy.Policy{Name: "small", Quota: &policy.Quota{EventsPerSecond: 0.001}},
	)
	send := func(path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
		return w
	}
	require.Equal(t, 200, send("/logs", `[{"decision_id":"a"},{"decision_id":"b"},7]`).Code)
	w := send("/logs", `[{"decision_id":"c"}]`)
	require.Equal(t, 429, w.Code)
	require.Less(t, w.Body.Len(), 1024)
	require.Contains(t, w.Body.String(), "quota of the tenant default (policy small): burst: 3 events came within 1 s")
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.Equal(t, 200, send("/status", `{"labels":{"id":"x"}}`).Code, "an OPA still says that it lives")
	require.Equal(t, 3, published)
}

// TestOverQuotaWithoutABody: a server reads a small body before it answers, and this one never comes.
func TestOverQuotaWithoutABody(t *testing.T) {
	publish := publisher(func(context.Context, []domain.Record) error { return nil })
	s := httptest.NewServer(newUploadFor(
		publish, Default().MaxInFlightBytes, auth.AnonymousUploader(),
		policy.Policy{Name: "small", Quota: &policy.Quota{EventsPerSecond: 0.001}},
	))
	defer s.Close()
	resp, err := http.Post(s.URL+"/logs", "application/json", strings.NewReader(`[{},{},{}]`))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /logs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	answer := make([]byte, 12)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 429", string(answer))
}
