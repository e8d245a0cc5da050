package suites

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/stack"
)

// warmUploads are sent before anything is measured. Until Kafka's bytecode is compiled it needs three times the CPU,
// and the compiler as much again; that takes a minute of this load.
const warmUploads = 200_000

// warmUp sends so many uploads and waits until they are stored; it returns those that were sent.
func warmUp(s *stack.Stack, c *load.Corpus, uploads, connections int) ([]load.Request, error) {
	warm := c.Requests(s.Upload, uploads)
	_, used, err := load.Closed(s.Upload, warm, connections, time.Minute)
	if err != nil {
		return nil, err
	}
	return c.Sent(warm, used), s.API().Drained()
}

// rolesOpen is the open loop with everything running.
func rolesOpen(docket string, rate int, length time.Duration, brokers, warmFirst int) (load.Result, error) {
	s, err := stack.StartStack(docket, brokers)
	if err != nil {
		return load.Result{}, err
	}
	defer s.Close()
	if err := s.StartAll("ingest", "saver", "parking", "console"); err != nil {
		return load.Result{}, err
	}
	c := load.NewCorpus()
	requests := c.Requests(s.Upload, rate*int(length.Seconds()))
	warm, err := warmUp(s, c, warmFirst, 64)
	if err != nil {
		return load.Result{}, err
	}
	ingest, saver := s.Roles["ingest"], s.Roles["saver"]
	cpu, saverCPU := ingest.CPU(), saver.CPU()
	memory, saverMemory := ingest.Watch(), saver.Watch()
	l, err := load.Open(s.Upload, requests, rate)
	if err != nil {
		return load.Result{}, err
	}
	r := l.Result(fmt.Sprintf("open loop, %d/s, brokers: %d", rate, brokers), requests)
	ended := time.Now()
	if err := s.API().Drained(); err != nil {
		return load.Result{}, err
	}
	r.DrainedMs = stack.Millis(time.Since(ended))
	r.RSSSlope, r.SaverSlope = memory(), saverMemory()
	r.PeakRSS, r.SaverRSS = ingest.Status("VmHWM:")/1024, saver.Status("VmHWM:")/1024
	r.CPUPer100k = (ingest.CPU() - cpu) / float64(r.Events) * 100_000
	r.SaverCPUPer100k = (saver.CPU() - saverCPU) / float64(r.Events) * 100_000
	if r.EndToEndP99, err = saver.EndToEnd(); err != nil {
		return r, err
	}
	return r, checkStored(s.API(), c, &r, warm)
}

// checkStored compares what was sent with what is stored, by set.
func checkStored(api *stack.Client, c *load.Corpus, r *load.Result, others ...[]load.Request) error {
	want := r.Events
	for _, requests := range others {
		for _, q := range requests {
			want += q.Events
		}
	}
	stored, err := api.Stored(c.IDs)
	if err != nil {
		return err
	}
	if stored != want {
		var pipeline json.RawMessage
		err := api.Get("/api/v1/pipeline", &pipeline)
		return fmt.Errorf("%d of %d acknowledged events are stored; the pipeline: %s %w", stored, want, pipeline, err)
	}
	r.Stored = r.Events
	return nil
}

// rolesClosed is the closed loop with the saver stopped, and the drain of what it leaves.
func rolesClosed(docket string, connections int, length time.Duration) (closedLoop, drain load.Result, err error) {
	s, err := stack.StartStack(docket, 1)
	if err != nil {
		return load.Result{}, load.Result{}, err
	}
	defer s.Close()
	if err := s.StartAll("ingest", "saver", "console"); err != nil {
		return load.Result{}, load.Result{}, err
	}
	c := load.NewCorpus()
	requests := c.Requests(s.Upload, 30_000*int(length.Seconds()))
	warm, err := warmUp(s, c, warmUploads, connections)
	if err != nil {
		return load.Result{}, load.Result{}, err
	}
	if err := s.Roles["saver"].Terminate(stack.StopPatience); err != nil {
		return load.Result{}, load.Result{}, err
	}
	ingest := s.Roles["ingest"]
	cpu := ingest.CPU()
	l, used, err := load.Closed(s.Upload, requests, connections, length)
	if err != nil {
		return load.Result{}, load.Result{}, err
	}
	requests = c.Sent(requests, used)
	r := l.Result(fmt.Sprintf("closed loop, %d connections, saver stopped", connections), requests)
	r.CPUPer100k = (ingest.CPU() - cpu) / float64(r.Events) * 100_000
	r.PeakRSS = ingest.Status("VmHWM:") / 1024
	waiting := r.Events
	start := time.Now()
	saver, err := s.Start("saver")
	if err != nil {
		return r, load.Result{}, err
	}
	if err := s.API().Drained(); err != nil {
		return r, load.Result{}, err
	}
	d := load.Result{
		Scenario: fmt.Sprintf("drain of %d decisions", waiting),
		Seconds:  time.Since(start).Seconds(),
		Events:   waiting,
	}
	d.PerSecond = float64(waiting) / d.Seconds
	d.SaverCPUPer100k = saver.CPU() / float64(waiting) * 100_000
	d.SaverRSS = saver.Status("VmHWM:") / 1024
	if err := checkStored(s.API(), c, &r, warm); err != nil {
		return r, d, err
	}
	d.Stored = waiting
	return r, d, nil
}

