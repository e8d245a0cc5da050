package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"database/sql"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// besides opens another connection to the store, to do it harm.
func (r *running) besides(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(r.cfg.Data, "store.db")+"?_pragma=busy_timeout(5000)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func (r *running) metric(t *testing.T, series string) string {
	t.Helper()
	_, body := r.get(t, r.AdminAddr(), "/metrics")
	for line := range strings.SplitSeq(string(body), "\n") {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return value
		}
	}
	return ""
}

// TestStoreAway keeps the store from being written to: uploads go on, what waits is parked, and all of it is stored
// afterwards without anyone doing anything.
func TestStoreAway(t *testing.T) {
	a := startApp(t, nil)
	conn, err := a.besides(t).Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	sent := 0
	upload := func() {
		sent++
		start := time.Now()
		_, status := postLogs(t, a, fmt.Appendf(nil, `[{"decision_id":"away-%d"}]`, sent), "")
		require.Equal(t, http.StatusOK, status)
		require.Less(t, time.Since(start), 2*time.Second)
	}
	upload()
	require.Eventually(
		t, func() bool { upload(); return a.metric(t, "docket_breaker_state") == "2" }, testPatience, testTick,
	)
	require.Eventually(
		t, func() bool { return a.metric(t, `docket_parked_records_total{class="unavailable"}`) != "0" }, testPatience,
		testTick,
	)
	code, body := a.get(t, a.AdminAddr(), "/readyz")
	require.Equal(t, http.StatusOK, code, "uploads are taken whatever the store does: %s", body)
	require.Contains(t, string(body), "the store is away")

	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	a.drained(t)
	for n := 1; n <= sent; n++ {
		require.Equal(t, http.StatusOK, a.status(t, fmt.Sprintf("away-%d", n)))
	}
	require.Empty(t, a.metric(t, `docket_dead_letters_total{class="unavailable",topic="docket.parking.dlq"}`))
	require.Equal(t, "0", a.metric(t, "docket_dead_letters_open"))
	require.NotEqual(t, "0", a.metric(t, "docket_parking_replayed_records_total"))
}

// TestMisconfiguredStore breaks the schema: nothing is parked or dead, /readyz?verbose says what is wrong, and fixing
// it is enough.
func TestMisconfiguredStore(t *testing.T) {
	a := startApp(t, nil)
	exec := func(text string) {
		_, err := a.besides(t).ExecContext(t.Context(), text)
		require.NoError(t, err)
	}
	exec(`ALTER TABLE decisions_out_of_window RENAME COLUMN path TO paths`)
	_, status := postLogs(t, a, []byte(`[{"decision_id":"waits"}]`), "")
	require.Equal(t, http.StatusOK, status)
	require.Eventually(t, func() bool {
		code, body := a.get(t, a.AdminAddr(), "/readyz?verbose")
		return code == http.StatusOK && strings.Contains(string(body), "the store takes no rows: ")
	}, testPatience, testTick)
	exec(`ALTER TABLE decisions_out_of_window RENAME COLUMN paths TO path`)
	a.drained(t)
	require.Equal(t, http.StatusOK, a.status(t, "waits"))
	require.Equal(t, "0", a.metric(t, "docket_dead_letters_open"))
	require.Equal(t, "0", a.metric(t, `docket_parked_records_total{class="unavailable"}`))
	_, body := a.get(t, a.AdminAddr(), "/readyz?verbose")
	require.NotContains(t, string(body), "the store takes no rows")
}

// TestPoisonRow has a row that the store refuses for reasons of its own: it is tried as often as the settings say, and
// ends in the parking DLQ, while its neighbours are stored at once.
func TestPoisonRow(t *testing.T) {
	a := startApp(t, func(c *Config) {
		c.Parking.MaxAttempts, c.Parking.BackoffMin, c.Parking.BackoffMax = 3, 10*time.Millisecond, 50*time.Millisecond
	})
	_, err := a.besides(t).ExecContext(t.Context(), `CREATE TRIGGER poison BEFORE INSERT ON decisions_out_of_window
		WHEN NEW.decision_id = 'poison' BEGIN SELECT RAISE(ABORT, 'no'); END`)
	require.NoError(t, err)
	_, status := postLogs(t, a, []byte(`[{"decision_id":"before"},{"decision_id":"poison"},{"decision_id":"after"}]`), "")
	require.Equal(t, http.StatusOK, status)
	require.Eventually(t, func() bool {
		return a.metric(t, `docket_dead_letters_total{class="unknown",topic="docket.parking.dlq"}`) == "1"
	}, testPatience, testTick)
	require.Equal(t, http.StatusOK, a.status(t, "before"))
	require.Equal(t, http.StatusOK, a.status(t, "after"))
	require.Equal(t, http.StatusNotFound, a.status(t, "poison"))
	require.Equal(
		t, "2", a.metric(t, `docket_parked_records_total{class="unknown"}`),
		"attempts 1 and 2 were parked, the third was the last",
	)
}

// TestTraces follows an upload to its row by the traces that docket sends when it is told where.
func TestTraces(t *testing.T) {
	var mu sync.Mutex
	var spans []*tracev1.Span
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &req) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				spans = append(spans, ss.Spans...)
			}
		}
	}))
	defer receiver.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.URL)
	a := startApp(t, nil)
	_, status := postLogs(t, a, []byte(`[{"decision_id":"traced","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"}]`), "")
	require.Equal(t, http.StatusOK, status)
	a.drained(t)
	a.stop() // flushes

	mu.Lock()
	defer mu.Unlock()
	byName := map[string]*tracev1.Span{}
	for _, s := range spans {
		byName[s.Name] = s
	}
	request, publish, save := byName["POST /logs"], byName["publish"], byName["save decisions"]
	require.NotNil(t, request, "%v", byName)
	require.NotNil(t, publish)
	require.NotNil(t, save)
	require.Equal(t, request.TraceId, publish.TraceId)
	require.Len(t, save.Links, 1)
	require.Equal(t, request.TraceId, save.Links[0].TraceId, "the batch links to the upload")
	require.NotEqual(
		t, "4bf92f3577b34da6a3ce929d0e0e4736", fmt.Sprintf("%x", request.TraceId), "the application's trace is not ours",
	)
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "docket"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(name, kind string, b []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600))
		return file
	}
	certFile, keyFile := write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
	a := startApp(t, func(c *Config) { c.TLSCertFile, c.TLSKeyFile = certFile, keyFile })

	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	resp, err := client.Post("https://"+a.UploadAddr()+"/logs", "application/json", strings.NewReader("[{}]"))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, 2, resp.ProtoMajor, "OPA speaks HTTP/2 over TLS")
	resp, err = client.Get("https://" + a.ConsoleAddr() + "/api/v1/opas")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	code, _ := a.get(t, a.AdminAddr(), "/livez")
	require.Equal(t, http.StatusOK, code, "the admin listener has no TLS")
}

// TestStopWhileStoreIsAway stops within its time whatever is down, and loses nothing.
func TestStopWhileStoreIsAway(t *testing.T) {
	c := defaults(t)
	a := startConfig(t, c)
	conn, err := a.besides(t).Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	_, status := postLogs(t, a, []byte(`[{"decision_id":"kept"}]`), "")
	require.Equal(t, http.StatusOK, status)
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), stopTimeout)
	defer cancel()
	a.client.CloseIdleConnections()
	_ = a.Stop(ctx) // the store's last checkpoint may complain about the lock
	require.Less(t, time.Since(start), stopTimeout)
	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	again := startConfig(t, c)
	again.drained(t)
	require.Equal(t, http.StatusOK, again.status(t, "kept"))
}
