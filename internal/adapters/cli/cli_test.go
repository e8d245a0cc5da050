package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/docket-project/docket/internal/adapters/api"
	"github.com/docket-project/docket/internal/adapters/rego"
	"github.com/docket-project/docket/internal/domain"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "replay-policy" { // the process that decides
		if rego.Process(context.Background(), os.Stdin, os.Stdout) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(
		m,
		// The commands use the default client, whose idle connections end with the process.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}

var update = flag.Bool("update", false, "rewrite the expected screens in testdata")

// golden compares a screen with the file of its name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run with -update and read the difference")
}

const denied = `{"decision_id":"d-1","time":"2026-11-20T12:34:56.000007Z",
	"timestamp":"2026-11-20T12:34:56.000007Z","received_at":"2026-11-20T12:34:57Z",
	"saved_at":"2026-11-20T12:34:57.1Z","tenant":"default","path":"http/authz/allow","outcome":"denied",
	"reason":"not the owner\u001b[31m\nand red","principal":"bob",
	"action":"GET","resource":"finance/salary/alice/with/a/very/long/tail","opa":"opa-1","app":"payroll",
	"bundles":{"authz":{"revision":"r1"}},"trace_id":"abc",
	"requested_by":"10.0.0.1:1","error":null}`

const failed = `{"decision_id":"d-2","time":"2026-11-20T12:34:55Z","timestamp":null,
	"received_at":"2026-11-20T12:34:55Z","saved_at":null,"tenant":"acme","path":null,
	"outcome":"error","reason":null,"principal":null,"action":null,"resource":null,"opa":null,"app":null,"bundles":{},
	"trace_id":null,"requested_by":null,
	"error":"eval_conflict_error: two outputs"}`

// server answers as docket would, and keeps the last request.
type server struct {
	*httptest.Server
	path, query, token string
	status             int
}

func serve(t *testing.T, answers map[string]string) *server {
	s := &server{status: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.path, s.query, s.token = r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Authorization")
		w.WriteHeader(s.status)
		_, _ = io.WriteString(w, answers[r.URL.Path])
	}))
	t.Cleanup(s.Close)
	return s
}

func screen(run func(Out) error) (string, error) {
	var b bytes.Buffer
	err := run(Out{Stdout: &b, Stderr: &b, Raw: &b})
	return b.String(), err
}

func TestFindScreens(t *testing.T) {
	s := serve(t, map[string]string{"/api/v1/decisions": `{"items":[` + denied + `,` + failed + `],
		"next_cursor":"more"}`})
	for _, output := range []string{"table", "json", "ndjson"} {
		f := Find{
			Console: Console{Server: s.URL + "/"}, Form: Form{Output: output}, Limit: 2,
			Wanted: Wanted{Since: "1h", Denied: true, Path: []string{"a*", "!b"}},
		}
		got, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
		require.NoError(t, err)
		golden(t, "find-"+output, got)
	}
	require.Equal(t, "limit=2&outcome=denied&path=a%2A&path=%21b&since=1h", s.query)
	nothing := serve(t, map[string]string{"/api/v1/decisions": `{"items":[],"next_cursor":null}`})
	f := Find{Console: Console{Server: nothing.URL}, Form: Form{Output: "table"}, Wanted: Wanted{Since: "24h"}, Limit: 100}
	got, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
	require.NoError(t, err)
	golden(t, "find-nothing", got)
}

