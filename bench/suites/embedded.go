// Package suites are docket's measurements: each starts a stack, puts a load on it, checks that everything that was
// acknowledged is stored, and writes its figures.
package suites

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/stack"
)

// writeJSON keeps results for whoever compares runs.
func writeJSON(dir, name string, results any) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), append(b, '\n'), 0o644)
}

// EmbeddedSuite measures docket serve with nothing else installed.
func EmbeddedSuite(docket, out, only string, rate, seconds, connections int, soak time.Duration) error {
	length := time.Duration(seconds) * time.Second
	scenarios := []scenario{
		{name: fmt.Sprintf("open loop, %d/s", rate), rate: rate, length: length},
		{name: fmt.Sprintf("closed loop, %d connections", connections), connections: connections, length: length / 2},
		{
			name:       fmt.Sprintf("open loop, %d/s, fsync +2 ms", rate),
			rate:       rate,
			length:     length,
			fsyncDelay: 2 * time.Millisecond,
		},
		{
			name:        fmt.Sprintf("closed loop, %d connections, fsync +2 ms", connections),
			connections: connections,
			length:      length / 2,
			fsyncDelay:  2 * time.Millisecond,
		},
	}
	if soak > 0 {
		scenarios = []scenario{{name: fmt.Sprintf("soak, %d/s for %s", rate, soak), rate: rate, length: soak}}
	}
	var results []load.Result
	for _, s := range scenarios {
		if !strings.Contains(s.name, only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s …\n", s.name)
		r, err := s.run(docket)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		results = append(results, r)
	}
	print(results)
	return writeJSON(out, "embedded.json", results)
}

func printRoles(results []load.Result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(
		w,
		"SCENARIO\tPER SECOND\tREFUSED\tP50\tP95\tP99\tMAX ms\tEVENTS\tSTORED\tROW P99 ms\tINGEST RSS\tSLOPE\tCPU "+
			"s/100k\tSAVER RSS\tSLOPE\tCPU s/100k\tPARKING RSS\tCPU s/100k\tGENERATOR LATE",
	)
	for _, r := range results {
		fmt.Fprintf(
			w,
			"%s\t%.0f\t%d\t%.2f\t%.2f\t%.2f\t%.1f\t%d\t%d\t%.0f\t%.0f MiB\t%+.1f %%\t%.2f\t%.0f MiB\t%+.1f %%\t%.2f\t"+
				"%.0f MiB\t%.2f\t%.1f ms\n",
			r.Scenario, r.PerSecond, r.Refused, r.P50, r.P95, r.P99, r.Max, r.Events, r.Stored, r.EndToEndP99, r.PeakRSS,
			r.RSSSlope, r.CPUPer100k, r.SaverRSS, r.SaverSlope, r.SaverCPUPer100k, r.ParkingRSS, r.ParkingCPUPer100k,
			r.GeneratorMs,
		)
	}
	_ = w.Flush()
}

func print(results []load.Result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(
		w,
		"SCENARIO\tUPLOADS/S\tREFUSED\tP50\tP95\tP99\tMAX ms\tEVENTS\tSTORED\tDRAINED AFTER\tPEAK RSS\tSLOPE\tCPU "+
			"s/100k\tGENERATOR LATE",
	)
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%.0f\t%d\t%.2f\t%.2f\t%.2f\t%.1f\t%d\t%d\t%.0f ms\t%.0f MiB\t%+.1f %%\t%.2f\t%.1f ms\n", r.Scenario,
			r.PerSecond, r.Refused, r.P50, r.P95, r.P99, r.Max, r.Events, r.Stored, r.DrainedMs, r.PeakRSS, r.RSSSlope,
			r.CPUPer100k, r.GeneratorMs,
		)
	}
	_ = w.Flush()
}

// scenario is one measurement on a docket of its own.
type scenario struct {
	name        string
	rate        int // open loop
	connections int // closed loop
	length      time.Duration
	fsyncDelay  time.Duration
}

// closedPace bounds how many requests a closed loop prepares, in uploads a second.
const closedPace = 16_000

func (s scenario) run(docket string) (load.Result, error) {
	dir, err := os.MkdirTemp("", "docket-bench-")
	if err != nil {
		return load.Result{}, err
	}
	defer os.RemoveAll(dir)
	d, err := stack.StartDocket(docket, dir, s.fsyncDelay)
	if err != nil {
		return load.Result{}, err
	}
	defer d.Kill()

	c := load.NewCorpus()
	n := s.rate * int(s.length.Seconds())
	if s.connections > 0 {
		n = closedPace * int(s.length.Seconds())
	}
	requests := c.Requests(d.Upload, n)
	cpu := d.CPU()
	memory := d.Watch()
	var l *load.Load
	if s.connections > 0 {
		var used int
		if l, used, err = load.Closed(d.Upload, requests, s.connections, s.length); err == nil && used < n {
			requests = requests[:used]
		}
	} else {
		l, err = load.Open(d.Upload, requests, s.rate)
	}
	if err != nil {
		return load.Result{}, err
	}
	ended := time.Now()
	if err := d.Drained(); err != nil {
		return load.Result{}, err
	}
	r := l.Result(s.name, requests)
	r.DrainedMs = stack.Millis(time.Since(ended))
	r.CPUPer100k = (d.CPU() - cpu) / float64(r.Events) * 100_000
	r.RSSSlope = memory()
	r.PeakRSS = d.Status("VmHWM:") / 1024
	stored, err := d.Stored(c.IDs)
	if err != nil {
		return load.Result{}, err
	}
	r.Stored = stored
	if r.Stored != r.Events {
		return r, fmt.Errorf("%d of %d acknowledged events are stored", r.Stored, r.Events)
	}
	return r, nil
}
