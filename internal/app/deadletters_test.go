package app

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// jobAnswer is what the tests read of a job.
type jobAnswer struct {
	ID, State, Message                               string
	Matched, Done, Stored, Failed, Reparsed, Skipped int64
	OnTheWay                                         int64 `json:"on_the_way"`
	Report                                           *struct {
		Tried, Bodies, Events, Broken int
		Of                            int64
		Statuses                      map[string]int
		Failures                      []struct {
			Class, Error, Sample string
			Letters              int
		}
		Histogram []struct {
			Cause   string
			Letters int64
		}
	}
}

// post sends JSON to the console listener.
func (r *running) post(t *testing.T, path, token, body string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(
		t.Context(), http.MethodPost, "http://"+r.ConsoleAddr()+"/api/v1/"+path, strings.NewReader(body),
	)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := r.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, answer
}

// job asks for one, and waits until it rests.
func (r *running) job(t *testing.T, path, body string) jobAnswer {
	t.Helper()
	code, answer := r.post(t, "dead-letters/"+path, "", body)
	require.Equal(t, http.StatusAccepted, code, "%s", answer)
	var j jobAnswer
	require.NoError(t, json.Unmarshal(answer, &j))
	return r.rested(t, j.ID)
}

func (r *running) rested(t *testing.T, id string) (j jobAnswer) {
	t.Helper()
	require.Eventually(t, func() bool {
		j = jobAnswer{}
		code, answer := r.get(t, r.ConsoleAddr(), "/api/v1/jobs/"+id)
		require.Equal(t, http.StatusOK, code, "%s", answer)
		require.NoError(t, json.Unmarshal(answer, &j))
		return j.State != "pending" && j.State != "running"
	}, 2*testPatience, testTick)
	return j
}

type deadAnswer struct {
	ID, State, Class, Cause, Fingerprint, Error string
	DecisionID                                  string `json:"decision_id"`
	Copies, Replays                             int
	Headers                                     map[string]string
	Event                                       json.RawMessage
	Preview                                     string
}

// dead lists dead letters.
func (r *running) dead(t *testing.T, query string) []deadAnswer {
	t.Helper()
	code, answer := r.get(t, r.ConsoleAddr(), "/api/v1/dead-letters?"+query)
	require.Equal(t, http.StatusOK, code, "%s", answer)
	var page struct{ Items []deadAnswer }
	require.NoError(t, json.Unmarshal(answer, &page))
	return page.Items
}

// indexed waits until so many dead letters are in a state.
func (r *running) indexed(t *testing.T, n int, query string) []deadAnswer {
	t.Helper()
	var got []deadAnswer
	require.Eventually(
		t, func() bool { got = r.dead(t, "limit=1000&"+query); return len(got) == n }, testPatience, testTick, "%d of %s",
		n, query,
	)
	return got
}

type trailAnswer struct {
	State, Message string
	Waiting        []struct{ Topic, Stage string }
	Dead           []deadAnswer
	LastUpload     *struct{ OPA string } `json:"last_upload"`
	Quarantined    int64                 `json:"quarantined_uploads"`
}

func (r *running) trail(t *testing.T, id string) (a trailAnswer) {
	t.Helper()
	code, answer := r.get(t, r.ConsoleAddr(), "/api/v1/decisions/"+url.PathEscape(id)+"/trail")
	require.Equal(t, http.StatusOK, code, "%s", answer)
	require.NoError(t, json.Unmarshal(answer, &a))
	return a
}

// poison makes the store refuse rows of a path until the returned func is called.
func (r *running) poison(t *testing.T, path string) (restore func()) {
	t.Helper()
	name := fmt.Sprintf("poison_%x", path)
	_, err := r.besides(t).ExecContext(t.Context(), `CREATE TRIGGER `+name+` BEFORE INSERT ON decisions_out_of_window
		WHEN NEW.path = '`+path+`' BEGIN SELECT RAISE(ABORT, 'no such account'); END`)
	require.NoError(t, err)
	return func() {
		_, err := r.besides(t).ExecContext(t.Context(), `DROP TRIGGER `+name)
		require.NoError(t, err)
	}
}

