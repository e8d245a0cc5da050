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
	CPU       float64 `json:"cpu_microseconds_per_decision"`
}

// BaselineSuite runs both services under three conditions of the database.
func BaselineSuite(docket, out string, rate, seconds int) error {
	var results []baselineResult
	for _, condition := range []struct {
		name   string
		delay  time.Duration
		outage bool
	}{{name: "as it is"}, {name: "2 ms away", delay: 2 * time.Millisecond}, {name: fmt.Sprintf("stopped for %d of %d s",
		seconds/3, seconds), outage: true}} {
		for _, service := range []string{stack.Synchronous, "docket"} {
			fmt.Fprintf(os.Stderr, "%s, database %s …\n", service, condition.name)
			r, err := compare(docket, service, condition.delay, condition.outage, rate, seconds)
			if err != nil {
				return fmt.Errorf("%s, database %s: %w", service, condition.name, err)
			}
			r.Service, r.Condition = service, condition.name
			results = append(results, r)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATABASE\tSERVICE\tEVENTS SENT\tUPLOADS DROPPED\tREFUSED\tP95 ms\tSTORED\tCPU µs/decision")
	for _, r := range results {
		fmt.Fprintf(
			w, "%s\t%s\t%d\t%d\t%d\t%.2f\t%d\t%.0f\n", r.Condition, r.Service, r.Sent, r.Dropped, r.Refused, r.P95, r.Stored,
			r.CPU,
		)
	}
	_ = w.Flush()
	return writeJSON(out, "baseline.json", results)
}

// compare runs one service under one condition. docket's CPU is that of all its roles.
func compare(docket, name string, delay time.Duration, outage bool, rate, seconds int) (r baselineResult, err error) {
	s, err := stack.StartService(docket, name, delay)
	if err != nil {
		return r, err
	}
	defer s.Close()
	c := load.NewCorpus()
	warm, requests := c.Requests(s.Upload, rate*10), c.Requests(s.Upload, rate*seconds)
	load.Once(s.Upload, warm, rate)
	if err := s.Settled(); err != nil {
		return r, err
	}
	already, err := s.Count(s.Table)
	if err != nil {
		return r, err
	}
	before := s.CPU()
	outageOver := make(chan error, 1)
	if outage {
		go func() {
			time.Sleep(time.Duration(seconds) * time.Second / 3)
			err := s.Postgres.Stop(true)
			time.Sleep(time.Duration(seconds) * time.Second / 3)
			outageOver <- errors.Join(err, s.Postgres.Start())
		}()
	} else {
		outageOver <- nil
	}
	l := load.Once(s.Upload, requests, rate)
	if err := errors.Join(<-outageOver, s.Settled()); err != nil {
		return r, err
	}
	figures := l.Result("", requests)
	r.Sent, r.Dropped, r.Refused, r.P95 = figures.Events, l.Dropped.Load(), l.Refused.Load(), figures.P95
	r.CPU = (s.CPU() - before) / float64(r.Sent) * 1e6
	stored, err := s.Count(s.Table)
	r.Stored = stored - already
	return r, err
}
