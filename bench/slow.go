package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/docket-project/docket/internal/testserver"
)

// newDistance puts a proxy in front of a database; delay says how much later its answers come.
func newDistance(upstream string, delay time.Duration) (*toxiproxy.Proxy, error) {
	addr, err := testserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	proxy := toxiproxy.NewProxy(
		toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.New(io.Discard)), "postgres", addr, upstream,
	)
	if err := proxy.Start(); err != nil {
		return nil, err
	}
	toxic := fmt.Sprintf(
		`{"name":"far","type":"latency","stream":"downstream","toxicity":1,"attributes":{"latency":%d}}`,
		delay.Milliseconds(),
	)
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		proxy.Stop()
		return nil, err
	}
	return proxy, nil
}

// span is a while with one distance of the database.
type span struct {
	DelayMs   int64   `json:"delay_ms"`
	PerSecond float64 `json:"rows_per_second"`
	// Best is the best single second, and Limit what the limiter allowed at the end.
	Best  float64 `json:"best_second"`
	Limit float64 `json:"limit"`
	Parks float64 `json:"parked"`
}

// slowSuite drains a backlog while the database moves away and comes back.
func slowSuite(docket, out string, connections int) error {
	s, err := startStack(docket, 1)
	if err != nil {
		return err
	}
	defer s.close()
	proxy, err := newDistance(s.postgres.Addr(), 0)
	if err != nil {
		return err
	}
	defer proxy.Stop()
	s.vars = append(s.vars, "DOCKET_DATABASE_URL=postgres://postgres@"+proxy.Listen+"/postgres?sslmode=disable")
	if err := s.startAll("ingest", "console"); err != nil {
		return err
	}
	c := newCorpus()
	requests := c.requests(s.upload, 400_000)
	if _, _, err := closed(s.upload, requests, connections, 40*time.Second); err != nil {
		return err
	}
	saver, err := s.start("saver")
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
		before, err := saver.metric(`docket_save_records_total{result="saved"}`)
		if err != nil {
			return err
		}
		last := before
		for range seconds {
			time.Sleep(time.Second)
			now, err := saver.metric(`docket_save_records_total{result="saved"}`)
			if err != nil {
				return err
			}
			p.Best, last = max(p.Best, now-last), now
		}
		p.PerSecond = (last - before) / seconds
		p.Limit, err = saver.metric("docket_save_concurrency_limit")
		if err != nil {
			return err
		}
		parked, err := saver.metric(`docket_parked_records_total{class="unavailable"}`)
		if err != nil {
			return err
		}
		p.Parks, parkedBefore = parked-parkedBefore, parked
		spans = append(spans, p)
	}
	if err := s.api().waitFor(func(p pipeline) bool { return p.waiting("saver") > 0 }); err != nil {
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

// metric reads one value.
func (r *roleProcess) metric(name string) (float64, error) {
	resp, err := http.Get("http://" + r.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(rest, 64)
		}
	}
	return 0, errors.New("no metric " + name)
}
