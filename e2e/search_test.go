package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// schemathesis is built by `make e2e`.
const schemathesis = "../.servers/schemathesis/bin/schemathesis"

// TestAPIKeepsItsDocument has Schemathesis ask everything that the API's document allows, and what it does not. Two of
// its doubts are left out: no schema says what a query of docket's language is, so that texts which fit the schema may
// be refused, and a tail has no end.
func TestAPIKeepsItsDocument(t *testing.T) {
	tool, err := filepath.Abs(schemathesis)
	require.NoError(t, err)
	need(t, tool)
	d := newDocket(t, t.TempDir())
	d.serve(t)
	d.send(t, 200)
	require.Eventually(t, func() bool {
		out, code := d.run(t, "find", "-o", "ndjson", "--limit", "1000")
		return code == 0 && strings.Count(out, "\n") == 200
	}, 30*time.Second, 200*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(
		ctx, tool, "run", "http://"+d.console+"/api/v1/openapi.yaml", "--seed", "1", "--max-examples", "25", "--no-color",
		"--checks", "all", "--exclude-checks", "positive_data_acceptance", "--exclude-path", "/api/v1/decisions/tail",
		"--phases", "examples,coverage,fuzzing,stateful",
	)
	cmd.Dir = t.TempDir() // it remembers what it did
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), " passed")
	require.NotContains(t, d.out.String(), "level=ERROR")
	d.terminate(t)
}

// event is a decision as an OPA sends it.
func event(id string, n int) string {
	return fmt.Sprintf(
		`{"decision_id":%q,"timestamp":%q,"path":"shop/%d/allow","result":%t,"input":{"user":"u%d"},"labels":{"id":"opa-1"}}`,
		id, time.Now().UTC().Format(time.RFC3339Nano), n%5, n%3 > 0, n%7,
	)
}

// padded is an event with 2 KiB more of input.
func padded(event string) string {
	return strings.Replace(event, `"input":{`, `"input":{"pad":"`+strings.Repeat("more ", 400)+`",`, 1)
}

// send uploads so many decisions at once.
func (d *docket) send(t *testing.T, n int) {
	t.Helper()
	events := make([]string, n)
	for i := range events {
		events[i] = event(fmt.Sprintf("d-%d", i), i)
	}
	d.post(t, events...)
}

// post uploads events and returns when they were acknowledged.
func (d *docket) post(t *testing.T, events ...string) time.Time {
	t.Helper()
	body := strings.NewReader("[" + strings.Join(events, ",") + "]")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+d.upload+"/logs", body)
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return time.Now()
}

// tailed is what a client has seen of a tail.
type tailed struct {
	mu     sync.Mutex
	at     map[string]time.Time
	missed int
}

func (s *tailed) seen(id string) (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok = s.at[id]
	return at, ok
}

// told is how many decisions a client has seen, and how many it was told that it has missed.
func (s *tailed) told() (seen, missed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.at), s.missed
}

