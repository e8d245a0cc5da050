package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/report"
)

// burstSuite sends uploads as fast as docket takes them, and accounts for every decision.
func burstSuite(docket, k6, out string, uploads int64, connections int) error {
	environment, err := describe(docket, k6)
	if err != nil {
		return err
	}
	s, err := startService(docket, "docket", 0)
	if err != nil {
		return err
	}
	defer s.close()
	w := s.watch(nil)
	f := &flood{addr: s.upload, run: events.NewRun(), uploads: uploads, connections: connections}
	sent := make(chan error, 1)
	go func() { sent <- f.send() }()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for waiting := true; waiting; {
		select {
		case err := <-sent:
			if err != nil {
				return err
			}
			waiting = false
		case <-tick.C:
			_, rate := w.latest()
			fmt.Fprintf(
				os.Stderr, "  taken %s of %s uploads, refused %d times; arrived %.0f/s, saved %.0f/s\n", n(f.taken.Load()),
				n(uploads), f.refused.Load(), rate("arrived"), rate("saved"),
			)
		}
	}
	took := time.Since(w.began)
	fmt.Fprintf(os.Stderr, "  all are taken after %.0f s; waiting until they are stored …\n", took.Seconds())
	if err := s.api().within(30*time.Minute, drainedPipeline); err != nil {
		return err
	}
	w.end()
	if err := w.complete(); err != nil {
		return err
	}
	stored := w.samples[len(w.samples)-1].second
	all := upTo(uploads)
	t, err := s.tally("decisions", f.run, all, all, 0)
	if err != nil {
		return err
	}
	r := &report.Report{
		Title:       fmt.Sprintf("A burst of %s uploads", n(uploads)),
		At:          time.Now(),
		Environment: environment,
		About: fmt.Sprintf(
			"%s uploads of 1 to 5 decisions over %d connections, as fast as they are taken; what is refused is sent again "+
				"after %s. The load generator is docket's own (bench/flood.go): k6 would be the slower part.",
			n(uploads),
			connections,
			guardPause,
		),
		Verdicts: []report.Verdict{
			{
				What:     "decisions stored, each once",
				Asked:    n(int64(t.Sent)),
				Measured: n(int64(t.Stored)),
				Met:      t.sound() == nil && t.Stored == t.Sent,
			},
			zero(
				"answers other than 200, 503 and 429",
				f.unclean(),
			),
			zero("connections that broke", f.broken.Load()),
			zero("dead letters", int64(w.most("dead letters"))),
		},
		Tables: []report.Table{
			{
				Title: "The burst",
				Columns: []string{
					"uploads",
					"decisions",
					"taken within",
					"uploads/s",
					"refused and resent",
					"all stored after",
					"rows/s",
					"most that waited",
					"ingest",
					"saver",
					"Kafka",
				},
				Rows: [][]string{
					{
						n(
							uploads,
						),
						n(int64(t.Sent)),
						fmt.Sprintf("%.0f s", took.Seconds()),
						fmt.Sprintf("%.0f", float64(uploads)/took.Seconds()),
						n(f.refused.Load()),
						fmt.Sprintf(
							"%.0f s",
							stored,
						),
						fmt.Sprintf("%.0f", float64(t.Stored)/stored),
						n(int64(w.most("waiting for the saver"))),
						fmt.Sprintf(
							"%.0f MiB",
							w.peak("ingest"),
						),
						fmt.Sprintf("%.0f MiB", w.peak("saver")),
						fmt.Sprintf("%.0f MiB", w.peak("Kafka")),
					},
				},
			},
		},
		Runs: []report.Run{
			{
				Name:   "The burst",
				Charts: w.charts(nil, w.processes(), []report.Span{{Name: "uploads are sent", From: 0, To: took.Seconds()}}, true),
			},
		},
	}
	return errors.Join(finish(r, out), t.sound())
}
