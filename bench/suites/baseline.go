package suites

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/stack"
)

// baselineResult compares the two under one condition. Milliseconds.
type baselineResult struct {
	Service   string  `json:"service"`
	Condition string  `json:"condition"`
	Sent      int     `json:"sent_events"`
	Dropped   int64   `json:"dropped_uploads"`
	Refused   int64   `json:"refused_uploads"`
	P95       float64 `json:"p95_ms"`
	Stored    int     `json:"stored_events"`
	PerSecond float64 `json:"uploads_per_second"`
	CPU       float64 `json:"cpu_microseconds_per_decision"`
	// Ingest is the part of CPU of the process that takes uploads.
	Ingest float64 `json:"ingest_cpu_microseconds_per_decision"`
}

// condition is what both services have to do with: a database that is away by a delay or for a while, and uploads at a
// rate, or one after the other on so many connections.
type condition struct {
	name   string
	delay  time.Duration
	outage bool
	closed int
}

// closedConnections are those of the closed loop.
const closedConnections = 64

// BaselineSuite runs both services under each condition.
func BaselineSuite(docket, out string, rate, seconds int) error {
	var results []baselineResult
	for _, condition := range []condition{
		{name: "as it is"}, {name: "2 ms away", delay: 2 * time.Millisecond},
		{name: fmt.Sprintf("stopped for %d of %d s", seconds/3, seconds), outage: true},
		{name: fmt.Sprintf("as it is, %d connections", closedConnections), closed: closedConnections},
	} {
		for _, service := range []string{stack.Synchronous, "docket"} {
			fmt.Fprintf(os.Stderr, "%s, database %s …\n", service, condition.name)
			r, err := compare(docket, service, condition, rate, seconds)
			if err != nil {
				return fmt.Errorf("%s, database %s: %w", service, condition.name, err)
			}
			r.Service, r.Condition = service, condition.name
			results = append(results, r)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(
		w, "DATABASE\tSERVICE\tEVENTS SENT\tUPLOADS/S\tDROPPED\tREFUSED\tP95 ms\tSTORED\tCPU µs/decision\tINGEST'S",
	)
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%s\t%d\t%.0f\t%d\t%d\t%.2f\t%d\t%.0f\t%.0f\n", r.Condition, r.Service, r.Sent, r.PerSecond, r.Dropped,
			r.Refused, r.P95, r.Stored, r.CPU, r.Ingest,
		)
	}
	_ = w.Flush()
	return writeJSON(out, "baseline.json", results)
}

// mostPerSecond is more than a closed loop sends.
const mostPerSecond = 20_000

// compare runs one service under one condition. docket's CPU is that of all its roles, up to the last row.
func compare(docket, name string, under condition, rate, seconds int) (r baselineResult, err error) {
	s, err := stack.StartService(docket, name, under.delay)
	if err != nil {
		return r, err
	}
	defer s.Close()
	c := load.NewCorpus()
	warm := c.Requests(s.Upload, rate*10)
	load.Once(s.Upload, warm, rate)
	n := rate * seconds
	if under.closed > 0 {
		n = mostPerSecond * seconds
	}
	requests := c.Requests(s.Upload, n)
	if err := s.Settled(); err != nil {
		return r, err
	}
	already, err := s.Count(s.Table)
	if err != nil {
		return r, err
	}
	before, ingest := s.CPU(), s.IngestCPU()
	outageOver := make(chan error, 1)
	if under.outage {
		go func() {
			time.Sleep(time.Duration(seconds) * time.Second / 3)
			err := s.Postgres.Stop(true)
			time.Sleep(time.Duration(seconds) * time.Second / 3)
			outageOver <- errors.Join(err, s.Postgres.Start())
		}()
	} else {
		outageOver <- nil
	}
	var l *load.Load
	if under.closed > 0 {
		var used int
		l, used, err = load.Closed(s.Upload, requests, under.closed, time.Duration(seconds)*time.Second)
		requests = requests[:used]
	} else {
		l = load.Once(s.Upload, requests, rate)
	}
	ingest = s.IngestCPU() - ingest
	if err := errors.Join(err, <-outageOver, s.Settled()); err != nil {
		return r, err
	}
	figures := l.Result("", requests)
	r.Sent, r.Dropped, r.Refused, r.P95 = figures.Events, l.Dropped.Load(), l.Refused.Load(), figures.P95
	r.PerSecond = figures.PerSecond
	r.CPU, r.Ingest = (s.CPU()-before)/float64(r.Sent)*1e6, ingest/float64(r.Sent)*1e6
	stored, err := s.Count(s.Table)
	r.Stored = stored - already
	return r, err
}