// tail asks for a tail, and reads it once slow is closed; nil is at once.
func (d *docket) tail(t *testing.T, slow <-chan struct{}) *tailed {
	t.Helper()
	req, err := http.NewRequestWithContext(
		t.Context(), http.MethodGet, "http://"+d.console+"/api/v1/decisions/tail?with_event=true", http.NoBody,
	)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	s := &tailed{at: map[string]time.Time{}}
	go func() {
		defer resp.Body.Close()
		if slow != nil {
			<-slow
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		lagged := false
		for lines.Scan() {
			line := lines.Bytes()
			if bytes.Equal(line, []byte("event: lagged")) {
				lagged = true
			}
			data, ok := bytes.CutPrefix(line, []byte("data: "))
			if !ok {
				continue
			}
			var what struct {
				ID     string `json:"decision_id"`
				Missed int    `json:"missed"`
			}
			_ = json.Unmarshal(data, &what) // what is not one has no id, and is counted as none
			s.mu.Lock()
			if lagged {
				s.missed += what.Missed
			} else {
				s.at[what.ID] = time.Now()
			}
			s.mu.Unlock()
			lagged = false
		}
	}()
	return s
}

// TestTailWithoutDatabase has a hundred clients, and one that does not read, follow what is acknowledged while the
// database is away.
func TestTailWithoutDatabase(t *testing.T) {
	c := oneBroker(t)
	const clients = 100
	var tails []*tailed
	for range clients {
		tails = append(tails, c.tail(t, nil))
	}
	reads := make(chan struct{})
	slow := c.tail(t, reads)
	allSee := func(ids ...string) {
		t.Helper()
		require.Eventually(t, func() bool {
			return !slices.ContainsFunc(tails, func(s *tailed) bool {
				return slices.ContainsFunc(ids, func(id string) bool {
					_, ok := s.seen(id)
					return !ok
				})
			})
		}, 30*time.Second, 10*time.Millisecond)
	}
	var behind []time.Duration
	measure := func(prefix string) {
		t.Helper()
		for n := range 20 {
			id := fmt.Sprintf("%s-%d", prefix, n)
			acknowledged := c.post(t, event(id, n))
			allSee(id)
			for _, s := range tails {
				at, _ := s.seen(id)
				behind = append(behind, at.Sub(acknowledged))
			}
		}
	}
	measure("with")
	require.NoError(t, c.servers.postgres.Stop(true))
	measure("without")
	slices.Sort(behind)
	t.Logf("behind the 200, %d clients: median %s, 99 %% %s, most %s", clients,
		behind[len(behind)/2], behind[len(behind)*99/100], behind[len(behind)-1])

	const many = 6_000 // of 2 KiB: who does not read is cut after 30 s, and the others have them all before
	for n := 0; n < many; n += 500 {
		var events []string
		for i := n; i < n+500; i++ {
			events = append(events, padded(event(fmt.Sprintf("many-%d", i), i)))
		}
		c.post(t, events...)
	}
	allTold := func(tails ...*tailed) {
		t.Helper()
		require.Eventually(t, func() bool {
			return !slices.ContainsFunc(tails, func(s *tailed) bool {
				seen, missed := s.told()
				return seen+missed != many+40
			})
		}, time.Minute, 100*time.Millisecond, "who is too slow is told how many it has missed")
	}
	allTold(tails...)
	close(reads)
	allTold(slow)
	seen, missed := slow.told()
	t.Logf("who does not read: %d seen, %d missed", seen, missed)
	require.Positive(t, missed)
	require.NoError(t, c.servers.postgres.Start())
	require.Eventually(t, func() bool {
		out, code := c.command(t, "stats", "--by", "tenant", "-o", "csv")
		return code == 0 && strings.Contains(out, fmt.Sprintf("default,%d\n", many+40))
	}, 2*time.Minute, time.Second, "all of it is stored afterwards")
}

// TestSlowReadersHoldNothing has a client take an export and not read it: no transaction waits for it, which would keep
// vacuum from every table.
func TestSlowReadersHoldNothing(t *testing.T) {
	c := oneBroker(t)
	const uploads, each = 60, 200
	for n := range uploads {
		events := make([]string, each)
		for i := range events {
			events[i] = padded(event(fmt.Sprintf("d-%d-%d", n, i), i))
		}
		c.post(t, events...)
	}
	require.Eventually(t, func() bool {
		var rows int
		c.query(t, &rows, `SELECT count(*) FROM decisions`)
		return rows == uploads*each
	}, time.Minute, 100*time.Millisecond)

	req, err := http.NewRequestWithContext(
		t.Context(), http.MethodGet, "http://"+c.console+"/api/v1/decisions/export?with_event=true", http.NoBody,
	)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	for range 20 {
		var oldest float64
		c.query(t, &oldest, `SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
			FROM pg_stat_activity WHERE application_name = 'console' AND datname = current_database()`)
		require.Less(t, oldest, 2.0, "seconds")
		sleepFor(t, 250*time.Millisecond)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	exported, last := 0, ""
	for lines.Scan() {
		last = lines.Text()
		exported++
	}
	require.NoError(t, lines.Err())
	require.Equal(t, uploads*each, exported-1)
	require.Contains(t, last, `"complete":true`)
	require.Contains(t, resp.Trailer.Get("Docket-Complete"), "true; ")
}
