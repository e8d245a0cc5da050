package suites

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/report"
	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/testserver"
)

// SaversSuite measures two ingests and one to eight savers on three brokers: how fast they drain, how fairly they
// share, what a rebalance and a kill cost, which settings matter, and what replication costs.
func SaversSuite(docket, k6, out string, backlog int64) error {
	environment, err := describe(docket, k6)
	if err != nil {
		return err
	}
	r := &report.Report{
		Title:       "Many savers",
		At:          time.Now(),
		Environment: environment,
		About: "Two ingests and one to eight savers on three brokers with three replicas. Five JVMs' worth of work, " +
			"PostgreSQL and the load share two cores: more processes cannot be faster here, and what is measured is whether " +
			"they are slower, unfair or wrong.",
	}
	s, err := stack.StartStack(docket, 3)
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := newSaversCluster(s)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		run  func(int64) (report.Table, error)
	}{{"replication", c.replication}, {"savers", c.scale}, {"settings", c.settings}, {"rebalances", c.rebalances}} {
		fmt.Fprintf(os.Stderr, "%s …\n", part.name)
		t, err := part.run(backlog)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Fprintf(os.Stderr, "  %s\n", strings.Join(t.Columns, " | "))
		for _, row := range t.Rows {
			fmt.Fprintf(os.Stderr, "  %s\n", strings.Join(row, " | "))
		}
		r.Tables = append(r.Tables, t)
	}
	all := load.UpTo(c.sent)
	t, err := load.TakeTally(c.Stack, "decisions", c.run, all, all, 0)
	if err != nil {
		return err
	}
	r.Verdicts = []report.Verdict{
		{
			What:     "decisions stored, each once, over all of it",
			Asked:    n(int64(t.Sent)),
			Measured: n(int64(t.Stored)),
			Met:      t.Sound() == nil && t.Stored == t.Sent,
		},
	}
	return errors.Join(finish(r, out), t.Sound())
}

// saversCluster has two ingests, whose uploads are numbered through.
type saversCluster struct {
	*stack.Stack
	ingests []string // upload listeners
	run     events.Run
	sent    int64
}

func newSaversCluster(s *stack.Stack) (*saversCluster, error) {
	c := &saversCluster{Stack: s, run: events.NewRun()}
	for i := range 2 {
		addr, err := testserver.FreeAddr()
		if err != nil {
			return nil, err
		}
		if _, err := s.StartAs(fmt.Sprintf("ingest %d", i+1), "ingest", "DOCKET_LISTEN="+addr); err != nil {
			return nil, err
		}
		c.ingests = append(c.ingests, addr)
	}
	return c, s.StartAll("console")
}

// send sends the next uploads, half of them to each ingest, at a rate or, where that is 0, as fast as they are taken.
func (c *saversCluster) send(uploads int64, rate int) (perSecond float64, err error) {
	start := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(c.ingests))
	for i, addr := range c.ingests {
		share := uploads / int64(len(c.ingests))
		f := &load.Surge{
			Addr:          addr,
			EmbeddedSuite: c.run,
			Uploads:       c.sent + share,
			Connections:   32,
			Rate:          float64(rate) / float64(len(c.ingests)),
		}
		f.Begin(c.sent)
		c.sent += share
		wg.Go(func() { errs[i] = f.Send() })
	}
	wg.Wait()
	return float64(uploads) / time.Since(start).Seconds(), errors.Join(errs...)
}

// drain starts savers on what waits, and returns how fast they stored it and how much each did.
func (c *saversCluster) drain(
	savers int,
	vars ...string,
) (perSecond float64, shares []float64, memory float64, err error) {
	var p stack.Pipeline
	if err := c.API().Get("/api/v1/pipeline", &p); err != nil {
		return 0, nil, 0, err
	}
	waiting := p.Waiting("saver")
	var roles []*stack.RoleProcess
	start := time.Now()
	for i := range savers {
		r, err := c.Launch(fmt.Sprintf("saver %d", i+1), "saver", vars...)
		if err != nil {
			return 0, nil, 0, err
		}
		roles = append(roles, r)
	}
	if err := c.API().Drained(); err != nil {
		return 0, nil, 0, err
	}
	took := time.Since(start)
	for i, r := range roles {
		saved, err := r.Metric(`docket_save_records_total{result="saved"}`)
		if err != nil {
			return 0, nil, 0, err
		}
		shares, memory = append(shares, saved/float64(waiting)), max(memory, r.Status("VmHWM:")/1024)
		if err := c.Stop(fmt.Sprintf("saver %d", i+1)); err != nil {
			return 0, nil, 0, err
		}
	}
	return float64(waiting) / took.Seconds(), shares, memory, nil
}

