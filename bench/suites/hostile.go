package suites

import (
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

// hostileResult is what others' uploads came to beside strangers.
type hostileResult struct {
	Scenario string                    `json:"scenario"`
	Uploads  int                       `json:"uploads"`
	Refused  int64                     `json:"refused"`
	Late     float64                   `json:"generator_max_late_ms"`
	P50      float64                   `json:"p50_ms"`
	P95      float64                   `json:"p95_ms"`
	P99      float64                   `json:"p99_ms"`
	RSS      float64                   `json:"peak_rss_mib"`
	CPU      float64                   `json:"ingest_cpu_cores"`
	ShownOut int64                     `json:"slow_connections_ended"`
	Standing int64                     `json:"slow_connections_at_the_end"`
	Answers  map[string]map[string]int `json:"answers,omitempty"`
}

const (
	// slowConnections are kept open, and reopened slowly enough that the listener's queue of the kernel is not what is
	// measured.
	slowConnections = 10_000
	slowPerSecond   = 2_000
	// tinyUpload is what an upload may have of events; tinyTooMany is beyond it.
	tinyUpload, tinyTooMany = 50_000, 1_000_000
	deepest                 = 100_000
)

// Strangers have what the documents advise for every tenant: a quota. The one that floods has a small one.
const hostilePolicies = `
policies:
  - name: flood
    tenants: [flood]
    quota: {events_per_second: 200, burst: 2s}
  - name: strangers
    tenants: [strangers]
    quota: {events_per_second: 100000, bytes_per_second: 64MiB, burst: 1s}
`

// Where strangers are, in the order of a run.
const (
	hostileNowhere   = "others alone"
	hostileElsewhere = "strangers at another ingest"
	hostileHere      = "strangers at the same ingest"
)

// HostileSuite lets others upload at a rate: alone, while strangers do their worst to another ingest on the same
// machine, and while they do it to the same one. The second says what the machine's cores, the log and the load itself
// take; the third, beside it, what docket lets strangers take.
func HostileSuite(docket, out, only string, rate, seconds, connections, times int) (err error) {
	dir, err := os.MkdirTemp("", "docket-bench-hostile")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	config, known := filepath.Join(dir, "docket.yaml"), filepath.Join(dir, "tokens")
	vars := []string{"DOCKET_CONFIG=" + config, "DOCKET_UPLOAD_TOKENS_FILE=" + known}
	err = errors.Join(
		os.WriteFile(config, []byte(hostilePolicies), 0o600),
		os.WriteFile(known, []byte(uploadTokens("team", "flood", "strangers")), 0o600),
	)
	elsewhere, addrErr := testserver.FreeAddr()
	if err = errors.Join(err, addrErr); err != nil {
		return err
	}
	s, err := stack.StartStack(docket, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	bodies := map[string][]byte{
		"bomb": load.Bomb(), "tiny": load.Tiny(tinyUpload), "too many": load.Tiny(tinyTooMany), "deep": load.Deep(deepest),
	}
	var results []hostileResult
	for range times {
		for _, at := range []string{hostileNowhere, hostileElsewhere, hostileHere} {
			r, err := hostileRun(s, at, elsewhere, only, vars, bodies, rate, time.Duration(seconds)*time.Second, connections)
			if err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			results = append(results, r)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(
		w, "SCENARIO\tUPLOADS\tREFUSED\tP50\tP95\tP99 ms\tLATE ms\tPEAK RSS MiB\tCORES\tSHOWN OUT\tSTANDING\tANSWERS",
	)
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%d\t%d\t%.2f\t%.2f\t%.2f\t%.1f\t%.0f\t%.2f\t%d\t%d\t%v\n",
			r.Scenario, r.Uploads, r.Refused, r.P50, r.P95, r.P99, r.Late, r.RSS, r.CPU, r.ShownOut, r.Standing, r.Answers,
		)
	}
	_ = w.Flush()
	for _, beside := range []string{hostileNowhere, hostileElsewhere} {
		var ratios []float64
		for i, r := range results {
			if r.Scenario != hostileHere {
				continue
			}
			for _, other := range results[i-2 : i] {
				if other.Scenario == beside {
					ratios = append(ratios, r.P99/other.P99)
				}
			}
		}
		slices.Sort(ratios)
		fmt.Printf("others' p99 beside %s: %.2f times (%.2f)\n", beside, ratios[len(ratios)/2], ratios)
	}
	return writeJSON(out, "hostile.json", results)
}

// hostileRun has ingests of its own: peak memory is of one run.
func hostileRun(
	s *stack.Stack, at, elsewhere, only string, vars []string, bodies map[string][]byte,
	rate int, length time.Duration, connections int,
) (r hostileResult, err error) {
	ingest, err := s.StartAs("here", "ingest", vars...)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Stop("here")) }()
	target := s.Upload
	if at == hostileElsewhere {
		if _, err := s.StartAs("elsewhere", "ingest", append(slices.Clone(vars), "DOCKET_LISTEN="+elsewhere)...); err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, s.Stop("elsewhere")) }()
		target = elsewhere
	}
	strangers := load.NewHostile(target)
	flooded := make(chan error, 1)
	if at == hostileNowhere {
		flooded <- nil
	} else {
		hostile := func(kind string) bool { return only == "" || strings.Contains(only, kind) }
		if hostile("slow") {
			strangers.Slow(slowConnections, slowPerSecond, "strangers")
			time.Sleep(slowConnections / slowPerSecond * time.Second)
		}
		for kind, body := range bodies {
			if hostile(kind) {
				strangers.Body(kind, "strangers", body, 100*time.Millisecond)
			}
		}
		flood := load.NewCorpus()
		flood.Token = "flood"
		requests := flood.Requests(target, 20_000)
		go func() {
			var err error
			for began := time.Now(); hostile("flood") && err == nil && time.Since(began) < length; {
				// Who is refused 50 times in a row ends the load, which begins again.
				_, _, _ = load.Closed(target, requests, connections, time.Until(began.Add(length)))
			}
			flooded <- err
		}()
	}
	c := load.NewCorpus()
	c.Token = "team"
	if _, err := load.Open(s.Upload, c.Requests(s.Upload, 2*rate), rate); err != nil { // it warms up
		return r, err
	}
	requests := c.Requests(s.Upload, rate*int(length.Seconds()))
	before := ingest.CPU()
	l, err := load.Open(s.Upload, requests, rate)
	spent := ingest.CPU() - before
	standing := strangers.Standing.Load()
	answers := strangers.Stop()
	if err = errors.Join(err, <-flooded); err != nil {
		return r, err
	}
	f := l.Result(at, requests)
	return hostileResult{
		at, f.Uploads, l.Refused.Load(), f.GeneratorMs, f.P50, f.P95, f.P99, ingest.Status("VmHWM:") / 1024,
		spent / f.Seconds, strangers.ShownOut.Load(), standing, answers,
	}, nil
}