func quickToDie(c *Config) {
	c.Parking.MaxAttempts, c.Parking.BackoffMin, c.Parking.BackoffMax = 2, time.Millisecond, 5*time.Millisecond
}

// upload sends n decisions of a path, in as many events as one body.
func (r *running) upload(t *testing.T, path string, n int) (ids []string) {
	t.Helper()
	var events []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("%s-%d", path, i))
		events = append(events, fmt.Sprintf(`{"decision_id":"%s","path":"%s","result":true}`, ids[i], path))
	}
	_, status := postLogs(t, r, []byte("["+strings.Join(events, ",")+"]"), "")
	require.Equal(t, http.StatusOK, status)
	return ids
}

// TestDeadLetterJourney reads top to bottom like docket help replay: see, understand, try, replay, check.
func TestDeadLetterJourney(t *testing.T) {
	a := startApp(t, quickToDie)
	restore := a.poison(t, "pay")
	ids := a.upload(t, "pay", 150)
	a.upload(t, "fine", 3)
	letters := a.indexed(t, 150, "state=open&path=pay")

	// see
	_, body := a.get(t, a.ConsoleAddr(), "/api/v1/dead-letters/groups?state=open")
	var groups struct {
		Items []struct {
			Fingerprint, Class, Cause, Sample, Runbook string
			Open                                       int64
		}
	}
	require.NoError(t, json.Unmarshal(body, &groups))
	require.Len(t, groups.Items, 1)
	g := groups.Items[0]
	require.Equal(t, int64(150), g.Open)
	require.Equal(t, "unknown attempts_exhausted", g.Class+" "+g.Cause)
	require.True(t, strings.HasSuffix(g.Runbook, "runbook.md#attempts_exhausted"), g.Runbook)
	require.Eventually(t, func() bool { return a.metric(t, "docket_dead_letters_open") == "150" }, testPatience, testTick)

	// understand
	_, body = a.get(t, a.ConsoleAddr(), "/api/v1/dead-letters/"+letters[0].ID)
	var one deadAnswer
	require.NoError(t, json.Unmarshal(body, &one))
	require.Contains(t, one.Error, "no such account")
	require.Equal(t, "2", one.Headers["docket-attempt"])
	require.Contains(t, string(one.Event), `"path":"pay"`)
	_, raw := a.get(t, a.ConsoleAddr(), "/api/v1/dead-letters/"+letters[0].ID+"/raw")
	require.Equal(t, string(one.Event), string(raw))
	where := a.trail(t, ids[0])
	require.Equal(t, "dead", where.State)
	require.Len(t, where.Dead, 1)

	// try
	filter := `{"filter":{"fingerprint":"` + g.Fingerprint + `"}`
	dry := a.job(t, "replays", filter+`}`)
	require.Equal(t, "done", dry.State, dry.Message)
	require.Contains(t, dry.Message, "do not replay them yet")
	require.Equal(t, map[string]int{"failed": 150}, dry.Report.Statuses)
	require.Equal(t, int64(150), dry.Report.Histogram[0].Letters)
	require.Equal(t, 150, dry.Report.Failures[0].Letters)
	require.Len(t, a.dead(t, "limit=1000&state=open"), 150, "nothing has moved")

	// a replay in spite of that stops itself after the first hundred
	stopped := a.job(t, "replays", filter+`,"dry_run":false,"comment":"a try"}`)
	require.Equal(t, "stopped", stopped.State, stopped.Message)
	require.Equal(t, int64(100), stopped.Done)
	require.LessOrEqual(t, stopped.Failed, int64(100))
	require.Greater(t, stopped.Failed, int64(9))
	a.indexed(t, 150, "state=open")
	code, answer := a.post(t, "dead-letters/replays", "", filter+`,"dry_run":false,"comment":"again"}`)
	require.Equal(t, http.StatusConflict, code, "the same is not over: %s", answer)

	// fixed, it goes on
	restore()
	code, answer = a.post(t, "jobs/"+stopped.ID+"/resume", "", "")
	require.Equal(t, http.StatusOK, code, "%s", answer)
	require.Equal(t, "done", a.rested(t, stopped.ID).State)
	rest := a.job(t, "replays", filter+`,"dry_run":false,"comment":"constraint fixed"}`)
	require.Equal(t, "done", rest.State, rest.Message)
	require.Equal(t, int64(100), rest.Matched, "those that had come back")
	require.Zero(t, rest.Failed)
	require.Zero(t, rest.OnTheWay)

	// check
	a.indexed(t, 150, "state=stored")
	require.Empty(t, a.dead(t, "state=open"))
	for _, id := range ids {
		require.Equal(t, http.StatusOK, a.status(t, id))
	}
	require.Equal(t, "stored", a.trail(t, ids[0]).State)
	nothing := a.job(t, "replays", filter+`,"dry_run":false,"comment":"once more"}`)
	require.Contains(t, nothing.Message, "150 are stored already")
	_, body = a.get(t, a.ConsoleAddr(), "/api/v1/audit")
	require.Equal(t, 1, strings.Count(string(body), `"replay.stopped"`), "%s", body)
	require.Equal(t, 2, strings.Count(string(body), `"replay.done"`), "%s", body)
	require.Contains(t, string(body), `"comment":"constraint fixed"`)
}