// jain is Jain's index of fairness: 1 where all have the same, 1/n where one has everything.
func jain(shares []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, s := range shares {
		sum, squares = sum+s, squares+s*s
	}
	return sum * sum / (float64(len(shares)) * squares)
}

func (c *saversCluster) scale(backlog int64) (report.Table, error) {
	t := report.Table{
		Title: "One to eight savers drain a backlog",
		Columns: []string{
			"savers",
			"batches at once, each",
			"rows/s",
			"of one saver's",
			"shares",
			"fairness (Jain)",
			"memory of a saver",
		},
	}
	first := 0.0
	for _, m := range []struct{ savers, concurrency int }{{1, 4}, {2, 4}, {4, 4}, {8, 4}, {8, 1}} {
		if _, err := c.send(2*backlog, 0); err != nil { // enough for all to have joined long before its end
			return t, err
		}
		perSecond, shares, memory, err := c.drain(m.savers, fmt.Sprintf("DOCKET_SAVER_CONCURRENCY=%d", m.concurrency))
		if err != nil {
			return t, err
		}
		if first == 0 {
			first = perSecond
		}
		t.Rows = append(t.Rows, []string{
			fmt.Sprint(m.savers),
			fmt.Sprint(m.concurrency),
			fmt.Sprintf("%.0f", perSecond),
			fmt.Sprintf("%.2f", perSecond/first),
			fmt.Sprintf("%.0f to %.0f %%", 100*slices.Min(shares), 100*slices.Max(shares)),
			fmt.Sprintf("%.2f", jain(shares)),
			fmt.Sprintf("%.0f MiB", memory),
		})
	}
	return t, nil
}

func (c *saversCluster) settings(backlog int64) (report.Table, error) {
	t := report.Table{
		Title:   "Settings of one saver",
		Columns: []string{"batches at once", "records of a batch", "connections", "rows/s", "of the default's", "memory"},
	}
	first := 0.0
	for _, m := range []struct{ concurrency, records, connections int }{{4, 1000, 8}, {1, 1000, 8}, {2, 1000, 8}, {8, 1000,
		8}, {4, 250, 8}, {4, 4000, 8}, {4, 1000, 2}, {4, 1000, 8}} {
		if _, err := c.send(backlog, 0); err != nil {
			return t, err
		}
		perSecond, _, memory, err := c.drain(
			1, fmt.Sprintf("DOCKET_SAVER_CONCURRENCY=%d", m.concurrency),
			fmt.Sprintf("DOCKET_SAVER_BATCH_RECORDS=%d", m.records),
			fmt.Sprintf("DOCKET_DATABASE_URL=%s?pool_max_conns=%d", c.Postgres.URL("postgres", ""), m.connections),
		)
		if err != nil {
			return t, err
		}
		if first == 0 {
			first = perSecond
		}
		t.Rows = append(
			t.Rows,
			[]string{
				fmt.Sprint(m.concurrency),
				n(int64(m.records)),
				fmt.Sprint(m.connections),
				fmt.Sprintf("%.0f", perSecond),
				fmt.Sprintf("%.2f", perSecond/first),
				fmt.Sprintf("%.0f MiB", memory),
			},
		)
	}
	return t, nil
}

