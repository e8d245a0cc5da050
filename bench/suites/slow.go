package suites

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/stack"
)

// span is a while with one distance of the database.
type span struct {
	DelayMs   int64   `json:"delay_ms"`
	PerSecond float64 `json:"rows_per_second"`
	// Best is the best single second, and Limit what the limiter allowed at the end.
	Best  float64 `json:"best_second"`
	Limit float64 `json:"limit"`
	Parks float64 `json:"parked"`
}

// SlowSuite drains a backlog while the database moves away and comes back.
func SlowSuite(docket, out string, connections int) error {
	s, err := stack.StartStack(docket, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	proxy, err := stack.NewDistance(s.Postgres.Addr(), 0)
	if err != nil {
		return err
	}
	defer proxy.Stop()
	s.Vars = append(s.Vars, "DOCKET_DATABASE_URL=postgres://postgres@"+proxy.Listen+"/postgres?sslmode=disable")
	if err := s.StartAll("ingest", "console"); err != nil {
		return err
	}
	c := load.NewCorpus()
	requests := c.Requests(s.Upload, 400_000)
	if _, _, err := load.Closed(s.Upload, requests, connections, 40*time.Second); err != nil {
		return err
	}
	saver, err := s.Start("saver")
	if err != nil {
		return err
	}
	time.Sleep(10 * time.Second) // the first rows are cheap: the indexes fit anywhere, and no checkpoint is due
	var spans []span
	var parkedBefore float64
	for _, delay := range []int64{0, 5, 20, 50, 0} {
		toxic := fmt.Sprintf(`{"attributes":{"latency":%d}}`, delay)
		if _, err := proxy.Toxics.UpdateToxicJson("far", strings.NewReader(toxic)); err != nil {
			return err
		}
		p := span{DelayMs: delay}
		const seconds = 6
		before, err := saver.Metric(`docket_save_records_total{result="saved"}`)
		if err != nil {
			return err
		}
		last := before
		for range seconds {
			time.Sleep(time.Second)
			now, err := saver.Metric(`docket_save_records_total{result="saved"}`)
			if err != nil {
				return err
			}
			p.Best, last = max(p.Best, now-last), now
		}
		p.PerSecond = (last - before) / seconds
		p.Limit, err = saver.Metric("docket_save_concurrency_limit")
		if err != nil {
			return err
		}
		parked, err := saver.Metric(`docket_parked_records_total{class="unavailable"}`)
		if err != nil {
			return err
		}
		p.Parks, parkedBefore = parked-parkedBefore, parked
		spans = append(spans, p)
	}
	if err := s.API().WaitFor(func(p stack.Pipeline) bool { return p.Waiting("saver") > 0 }); err != nil {
		return fmt.Errorf("the backlog was too small to measure with: %w", err)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATABASE AWAY\tROWS/S\tOF THE FIRST\tBEST SECOND\tLIMIT\tPARKED")
	for _, p := range spans {
		fmt.Fprintf(
			w, "%d ms\t%.0f\t%.2f\t%.0f\t%.0f\t%.0f\n", p.DelayMs, p.PerSecond, p.PerSecond/spans[0].PerSecond, p.Best,
			p.Limit, p.Parks,
		)
	}
	return errors.Join(w.Flush(), writeJSON(out, "slow.json", spans))
}