// TestReparse replays bytes that could not be read: within other limits they can be.
func TestReparse(t *testing.T) {
	data := t.TempDir()
	a := startApp(t, func(c *Config) { c.Data, c.Ingest.MaxDepth, c.Ingest.MaxEvents = data, 3, 2 })
	send := func(body []byte, encoding string) {
		t.Helper()
		_, status := postLogs(t, a, body, encoding)
		require.Equal(t, http.StatusOK, status)
	}
	send([]byte(`[{"decision_id":"deep","input":{"a":{"b":{}}}}]`), "")
	send(zipped(`[{"decision_id":"1"},{"decision_id":"2"},{"decision_id":"3"},7]`), "gzip")
	send([]byte(`[{"decision_id":"4"},{`), "")
	send([]byte(`[{"decision_id":"5"}]`), "gzip")
	a.indexed(t, 4, "state=open")
	where := a.trail(t, "deep")
	require.Equal(t, "dead", where.State)
	require.Equal(t, "too_deep", where.Dead[0].Cause)
	lost := a.trail(t, "3")
	require.Equal(t, "not_found", lost.State)
	require.Equal(t, int64(3), lost.Quarantined, "it may have been in one of those")
	a.stop()

	a = startApp(t, func(c *Config) { c.Data = data })
	dry := a.job(t, "replays", `{"filter":{}}`)
	require.Equal(t, []int{4, 6, 2}, []int{dry.Report.Bodies, dry.Report.Events, dry.Report.Broken}, dry.Message)
	done := a.job(t, "replays", `{"dry_run":false,"comment":"larger limits"}`)
	require.Equal(t, "done", done.State, done.Message)
	require.Equal(
		t, []int64{4, 3, 1}, []int64{done.Done, done.Reparsed, done.Failed},
		"7 is no object now either, and a dead letter of its own",
	)
	a.drained(t)
	for _, id := range []string{"deep", "1", "2", "3", "4", "5"} {
		require.Eventually(t, func() bool { return a.status(t, id) == http.StatusOK }, testPatience, testTick, id)
	}
	open := a.indexed(t, 2, "state=open")
	require.ElementsMatch(t, []string{"truncated", "not_object"}, []string{open[0].Cause, open[1].Cause})
}

