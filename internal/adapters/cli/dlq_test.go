package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	deadRow = `{"id":"docket.dlq:3:1207","state":"open","class":"invalid","code":"23514","cause":"rejected",
		"error":"check \u001b[31m\"amount\"\nfailed","fingerprint":"0a1b2c3d4e5f",
		"attempts":1,"tenant":"acme","decision_id":"d-1","path":"pay/allow","timestamp":"2026-11-20T12:00:00Z",
		"received_at":"2026-11-20T12:00:01Z",
		"first_failed_at":"2026-11-20T12:00:02Z","died_at":"2026-11-20T12:00:03Z","copies":2,"bytes":77,"sha256":"ab",
		"upload":"cd","origin":"docket.decisions/1/2",
		"replay":"r-1","replays":1,"runbook":"https://example.org/runbook.md#rejected"}`
	deadBody = `{"id":"docket.dlq:0:9","state":"discarded","class":"invalid","code":null,"cause":"bad_gzip",
		"error":null,"fingerprint":"ffeeddccbbaa","attempts":0,"tenant":"default",
		"decision_id":null,"path":null,"timestamp":null,"received_at":null,"first_failed_at":null,
		"died_at":"2026-11-20T11:00:03Z","copies":1,"bytes":7,"sha256":"ef",
		"upload":"ef","origin":null,"replay":null,"replays":0,"runbook":"https://example.org/runbook.md#bad_gzip"`
	groupRow = `{"fingerprint":"0a1b2c3d4e5f","count":12,"open":9,"replayed":1,"discarded":0,"stored":2,
		"class":"invalid","code":"23514","cause":"rejected","error":"check #",
		"path":"pay/allow","first_seen":"2026-11-20T11:00:00Z","last_seen":"2026-11-20T12:00:00Z",
		"sample":"docket.dlq:3:1207","runbook":"https://example.org/runbook.md#rejected"}`
	jobRow = `{"id":"r-1","kind":"replay","dry_run":false,"state":"done",
		"message":"12 replayed: 12 are stored, 0 failed again","filter":{"state":["open"],"path":["pay/*","b c"]},
		"rate":100,"max":null,"max_replays":3,"stop_ratio":0.1,"comment":"constraint dropped","caller":"ann",
		"matched":12,"done":12,"stored":12,"failed":0,"reparsed":0,"skipped":0,
		"on_the_way":0,"created_at":"2026-11-20T12:30:00Z","started_at":"2026-11-20T12:30:01Z",
		"finished_at":"2026-11-20T12:30:09Z","report":null}`
	dryRow = `{"id":"r-2","kind":"replay","dry_run":true,"state":"done",
		"message":"7 of the 10000 that docket tried would fail again: do not replay all of them yet",
		"filter":{"state":["open"]},"rate":null,"max":null,
		"max_replays":3,"stop_ratio":0.1,"comment":null,"caller":"ann","matched":40000,"done":0,"stored":0,"failed":0,
		"reparsed":0,"skipped":0,"on_the_way":0,
		"created_at":"2026-11-20T12:30:00Z","started_at":null,"finished_at":null,"report":{"verdict":"some_fail",
		"histogram":[{"cause":"rejected","path":"pay/allow","class":"invalid","code":"23514","error":"check #",
		"letters":39000},{"cause":"bad_gzip","path":"","class":"invalid","code":"","error":"bad_gzip","letters":1000}],
		"tried":10000,"of":40000,"statuses":{"saved":9000,"duplicate":3,"failed":5,
		"conflict":1,"expired":1},"failures":[{"fingerprint":"0a1b2c3d4e5f","class":"invalid","code":"23514",
		"error":"check #","path":"pay/allow","letters":5,"sample":"docket.dlq:3:1207"}],
		"bodies":990,"events":2970,"broken":12,"gone":3}}`
	safeDry = `{"id":"r-6","kind":"replay","dry_run":true,"state":"done",
		"message":"all of the 2 that docket tried would be stored now: it is safe to replay them",
		"filter":{"state":["open"]},"caller":"ann",
		"matched":2,"created_at":"2026-11-20T12:30:00Z","report":{"verdict":"safe","histogram":[{"cause":"rejected",
		"path":"a","class":"invalid","code":"23514","error":"check #","letters":2}],
		"tried":2,"of":2,"statuses":{"saved":2},"failures":[]}}`
	discardDry = `{"id":"d-1","kind":"discard","dry_run":true,"state":"done",
		"message":"2 dead letters would be discarded","filter":{"state":["open"]},"caller":"ann","matched":2,
		"created_at":"2026-11-20T12:30:00Z","report":{"histogram":[{"cause":"expired","path":"a","class":"invalid",
		"code":"","error":"old","letters":2}],"tried":0,"of":2,"statuses":{},"failures":[]}}`
	failedJob = `{"id":"r-3","kind":"replay","dry_run":false,"state":"done",
		"message":"2 replayed: 1 are stored, 1 failed again","filter":{},"caller":"ann","matched":2,"done":2,"stored":1,
		"failed":1,"created_at":"2026-11-20T12:30:00Z"}`
	stoppedJob = `{"id":"r-4","kind":"replay","dry_run":false,"state":"stopped","message":"100 of 100 failed again",
		"filter":{},"caller":"ann","matched":200,"done":100,"failed":100,"created_at":"2026-11-20T12:30:00Z"}`
	auditRows = `{"items":[{"at":"2026-11-20T12:30:09Z","caller":"docket for ann","action":"replay.done",
		"target":"r-1","filter":"path=pay%2F%2A&state=open","matched":12,"done":12,"failed":0,
		"comment":"constraint dropped","outcome":"12 replayed"},{"at":"2026-11-20T12:00:00Z","caller":"olga",
		"action":"guard.accept","target":"0a1b2c3d4e5f","filter":"","matched":0,"done":0,"failed":0,
		"comment":"looked","outcome":"until tomorrow"}]}`
)