// TestFindByQuery has a query that is refused before it is sent, one that is only explained, and one that docket does
// not get through at once.
func TestFindByQuery(t *testing.T) {
	asked := 0
	cursor := domain.Cursor{Time: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), Tenant: "acme", ID: "d-9"}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			_, _ = io.WriteString(w, `{"items":[],"next_cursor":"`+cursor.String()+`","looked_at":2000000,"complete":false}`)
			return
		}
		_, _ = io.WriteString(w, `{"items":[`+denied+`],"next_cursor":null,"looked_at":7,"complete":true}`)
	}))
	t.Cleanup(s.Close)
	for _, c := range []struct {
		name  string
		query []string
		asked int
		edit  func(*Find)
		code  int
	}{
		{"refused", []string{"outcome:denied", "usr:bob"}, 0, func(*Find) {}, ExitUsage},
		{"refused-ends", []string{"(input.n:1"}, 0, func(*Find) {}, ExitUsage},
		{"refused-hostile", []string{"\x1b[31m", "(a"}, 0, func(*Find) {}, ExitUsage},
		{"explained", []string{"-principal:bob", `"a b"`}, 0, func(f *Find) {
			f.Explain, f.Denied, f.Since, f.Path = true, true, "2026-11-20T00:00:00Z", []string{"a/*"}
		}, 0},
		{"goes-on", []string{"input.n:1"}, 2, func(*Find) {}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked = 0
			f := Find{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Wanted: Wanted{Query: c.query}, Limit: 100}
			c.edit(&f)
			got, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
			require.Equal(t, c.code, ExitCode(err))
			if err != nil {
				got += err.Error() + "\n"
			}
			require.Equal(t, c.asked, asked)
			golden(t, "find-query-"+c.name, got)
		})
	}
}

func TestShowScreens(t *testing.T) {
	event := `{"decision_id":"d-1", "input":{"user":"bob\u0007"},"bell":"` + "\u202e" + `"}`
	s := serve(t, map[string]string{
		"/api/v1/decisions/d-1":     strings.TrimSuffix(denied, "}") + `,"event":` + event + `,"also":[` + failed + `]}`,
		"/api/v1/decisions/d-1/raw": event,
		"/api/v1/decisions/a/b c":   failed[:len(failed)-1] + `,"event":{}}`,
	})
	for _, output := range []string{"table", "json", "raw"} {
		c := Show{Console: Console{Server: s.URL}, Form: Form{Output: output}, IDs: []string{"d-1"}}
		got, err := screen(func(o Out) error { return c.Run(t.Context(), o) })
		require.NoError(t, err)
		golden(t, "show-"+output, got)
	}
	c := Show{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, IDs: []string{"a/b c"}}
	got, err := screen(func(o Out) error { return c.Run(t.Context(), o) })
	require.NoError(t, err)
	require.Equal(t, "/api/v1/decisions/a%2Fb%20c", s.path)
	golden(t, "show-error", got)
}

func TestStatusScreens(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	stages := `"stages":[{"name":"saver","waiting":12,"oldest_seconds":3.4,"in_per_second":10.25,"out_per_second":9},
		{"name":"parking","waiting":90000,"oldest_seconds":60}]`
	roles := `"roles":{"ingest":{"live":2,"ready":2},"saver":{"live":0},"parking":{"live":1,"ready":1},"console":{"live":1}}`
	for name, body := range map[string]string{
		"status": `{"verdict":"DEGRADED","message":"no saver process is alive (and 1 more)","reasons":[
			{"code":"role_missing","message":"no saver process is alive: the last was heard of 40 s ago, on node-3",
				"since":"2026-11-20T11:59:20Z"},
			{"code":"dead_letters_open","message":"3 dead letters are open","since":"2026-11-20T12:00:00Z"}],` + roles + `,` +
			stages + `,"opas":{"live":3,"silent":1,"gone":20},"dead_letters":{"open":3,"new_last_hour":1},
			"dead_letter_topics":[{"topic":"docket.dlq","records":3,"waiting":2}],"disk":{"free_ratio":0.61}}`,
		"status-ok": `{"verdict":"OK","message":"…","reasons":[],` + roles + `,` + stages + `,
			"opas":{"live":3,"silent":0,"gone":0}}`,
		"status-nothing": `{"verdict":"OK","reasons":[],` + roles + `,"stages":[{"name":"saver"},{"name":"parking"}],
			"opas":{"live":0,"silent":0,"gone":0}}`,
		"status-outage": `{"verdict":"DOWN","message":"the log takes no records: timeout","reasons":[
			{"code":"log_refuses","message":"the log takes no records: timeout","since":"2026-11-20T11:00:00Z"}],` + roles + `,` +
			stages + `,"opas":null,"stale":true,"sampled_at":"2026-11-20T11:59:00Z"}`,
	} {
		var st api.Status
		require.NoError(t, json.Unmarshal([]byte(body), &st))
		var b bytes.Buffer
		require.NoError(t, printStatus(&b, st, now))
		golden(t, name, b.String())
	}
}