// TestLoopGuard leaves alone what was replayed too often.
func TestLoopGuard(t *testing.T) {
	a := startApp(t, quickToDie)
	a.poison(t, "loop")
	a.upload(t, "loop", 1)
	a.indexed(t, 1, "state=open")
	for n := range 3 {
		j := a.job(t, "replays", fmt.Sprintf(`{"filter":{"path":"loop"},"dry_run":false,"comment":"try %d"}`, n))
		require.Equal(t, int64(1), j.Failed, j.Message)
		require.Equal(t, n+1, a.indexed(t, 1, "state=open")[0].Replays)
	}
	j := a.job(t, "replays", `{"filter":{"path":"loop"},"dry_run":false,"comment":"try 4"}`)
	require.Zero(t, j.Matched)
	require.Contains(t, j.Message, "was replayed 3 times already")
	j = a.job(t, "replays", `{"filter":{"path":"loop"},"dry_run":false,"comment":"try 5","max_replays":4}`)
	require.Equal(t, int64(1), j.Failed)
	require.Equal(t, 5, a.dead(t, "")[0].Copies)

	discarded := a.job(t, "discards", `{"filter":{"path":"loop"},"dry_run":false,"comment":"nobody wants it"}`)
	require.Equal(t, int64(1), discarded.Done, discarded.Message)
	require.Equal(t, "discarded", a.trail(t, "loop-0").State)
	require.Equal(t, http.StatusOK, func() int {
		code, _ := a.get(t, a.ConsoleAddr(), "/api/v1/dead-letters/"+a.dead(t, "")[0].ID+"/raw")
		return code
	}(), "its bytes stay")
}

// TestRepetitiveDeadLetters has an element that the dead-letter topic keeps compressed: people see the bytes that were
// sent, and a replay reads them.
func TestRepetitiveDeadLetters(t *testing.T) {
	a := startApp(t, nil)
	deep := nested("deep", 20_000)
	answer, status := postLogs(t, a, []byte("["+deep+"]"), "")
	require.Equal(t, http.StatusOK, status, "%s", answer)
	letter := a.indexed(t, 1, "state=open")[0]
	require.Equal(t, "too_deep", letter.Cause)
	code, raw := a.get(t, a.ConsoleAddr(), "/api/v1/dead-letters/"+letter.ID+"/raw")
	require.Equal(t, http.StatusOK, code, "%s", raw)
	require.Equal(t, deep, string(raw))
	_, body := a.get(t, a.ConsoleAddr(), "/api/v1/dead-letters/"+letter.ID)
	var one deadAnswer
	require.NoError(t, json.Unmarshal(body, &one))
	require.NotEmpty(t, one.Preview)
	require.Equal(t, "anonymous", one.Headers["docket-uploader"])
	require.Equal(t, "127.0.0.1", one.Headers["docket-remote-address"])
	j := a.job(t, "replays", `{"filter":{"cause":"too_deep"},"dry_run":false,"comment":"again"}`)
	require.Equal(t, []int64{1, 1, 0}, []int64{j.Done, j.Failed, j.Skipped}, j.Message)
}

// TestReindex loses the index, which the log brings back.
func TestReindex(t *testing.T) {
	a := startApp(t, nil)
	_, status := postLogs(t, a, []byte(`[1,2,3,{"decision_id":"old","timestamp":"2020-01-01T00:00:00Z"}]`), "")
	require.Equal(t, http.StatusOK, status)
	before := a.indexed(t, 4, "")
	discarded := a.job(t, "discards", `{"filter":{"cause":"expired"},"dry_run":false,"comment":"too old"}`)
	require.Equal(t, int64(1), discarded.Done)
	_, err := a.besides(t).ExecContext(t.Context(), `DELETE FROM dead_letters WHERE cause = 'not_object'`)
	require.NoError(t, err)
	require.Len(t, a.dead(t, ""), 1)
	j := a.job(t, "reindexes", `{}`)
	require.Equal(t, "done", j.State, j.Message)
	require.Equal(t, []int64{4, 4}, []int64{j.Matched, j.Done})
	after := a.dead(t, "")
	require.Len(t, after, len(before))
	require.Len(t, a.dead(t, "state=discarded"), 1, "what an operator has decided stays decided")
	for i := range after {
		require.Equal(t, 1, after[i].Copies)
	}
}