// reprojected is a dry run of a reprojection.
const reprojected = `{"id":"r-9","kind":"reproject","dry_run":true,"state":"done","code":"x","args":{},"tenants":null,` +
	`"message":"1200 decisions looked at; the columns of 300 would change","filter":{"since":["2026-10-27T10:00:00Z"]},` +
	`"max_replays":3,"stop_ratio":0.1,"caller":"ann","created_at":"2026-11-26T10:00:00Z","report":{"rows":1200,` +
	`"changed":300,"changes":[{"path":"shop/pay","column":"outcome","from":"unknown","to":"denied","rows":300,` +
	`"sample":"0f4a"},{"path":"shop/pay","column":"reason","from":"","to":"","rows":12,"sample":"0f4a"}]}}`

// run runs a command and checks what it prints and its exit code.
func run(t *testing.T, name string, code int, command interface {
	Run(context.Context, Out) error
}) {
	t.Helper()
	got, err := screen(func(o Out) error { return command.Run(t.Context(), o) })
	require.Equal(t, code, ExitCode(err), "%v\n%s", err, got)
	if err != nil {
		got += "docket: " + err.Error() + "\n"
	}
	golden(t, name, got)
}

func TestDLQScreens(t *testing.T) {
	s := serve(t, map[string]string{
		"/api/v1/dead-letters":        `{"items":[` + deadRow + `,` + deadBody + `}],"next_cursor":"more"}`,
		"/api/v1/dead-letters/groups": `{"items":[` + groupRow + `]}`,
		"/api/v1/dead-letters/docket.dlq:3:1207": strings.TrimSuffix(
			deadRow,
			"}",
		) + `,"available":true,"headers":{"docket-attempt":"1"},"preview":null,"event":{"decision_id":"d-1"}}`,
		"/api/v1/dead-letters/docket.dlq:0:9": deadBody + `,"available":true,"headers":{},"preview":"rubb\\x00ish",
			"event":null}`,
		"/api/v1/dead-letters/docket.dlq:0:8": deadBody + `,"available":false,"headers":{},"preview":null,"event":null}`,
		"/api/v1/jobs":                        `{"items":[` + jobRow + `,` + dryRow + `]}`,
		"/api/v1/jobs/r-1":                    jobRow,
		"/api/v1/jobs/r-2":                    dryRow,
		"/api/v1/jobs/d-1":                    discardDry,
		"/api/v1/jobs/r-3":                    failedJob,
		"/api/v1/jobs/r-4":                    stoppedJob,
		"/api/v1/jobs/r-4/resume":             stoppedJob,
		"/api/v1/jobs/r-5":                    strings.NewReplacer("r-4", "r-5", "stopped", "paused").Replace(stoppedJob),
		"/api/v1/jobs/r-6":                    safeDry,
		"/api/v1/dead-letters/docket.dlq:0:7": deadBody + `,"available":false,"read_error":"Kafka is away","headers":{},
			"preview":null,"event":null}`,
		"/api/v1/audit": auditRows,
	})
	c := Console{Server: s.URL}
	for _, output := range []string{"table", "json", "ndjson"} {
		run(
			t,
			"dlq-list-"+output,
			ExitDone,
			&DLQList{
				Console: c, Form: Form{Output: output}, Limit: 2,
				DeadFilter: DeadFilter{State: []string{"open"}, Cause: []string{"rejected", "!expired"}, Since: "1h"},
			},
		)
		run(
			t, "dlq-groups-"+output, ExitDone,
			&DLQGroups{Console: c, Form: Form{Output: output}, DeadFilter: DeadFilter{State: []string{"*"}}},
		)
		run(t, "jobs-list-"+output, ExitDone, &JobsList{Console: c, Form: Form{Output: output}})
		run(t, "jobs-dry-"+output, ExitFailed, &JobsShow{Console: c, Form: Form{Output: output}, ID: "r-2"})
		run(t, "audit-"+output, ExitDone, &Audit{Console: c, Form: Form{Output: output}, Limit: 7})
	}
	require.Equal(t, "limit=7", s.query)
	run(t, "dlq-show-row", ExitDone, &DLQShow{Console: c, Form: Form{Output: "table"}, ID: "docket.dlq:3:1207"})
	run(t, "dlq-show-body", ExitDone, &DLQShow{Console: c, Form: Form{Output: "table"}, ID: "docket.dlq:0:9"})
	run(t, "dlq-show-gone", ExitDone, &DLQShow{Console: c, Form: Form{Output: "table"}, ID: "docket.dlq:0:8"})
	run(t, "jobs-done", ExitDone, &JobsShow{Console: c, Form: Form{Output: "table"}, ID: "r-1"})
	run(t, "jobs-discard-dry", ExitDone, &JobsShow{Console: c, Form: Form{Output: "table"}, ID: "d-1"})
	run(t, "jobs-failed", ExitFailed, &JobsShow{Console: c, Form: Form{Output: "table"}, ID: "r-3"})
	run(t, "jobs-stopped", ExitFailed, &JobsShow{Console: c, Form: Form{Output: "table"}, ID: "r-4"})
	run(t, "jobs-resume", ExitDone, &JobsResume{jobMove{Console: c, Form: Form{Output: "table"}, ID: "r-4"}})
	run(t, "jobs-resume-json", ExitDone, &JobsResume{jobMove{Console: c, Form: Form{Output: "json"}, ID: "r-4"}})
	run(t, "jobs-paused", ExitFailed, &JobsShow{Console: c, Form: Form{Output: "table"}, ID: "r-5"})
	run(t, "jobs-safe", ExitDone, &JobsShow{Console: c, Form: Form{Output: "table"}, ID: "r-6"})
	run(t, "dlq-show-unread", ExitDone, &DLQShow{Console: c, Form: Form{Output: "table"}, ID: "docket.dlq:0:7"})
	nothing := Console{
		Server: serve(
			t,
			map[string]string{
				"/api/v1/dead-letters":        `{"items":[],"next_cursor":null}`,
				"/api/v1/dead-letters/groups": `{"items":[]}`,
				"/api/v1/jobs":                `{"items":[]}`,
				"/api/v1/audit":               `{"items":[]}`,
			},
		).URL,
	}
	run(t, "dlq-list-nothing", ExitDone, &DLQList{Console: nothing, Form: Form{Output: "table"}, Limit: 1})
	run(t, "dlq-list-nothing-json", ExitDone, &DLQList{Console: nothing, Form: Form{Output: "json"}, Limit: 1})
	run(t, "dlq-groups-nothing", ExitDone, &DLQGroups{Console: nothing, Form: Form{Output: "table"}})
	run(t, "jobs-list-nothing", ExitDone, &JobsList{Console: nothing, Form: Form{Output: "table"}})
	run(t, "audit-nothing", ExitDone, &Audit{Console: nothing, Form: Form{Output: "table"}, Limit: 1})
	run(t, "dlq-list-limit", ExitUsage, &DLQList{Console: nothing, Form: Form{Output: "table"}})
}

