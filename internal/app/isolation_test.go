package app

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tenants are two that use the same ids, with a caller each. Whatever one of them wrote has its secret in it.
var tenants = []struct{ name, upload, console, secret string }{
	{"acme", "t-acme", "c-acme", "ruby"}, {"initech", "t-initech", "c-initech", "onyx"},
}

// shared makes both tenants upload the same ids, with the same paths and OPAs, and dead letters.
func (a *accessible) shared(t *testing.T, decisions int) {
	t.Helper()
	at := time.Now().UTC().Add(-time.Minute)
	for _, tenant := range tenants {
		var events []string
		for i := range decisions {
			events = append(events, fmt.Sprintf(
				`{"decision_id":"d-%d","timestamp":%q,"path":"shop/pay","labels":{"id":"opa-1","app":"shop-%[3]s"},`+
					`"result":{"allow":%[4]t,"reason":"because of %[3]s"},"input":{"user":"user-%[3]s","secret":"%[3]s","n":%[1]d},`+
					`"bundles":{"b":{"revision":"r-%[3]s"}}}`,
				i, at.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), tenant.secret, i%2 == 0,
			))
		}
		events = append(events, fmt.Sprintf(`{"decision_id":"only-%s","timestamp":%q,"path":"shop/%[1]s"}`, tenant.secret,
			at.Format(time.RFC3339Nano)), `"dead `+tenant.secret+`"`, `"dead again `+tenant.secret+`"`)
		code, answer := a.ask(
			t, shown{token: tenant.upload}, a.UploadAddr(), http.MethodPost, "/logs", "["+strings.Join(events, ",")+"]",
		)
		require.Equal(t, http.StatusOK, code, answer)
	}
	a.drained(t)
	for _, tenant := range tenants {
		require.Eventually(t, func() bool {
			_, answer := a.ask(t, shown{token: tenant.console}, a.ConsoleAddr(), http.MethodGet, "/api/v1/dead-letters", "")
			return strings.Count(answer, `"state":"open"`) == 2
		}, testPatience, testTick)
	}
}

// page is what the tests read of a list.
type page struct {
	Items []struct {
		ID, Tenant string
		DecisionID string `json:"decision_id"`
	}
	NextCursor string `json:"next_cursor"`
}

func (a *accessible) page(t *testing.T, token, path string) (p page, answer string) {
	t.Helper()
	code, answer := a.ask(t, shown{token: token}, a.ConsoleAddr(), http.MethodGet, path, "")
	require.Equal(t, http.StatusOK, code, "%s: %s", path, answer)
	require.NoError(t, json.Unmarshal([]byte(answer), &p))
	return p, answer
}