// TestStatusCheck is for scripts.
func TestStatusCheck(t *testing.T) {
	for verdict, code := range map[string]int{"OK": 0, "DEGRADED": 1, "DOWN": 3, "something new": 3} {
		s := serve(t, map[string]string{"/api/v1/status": `{"verdict":"` + verdict + `","message":"m","reasons":[]}`})
		for _, output := range []string{"table", "json"} {
			got, err := screen(func(o Out) error {
				return (&Status{Console: Console{Server: s.URL}, Form: Form{Output: output}, Check: true}).Run(t.Context(), o)
			})
			require.Equal(t, code, ExitCode(err))
			require.Contains(t, got, verdict)
			if err != nil {
				require.Empty(t, err.Error(), "the verdict says it")
			}
		}
	}
	s := serve(t, nil)
	s.Close()
	_, err := screen(func(o Out) error {
		return (&Status{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Check: true}).Run(t.Context(), o)
	})
	require.Equal(t, ExitUnavailable, ExitCode(err))
}

func TestStatusWatch(t *testing.T) {
	s := serve(t, map[string]string{"/api/v1/status": `{"verdict":"OK","reasons":[],"stages":[]}`})
	ctx, cancel := context.WithCancel(t.Context())
	var out lines
	out.seen = func(n int) {
		if n == 3 {
			cancel()
		}
	}
	w := &Status{
		Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Watch: true, Check: true, Every: time.Millisecond,
	}
	require.NoError(t, w.Run(ctx, Out{Stdout: &out, Stderr: io.Discard}))
	require.GreaterOrEqual(t, out.n, 3)
}

// lines counts what is written.
type lines struct {
	n    int
	seen func(n int)
}

func (l *lines) Write(b []byte) (int, error) {
	l.n++
	l.seen(l.n)
	return len(b), nil
}