// jobServer takes jobs, and answers that they run a few times before they are done.
type jobServer struct {
	*httptest.Server
	wanted map[string]any
	asked  atomic.Int32
}

func serveJobs(t *testing.T, end string) *jobServer {
	s := &jobServer{}
	running := strings.NewReplacer(`"state":"done"`, `"state":"running"`, `"message":"`, `"message":"half-way: `).Replace(
		end,
	)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			_ = json.NewDecoder(r.Body).Decode(&s.wanted)
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, running)
		case strings.HasPrefix(r.URL.Path, "/api/v1/dead-letters/docket"):
			_, _ = io.WriteString(w, deadRow)
		case s.asked.Add(1) < 2:
			_, _ = io.WriteString(w, running)
		default:
			_, _ = io.WriteString(w, end)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestReplayIsWatched(t *testing.T) {
	s := serveJobs(t, jobRow)
	flags := JobFlags{
		Console: Console{Server: s.URL}, Form: Form{Output: "table"},
		DeadFilter: DeadFilter{State: []string{"open"}, Path: []string{"pay/*"}},
	}
	flags.Yes, flags.Comment, flags.Max = true, "constraint dropped", 12
	rate := 100.0
	run(t, "dlq-replay", ExitDone, &DLQReplay{JobFlags: flags, Rate: &rate, MaxReplays: 3, StopRatio: 0.1})
	require.Equal(t, map[string]any{
		"filter": map[string]any{
			"state": []any{"open"},
			"path":  []any{"pay/*"},
		},
		"dry_run":     false,
		"rate":        100.0,
		"max":         12.0,
		"max_replays": 3.0,
		"stop_ratio":  0.1,
		"comment":     "constraint dropped",
	}, s.wanted)

	s = serveJobs(t, jobRow)
	flags.Server, flags.Detach, flags.IDs, flags.Output, flags.Path = s.URL, true, []string{
		"docket.dlq:3:1207",
	}, "json", nil
	run(t, "dlq-replay-detached", ExitDone, &DLQReplay{JobFlags: flags, MaxReplays: 3, StopRatio: 0.1})
	require.Equal(t, map[string]any{"id": []any{"docket.dlq:3:1207"}, "state": []any{"open"}}, s.wanted["filter"])
	require.NotContains(t, s.wanted, "rate")

	s = serveJobs(t, discardDry)
	run(
		t, "dlq-discard-dry", ExitDone,
		&DLQDiscard{JobFlags: JobFlags{Console: Console{Server: s.URL}, Form: Form{Output: "table"}}},
	)
	require.Equal(t, true, s.wanted["dry_run"])
	s = serveJobs(t, strings.ReplaceAll(jobRow, `"kind":"replay"`, `"kind":"reindex"`))
	run(t, "dlq-reindex", ExitDone, &DLQReindex{Console: Console{Server: s.URL}, Form: Form{Output: "table"}})
}

