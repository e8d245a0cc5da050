package suites

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/testserver"
)

// policiesResult is what one run of uploads came to.
type policiesResult struct {
	Scenario string  `json:"scenario"`
	Events   int     `json:"events"`
	Refused  int64   `json:"refused_uploads"`
	CPU      float64 `json:"ingest_cpu_microseconds_per_decision"`
	P50      float64 `json:"p50_ms"`
	P95      float64 `json:"p95_ms"`
	P99      float64 `json:"p99_ms"`
	RSS      float64 `json:"peak_rss_mib"`
}

// What the corpus has in most of its inputs: three masks of each kind, and quotas that nobody of these reaches, but for
// the tenant that floods.
const boundPolicies = `
policies:
  - name: pii
    masks:
      - hash: /input/user
      - replace: /input/source/address
      - remove: /input/headers/x-request-id
  - name: flood
    tenants: [flood]
    quota: {events_per_second: 200, burst: 2s}
  - name: all
    quota: {events_per_second: 1000000, bytes_per_second: 10GiB, uploads_at_once: 1000}
    credential_quota: {events_per_second: 1000000}
`

// PoliciesSuite measures what a token, quotas and three masks take of ingest's CPU for a decision, beside an ingest
// without any, in turn; and what a tenant that floods does to another.
func PoliciesSuite(docket, out string, rate, seconds, connections, times int) (err error) {
	dir, err := os.MkdirTemp("", "docket-bench-policies")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	vars := []string{
		"DOCKET_CONFIG=" + file("docket.yaml", boundPolicies),
		"DOCKET_UPLOAD_TOKENS_FILE=" + file("tokens", uploadTokens("team", "flood")),
		"DOCKET_MASK_KEYS_FILE=" + file("keys", "v1 "+strings.Repeat("ab", 32)+"\n"),
	}
	bound, addrErr := testserver.FreeAddr()
	if err = errors.Join(err, addrErr); err != nil {
		return err
	}
	s, err := stack.StartStack(docket, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Start("ingest"); err != nil {
		return err
	}
	if _, err := s.StartAs("bound", "ingest", append(vars, "DOCKET_LISTEN="+bound)...); err != nil {
		return err
	}
	length := time.Duration(seconds) * time.Second
	run := func(name, role, addr, token string) (r policiesResult, err error) {
		c := load.NewCorpus()
		c.Token = token
		requests := c.Requests(addr, 8000*seconds)
		before := s.Roles[role].CPU()
		l, used, err := load.Closed(addr, requests, connections, length)
		if err != nil {
			return r, err
		}
		f := l.Result(name, requests[:used])
		spent := s.Roles[role].CPU() - before
		return policiesResult{
			name, f.Events, l.Refused.Load(), spent / float64(f.Events) * 1e6, f.P50, f.P95, f.P99,
			s.Roles[role].Status("VmHWM:") / 1024,
		}, nil
	}
	var results []policiesResult
	for n := range times + 1 { // the first pair warms up
		for _, side := range []struct{ name, role, addr, token string }{
			{"no policies", "ingest", s.Upload, ""}, {"token, quotas and three masks", "bound", bound, "team"},
		} {
			r, err := run(side.name, side.role, side.addr, side.token)
			if err != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
			if n > 0 {
				results = append(results, r)
			}
		}
	}
	for range times {
		quiet, flooded, err := flood(s, bound, rate, length, connections)
		if err != nil {
			return err
		}
		results = append(results, quiet, flooded)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SCENARIO\tEVENTS\tREFUSED\tINGEST CPU µs/decision\tP50\tP95\tP99 ms\tPEAK RSS MiB")
	by := map[string][]policiesResult{}
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%d\t%d\t%.1f\t%.2f\t%.2f\t%.2f\t%.0f\n", r.Scenario, r.Events, r.Refused, r.CPU, r.P50, r.P95, r.P99, r.RSS,
		)
		by[r.Scenario] = append(by[r.Scenario], r)
	}
	_ = w.Flush()
	ratio := func(of func(policiesResult) float64, name, other string) float64 {
		var ratios []float64
		for i, r := range by[name] {
			ratios = append(ratios, of(r)/of(by[other][i]))
		}
		slices.Sort(ratios)
		return ratios[len(ratios)/2]
	}
	fmt.Printf(
		"median of the pairs: CPU for a decision %.2f times, another tenant's p99 %.2f times\n",
		ratio(func(r policiesResult) float64 { return r.CPU }, "token, quotas and three masks", "no policies"),
		ratio(func(r policiesResult) float64 { return r.P99 }, inFlood, inPeace),
	)
	return writeJSON(out, "policies.json", results)
}

// uploadTokens is a file of tokens, in which each tenant's is its name.
func uploadTokens(tenants ...string) string {
	var lines strings.Builder
	for _, tenant := range tenants {
		fmt.Fprintf(&lines, "%s %s %x\n", tenant, tenant, sha256.Sum256([]byte(tenant)))
	}
	return lines.String()
}

const (
	inPeace = "a tenant alone"
	inFlood = "the same beside a flood"
)

// flood has one tenant upload at a rate, alone and while another sends as much as its connections take.
func flood(
	s *stack.Stack, addr string, rate int, length time.Duration, connections int,
) (quiet, flooded policiesResult, err error) {
	run := func(name string) (policiesResult, error) {
		c := load.NewCorpus()
		c.Token = "team"
		requests := c.Requests(addr, rate*int(length.Seconds()))
		l, err := load.Open(addr, requests, rate)
		if err != nil {
			return policiesResult{}, err
		}
		f := l.Result(name, requests)
		return policiesResult{
			name, f.Events, l.Refused.Load(), 0, f.P50, f.P95, f.P99, s.Roles["bound"].Status("VmHWM:") / 1024,
		}, nil
	}
	if quiet, err = run(inPeace); err != nil {
		return quiet, flooded, err
	}
	c := load.NewCorpus()
	c.Token = "flood"
	requests := c.Requests(addr, 20_000)
	done := make(chan int64)
	go func() {
		refused := int64(0)
		for began := time.Now(); time.Since(began) < length; { // what is refused is sent again, 20 times a second
			l, _, _ := load.Closed(addr, requests, connections, time.Until(began.Add(length))) // it gives up after 50 times
			refused += l.Refused.Load()
		}
		done <- refused
	}()
	flooded, err = run(inFlood)
	refused := <-done
	fmt.Fprintf(os.Stderr, "the flood was refused %d times in %s\n", refused, length)
	if refused == 0 {
		err = errors.Join(err, errors.New("the flood was not refused: it was none"))
	}
	return quiet, flooded, err
}