// TestPausedJob has an operator stop a slow replay, and let it go on.
func TestPausedJob(t *testing.T) {
	a := startApp(t, quickToDie)
	restore := a.poison(t, "slow")
	ids := a.upload(t, "slow", 30)
	a.indexed(t, 30, "state=open")
	restore()
	code, answer := a.post(
		t, "dead-letters/replays", "", `{"filter":{"path":"slow"},"dry_run":false,"comment":"gently","rate":5,"max":20}`,
	)
	require.Equal(t, http.StatusAccepted, code, "%s", answer)
	var j jobAnswer
	require.NoError(t, json.Unmarshal(answer, &j))
	require.Eventually(t, func() bool {
		_, answer := a.get(t, a.ConsoleAddr(), "/api/v1/jobs/"+j.ID)
		require.NoError(t, json.Unmarshal(answer, &j))
		return j.Done >= 3
	}, testPatience, testTick)
	code, answer = a.post(t, "jobs/"+j.ID+"/pause", "", "")
	require.Equal(t, http.StatusOK, code, "%s", answer)
	paused := a.rested(t, j.ID)
	require.Equal(t, "paused", paused.State)
	require.Less(t, paused.Done, int64(20))
	code, answer = a.post(t, "jobs/"+j.ID+"/pause", "", "")
	require.Equal(t, http.StatusConflict, code, "%s", answer)
	code, answer = a.post(t, "jobs/"+j.ID+"/resume", "", "")
	require.Equal(t, http.StatusOK, code, "%s", answer)
	done := a.rested(t, j.ID)
	require.Equal(t, []any{"done", int64(20), int64(20)}, []any{done.State, done.Done, done.Stored}, done.Message)
	require.Len(t, a.dead(t, "state=open&limit=1000"), 10, "max bounds it")
	stored := 0
	for _, id := range ids {
		if a.status(t, id) == http.StatusOK {
			stored++
		}
	}
	require.Equal(t, 20, stored)
}