func TestOPAScreens(t *testing.T) {
	opas := `{"items":[
		{"tenant":"default","opa":"opa-1","state":"live","app":"shop","version":"1.22.2","last_upload":"2026-11-20T11:59:58Z",
			"interval_seconds":4.5,"uploads":800,"events":2400,"revisions":{"authz":"7f3e"},"errors":[],"dropped":0},
		{"tenant":"default","opa":"opa-2","state":"silent","app":"shop","version":null,"last_upload":"2026-11-20T11:30:00Z",
			"status_at":"2026-11-20T11:32:00Z","interval_seconds":420,"uploads":8,"events":9000,"dropped":17,
			"revisions":{"authz":"7f3d"},"errors":["bundle authz: bundle_error 404 Not Found"],
			"hint":"uploads are minutes apart"},
		{"tenant":"default","opa":"opa-3","state":"gone","app":"shop","last_upload":"2026-11-18T11:30:00Z","events":1},
		{"tenant":"default","opa":"","state":"live","app":null,"last_upload":"2026-11-20T11:59:59Z","events":3}]}`
	var list api.Items[api.OPA]
	require.NoError(t, json.Unmarshal([]byte(opas), &list))
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for name, o := range map[string]*OPAs{"opas": {Limit: 100}, "opas-all": {All: true, Limit: 3}} {
		var b bytes.Buffer
		require.NoError(t, o.print(&b, list.Items, now))
		golden(t, name, b.String())
	}
	s := serve(t, map[string]string{"/api/v1/opas": opas})
	got, err := screen(func(o Out) error {
		return (&OPAs{Console: Console{Server: s.URL}, Form: Form{Output: "ndjson"}, State: []string{"silent"},
			App: []string{"shop"}}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	golden(t, "opas-ndjson", got)
	nothing := serve(t, map[string]string{"/api/v1/opas": `{"items":[]}`})
	got, err = screen(func(o Out) error {
		return (&OPAs{Console: Console{Server: nothing.URL}, Form: Form{Output: "table"}}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	require.Contains(t, got, "No OPA has uploaded anything yet")
}

func TestCredentialsScreen(t *testing.T) {
	s := serve(t, map[string]string{"/api/v1/credentials": `{"items":[
		{"listener":"upload","kind":"token","name":"edge-eu","credential":"9f86d081","tenant":"payments","role":null,
			"state":"active","expires_at":"2027-01-31T00:00:00Z","first_used_at":"2026-11-20T11:00:00Z",
			"last_used_at":"2026-11-20T11:59:58Z","uses":1234,"last_address":"192.0.2.1"},
		{"listener":"console","kind":"certificate","name":"ops.sre.example.org","credential":"CN=an authority","tenant":null,
			"role":"operator","state":"expired","expires_at":"2026-11-20T00:00:00Z","uses":3,
			"last_used_at":"2026-11-19T11:59:58Z","last_address":"192.0.2.2"},
		{"listener":"upload","kind":"token","name":"edge-eu","credential":"60303ae2","tenant":"payments","state":"removed"}]}`})
	got, err := screen(func(o Out) error {
		return (&Credentials{Console: Console{Server: s.URL}, Form: Form{Output: "table", UTC: true}}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	golden(t, "credentials", got)
	nothing := serve(t, map[string]string{"/api/v1/credentials": `{"items":[]}`})
	got, err = screen(func(o Out) error {
		return (&Credentials{Console: Console{Server: nothing.URL}, Form: Form{Output: "table"}}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	require.Contains(t, got, "nobody is asked who they are")
}

func TestGuardScreens(t *testing.T) {
	answer := `{"on":true,"judged":30000,"rejected":620,"within_seconds":600,"items":[
		{"fingerprint":"0a1b2c3d4e5f","class":"invalid","code":"23514",
		"error":"save # rows: new row violates check constraint","path":"http/authz/allow","tenant":"acme","rows":620},
		{"fingerprint":"ffeeddccbbaa","class":"unknown","code":null,"error":"not today","path":null,"rows":9,
		"accepted_until":"2026-11-21T00:00:00Z","accepted_by":"ann","accepted_comment":"a test row"}]}`
	s := serve(
		t,
		map[string]string{
			"/api/v1/dead-letters/guard":                          answer,
			"/api/v1/dead-letters/guard/acceptances/0a1b2c3d4e5f": `{"on":false,"judged":5,"rejected":0,"items":[]}`,
			"/api/v1/dead-letters/guard/acceptances":              `{"on":false,"judged":5,"rejected":0,"items":[]}`,
		},
	)
	for _, output := range []string{"table", "json"} {
		got, err := screen(func(o Out) error {
			return (&GuardShow{Console: Console{Server: s.URL}, Form: Form{Output: output}}).Run(t.Context(), o)
		})
		require.NoError(t, err)
		golden(t, "guard-"+output, got)
	}
	got, err := screen(func(o Out) error {
		return (&GuardAccept{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Fingerprint: "0a1b2c3d4e5f",
			Comment: "seen"}).Run(
			t.Context(),
			o,
		)
	})
	require.NoError(t, err)
	require.Equal(t, "/api/v1/dead-letters/guard/acceptances", s.path)
	golden(t, "guard-accepted", got)
	got, err = screen(func(o Out) error {
		return (&GuardRevoke{
			Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Fingerprint: "0a1b2c3d4e5f",
		}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	require.Equal(t, "/api/v1/dead-letters/guard/acceptances/0a1b2c3d4e5f", s.path)
	golden(t, "guard-revoked", got)
}

func TestExitCodes(t *testing.T) {
	for status, code := range map[int]int{
		401: ExitRefused, 403: ExitRefused, 404: ExitNotFound, 400: ExitUsage, 503: ExitUnavailable, 429: ExitUnavailable,
		500: ExitFailed, 418: ExitFailed,
	} {
		s := serve(t, map[string]string{"/api/v1/decisions/x": `{"status":1,"title":"T","detail":"the detail"}`})
		s.status = status
		c := Show{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, IDs: []string{"x"}}
		_, err := screen(func(o Out) error { return c.Run(t.Context(), o) })
		require.Equal(t, code, ExitCode(err), status)
		if status == http.StatusUnauthorized {
			require.ErrorContains(t, err, "--token-file")
			continue
		}
		require.EqualError(t, err, "the detail")
	}
	s := serve(
		t,
		map[string]string{"/api/v1/decisions/x": `{"status":503,"title":"T","detail":"d","class":"misconfigured"}`},
	)
	s.status = http.StatusServiceUnavailable
	_, err := screen(func(o Out) error {
		return (&Show{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, IDs: []string{"x"}}).Run(t.Context(), o)
	})
	require.Equal(t, ExitMisconfigured, ExitCode(err), "waiting does not help")
	for _, address := range []string{"127.0.0.1:8081", "localhost:8081", "foo", "ftp://x", "http://"} {
		_, err := screen(func(o Out) error {
			show := &Show{Console: Console{Server: address}, Form: Form{Output: "table"}, IDs: []string{"x"}}
			return show.Run(t.Context(), o)
		})
		require.Equal(t, ExitUsage, ExitCode(err), address)
	}
	for class, code := range map[domain.Class]int{
		domain.Unavailable: ExitUnavailable, domain.Misconfigured: ExitMisconfigured, domain.Canceled: ExitFailed,
		domain.Invalid: ExitFailed, domain.Unknown: ExitFailed,
	} {
		require.Equal(t, code, ExitCode(domain.Errorf(class, "x")))
	}
	require.Equal(t, ExitDone, ExitCode(nil))
	require.Equal(t, ExitFailed, ExitCode(errors.New("x")))
}

func TestToken(t *testing.T) {
	s := serve(t, map[string]string{"/api/v1/decisions": `{"items":[]}`})
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
	f := Find{
		Console: Console{Server: s.URL, Identity: Identity{TokenFile: file}}, Form: Form{Output: "json"},
		Wanted: Wanted{Since: "1h"}, Limit: 1,
	}
	_, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
	require.NoError(t, err)
	require.Equal(t, "Bearer s3cret", s.token)
	f.TokenFile = "/no/such/file"
	_, err = screen(func(o Out) error { return f.Run(t.Context(), o) })
	require.Equal(t, ExitMisconfigured, ExitCode(err))
}

func TestForeignServer(t *testing.T) {
	s := serve(t, map[string]string{"/api/v1/decisions/x": "<html>"})
	c := Show{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, IDs: []string{"x"}}
	_, err := screen(func(o Out) error { return c.Run(t.Context(), o) })
	require.Equal(t, ExitFailed, ExitCode(err))
	require.ErrorContains(t, err, "not docket's")
	s.status = http.StatusTeapot
	_, err = screen(func(o Out) error { return c.Run(t.Context(), o) })
	require.ErrorContains(t, err, "is this its address?")
	s.status = http.StatusNotFound
	_, err = screen(func(o Out) error { return c.Run(t.Context(), o) })
	require.Equal(t, ExitUsage, ExitCode(err), "that nothing was found there says nothing about the decision")
	other := serve(t, map[string]string{
		"/api/v1/decisions/x": `{"status":404,"title":"Not Found","detail":"there is nothing at GET /api/v1/decisions/x"}`,
	})
	other.status = http.StatusNotFound
	c.Server = other.URL
	_, err = screen(func(o Out) error { return c.Run(t.Context(), o) })
	require.Equal(t, ExitUsage, ExitCode(err))
	require.ErrorContains(t, err, "another listener")
}

// TestHostileTexts lets a server, and those who made decisions, try to write to the terminal itself.
func TestHostileTexts(t *testing.T) {
	const hostile = "a\x1b[31mred\u009b31m\u202eright to left\u2028\U000e0041tag\x7f\u0085"
	quoted, err := json.Marshal(hostile)
	require.NoError(t, err)
	harmless := func(text string) {
		t.Helper()
		for _, r := range text {
			require.False(t, r != '\n' && r != '\t' && harmful(r), "%q in %q", r, text)
		}
		require.True(t, utf8.ValidString(text))
	}
	decision := `{"decision_id":` + string(quoted) + `,"outcome":"denied","reason":` + string(quoted) + `,"tenant":` +
		string(quoted) + `,"path":` + string(quoted) + `,"time":"2026-11-20T12:34:56Z","event":{"x":` + string(quoted) + `}}`
	s := serve(t, map[string]string{
		"/api/v1/decisions": `{"items":[` + decision + `],"next_cursor":null}`, "/api/v1/decisions/x": decision,
	})
	for _, output := range []string{"table", "json", "ndjson"} {
		f := Find{Console: Console{Server: s.URL}, Form: Form{Output: output}, Wanted: Wanted{Since: "1h"}, Limit: 2}
		got, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
		require.NoError(t, err)
		harmless(got)
		if output == "json" {
			var items []api.Decision
			require.NoError(t, json.Unmarshal([]byte(got), &items))
			require.Equal(t, hostile, items[0].DecisionID, "the JSON says the same")
		}
		c := Show{Console: Console{Server: s.URL}, Form: Form{Output: output}, IDs: []string{"x"}}
		got, err = screen(func(o Out) error { return c.Run(t.Context(), o) })
		require.NoError(t, err)
		harmless(got)
	}
	var b bytes.Buffer
	out := Screen(&b)
	for _, part := range []string{"one \xe2", "\x80\xae two\x1b]0;title\x07\n", "\xff\xfe\tthree ü\r\n", hostile} {
		n, err := io.WriteString(out, part)
		require.NoError(t, err)
		require.Len(t, part, n)
	}
	harmless(b.String())
	require.Contains(t, b.String(), "three ü")
	b.Reset()
	_, err = io.WriteString(Screen(&b, '\r'), "50 %\r51 %")
	require.NoError(t, err)
	require.Equal(t, "50 %\r51 %", b.String(), "progress")
	long := serve(t, map[string]string{"/api/v1/decisions/x": strings.Repeat(" ", maxAnswer+1)})
	c := Show{Console: Console{Server: long.URL}, Form: Form{Output: "table"}, IDs: []string{"x"}}
	_, err = screen(func(o Out) error { return c.Run(t.Context(), o) })
	require.ErrorContains(t, err, "more than docket ever does")
}

func FuzzEscaped(f *testing.F) {
	f.Add("a\x1b\u009b\u202e\U000e0041\xff")
	f.Fuzz(func(t *testing.T, text string) {
		spelled, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		var back, want string
		out := escaped(spelled)
		if err := errors.Join(json.Unmarshal(out, &back), json.Unmarshal(spelled, &want)); err != nil || back != want {
			t.Fatalf("%q became %q (%v)", want, back, err)
		}
		for _, r := range string(out) {
			if harmful(r) {
				t.Fatalf("%q in %q", r, out)
			}
		}
	})
}

// receiver takes uploads and keeps the elements.
func receiver(t *testing.T) (address string, got *[]string, uploads *int) {
	got, uploads = new([]string), new(int)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		var events []json.RawMessage
		if err := json.NewDecoder(z).Decode(&events); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, e := range events {
			*got = append(*got, string(e))
		}
		*uploads++
		fmt.Fprintf(w, `{"accepted":%d,"quarantined":0,"reasons":{}}`, len(events))
	}))
	t.Cleanup(s.Close)
	return s.URL, got, uploads
}

func TestSendReadsEveryForm(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, `[{"z":1},{"z":2}]`)
	require.NoError(t, z.Close())
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"an array":       {"[ {\"a\" : 1.0}, {\"b\":\"\\ud800\"} ]\n", []string{`{"a" : 1.0}`, `{"b":"\ud800"}`}},
		"one object":     {`{"a":1}`, []string{`{"a":1}`}},
		"NDJSON":         {"{\"a\":1}\n{\"a\":2}\n\n", []string{`{"a":1}`, `{"a":2}`}},
		"two arrays":     {`[{"a":1}][{"a":2}]`, []string{`{"a":1}`, `{"a":2}`}},
		"gzip":           {zipped.String(), []string{`{"z":1}`, `{"z":2}`}},
		"nothing":        {"", nil},
		"an empty array": {"[]", nil},
		"nested arrays":  {`[[1],{"a":[2]}]`, []string{`[1]`, `{"a":[2]}`}},
	} {
		t.Run(name, func(t *testing.T) {
			url, got, _ := receiver(t)
			file := filepath.Join(t.TempDir(), "f")
			require.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
			s := Send{UploadServer: url, Form: Form{Output: "table"}, Files: []string{file}}
			out, err := screen(func(o Out) error { return s.Run(t.Context(), o) })
			require.NoError(t, err)
			require.Equal(t, c.want, *got)
			require.Equal(t, fmt.Sprintf("%d accepted, 0 quarantined\n", len(c.want)), out)
		})
	}
}

func TestSendSplits(t *testing.T) {
	url, got, uploads := receiver(t)
	file := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat(`{"a":1}`+"\n", sendEvents*2+1)), 0o600))
	s := Send{UploadServer: url, Form: Form{Output: "table"}, Files: []string{file}}
	_, err := screen(func(o Out) error { return s.Run(t.Context(), o) })
	require.NoError(t, err)
	require.Len(t, *got, sendEvents*2+1)
	require.Equal(t, 3, *uploads)
}

// TestSendOfWhatIsTooLarge has a docket that takes 20 KB on the wire, a large line among small ones, and a mark that an
// editor left in front.
func TestSendOfWhatIsTooLarge(t *testing.T) {
	var got []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) > 20_000 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			_, _ = io.WriteString(w, `{"status":413,"title":"Too Large","detail":"the upload is larger than 20000 bytes"}`)
			return
		}
		z, err := gzip.NewReader(bytes.NewReader(body))
		var events []json.RawMessage
		if err == nil {
			err = json.NewDecoder(z).Decode(&events)
		}
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, e := range events {
			got = append(got, string(e[:7]))
		}
		fmt.Fprintf(w, `{"accepted":%d,"quarantined":0,"reasons":{}}`, len(events))
	}))
	t.Cleanup(s.Close)
	large := make([]byte, sendBytes)
	for i := range large {
		large[i] = "0123456789abcdef"[(i*i>>3^i>>7)&15]
	}
	file := filepath.Join(t.TempDir(), "f")
	text := byteOrderMark + `{"a":1}` + "\n" + `{"b":2,"x":"` + string(large) + `"}` + "\n" + `{"c":3}` + "\n"
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	c := Send{UploadServer: s.URL, Form: Form{Output: "table"}, Files: []string{file}}
	printed, err := screen(func(o Out) error { return c.Run(t.Context(), o) })
	require.Equal(t, ExitFailed, ExitCode(err))
	require.ErrorContains(t, err, "1 events are larger than this docket takes")
	require.Contains(t, printed, "2 accepted")
	require.Equal(t, []string{`{"a":1}`, `{"c":3}`}, got)
}

func TestSendBadFiles(t *testing.T) {
	url, got, _ := receiver(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"broken": `[{"a":1},{"b":]`, "cut": `[{"a":1},{"b"`,
		"gz": "\x1f\x8bnot gzip"} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		s := Send{UploadServer: url, Form: Form{Output: "table"}, Files: []string{file}}
		_, err := screen(func(o Out) error { return s.Run(t.Context(), o) })
		require.Equal(t, ExitFailed, ExitCode(err), name)
		require.ErrorContains(t, err, name)
	}
	require.Equal(t, []string{`{"a":1}`, `{"a":1}`}, *got, "what stands in front of the fault is sent")
	s := Send{UploadServer: url, Form: Form{Output: "table"}, Files: []string{"/no/such/file"}}
	_, err := screen(func(o Out) error { return s.Run(context.Background(), o) })
	require.Equal(t, ExitFailed, ExitCode(err))
}

func FuzzEachEvent(f *testing.F) {
	f.Add([]byte(`[{"a":1},[2]]{"b":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = eachEvent(bytes.NewReader(b), func(e []byte) error {
			if !bytes.Contains(b, e) {
				t.Fatalf("%q is not in the file", e)
			}
			return nil
		})
	})
}

// TestSendWaitsForAQuota does as OPA does: what a quota refuses is sent again.
func TestSendWaitsForAQuota(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"status":429,"title":"Too Many Requests","detail":"quota"}`)
			return
		}
		_, _ = io.WriteString(w, `{"accepted":1,"quarantined":0,"reasons":{},"dropped":2}`)
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "events.json")
	require.NoError(t, os.WriteFile(file, []byte(`[{},{},{}]`), 0o600))
	got, err := screen(func(o Out) error {
		return (&Send{UploadServer: s.URL, Form: Form{Output: "table"}, Files: []string{file}}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	require.Equal(t, 3, asked)
	require.Equal(t, "1 accepted, 0 quarantined, 2 dropped by policies\n", got)
}
