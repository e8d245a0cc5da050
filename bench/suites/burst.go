package suites

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/report"
	"github.com/docket-project/docket/bench/stack"
)

// BurstSuite sends uploads as fast as docket takes them, and accounts for every decision.
func BurstSuite(docket, k6, out string, uploads int64, connections int) error {
	environment, err := describe(docket, k6)
	if err != nil {
		return err
	}
	s, err := stack.StartService(docket, "docket", 0)
	if err != nil {
		return err
	}
	defer s.Close()
	w := s.Watch(nil)
	f := &load.Surge{Addr: s.Upload, EmbeddedSuite: events.NewRun(), Uploads: uploads, Connections: connections}
	sent := make(chan error, 1)
	go func() { sent <- f.Send() }()
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
			_, rate := w.Latest()
			fmt.Fprintf(
				os.Stderr, "  taken %s of %s uploads, refused %d times; arrived %.0f/s, saved %.0f/s\n", n(f.Taken.Load()),
				n(uploads), f.Refused.Load(), rate("arrived"), rate("saved"),
			)
		}
	}
	took := time.Since(w.Began)
	fmt.Fprintf(os.Stderr, "  all are taken after %.0f s; waiting until they are stored …\n", took.Seconds())
	if err := s.API().Within(30*time.Minute, stack.DrainedPipeline); err != nil {
		return err
	}
	w.End()
	if err := w.Complete(); err != nil {
		return err
	}
	stored := w.Samples[len(w.Samples)-1].Second
	all := load.UpTo(uploads)
	t, err := load.TakeTally(s.Stack, "decisions", f.EmbeddedSuite, all, all, 0)
	if err != nil {
		return err
	}
	r := &report.Report{
		Title:       fmt.Sprintf("A burst of %s uploads", n(uploads)),
		At:          time.Now(),
		Environment: environment,
		About: fmt.Sprintf(
			"%s uploads of 1 to 5 decisions over %d connections, as fast as they are taken; what is refused is sent again "+
				"after %s. The load generator is docket's own (bench/load/surge.go): k6 would be the slower part.",
			n(uploads),
			connections,
			load.RetryPause,
		),
		Verdicts: []report.Verdict{
			{
				What:     "decisions stored, each once",
				Asked:    n(int64(t.Sent)),
				Measured: n(int64(t.Stored)),
				Met:      t.Sound() == nil && t.Stored == t.Sent,
			},
			zero(
				"answers other than 200, 503 and 429",
				f.Unclean(),
			),
			zero("connections that broke", f.Broken.Load()),
			zero("dead letters", int64(w.Most("dead letters"))),
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
						n(uploads),
						n(int64(t.Sent)),
						fmt.Sprintf("%.0f s", took.Seconds()),
						fmt.Sprintf("%.0f", float64(uploads)/took.Seconds()),
						n(f.Refused.Load()),
						fmt.Sprintf(
							"%.0f s",
							stored,
						),
						fmt.Sprintf("%.0f", float64(t.Stored)/stored),
						n(int64(w.Most("waiting for the saver"))),
						fmt.Sprintf(
							"%.0f MiB",
							w.Peak("ingest"),
						),
						fmt.Sprintf("%.0f MiB", w.Peak("saver")),
						fmt.Sprintf("%.0f MiB", w.Peak("Kafka")),
					},
				},
			},
		},
		Runs: []report.Run{
			{
				Name:   "The burst",
				Charts: w.Charts(nil, w.Processes(), []report.Span{{Name: "uploads are sent", From: 0, To: took.Seconds()}}, true),
			},
		},
	}
	return errors.Join(finish(r, out), t.Sound())
}
