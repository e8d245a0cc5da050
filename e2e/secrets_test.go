package e2e

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

// planted are texts that nothing else contains, by what they are.
type planted map[string]string

func (p planted) plant(kind string) string {
	p[kind] = kind + shortName() + shortName()
	return p[kind]
}

// in are the kinds that a text contains, in order.
func (p planted) in(text string) (found []string) {
	for kind, secret := range p {
		if strings.Contains(text, secret) {
			found = append(found, kind)
		}
	}
	slices.Sort(found)
	return found
}

// collector takes traces as OTLP over HTTP, whose texts stand in it as they are.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	spans bytes.Buffer
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, _ = c.spans.ReadFrom(r.Body)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spans.String()
}

// TestPlantedSecrets plants credentials, keys, what masks take out, and what events have besides, in everything that
// docket is given, and looks for them in everything that it writes, keeps, sends and shows. What an event has besides
// belongs to the log, the store and who may read them, and nowhere else.
func TestPlantedSecrets(t *testing.T) {
	never, events := planted{}, planted{}
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	hash := func(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }
	hex := func(kind string) string {
		never[kind] = hash(never.plant(kind)) // 32 bytes
		return never[kind]
	}
	uploads, admin := never.plant("uploads"), never.plant("admin")
	masked, note := never.plant("masked"), events.plant("note")
	traces := newCollector(t)
	t.Setenv("DOCKET_TOKEN_FILE", file("token", admin+"\n"))
	c := oneBroker(
		t, with(
			"DOCKET_LOG_LEVEL=debug", "OTEL_EXPORTER_OTLP_ENDPOINT="+traces.URL, "OTEL_BSP_SCHEDULE_DELAY=200",
			"DOCKET_UPLOAD_TOKENS_FILE="+file("upload-tokens", "edge acme "+hash(uploads)+"\n"),
			"DOCKET_CONSOLE_TOKENS_FILE="+file("console-tokens", "ann admin "+hash(admin)+"\n"),
			"DOCKET_CONSOLE_SESSION_KEY_FILE="+file("session-key", hex("session")+"\n"),
			"DOCKET_MASK_KEYS_FILE="+file("mask-keys", "v1 "+hex("mask")+"\n"),
			"DOCKET_CONFIG="+file("docket.yaml", `
policies:
  - name: pii
    masks:
      - remove: /input/password
      - hash: /input/user
      - replace: /result/token
`),
		), func(c *cluster, old []string) []string {
			u, err := url.Parse(c.servers.postgres.URL(c.database, "docket"))
			require.NoError(t, err)
			u.User = url.UserPassword("docket", never.plant("database"))
			return append(old, "DOCKET_DATABASE_URL="+u.String())
		},
	)
	ask := func(method, address, token, contentType, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(method, address, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", contentType)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := client.Do(r)
		require.NoError(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(answer)
	}
	shows := func(path string) string {
		t.Helper()
		code, answer := ask(http.MethodGet, "http://"+c.console+path, admin, "", "")
		require.Equal(t, http.StatusOK, code, "%s: %s", path, answer)
		return answer
	}
	prefix := shortName()
	event := func(id, more string) string {
		return fmt.Sprintf(
			idMark+`%s-%s","timestamp":%q,"path":"shop/pay","labels":{"id":"opa-1"},"input":{"user":%q,"password":%q,"note":%q%s},`+
				`"result":{"allow":false,"token":%[5]q}}`,
			prefix, id, time.Now().UTC().Format(time.RFC3339Nano), masked, masked, note, more,
		)
	}
	c.exec(t, `ALTER TABLE decisions ADD CONSTRAINT secrets CHECK (decision_id NOT LIKE '`+prefix+`-dead%') NOT VALID`)
	for _, body := range []string{
		"[" + event("plain", "") + "," + event("other", "") + "]", string(zipped("[" + event("zipped", "") + "]")),
		"[" + event("dead", "") + "]", "[" + event("cut", "") + `,{"input":{"password":"` + masked,
		`{"password":"` + masked + `"}`, "[" + event("bytes", `,"x":"`+"\xff"+`"`) + "]",
		string(zipped("[" + event("broken", "") + "]")[:200]), "[" + event("deep", `,"x":`+
			strings.Repeat("[", 100)+strings.Repeat("]", 100)) + "]",
	} {
		code, answer := ask(http.MethodPost, c.uploads()+"/logs", uploads, "application/json", body)
		require.Equal(t, http.StatusOK, code, answer)
		require.Empty(t, never.in(answer))
		require.Empty(t, events.in(answer))
	}
	// Credentials that are none, or are shown where they should not be.
	wrong := never.plant("wrong")
	for _, c := range []struct{ method, address, token, contentType, body string }{
		{http.MethodPost, c.uploads() + "/logs", wrong, "application/json", "[]"},
		{http.MethodPost, c.uploads() + "/logs?access_token=" + wrong, "", "application/json", "[]"},
		{http.MethodPost, c.uploads() + "/logs", admin, "application/json", "[]"},
		{http.MethodGet, "http://" + c.console + "/api/v1/decisions", wrong, "", ""},
		{http.MethodGet, "http://" + c.console + "/api/v1/decisions?token=" + wrong, "", "", ""},
		{http.MethodPost, "http://" + c.console + "/login", "", "application/x-www-form-urlencoded", "token=" + wrong},
		{http.MethodPost, "http://" + c.console + "/login", "", "application/x-www-form-urlencoded", "token=" + uploads},
	} {
		code, answer := ask(c.method, c.address, c.token, c.contentType, c.body)
		require.Contains(t, []int{400, 401, 403}, code, "%s %s", c.method, c.address)
		require.NotContains(t, answer, uploads)
		require.NotContains(t, answer, wrong)
	}
	eventually(t, time.Minute, func() error {
		var rows, dead int
		c.query(t, &rows, `SELECT count(*) FROM decisions WHERE decision_id LIKE $1`, prefix+"-%")
		c.query(t, &dead, `SELECT count(*) FROM dead_letters`)
		if rows < 4 || dead < 3 {
			return fmt.Errorf("%d rows, %d dead letters", rows, dead)
		}
		return nil
	})
	search := never.plant("search")
	require.NotContains(t, shows("/api/v1/decisions?q="+url.QueryEscape(`"`+search+`"`)), prefix)

	// What commands print.
	for _, args := range [][]string{
		{"find"}, {"show", prefix + "-plain"}, {"trail", prefix + "-zipped"}, {"stats"}, {"opas"}, {"status"},
		{"credentials"}, {"dlq", "list"}, {"dlq", "groups"},
		{"dlq", "replay", "--yes", "--comment", "secrets", "--decision-id", prefix + "-dead"},
		{"jobs"}, {"audit"}, {"config"},
	} {
		out, _ := c.command(t, args...)
		require.NotEmpty(t, out, "%s", args)
		require.Empty(t, never.in(out), "docket %s", strings.Join(args, " "))
		if slices.Contains([]string{"status", "credentials", "jobs", "audit", "config", "opas", "stats"}, args[0]) {
			require.Empty(t, events.in(out), "docket %s", strings.Join(args, " "))
		}
	}
	// What the console answers.
	var letters struct {
		Items []struct{ ID string }
	}
	require.NoError(t, json.Unmarshal([]byte(shows("/api/v1/dead-letters")), &letters))
	require.NotEmpty(t, letters.Items)
	pages := []string{
		"/", "/decisions", "/decisions/" + prefix + "-plain", "/dead-letters", "/dead-letters/list", "/jobs", "/opas",
		"/pipeline", "/credentials", "/audit", "/api/v1/decisions?limit=100", "/api/v1/decisions/" + prefix + "-plain",
		"/api/v1/decisions/" + prefix + "-zipped/raw", "/api/v1/decisions/" + prefix + "-plain/trail", "/api/v1/opas",
		"/api/v1/decisions/stats?by=path", "/api/v1/decisions/fields/principal", "/api/v1/audit", "/api/v1/credentials",
		"/api/v1/pipeline", "/api/v1/jobs", "/api/v1/dead-letters/groups",
	}
	for _, l := range letters.Items {
		id := url.PathEscape(l.ID)
		pages = append(pages, "/dead-letters/"+id, "/api/v1/dead-letters/"+id, "/api/v1/dead-letters/"+id+"/raw")
	}
	for _, path := range pages {
		require.Empty(t, never.in(shows(path)), path)
	}
	export := shows("/api/v1/decisions/export?format=ndjson&with_event=true")
	require.Empty(t, never.in(export))
	require.Equal(t, []string{"note"}, events.in(export), "what nothing masks is there: this looks where it should")

	// What the servers have.
	for _, topic := range []string{"decisions", "parking", "held", "dlq", "parking.dlq"} {
		var raw strings.Builder
		c.eachRecord(t, topic, func(r *kgo.Record) { raw.WriteString(plain(t, r)) })
		require.Empty(t, never.in(raw.String()), topic)
		if topic == "decisions" {
			require.Equal(t, []string{"note"}, events.in(raw.String()))
		}
	}
	dump := c.dump(t)
	require.Contains(t, dump, prefix+"-plain")
	require.Empty(t, never.in(dump))

	// What the processes say of themselves.
	for name, r := range c.roles {
		resp, err := http.Get("http://" + r.addr + "/metrics")
		require.NoError(t, err)
		metrics, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Contains(t, string(metrics), "docket_build_info")
		require.Empty(t, append(never.in(string(metrics)), events.in(string(metrics))...), "metrics of %s", name)
	}
	eventually(t, 20*time.Second, func() error {
		for _, name := range []string{"docket-ingest", "publish"} {
			if !strings.Contains(traces.text(), name) {
				return fmt.Errorf("no span is of %s yet", name)
			}
		}
		return nil
	})
	c.leave()
	require.Empty(t, append(never.in(traces.text()), events.in(traces.text())...), "traces")
	for name, r := range c.roles {
		require.Contains(t, r.out.String(), "stopping: requests in flight", name)
		require.Empty(t, append(never.in(r.out.String()), events.in(r.out.String())...), "%s printed", name)
	}
}

// plain is all of a record, inflated where it is compressed.
func plain(t *testing.T, r *kgo.Record) string {
	t.Helper()
	var b bytes.Buffer
	b.Write(r.Key)
	for _, h := range r.Headers {
		b.WriteString(h.Key)
		b.Write(h.Value)
	}
	z, err := gzip.NewReader(bytes.NewReader(r.Value))
	if err != nil {
		b.Write(r.Value)
		return b.String()
	}
	_, err = b.ReadFrom(z)
	if err != nil { // it broke off: what came before is looked at
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	return b.String()
}

// dump is every row of every table, as text. Events are packed in it: an export has them as they are.
func (c *cluster) dump(t *testing.T) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), c.servers.postgres.URL(c.database, ""))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	found, err := conn.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = 'public'`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(found, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, tables, "audit")
	var all strings.Builder
	for _, table := range tables {
		var text string
		require.NoError(t, conn.QueryRow(
			t.Context(), `SELECT coalesce(string_agg(t::text, E'\n'), '') FROM `+pgx.Identifier{table}.Sanitize()+` t`,
		).Scan(&text))
		all.WriteString(text)
	}
	return all.String()
}
