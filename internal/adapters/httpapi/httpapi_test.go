package httpapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/semaphore"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ingest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type publisher func(context.Context, []domain.Record) error

func (p publisher) Publish(ctx context.Context, r []domain.Record) error { return p(ctx, r) }

type noRegistry struct{}

func (noRegistry) RecordOPAs(context.Context, []domain.Sighting) error { return nil }
func (noRegistry) OPAs(context.Context) ([]domain.OPA, error)          { return nil, nil }

func newTestUpload(p publisher, inFlight int64) http.Handler {
	logger := slog.New(slog.DiscardHandler)
	roster := ingest.NewRoster(noRegistry{}, logger)
	s := ingest.New(ingest.Config{Topics: domain.TopicsWithPrefix("docket."), Limits: domain.DefaultLimits, PublishTimeout: ingest.DefaultPublishTimeout}, p, roster, nil)
	return NewUpload(UploadConfig{WireLimit: 8 << 20, InflatedLimit: 64 << 20, InFlight: inFlight}, s, roster, nil, prometheus.NewRegistry(), logger)
}

func TestStatusOfEveryClass(t *testing.T) {
	for class, want := range map[domain.Class]int{
		domain.Unavailable: 503, domain.Misconfigured: 503, domain.Canceled: 503, domain.Invalid: 500, domain.Unknown: 500,
	} {
		h := newTestUpload(func(context.Context, []domain.Record) error {
			return domain.Errorf(class, "because %s", strings.Repeat("x", 3000))
		}, 1<<30)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/logs", strings.NewReader(`[{}]`)))
		require.Equal(t, want, statusOf(class))
		require.Equal(t, http.StatusServiceUnavailable, w.Code, "an upload that is not durable is to be sent again, whatever the class: %s", class)
		require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
		require.Less(t, w.Body.Len(), 1024, "OPA logs no more")
		var p Problem
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

func TestShareGivesBackWhatItHeld(t *testing.T) {
	all := semaphore.NewWeighted(10 * shareStep)
	s := &share{budget: &budget{all}}
	require.NoError(t, s.charge(1))
	require.NoError(t, s.prepay(3*shareStep))
	held := s.held
	require.NoError(t, s.arrived(2*shareStep))
	require.NoError(t, s.arrived(shareStep))
	require.Equal(t, held, s.held, "what was prepaid is not charged again")
	require.NoError(t, s.arrived(shareStep))
	require.Greater(t, s.held, held)
	require.Error(t, s.charge(20*shareStep))
	s.release()
	require.True(t, all.TryAcquire(10*shareStep))
}

func TestInflate(t *testing.T) {
	zip := func(s string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, s)
		_ = z.Close()
		return b.Bytes()
	}
	reason := func(err error) domain.Reason {
		var be *domain.BodyError
		if errors.As(err, &be) {
			return be.Reason
		}
		return ""
	}
	good := zip("hello")
	for name, c := range map[string]struct {
		wire []byte
		text string
		want domain.Reason
	}{
		"empty":                {nil, "", ""},
		"one member":           {good, "hello", ""},
		"an empty member":      {zip(""), "", ""},
		"three members":        {bytes.Join([][]byte{good, zip(""), good}, nil), "hellohello", ""},
		"no gzip":              {[]byte("hello"), "", domain.BadGzip},
		"one byte of magic":    {good[:1], "", domain.Truncated},
		"one wrong byte":       {[]byte("x"), "", domain.BadGzip},
		"half a header":        {good[:7], "", domain.Truncated},
		"no trailer":           {good[:len(good)-8], "hello", domain.Truncated},
		"half a trailer":       {good[:len(good)-3], "hello", domain.Truncated},
		"rubbish behind":       {append(bytes.Clone(good), "xyz"...), "hello", domain.BadGzip},
		"zeros behind":         {append(bytes.Clone(good), 0, 0, 0), "hello", domain.BadGzip},
		"half a member behind": {append(bytes.Clone(good), good[:5]...), "hello", domain.Truncated},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time through the pool
				f := inflate(c.wire)
				text, err := io.ReadAll(f)
				require.Equal(t, c.want, reason(err), "%v", err)
				require.Equal(t, c.text, string(text))
				_, again := f.Read(make([]byte, 1))
				require.Error(t, again, "an error stays")
				f.release()
			}
		})
	}
}

