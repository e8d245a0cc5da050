package queryapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/domain"
)

// tailOf asks a real server for a tail, and returns its lines once it has begun.
func tailOf(t *testing.T, s *httptest.Server, query string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/v1/decisions/tail?"+query, http.NoBody)
	require.NoError(t, err)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() }) // it is cut
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	lines := bufio.NewScanner(resp.Body)
	require.True(t, lines.Scan())
	require.Equal(t, ": decisions as they are acknowledged", lines.Text())
	return lines
}

// next is the next decision of a tail.
func next(t *testing.T, lines *bufio.Scanner) (d api.Exported) {
	t.Helper()
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			require.NoError(t, json.Unmarshal([]byte(data), &d), data)
			return d
		}
	}
	t.Fatalf("the tail ended: %v", lines.Err())
	return d
}

func (b *bench) publish(t *testing.T, tenant, id, event string) {
	t.Helper()
	require.NoError(t, b.log.Publish(t.Context(), []domain.Record{{
		Topic: topics.Decisions, Key: id, Value: fmt.Appendf(nil, event, id), Headers: domain.Headers{Tenant: tenant},
	}}))
}

// TestTail has nothing in the store: what is shown comes from the log. The server would end other requests after 50 ms.
func TestTail(t *testing.T) {
	b := newBench(t)
	h := b.handler(domain.Caller{Name: "ann", Tenants: domain.Tenants("acme"), Role: domain.Viewer})
	s := httptest.NewUnstartedServer(h)
	s.Config.ReadTimeout, s.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	s.Start()
	defer s.Close()
	all, some := tailOf(t, s, ""), tailOf(t, s, "with_event=true&q="+url.QueryEscape("outcome:denied input.user:bob"))
	began := time.Now()
	const denied = "{\"decision_id\":%q,\n\"result\":false,\"path\":\"a/allow\",\"input\":{\"user\":\"bob\"}}"
	for n := 0; time.Since(began) < 200*time.Millisecond; n++ {
		b.publish(t, "initech", "secret", `{"decision_id":%q,"result":false,"input":{"user":"bob"}}`)
		b.publish(t, "acme", fmt.Sprintf("a-%d", n), `{"decision_id":%q,"result":true,"path":"a/allow"}`)
		b.publish(t, "acme", fmt.Sprintf("b-%d", n), denied)
		require.Equal(t, fmt.Sprintf("a-%d", n), next(t, all).DecisionID)
		d := next(t, all)
		require.Equal(t, domain.OutcomeDenied, d.Outcome)
		require.True(t, d.SavedAt.IsZero())
		require.Nil(t, d.Event)
		d = next(t, some)
		require.Equal(t, fmt.Sprintf("b-%d", n), d.DecisionID)
		require.Equal(t, "acme", d.Tenant)
		require.Contains(t, string(d.Event), `"user":"bob"`)
	}
	code, answer := ask(h, http.MethodHead, "/api/v1/decisions/tail", "")
	require.Equal(t, http.StatusOK, code, answer)
	close(b.stops)
	for all.Scan() {
		require.Empty(t, all.Text())
	}
	require.NoError(t, all.Err(), "a process that stops ends it in good order")
}

func TestTailsAreRefused(t *testing.T) {
	h := newBench(t).handler(domain.Caller{Name: "ann", Tenants: domain.AllTenants(), Role: domain.Viewer})
	for _, query := range []string{
		"since=1h", "until=1h", "q=since:1h", "limit=1", "cursor=x", "q=" + url.QueryEscape("(a"), "usr=x", "with_event=yes",
		"with_event=true&with_event=true",
	} {
		code, answer := ask(h, http.MethodGet, "/api/v1/decisions/tail?"+query, "")
		require.Equal(t, http.StatusBadRequest, code, "%s: %s", query, answer)
	}
}