func TestReproject(t *testing.T) {
	s := serve(t, map[string]string{"/api/v1/decisions/reprojections": reprojected, "/api/v1/jobs/r-9": reprojected})
	run(t, "reproject-dry", ExitDone, &Reproject{
		Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Since: "30d", Path: []string{"shop/*"},
	})
	s = serve(t, map[string]string{
		"/api/v1/decisions/reprojections": strings.Replace(reprojected, `"dry_run":true`, `"dry_run":false,"done":300,"skipped":900`, 1),
		"/api/v1/jobs/r-9":                strings.Replace(reprojected, `"dry_run":true`, `"dry_run":false,"done":300,"skipped":900`, 1),
	})
	run(t, "reproject", ExitDone, &Reproject{
		Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Since: "30d",
		Consent: Consent{Yes: true, Comment: "a new mapping"},
	})
}

// TestReplayHeedsTheDryRun asks once more where the last dry run of the same said no.
func TestReplayHeedsTheDryRun(t *testing.T) {
	dry := func(verdict, filter string, age time.Duration) string {
		return `{"id":"r-2","kind":"replay","dry_run":true,"state":"done","message":"5 of 9 would fail again","filter":` + filter +
			`,"caller":"ann","created_at":"` + time.Now().Add(-age).UTC().Format(time.RFC3339) + `","report":{"verdict":"` +
			verdict + `"}}`
	}
	for name, c := range map[string]struct {
		jobs   string
		anyway bool
		code   int
	}{
		"it said no":         {dry("some_fail", `{"path":["pay/*"],"state":["open"],"since":["x"]}`, time.Minute), false, ExitFailed},
		"it said no, anyway": {dry("some_fail", `{"path":["pay/*"],"state":["open"]}`, time.Minute), true, ExitDone},
		"it said yes":        {dry("safe", `{"path":["pay/*"],"state":["open"]}`, time.Minute), false, ExitDone},
		"of something else":  {dry("all_fail", `{"path":["b"],"state":["open"]}`, time.Minute), false, ExitDone},
		"long ago":           {dry("all_fail", `{"path":["pay/*"],"state":["open"]}`, 2*time.Hour), false, ExitDone},
		"yes behind an old no": {dry("safe", `{"path":["pay/*"],"state":["open"]}`, 0) + "," + dry("all_fail",
			`{"path":["pay/*"],"state":["open"]}`, time.Minute), false, ExitDone},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, map[string]string{
				"/api/v1/jobs": `{"items":[` + c.jobs + `]}`, "/api/v1/dead-letters/replays": jobRow, "/api/v1/jobs/r-1": jobRow,
			})
			r := &DLQReplay{JobFlags: JobFlags{
				Console: Console{Server: s.URL}, Form: Form{Output: "table"}, Consent: Consent{Yes: true, Comment: "fixed"},
				DeadFilter: DeadFilter{State: []string{"open"}, Path: []string{"pay/*"}},
			}, MaxReplays: 3, StopRatio: 0.1, Anyway: c.anyway}
			_, err := screen(func(o Out) error { return r.Run(t.Context(), o) })
			require.Equal(t, c.code, ExitCode(err), "%v", err)
			if err != nil {
				require.ErrorContains(t, err, "--anyway")
			}
		})
	}
}