func FuzzInflate(f *testing.F) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, "[{}]")
	_ = z.Close()
	f.Add(b.Bytes())
	f.Add(append(b.Bytes(), b.Bytes()...))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := inflate(wire)
		defer r.release()
		_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		var be *domain.BodyError
		if err != nil && !errors.As(err, &be) {
			t.Fatalf("%v is not the body's fault", err)
		}
		_ = sizeHint(wire, true, 1<<20)
	})
}

func TestSizeHint(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, strings.Repeat("ab", 100))
	_ = z.Close()
	require.Equal(t, 200, sizeHint(b.Bytes(), true, 1<<20))
	liar := append(bytes.Repeat([]byte{1}, 96), 0xff, 0xff, 0xff, 0xff)
	require.Equal(t, 100*maxRatio, sizeHint(liar, true, 1<<20), "a client's word is believed up to a point")
	require.Equal(t, 1<<10, sizeHint(liar, true, 1<<10))
	require.Equal(t, 100, sizeHint(liar, false, 1<<20))
	require.Zero(t, sizeHint([]byte{1}, true, 1<<20))
}

func TestTokensFile(t *testing.T) {
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte("secret")))
	load := func(text string) (*Tokens, error) {
		file := filepath.Join(t.TempDir(), "tokens")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return LoadTokens(file, Roles, slog.New(slog.DiscardHandler))
	}
	for _, good := range []string{
		"ann viewer " + hash, "ann,viewer," + hash, "ann,\tviewer , " + strings.ToUpper(hash) + "\r\n", "# comment\n\nann operator " + hash + " # hers\n",
	} {
		tokens, err := load(good)
		require.NoError(t, err, good)
		p, ok := tokens.find("secret")
		require.True(t, ok)
		require.Equal(t, "ann", p.Name)
		_, ok = tokens.find("other")
		require.False(t, ok)
	}
	for bad, want := range map[string]string{
		"":                          "no token",
		"# only a comment":          "no token",
		"ann viewer":                "line 1: want three fields",
		"\nann viewer " + hash[:10]: "line 2: the third field",
		"a viewer " + hash + "\nb operator " + hash: "line 2: b has the same token as a",
		"ann king " + hash:                          "\"king\" is no role: they are viewer, operator",
		"ann viewer " + hash + " and more":          "line 1: want three fields",
	} {
		_, err := load(bad)
		require.ErrorContains(t, err, want)
		require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
		require.NotContains(t, err.Error(), hash, "no secrets in messages")
	}
}

func TestVersionOf(t *testing.T) {
	for agent, want := range map[string]string{
		"Open-Policy-Agent/1.22.2 (linux, amd64)": "1.22.2", "Open Policy Agent/0.39.0 (linux, amd64)": "0.39.0", "curl/8.0": "", "": "",
	} {
		require.Equal(t, want, versionOf(agent))
	}
}

func TestLoopback(t *testing.T) {
	for listen, want := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "127.8.8.8:0": true, "0.0.0.0:1": false, ":1": false, "[::]:1": false, "10.0.0.1:1": false, "nonsense": false,
	} {
		require.Equal(t, want, Loopback(listen), listen)
	}
}

func TestPprofOnlyOnLoopback(t *testing.T) {
	for listen, want := range map[string]int{"127.0.0.1:1": http.StatusOK, "0.0.0.0:1": http.StatusNotFound} {
		h := NewAdmin(listen, prometheus.NewRegistry(), func(bool) Readiness { return Readiness{} }, slog.New(slog.DiscardHandler))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/pprof/cmdline", nil))
		require.Equal(t, want, w.Code)
		w = httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
	}
}

// BenchmarkUpload is the whole way through the HTTP API without network and log: three events, gzip.
func BenchmarkUpload(b *testing.B) {
	h := newTestUpload(func(context.Context, []domain.Record) error { return nil }, 1<<30)
	var wire bytes.Buffer
	z := gzip.NewWriter(&wire)
	event := `{"labels":{"id":"x","version":"1"},"decision_id":"id","path":"http/authz/allow","input":{"user":"alice","pad":"` + strings.Repeat("abc ", 300) + `"},"result":false}`
	_, _ = io.WriteString(z, "["+event+","+event+","+event+"]")
	_ = z.Close()
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/logs", bytes.NewReader(wire.Bytes()))
		r.Header.Set("Content-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
