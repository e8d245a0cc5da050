package queryapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/access"
	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/adapters/web"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// stored embeds without a field that would hide the method Decisions.
type stored = ports.Decisions

// faulty is a store whose page of this number, from 1, fails or has damaged events.
type faulty struct {
	stored
	page, fails, damaged int
	// leaves is called by the second page, if there is one.
	leaves func()
}

func (f *faulty) StoredEvents(ctx context.Context, scope domain.Scope, q domain.Query) (domain.Page, error) {
	f.page++
	if f.page == f.fails {
		return domain.Page{}, domain.Errorf(domain.Unavailable, "the database\nis away")
	}
	if f.page == 2 && f.leaves != nil {
		f.leaves()
	}
	page, err := f.stored.StoredEvents(ctx, scope, q)
	if f.page == f.damaged {
		page.Items[3].Event = []byte(`{"of":"somebody else"}`)
	}
	return page, err
}

// save stores so many decisions of a tenant, each event spelled by the caller.
func (b *bench) save(t *testing.T, tenant string, n int, edit func(i int, d *domain.Decision)) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	var rows []domain.Decision
	for i := range n {
		d := domain.Decision{
			Tenant: tenant, ID: fmt.Sprintf("%s-%05d", tenant, i), ReceivedAt: now, Outcome: domain.OutcomeDenied,
			Timestamp: now.Add(-time.Duration(i) * time.Millisecond), Event: fmt.Appendf(nil, `{"n":%d}`, i),
		}
		edit(i, &d)
		d.SHA256 = sha256.Sum256(d.Event)
		rows = append(rows, d)
	}
	_, err := b.store.SaveBatch(t.Context(), rows)
	require.NoError(t, err)
}

// get asks a real server, so that there is a trailer.
func get(t *testing.T, h http.Handler, path string) (resp *http.Response, body string) {
	t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	client := s.Client()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, http.NoBody)
	require.NoError(t, err)
	resp, err = client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(b)
}

// readExport reads NDJSON, whose last line is the end.
func readExport(t *testing.T, body string) (rows []api.Exported, end api.ExportEnd) {
	t.Helper()
	require.True(t, strings.HasSuffix(body, "\n"))
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	for _, line := range lines[:len(lines)-1] {
		var d api.Exported
		require.NoError(t, json.Unmarshal([]byte(line), &d), line)
		rows = append(rows, d)
	}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &end))
	require.Equal(t, len(rows), end.Decisions)
	return rows, end
}

func TestExport(t *testing.T) {
	b := newBench(t)
	const n = 2500
	b.save(t, "acme", n, func(i int, d *domain.Decision) {
		if i%2 == 1 {
			d.Event = fmt.Appendf(nil, "{\n\t\"n\" :\r\n %d, \"text\":\"a\\nb\u2028<&>\"}", i)
		}
	})
	b.save(t, "initech", 10, func(_ int, d *domain.Decision) { d.ID = strings.Replace(d.ID, "initech", "acme", 1) })
	h := b.handler(domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Viewer})

	resp, body := get(t, h, "/api/v1/decisions/export?q=outcome:denied")
	require.Equal(t, http.StatusOK, resp.StatusCode, body)
	require.Equal(t, "application/x-ndjson", resp.Header.Get("Content-Type"))
	require.Equal(t, "true; complete: 2500 decisions", resp.Trailer.Get("Docket-Complete"))
	rows, end := readExport(t, body)
	require.True(t, end.Complete)
	ids := map[string]bool{}
	for i, d := range rows {
		require.Equal(t, "acme", d.Tenant)
		require.Equal(t, fmt.Sprintf("acme-%05d", i), d.DecisionID, "the newest first")
		ids[d.DecisionID] = true
		var event struct{ N int }
		require.NoError(t, json.Unmarshal(d.Event, &event))
		require.Equal(t, i, event.N)
	}
	require.Len(t, ids, n)
	require.Contains(t, body, `"text":"a\nb`+"\u2028"+`<&>"}`, "what stands in a string stays as it was sent")

	_, body = get(t, h, "/api/v1/decisions/export?q=event.n:7&with_event=false")
	rows, end = readExport(t, body)
	require.True(t, end.Complete)
	require.Len(t, rows, 1)
	require.Nil(t, rows[0].Event)

	_, body = get(t, h, "/api/v1/decisions/export?tenant=initech")
	rows, end = readExport(t, body)
	require.True(t, end.Complete)
	require.Empty(t, rows)

	// A cursor of a page goes on with an export.
	_, page := ask(h, http.MethodGet, "/api/v1/decisions?limit=900", "")
	next, err := domain.ParseCursor(strings.Split(strings.Split(page, `"next_cursor":"`)[1], `"`)[0])
	require.NoError(t, err)
	_, body = get(t, h, "/api/v1/decisions/export?cursor="+next.String())
	rows, _ = readExport(t, body)
	require.Len(t, rows, n-900)

	// A decision whose id is a reserved word is asked for by its escaped name.
	b.save(t, "acme", 1, func(_ int, d *domain.Decision) { d.ID = "export" })
	code, answer := ask(h, http.MethodGet, "/api/v1/decisions/%65xport", "")
	require.Equal(t, http.StatusOK, code, answer)
	require.Contains(t, answer, `"decision_id":"export"`)
}