func TestGroupsBy(t *testing.T) {
	other := strings.NewReplacer("0a1b2c3d4e5f", "ffffffffffff", "pay/allow", "ship/allow").Replace(groupRow)
	s := serve(t, map[string]string{"/api/v1/dead-letters/groups": `{"items":[` + groupRow + `,` + other + `]}`})
	for _, by := range []string{"cause", "path"} {
		groups := &DLQGroups{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, By: by}
		run(t, "dlq-groups-by-"+by, ExitDone, groups)
	}
}

func TestUndo(t *testing.T) {
	j := strings.NewReplacer(`"kind":"replay"`, `"kind":"discard"`).Replace(jobRow)
	s := serve(t, map[string]string{"/api/v1/jobs/r-1": j})
	got, err := screen(func(o Out) error {
		return (&JobsShow{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, ID: "r-1"}).Run(t.Context(), o)
	})
	require.NoError(t, err)
	require.Contains(t, got, "To undo it: docket dlq replay --state discarded --job r-1")
}

func TestReplayOnATerminal(t *testing.T) {
	s := serveJobs(t, jobRow)
	var out, errs strings.Builder
	r := &DLQReplay{
		JobFlags: JobFlags{
			Console: Console{Server: s.URL}, Form: Form{Output: "json"}, Consent: Consent{Yes: true, Comment: "x"},
		},
		MaxReplays: 3, StopRatio: 0.1,
	}
	require.NoError(t, r.Run(t.Context(), Out{Stdout: &out, Stderr: &errs, Terminal: true}))
	require.True(t, json.Valid([]byte(out.String())), "the bar is drawn elsewhere: %s", &out)
	require.Contains(t, errs.String(), "replay")
}

