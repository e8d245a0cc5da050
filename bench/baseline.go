package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"text/tabwriter"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/docket-project/docket/internal/testserver"
)

// serveBaseline is what one would write first: it inserts the decisions of an upload before it answers. It runs in a
// process of its own (docket-bench baseline-serve) so that its CPU can be counted.
func serveBaseline(listen, databaseURL string) error {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return err
	}
	config.MaxConns = 8 // docket's
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.POST("/logs", func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), 8*time.Second)
		defer cancel()
		z, err := gzip.NewReader(c.Request().Body)
		if err != nil {
			return c.NoContent(http.StatusBadRequest)
		}
		var events []map[string]any
		if err := json.NewDecoder(z).Decode(&events); err != nil {
			return c.NoContent(http.StatusBadRequest)
		}
		if err := insertAll(ctx, pool, events); err != nil {
			return c.NoContent(http.StatusServiceUnavailable)
		}
		return c.NoContent(http.StatusOK)
	})
	return e.Start(listen)
}

func insertAll(ctx context.Context, pool *pgxpool.Pool, events []map[string]any) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for _, event := range events {
			b, err := json.Marshal(event)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(
				ctx,
				`INSERT INTO baseline (decision_id, timestamp, path, event) VALUES ($1, $2::text::timestamptz, $3, $4) ON CONFLICT DO NOTHING`,
				event["decision_id"], event["timestamp"], event["path"], b,
			); err != nil {
				return err
			}
		}
		return nil
	})
}

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

// baselineSuite runs both services under three conditions of the database.
func baselineSuite(docket, out string, rate, seconds int) error {
	var results []baselineResult
	for _, condition := range []struct {
		name   string
		delay  time.Duration
		outage bool
	}{{name: "as it is"}, {name: "2 ms away", delay: 2 * time.Millisecond}, {name: fmt.Sprintf("stopped for %d of %d s",
		seconds/3, seconds), outage: true}} {
		for _, service := range []string{synchronous, "docket"} {
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

// service is what is measured: docket with all its roles, or the synchronous service on the same database.
type service struct {
	*stack
	docket bool
	table  string
	far    *toxiproxy.Proxy // nil where the database is as near as it is
}

// synchronous is the name of the service that is not docket.
const synchronous = "synchronous"

// startService starts servers and the service. The database answers later by the delay.
func startService(docket, name string, delay time.Duration) (_ *service, err error) {
	s := &service{docket: name != synchronous, table: "decisions"}
	if s.stack, err = startStack(docket, 1); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	database := s.postgres.Addr()
	if delay > 0 {
		if s.far, err = newDistance(database, delay); err != nil {
			return nil, err
		}
		database = s.far.Listen
	}
	url := "postgres://postgres@" + database + "/postgres?sslmode=disable"
	if s.docket {
		s.vars = append(s.vars, "DOCKET_DATABASE_URL="+url)
		return s, s.startAll("ingest", "saver", "parking", "console")
	}
	s.table = "baseline"
	if err := s.postgres.Exec(
		"postgres",
		`CREATE TABLE baseline (decision_id text PRIMARY KEY, timestamp timestamptz, path text, event jsonb)`,
	); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	started, err := testserver.Launch(nil, os.Stderr, self, "-listen", s.upload, "-database", url, "baseline-serve")
	if err != nil {
		return nil, err
	}
	p := &roleProcess{process: process{started, started.Pid()}}
	s.roles[synchronous] = p
	return s, waitListening(s.upload)
}

func (s *service) close() {
	s.stack.close()
	if s.far != nil {
		s.far.Stop()
	}
}

// settled returns when nothing is on its way any more.
func (s *service) settled() error {
	if s.docket {
		return s.api().drained()
	}
	return nil
}

// compare runs one service under one condition. docket's CPU is that of all its roles.
func compare(docket, name string, delay time.Duration, outage bool, rate, seconds int) (r baselineResult, err error) {
	s, err := startService(docket, name, delay)
	if err != nil {
		return r, err
	}
	defer s.close()
	c := newCorpus()
	warm, requests := c.requests(s.upload, rate*10), c.requests(s.upload, rate*seconds)
	once(s.upload, warm, rate)
	if err := s.settled(); err != nil {
		return r, err
	}
	already, err := s.count(s.table)
	if err != nil {
		return r, err
	}
	before := s.cpu()
	outageOver := make(chan error, 1)
	if outage {
		go func() {
			time.Sleep(time.Duration(seconds) * time.Second / 3)
			err := s.postgres.Stop(true)
			time.Sleep(time.Duration(seconds) * time.Second / 3)
			outageOver <- errors.Join(err, s.postgres.Start())
		}()
	} else {
		outageOver <- nil
	}
	l := once(s.upload, requests, rate)
	if err := errors.Join(<-outageOver, s.settled()); err != nil {
		return r, err
	}
	figures := l.result("", requests)
	r.Sent, r.Dropped, r.Refused, r.P95 = figures.Events, l.dropped.Load(), l.refused.Load(), figures.P95
	r.CPU = (s.cpu() - before) / float64(r.Sent) * 1e6
	stored, err := s.count(s.table)
	r.Stored = stored - already
	return r, err
}

// cpu of every process of docket's, or of the baseline, in seconds.
func (s *stack) cpu() float64 {
	sum := 0.0
	for _, r := range s.roles {
		sum += r.cpu()
	}
	return sum
}

// count asks the database itself.
func (s *stack) count(table string) (n int, err error) {
	conn, err := pgx.Connect(context.Background(), s.postgres.URL("postgres", ""))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(context.Background())) }()
	return n, conn.QueryRow(context.Background(), `SELECT count(*) FROM `+table).Scan(&n)
}

func waitListening(addr string) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := dial(addr); err == nil {
			return c.Close()
		}
	}
	return errors.New("nobody listens at " + addr)
}
