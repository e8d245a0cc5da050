// Command docket-bench measures docket under load: an open loop, whose latencies count from the time a request was due,
// and a closed loop, each on a new data directory and optionally with a slow disk. It checks that everything that was
// acknowledged is stored, and writes a table and JSON. It sends to loopback only, and ends what it starts.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/events"
)

// result is one scenario's figures. Durations are milliseconds.
type result struct {
	Scenario    string  `json:"scenario"`
	Seconds     float64 `json:"seconds"`
	Uploads     int     `json:"uploads"`
	Refused     int     `json:"refused"`
	PerSecond   float64 `json:"uploads_per_second"`
	Events      int     `json:"events"`
	Stored      int     `json:"stored"`
	P50         float64 `json:"p50_ms"`
	P95         float64 `json:"p95_ms"`
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`
	DrainedMs   float64 `json:"drained_after_ms"`
	PeakRSS     float64 `json:"peak_rss_mib"`
	RSSSlope    float64 `json:"rss_slope_percent"`
	CPUPer100k  float64 `json:"cpu_seconds_per_100k_events"`
	GeneratorMs float64 `json:"generator_max_late_ms"`
	// Of the roles.
	EndToEndP99     float64 `json:"received_to_row_p99_ms,omitempty"`
	SaverRSS        float64 `json:"saver_peak_rss_mib,omitempty"`
	SaverSlope      float64 `json:"saver_rss_slope_percent,omitempty"`
	SaverCPUPer100k float64 `json:"saver_cpu_seconds_per_100k_events,omitempty"`
	// Of the parking role, where it drains.
	ParkingRSS        float64 `json:"parking_peak_rss_mib,omitempty"`
	ParkingCPUPer100k float64 `json:"parking_cpu_seconds_per_100k_events,omitempty"`
}

func main() {
	docket := flag.String("docket", "bin/docket", "the docket to measure")
	out := flag.String("out", "bench/out", "where results go")
	rate := flag.Int("rate", 1000, "uploads a second of the open loop")
	seconds := flag.Int("seconds", 30, "length of the open loop; the closed loop takes half of it")
	connections := flag.Int("connections", 64, "connections of the closed loop")
	soak := flag.Duration("soak", 0, "run only an open loop of this length, and watch memory")
	only := flag.String("only", "", "run only scenarios whose name contains this")
	times := flag.Int("times", 1, "how often the roles' scenarios are repeated")
	rows := flag.Int("rows", 1_000_000, "rows of the store's day, or dead letters")
	indexes := flag.Bool("indexes", false, "compare the store's choices of key and index")
	k6 := flag.String("k6", "e2e/.bin/k6", "the k6 that runs a scenario, which -only names")
	users := flag.Int("users", 7000, "users of the spike")
	uploads := flag.Int64("uploads", 2_000_000, "uploads of the burst")
	backlog := flag.Int64("backlog", 30_000, "uploads of a backlog of savers")
	listen := flag.String("listen", "", "of baseline-serve")
	database := flag.String("database", "", "of baseline-serve")
	flag.Usage = func() {
		fmt.Fprintln(
			flag.CommandLine.Output(),
			"docket-bench [flags] embedded|store|roles|dead|slow|baseline|k6|burst|savers",
		)
		flag.PrintDefaults()
	}
	flag.Parse()
	endOnInterrupt()
	var err error
	switch suite := flag.Arg(0); suite {
	case "embedded", "":
		err = run(*docket, *out, *only, *rate, *seconds, *connections, *soak)
	case "store":
		err = storeSuite(*rows, *indexes, *out)
	case "roles":
		err = rolesSuite(*docket, *out, *only, *rate, *seconds, *connections, *times, *soak)
	case "dead":
		err = deadSuite(*docket, *out, *rows)
	case "slow":
		err = slowSuite(*docket, *out, *connections)
	case "baseline":
		err = baselineSuite(*docket, *out, *rate, *seconds)
	case "k6":
		err = k6Suite(*docket, *k6, scriptsOf(*docket), *out, *only, *rate, *soak, *users)
	case "burst":
		err = burstSuite(*docket, *k6, *out, *uploads, *connections)
	case "savers":
		err = saversSuite(*docket, *k6, *out, *backlog)
	case "k6-events":
		err = events.WriteParts(os.Stdout)
	case "baseline-serve":
		err = serveBaseline(*listen, *database)
	default:
		err = fmt.Errorf("%s is no suite: embedded, store, roles, dead, slow, baseline, k6, burst or savers", suite)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docket-bench:", err)
		os.Exit(1)
	}
}

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

func run(docket, out, only string, rate, seconds, connections int, soak time.Duration) error {
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
	var results []result
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

func printRoles(results []result) {
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

func print(results []result) {
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