// TestTenantsAreApart asks everything in the name of each tenant, in turn and again, as caches and cursors would mix it
// up, and finds nothing of the other one.
func TestTenantsAreApart(t *testing.T) {
	a := startAccessible(t)
	const decisions = 40
	a.shared(t, decisions)
	own := func(t *testing.T, i int, path, answer string) {
		t.Helper()
		other := tenants[1-i]
		require.NotContains(t, answer, other.secret, path)
		require.NotContains(t, answer, `"`+other.name+`"`, path)
	}

	t.Run("answers", func(t *testing.T) {
		for _, path := range []string{
			"/api/v1/decisions?since=1h", "/api/v1/decisions?q=path:shop/*", "/api/v1/decisions/d-1",
			"/api/v1/decisions/d-1/raw", "/api/v1/decisions/d-1/trail", "/api/v1/decisions/d-1/last-allowed",
			"/api/v1/decisions/compare?a=d-1&b=d-2",
			"/api/v1/decisions/contrast?q=outcome:denied&against=outcome:allowed",
			"/api/v1/decisions/stats?by=path&by=outcome&every=1h&since=2h", "/api/v1/decisions/stats?by=tenant&since=2h",
			"/api/v1/decisions/fields/principal?since=1h", "/api/v1/decisions/fields/tenant?since=1h",
			"/api/v1/decisions/fields/input.secret?since=1h", "/api/v1/decisions/fields/revision?since=1h",
			"/api/v1/decisions/export?since=1h&with_event=true", "/api/v1/decisions/export?since=1h&format=csv",
			"/api/v1/dead-letters", "/api/v1/dead-letters/groups", "/api/v1/opas", "/api/v1/audit", "/api/v1/jobs",
			"/", "/decisions?since=1h", "/decisions?q=path:shop/*", "/decisions/d-1", "/compare?a=d-1&b=d-2",
			"/contrast?q=outcome:denied", "/dead-letters", "/dead-letters/list", "/opas", "/audit", "/jobs",
			"/api/v1/decisions/stats?q=input.n:>3&by=tenant",
		} {
			for again := range 2 { // from the store, and from what is remembered
				for i, tenant := range tenants {
					code, answer := a.ask(t, shown{token: tenant.console}, a.ConsoleAddr(), http.MethodGet, path, "")
					require.Equal(t, http.StatusOK, code, "%s: %s", path, answer)
					own(t, i, fmt.Sprint(path, " ", again), answer)
				}
				a.ask(t, shown{token: "c-admin"}, a.ConsoleAddr(), http.MethodGet, path, "") // who sees both is remembered as well
			}
		}
	})
	t.Run("lists", func(t *testing.T) {
		for _, path := range []string{
			"/api/v1/decisions?q=tenant:acme+OR+tenant:initech", "/api/v1/decisions?q=ruby+OR+onyx",
			"/api/v1/decisions?q=NOT+id:x+since:1h", "/api/v1/decisions?since=1h&tenant=!acme&tenant=!initech",
			"/api/v1/decisions?since=1h&tenant=acme&tenant=initech",
		} {
			for _, tenant := range tenants {
				p, _ := a.page(t, tenant.console, path)
				for _, item := range p.Items {
					require.Equal(t, tenant.name, item.Tenant, path)
				}
				require.Equal(t, strings.Contains(path, "!acme"), len(p.Items) == 0, path)
			}
		}
	})
	t.Run("cursors", func(t *testing.T) {
		for _, path := range []string{"/api/v1/decisions?since=1h&limit=7", "/api/v1/dead-letters?limit=1"} {
			for i, tenant := range tenants {
				first, _ := a.page(t, tenants[1-i].console, path)
				require.NotEmpty(t, first.NextCursor, path)
				theirs, answer := a.page(t, tenant.console, path+"&cursor="+first.NextCursor)
				own(t, i, path, answer)
				if strings.Contains(path, "/decisions") { // dead letters of the other one may be older than all of one's own
					require.NotEmpty(t, theirs.Items)
				}
				code, answer := a.ask(
					t, shown{token: tenant.console}, a.ConsoleAddr(), http.MethodGet,
					"/api/v1/decisions/export?since=1h&with_event=true&cursor="+first.NextCursor, "",
				)
				require.Contains(t, []int{http.StatusOK, http.StatusBadRequest}, code)
				own(t, i, "export", answer)
			}
		}
	})
	t.Run("what is not there", func(t *testing.T) { // is told the same as what is another tenant's
		dead, _ := a.page(t, "c-initech", "/api/v1/dead-letters")
		code, answer := a.ask(
			t, shown{token: "c-initech"}, a.ConsoleAddr(), http.MethodPost, "/api/v1/dead-letters/discards",
			`{"filter":{"path":"nowhere"},"comment":"x"}`,
		)
		require.Equal(t, http.StatusAccepted, code, answer)
		var job struct{ ID string }
		require.NoError(t, json.Unmarshal([]byte(answer), &job))
		// What waits in the log is everybody's, docket's own decisions about these questions included.
		times := regexp.MustCompile(`"(looked_at|left)":\d+|"oldest_at":(null|"[^"]*")|` +
			`\d{4}-\d\d-\d\dT[0-9:.]+Z|nonce[-="a-zA-Z0-9+/_']+|\d+ (milli)?seconds?`)
		for _, c := range []struct{ path, there, absent, body string }{
			{"/api/v1/decisions/%s", "only-onyx", "only-none", ""},
			{"/api/v1/decisions/%s/raw", "only-onyx", "only-none", ""},
			{"/api/v1/decisions/%s/trail", "only-onyx", "only-none", ""},
			{"/api/v1/decisions/%s/last-allowed", "only-onyx", "only-none", ""},
			{"/api/v1/decisions/compare?a=d-1&b=%s", "only-onyx", "only-none", ""},
			{"/api/v1/decisions/%s?tenant=initech", "d-1", "d-x", ""},
			{"/api/v1/decisions?decision_id=%s", "only-onyx", "only-none", ""},
			{"/api/v1/dead-letters/%s", dead.Items[0].ID, "docket.dlq:0:999", ""},
			{"/api/v1/dead-letters/%s/raw", dead.Items[0].ID, "docket.dlq:0:999", ""},
			{"/api/v1/jobs/%s", job.ID, "d-none", ""},
			{"POST /api/v1/jobs/%s/cancel", job.ID, "d-none", "{}"},
			{"POST /api/v1/jobs/%s/pause", job.ID, "d-none", "{}"},
			{"POST /api/v1/jobs/%s/resume", job.ID, "d-none", "{}"},
			{"/decisions/%s", "only-onyx", "only-none", ""},
			{"/dead-letters/%s", dead.Items[0].ID, "docket.dlq:0:999", ""},
			{"/jobs/%s", job.ID, "d-none", ""},
		} {
			ask := func(id string) (int, string) {
				method, path := http.MethodGet, c.path
				if rest, post := strings.CutPrefix(path, "POST "); post {
					method, path = http.MethodPost, rest
				}
				code, answer := a.ask(
					t, shown{token: "c-acme"}, a.ConsoleAddr(), method, fmt.Sprintf(path, url.PathEscape(id)), c.body,
				)
				answer = times.ReplaceAllString(strings.ReplaceAll(answer, url.QueryEscape(id), "ID"), "")
				return code, strings.ReplaceAll(answer, id, "ID")
			}
			wanted, absent := ask(c.absent)
			got, there := ask(c.there)
			require.Equal(t, wanted, got, c.path)
			require.Equal(t, absent, there, c.path)
		}
	})
	t.Run("changes", func(t *testing.T) {
		dead, _ := a.page(t, "c-initech", "/api/v1/dead-letters")
		ids, err := json.Marshal([]string{dead.Items[0].ID, dead.Items[1].ID})
		require.NoError(t, err)
		for _, body := range []string{
			`{"filter":{"tenant":"initech"},"dry_run":false,"comment":"x"}`, `{"dry_run":false,"comment":"x"}`,
			fmt.Sprintf(`{"filter":{"id":%s},"dry_run":false,"comment":"x"}`, ids),
		} {
			code, answer := a.ask(
				t, shown{token: "c-acme"}, a.ConsoleAddr(), http.MethodPost, "/api/v1/dead-letters/discards", body,
			)
			if code != http.StatusAccepted {
				require.Equal(t, http.StatusBadRequest, code, "%s: %s", body, answer)
				continue
			}
			var job struct{ ID string }
			require.NoError(t, json.Unmarshal([]byte(answer), &job))
			require.Eventually(t, func() bool {
				_, answer := a.ask(t, shown{token: "c-acme"}, a.ConsoleAddr(), http.MethodGet, "/api/v1/jobs/"+job.ID, "")
				return strings.Contains(answer, `"state":"done"`)
			}, testPatience, testTick)
		}
		form := url.Values{"filter": {"tenant=initech"}, "comment": {"x"}, "mean_it": {"on"}}.Encode()
		r, err := http.NewRequestWithContext(
			t.Context(), http.MethodPost, "https://"+a.ConsoleAddr()+"/dead-letters/discards", strings.NewReader(form),
		)
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", "Bearer c-acme")
		resp, err := a.clientOf(t, nil).Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		_, answer := a.page(t, "c-initech", "/api/v1/dead-letters")
		require.Equal(t, 2, strings.Count(answer, `"state":"open"`), "they are as they were")
		_, answer = a.page(t, "c-initech", "/api/v1/jobs")
		require.NotContains(t, answer, `"oa"`, "jobs of others are not listed")
		_, answer = a.page(t, "c-initech", "/api/v1/audit")
		require.NotContains(t, answer, `"oa"`, "nor what others did")
	})
	t.Run("the tail", func(t *testing.T) {
		lines := make(chan string, 100)
		for _, more := range []string{"", "&tenant=initech"} {
			r, err := http.NewRequestWithContext(
				t.Context(), http.MethodGet, "https://"+a.ConsoleAddr()+"/api/v1/decisions/tail?with_event=true"+more, nil,
			)
			require.NoError(t, err)
			r.Header.Set("Authorization", "Bearer c-acme")
			resp, err := a.clientOf(t, nil).Do(r)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, resp.StatusCode)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for s := bufio.NewScanner(resp.Body); s.Scan(); {
					lines <- s.Text()
				}
			}()
			t.Cleanup(func() {
				_ = resp.Body.Close() // which ends the scanner
				<-ended
			})
		}
		for _, tenant := range []int{1, 0} { // the other's first: it would have come before
			code, answer := a.ask(
				t, shown{token: tenants[tenant].upload}, a.UploadAddr(), http.MethodPost, "/logs",
				`[{"decision_id":"fresh","path":"shop/pay","input":{"secret":"`+tenants[tenant].secret+`"}}]`,
			)
			require.Equal(t, http.StatusOK, code, answer)
		}
		for {
			select {
			case line := <-lines:
				require.NotContains(t, line, "onyx")
				if strings.Contains(line, "ruby") {
					return
				}
			case <-time.After(testPatience):
				require.Fail(t, "its own decision did not come")
			}
		}
	})
}