func TestExportTellsWhatIsMissing(t *testing.T) {
	b := newBench(t)
	b.save(t, "acme", 2500, func(int, *domain.Decision) {})
	var logged bytes.Buffer
	handler := func(f *faulty) http.Handler {
		f.stored = b.store
		return New(Parts{
			Decisions: f, Control: b.store, Log: b.log, Searches: web.NewSearches(nil),
			Gate: access.NewGate(access.ByRole, nil, nil),
			Who:  auth.Anonymous{Caller: domain.Caller{Tenants: domain.AllTenants(), Role: domain.Viewer}},
		}, web.Door{Metrics: web.NewMetrics(nil), Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	}
	t.Run("nothing was sent", func(t *testing.T) {
		resp, body := get(t, handler(&faulty{fails: 1}), "/api/v1/decisions/export")
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
		require.Contains(t, body, "the database")
	})
	t.Run("the database goes away", func(t *testing.T) {
		h := handler(&faulty{fails: 3})
		resp, body := get(t, h, "/api/v1/decisions/export")
		require.Equal(t, http.StatusOK, resp.StatusCode)
		first, end := readExport(t, body)
		require.False(t, end.Complete)
		require.Contains(t, end.Why, "the database\nis away")
		require.WithinDuration(t, time.Now().Add(-24*time.Hour), end.Since.Time, time.Minute)
		require.True(t, end.Until.IsZero())
		require.Contains(t, logged.String(), "an export broke off")
		require.True(t, strings.HasPrefix(resp.Trailer.Get("Docket-Complete"), "false; incomplete, 2000 decisions: "))
		_, body = get(t, h, "/api/v1/decisions/export?cursor="+string(end.NextCursor))
		rest, end := readExport(t, body)
		require.True(t, end.Complete)
		require.Equal(t, 2500, len(first)+len(rest), "the cursor goes on")
		require.Equal(t, "acme-02000", rest[0].DecisionID)
	})
	t.Run("damaged", func(t *testing.T) {
		_, body := get(t, handler(&faulty{damaged: 2}), "/api/v1/decisions/export")
		rows, end := readExport(t, body)
		require.Len(t, rows, 2500)
		require.False(t, end.Complete)
		require.Equal(t, 1, end.Damaged)
		require.True(t, rows[1003].Damaged)
		require.Nil(t, rows[1003].Event)
		require.NotContains(t, body, "somebody else")
	})
	t.Run("the client goes away", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := &faulty{leaves: cancel}
		w := httptest.NewRecorder()
		handler(f).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/decisions/export", http.NoBody))
		require.NotContains(t, w.Body.String(), `"complete":true`, "it may say that it is not, or nothing")
		require.NotContains(t, w.Header().Get("Docket-Complete"), "true")
	})
	t.Run("as CSV", func(t *testing.T) {
		_, body := get(t, handler(&faulty{fails: 2}), "/api/v1/decisions/export?format=csv&with_event=true")
		rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
		require.NoError(t, err)
		require.Len(t, rows, 1002)
		require.True(t, strings.HasPrefix(rows[1001][0], "# incomplete, 1000 decisions: "))
		require.Equal(t, `{"n":0}`, rows[1][len(rows[1])-1])
	})
}

// TestExportIsNoFormula has texts that spreadsheets compute.
func TestExportIsNoFormula(t *testing.T) {
	b := newBench(t)
	texts := []string{
		"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0=1", "＝1+1", "＋1", "－1", "＠x", "|calc", "%x",
		"# complete: 1 decisions", "=cmd|' /C calc'!A0", `","=1`, "\"=1", "'=1", "a;=1+1", "\ufeff=1", "\u200b=1", "\u202e=1", "\x01=1", "﹦1", "−1", "plain", "a=b", "emoji 😀", "\u202eevil",
	}
	b.save(t, "acme", len(texts), func(i int, d *domain.Decision) {
		d.Principal, d.Path, d.Reason, d.ID = texts[i], texts[i], texts[i], texts[i]
		d.Bundles = []domain.Bundle{{Name: texts[i], Revision: texts[i]}}
	})
	h := b.handler(domain.Caller{Tenants: domain.AllTenants(), Role: domain.Viewer})
	resp, body := get(t, h, "/api/v1/decisions/export?format=csv")
	require.Equal(t, "text/csv; charset=utf-8", resp.Header.Get("Content-Type"))
	rows, err := csv.NewReader(bytes.NewReader([]byte(body))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, len(texts)+2)
	require.Equal(t, "decision_id", rows[0][0])
	require.Equal(t, fmt.Sprintf("# complete: %d decisions", len(texts)), rows[len(rows)-1][0])
	require.Contains(t, body, `"a;=1+1"`, "where semicolons separate cells it is still one")
	seen := 0
	for _, row := range rows[1 : len(rows)-1] {
		for _, cell := range row {
			first := []rune(strings.TrimLeft(cell, " \t\r\n\u00a0") + "x")[0]
			require.False(t, strings.ContainsRune("=+-@|%#＝＋－＠﹦−\ufeff\u200b\x01", first), cell)
		}
		for _, text := range texts {
			// encoding/csv reads a carriage return and a line feed as a line feed, and leaves either alone.
			if row[0] == text || row[0] == "'"+text {
				seen++
			}
		}
	}
	require.Equal(t, len(texts), seen, "but for the apostrophe every text is as it was")
}

func TestExportsAreRefused(t *testing.T) {
	h := newBench(t).handler(domain.Caller{Tenants: domain.AllTenants(), Role: domain.Viewer})
	for params, want := range map[string]string{
		"format=xml":               "neither ndjson nor csv",
		"format=csv&format=ndjson": "name it once",
		"limit=5":                  "limit",
		"with_event=yes":           "with_event",
		"q=%28a":                   "column",
		"colour=red":               "unknown parameter",
		"cursor=x":                 "cursor",
		"since=1h&q=since:2h":      "since",
	} {
		code, answer := ask(h, http.MethodGet, "/api/v1/decisions/export?"+params, "")
		require.Equal(t, http.StatusBadRequest, code, "%s: %s", params, answer)
		require.Contains(t, answer, want)
	}
}