func TestReplayMistakes(t *testing.T) {
	s := serve(t, nil)
	flags := JobFlags{Console: Console{Server: s.URL}, Form: Form{Output: "table"}}
	for name, c := range map[string]struct {
		code    int
		command interface {
			Run(context.Context, Out) error
		}
	}{
		"no comment": {ExitUsage, &DLQReplay{JobFlags: JobFlags{Consent: Consent{Yes: true}}}},
		"everything, without saying so": {ExitUsage, &DLQDiscard{JobFlags: JobFlags{Consent: Consent{Yes: true, Comment: "x"},
			DeadFilter: DeadFilter{State: []string{"open"}}}}},
		"IDs and a filter": {ExitUsage, &DLQDiscard{JobFlags: JobFlags{IDs: []string{"docket.dlq:0:1"},
			DeadFilter: DeadFilter{Cause: []string{"expired"}}}}},
		"reproject, both":             {ExitUsage, &Reproject{Consent: Consent{Yes: true, DryRun: true, Comment: "x"}}},
		"reproject without a comment": {ExitUsage, &Reproject{Consent: Consent{Yes: true}}},
		"both": {ExitUsage, &DLQDiscard{All: true, JobFlags: JobFlags{Consent: Consent{Yes: true, DryRun: true,
			Comment: "x"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := screen(func(o Out) error { return c.command.Run(t.Context(), o) })
			require.Equal(t, c.code, ExitCode(err), "%v", err)
			require.Empty(t, s.path, "nothing was asked")
		})
	}
	for status, code := range map[int]int{400: ExitUsage, 401: ExitRefused, 403: ExitRefused, 404: ExitNotFound,
		409: ExitFailed, 503: ExitUnavailable} {
		refused := serve(t, map[string]string{"/api/v1/dead-letters/replays": `{"title":"T","detail":"what to do"}`})
		refused.status = status
		flags.Server = refused.URL
		_, err := screen(func(o Out) error { return (&DLQReplay{JobFlags: flags}).Run(t.Context(), o) })
		require.Equal(t, code, ExitCode(err), "%d", status)
		require.ErrorContains(t, err, "what to do")
	}
}

func TestTrailScreens(t *testing.T) {
	searched := `"searched":[{"stage":"saver","topic":"docket.decisions","partition":3,"looked_at":200000,"left":1234,
		"oldest_at":null,"complete":false,"error":null},
		{"stage":"parking role","topic":"docket.parking","partition":3,"looked_at":0,"left":0,"oldest_at":null,
		"complete":true,"error":null}]`
	for name, c := range map[string]struct {
		code int
		body string
	}{
		"stored": {ExitDone, `{"state":"stored","message":"it is stored","stored":[{"tenant":"acme",
			"received_at":"2026-11-20T12:00:00Z","saved_at":"2026-11-20T12:00:01.5Z","late_seconds":1.5,
			"outcome":"denied"}]}`},
		"waiting": {ExitDone, `{"state":"waiting","message":"it waits","waiting":[{"stage":"parking role",
			"topic":"docket.parking","partition":3,"offset":7,"tenant":"acme","written_at":"2026-11-20T12:00:01Z",
			"attempt":2,"not_before":"2026-11-20T12:01:00Z","error":"no such account"}],` + searched + `}`},
		"dead": {ExitDone, `{"state":"dead","message":"it is a dead letter","dead":[` + deadRow + `],` + searched + `}`},
		"unknown": {ExitUnavailable, `{"state":"unknown","message":"it may be among 1234 records",` + searched +
			`,"next_cursor":"x"}`},
		"not-found": {ExitNotFound, `{"state":"not_found","message":"docket has never received it",` + searched + `}`},
	} {
		s := serve(t, map[string]string{"/api/v1/decisions/a/b/trail": c.body})
		run(
			t, "trail-"+name, c.code,
			&Trail{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, ID: "a/b", OPA: "opa-1"},
		)
		require.Equal(t, "/api/v1/decisions/a%2Fb/trail", s.path)
		require.Equal(t, "opa=opa-1", s.query)
		got, err := screen(func(o Out) error {
			return (&Trail{Console: Console{Server: s.URL}, Form: Form{Output: "json"}, ID: "a/b"}).Run(t.Context(), o)
		})
		require.Equal(t, c.code, ExitCode(err))
		require.JSONEq(t, c.body, got)
	}
	// --scan goes on where the answer before stopped.
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		if len(asked) < 3 {
			_, _ = io.WriteString(
				w,
				`{"state":"unknown","message":"more",`+searched+`,"next_cursor":"c`+strings.Repeat("+", len(asked))+`"}`,
			)
			return
		}
		_, _ = io.WriteString(w, `{"state":"not_found","message":"nowhere","searched":[]}`)
	}))
	t.Cleanup(s.Close)
	_, err := screen(func(o Out) error {
		return (&Trail{Console: Console{Server: s.URL}, Form: Form{Output: "table"}, ID: "x", Scan: true}).Run(t.Context(), o)
	})
	require.Equal(t, ExitNotFound, ExitCode(err))
	require.Equal(t, []string{"", "cursor=c%2B", "cursor=c%2B%2B"}, asked)
}

func TestTopics(t *testing.T) {
	got, err := screen(func(o Out) error { return (&Topic{}).Run(o) })
	require.NoError(t, err)
	require.Contains(t, got, "docket help replay")
	for _, name := range []string{"replay", "trail"} {
		got, err := screen(func(o Out) error { return (&Topic{Name: name}).Run(o) })
		require.NoError(t, err)
		require.Contains(t, got, "Exit codes:")
		for line := range strings.Lines(got) {
			require.LessOrEqual(t, len([]rune(line)), 126, line)
		}
	}
}