// TestOperatorsMistakes are answered by name, and change nothing.
func TestOperatorsMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	hash := func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
	require.NoError(t, os.WriteFile(file, []byte("vera viewer "+hash("v")+"\nolga operator "+hash("o")+"\n"), 0o600))
	a := startApp(t, func(c *Config) { c.ConsoleTokensFile = file })
	for _, c := range []struct {
		name, path, token, body string
		status                  int
		says                    string
	}{
		{"a viewer's token", "dead-letters/replays", "v", `{}`, 403, "role operator"},
		{"a viewer's cancel", "dead-letters/replays/x/cancel", "v", ``, 403, "role operator"},
		{"no token", "dead-letters/discards", "", `{}`, 401, "bearer token"},
		{"an unknown filter", "dead-letters/replays", "o", `{"filter":{"colour":"red"}}`, 400, `unknown parameter "colour"`},
		{"a filter that is a number", "dead-letters/replays", "o", `{"filter":{"class":7}}`, 400,
			"strings or arrays of strings"},
		{"a filter that came out empty", "dead-letters/discards", "o",
			`{"filter":{"fingerprint":[]},"dry_run":false,"comment":"x"}`, 400, "would choose everything"},
		{"a class that is none", "dead-letters/replays", "o", `{"filter":{"class":"bad"}}`, 400, "is no class"},
		{"a state that is none", "dead-letters/replays", "o", `{"filter":{"state":["open","shut"]}}`, 400, "is no state"},
		{"a limit in a filter", "dead-letters/replays", "o", `{"filter":{"limit":"7"}}`, 400, "use max to bound a job"},
		{"an unknown field", "dead-letters/replays", "o", `{"filters":{}}`, 400, "unknown field"},
		{"a rate of 0", "dead-letters/replays", "o", `{"rate":0}`, 400, "leave it out"},
		{"a max of 0", "dead-letters/replays", "o", `{"max":0}`, 400, "leave it out"},
		{"a ratio of 2", "dead-letters/replays", "o", `{"stop_ratio":2}`, 400, "stop_ratio"},
		{"a guard of 0", "dead-letters/replays", "o", `{"max_replays":0}`, 400, "max_replays"},
		{"no comment", "dead-letters/replays", "o", `{"dry_run":false}`, 400, "a comment is wanted"},
		{"no comment to discard", "dead-letters/discards", "o", `{"dry_run":false,"comment":" "}`, 400,
			"a comment is wanted"},
		{"a filter for reindexing", "dead-letters/reindexes", "o", `{"filter":{"class":"invalid"}}`, 400, "takes no filter"},
		{"a job that is gone", "jobs/r-1/cancel", "o", ``, 404, "no job r-1"},
		{"a job that is gone, by its other name", "dead-letters/replays/r-1/cancel", "o", ``, 404, "no job r-1"},
		{"nothing matches", "dead-letters/replays", "o", `{"dry_run":false,"comment":"x","filter":{"path":"nowhere"}}`, 202,
			"no dead letter matches the filter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, answer := a.post(t, c.path, c.token, c.body)
			require.Equal(t, c.status, code, "%s", answer)
			require.Contains(t, string(answer), strings.ReplaceAll(c.says, `"`, `\"`))
		})
	}
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(
			t.Context(), http.MethodGet, "http://"+a.ConsoleAddr()+"/api/v1/"+path, http.NoBody,
		)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer v")
		resp, err := a.client.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(answer)
	}
	for path, want := range map[string]int{
		"dead-letters/docket.dlq:0:9": 404, "dead-letters/docket.dlq:0:9/raw": 404, "dead-letters/x": 400,
		"dead-letters?colour=red": 400, "dead-letters?cursor=x": 400,
		"dead-letters/groups?decision_id=x": 400, "jobs/r-1": 404, "dead-letters/replays/r-1": 404, "audit?limit=0": 400,
		"audit?caller=x": 400, "audit?until=yesterday": 400,
		"decisions/x/trail?scan=1": 400, "decisions/x/trail?cursor=x": 400, "dead-letters": 200, "audit": 200, "jobs": 200,
		"dead-letters/replays": 200,
	} {
		code, answer := get(path)
		require.Equal(t, want, code, "%s: %s", path, answer)
	}
}

// TestTrailOfWhatWaits has a store that is away: what waits is found in the log, and what was never sent is not.
func TestTrailOfWhatWaits(t *testing.T) {
	a := startApp(t, nil)
	conn, err := a.besides(t).Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	a.upload(t, "late", 1)
	for _, topic := range []string{"docket.decisions", "docket.parking"} {
		require.Eventually(t, func() bool {
			where := a.trail(t, "late-0")
			return where.State == "waiting" && where.Waiting[0].Topic == topic
		}, testPatience, testTick, topic)
	}
	code, answer := a.post(t, "dead-letters/replays", "", `{"dry_run":false,"comment":"x","filter":{"state":"open"}}`)
	require.Equal(t, http.StatusServiceUnavailable, code, "%s", answer)
	_, err = conn.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	a.drained(t)
	require.Eventually(t, func() bool { return a.trail(t, "late-0").State == "stored" }, testPatience, testTick)
	require.Eventually(t, func() bool { // the list of OPAs was not written while the store was away
		never := a.trail(t, "never")
		return never.State == "not_found" &&
			strings.Contains(never.Message, "The last upload of an OPA without labels.id came at")
	}, testPatience, testTick)
}