// rolesParked lets the database be away until so many decisions are parked, and measures how they drain once it is
// back. What the parking role's memory is by then is to be compared with that for a smaller backlog.
func rolesParked(docket string, connections, backlog int) (load.Result, error) {
	s, err := stack.StartStack(docket, 1)
	if err != nil {
		return load.Result{}, err
	}
	defer s.Close()
	if err := s.StartAll("ingest", "saver", "parking", "console"); err != nil {
		return load.Result{}, err
	}
	c := load.NewCorpus()
	warm, err := warmUp(s, c, warmUploads/4, connections)
	if err != nil {
		return load.Result{}, err
	}
	if err := s.Postgres.Stop(true); err != nil {
		return load.Result{}, err
	}
	requests := c.Requests(s.Upload, backlog/3) // of one to five decisions each
	l, used, err := load.Closed(s.Upload, requests, connections, 3*time.Minute)
	if err != nil {
		return load.Result{}, err
	}
	requests = c.Sent(requests, used)
	r := l.Result("", requests)
	if err := s.API().WaitFor(
		func(p stack.Pipeline) bool { return p.Waiting("saver") == 0 && p.Waiting("parking") > 0 },
	); err != nil {
		return r, err
	}
	if err := s.Postgres.Start(); err != nil {
		return r, err
	}
	start := time.Now()
	if err := s.API().Drained(); err != nil {
		return r, err
	}
	d := load.Result{
		Scenario: fmt.Sprintf("drain of %d parked decisions", r.Events),
		Seconds:  time.Since(start).Seconds(),
		Events:   r.Events,
	}
	d.PerSecond = float64(r.Events) / d.Seconds
	parking := s.Roles["parking"]
	d.ParkingCPUPer100k, d.ParkingRSS = parking.CPU()/float64(r.Events)*100_000, parking.Status("VmHWM:")/1024
	if err := checkStored(s.API(), c, &r, warm); err != nil {
		return d, err
	}
	d.Stored = r.Events
	return d, nil
}

// RolesSuite repeats every scenario and reports each run.
func RolesSuite(docket, out, only string, rate, seconds, connections, times int, soak time.Duration) error {
	length := time.Duration(seconds) * time.Second
	type scenario struct {
		name string
		run  func() ([]load.Result, error)
	}
	scenarios := []scenario{
		{"open loop, one broker", func() ([]load.Result, error) {
			return one(rolesOpen(docket, rate, length, 1,
				warmUploads))
		}},
		{
			"open loop, three brokers",
			func() ([]load.Result, error) { return one(rolesOpen(docket, rate, length, 3, warmUploads)) },
		},
		{"closed loop and drain", func() ([]load.Result, error) {
			r, d, err := rolesClosed(docket, connections, length/3)
			return []load.Result{r, d}, err
		}},
	}
	for _, backlog := range []int{250_000, 1_000_000} {
		scenarios = append(scenarios, scenario{fmt.Sprintf("parked backlog of %d", backlog), func() ([]load.Result, error) {
			return one(rolesParked(docket, connections, backlog))
		}})
	}
	if soak > 0 {
		times, scenarios = 1, scenarios[:1]
		// Hardly warmed up: the peak of memory is to be that of the rate, not of draining a backlog.
		scenarios[0].run = func() ([]load.Result, error) { return one(rolesOpen(docket, rate, soak, 1, rate)) }
	}
	var results []load.Result
	for range times {
		for _, s := range scenarios {
			if !strings.Contains(s.name, only) {
				continue
			}
			fmt.Fprintf(os.Stderr, "%s …\n", s.name)
			r, err := s.run()
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			results = append(results, r...)
		}
	}
	printRoles(results)
	return writeJSON(out, "roles.json", results)
}

func one(r load.Result, err error) ([]load.Result, error) { return []load.Result{r}, err }