// rebalances makes members of the group leave and come, while uploads arrive at a rate that the machine can bear.
func (c *saversCluster) rebalances(int64) (report.Table, error) {
	const rate, seconds = 200, 100
	t := report.Table{
		Title:   fmt.Sprintf("Four savers at %d uploads a second: what a change costs", rate),
		Columns: []string{"what happens", "the oldest that waited"},
	}
	for i := range 4 {
		if _, err := c.StartAs(fmt.Sprintf("saver %d", i+1), "saver"); err != nil {
			return t, err
		}
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.send(rate*seconds, rate)
		sent <- err
	}()
	oldest := func(length time.Duration) (most float64, err error) {
		for end := time.Now().Add(length); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			var p stack.Pipeline
			if err := c.API().Get("/api/v1/pipeline", &p); err != nil {
				return 0, err
			}
			most = max(most, p.Oldest("saver"))
		}
		return most, nil
	}
	if _, err := oldest(8 * time.Second); err != nil {
		return t, err
	}
	before, err := oldest(8 * time.Second)
	if err != nil {
		return t, err
	}
	t.Rows = append(t.Rows, []string{"nothing", fmt.Sprintf("%.2f s", before)})
	for _, step := range []struct {
		name string
		do   func() error
		look time.Duration
	}{
		{"a saver is stopped (SIGTERM)", func() error { return c.Stop("saver 4") }, 12 * time.Second},
		{"a saver comes", func() error { _, err := c.StartAs("saver 4", "saver"); return err }, 12 * time.Second},
		{"a saver is killed (SIGKILL)", func() error { c.Forget("saver 3").Kill(); return nil }, 20 * time.Second},
		{"a saver comes in its place", func() error { _, err := c.StartAs("saver 3", "saver"); return err },
			12 * time.Second},
	} {
		done := make(chan error, 1)
		go func() { done <- step.do() }()
		most, err := oldest(step.look)
		if err := errors.Join(err, <-done); err != nil {
			return t, fmt.Errorf("%s: %w", step.name, err)
		}
		t.Rows = append(t.Rows, []string{step.name, fmt.Sprintf("%.2f s", most)})
	}
	if err := errors.Join(<-sent, c.API().Drained()); err != nil {
		return t, err
	}
	for i := range 4 {
		if err := c.Stop(fmt.Sprintf("saver %d", i+1)); err != nil {
			return t, err
		}
	}
	return t, nil
}

// replication compares topics of three replicas with topics of one on the same brokers, in turn.
func (c *saversCluster) replication(uploads int64) (t report.Table, err error) {
	t = report.Table{
		Title:   "What replication costs: closed loop of 64 connections on two ingests, no savers, in turn",
		Columns: []string{"round", "RF 1, uploads/s", "RF 3 and min ISR 2, uploads/s", "ratio"},
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Kafka.Brokers()...))
	if err != nil {
		return t, err
	}
	defer cl.Close()
	const prefix = "single."
	minISR, maxMessage := "1", "16777216"
	answers, err := kadm.NewClient(cl).CreateTopics(
		context.Background(), 12, 1, map[string]*string{"min.insync.replicas": &minISR, "max.message.bytes": &maxMessage},
		prefix+"decisions", prefix+"parking", prefix+"parking.dlq", prefix+"dlq",
	)
	if err != nil {
		return t, err
	}
	for _, a := range answers {
		if a.Err != nil {
			return t, fmt.Errorf("%s: %w", a.Topic, a.Err)
		}
	}
	other := &saversCluster{Stack: c.Stack, run: events.NewRun()} // whose decisions nobody saves
	for i := range 2 {
		addr, err := testserver.FreeAddr()
		if err != nil {
			return t, err
		}
		key := fmt.Sprintf("single ingest %d", i+1)
		if _, err := c.StartAs(key, "ingest", "DOCKET_LISTEN="+addr, "DOCKET_TOPIC_PREFIX="+prefix); err != nil {
			return t, err
		}
		other.ingests = append(other.ingests, addr)
	}
	for range 2 { // until the brokers' bytecode is compiled
		for _, warming := range []*saversCluster{other, c} {
			if _, err := warming.send(uploads, 0); err != nil {
				return t, err
			}
		}
	}
	sums := [2]float64{}
	const rounds = 4
	for round := range rounds {
		one, err := other.send(uploads, 0)
		if err != nil {
			return t, err
		}
		three, err := c.send(uploads, 0)
		if err != nil {
			return t, err
		}
		sums[0], sums[1] = sums[0]+one, sums[1]+three
		t.Rows = append(
			t.Rows,
			[]string{
				fmt.Sprint(round + 1),
				fmt.Sprintf("%.0f", one),
				fmt.Sprintf("%.0f", three),
				fmt.Sprintf("%.2f", three/one),
			},
		)
	}
	t.Rows = append(
		t.Rows,
		[]string{
			"all",
			fmt.Sprintf("%.0f", sums[0]/rounds),
			fmt.Sprintf("%.0f", sums[1]/rounds),
			fmt.Sprintf("%.2f", sums[1]/sums[0]),
		},
	)
	for _, key := range slices.Collect(maps.Keys(c.Roles)) {
		if strings.HasPrefix(key, "single ") {
			err = errors.Join(err, c.Stop(key))
		}
	}
	if err == nil {
		_, _, _, err = c.drain(1)
	}
	return t, err
}
