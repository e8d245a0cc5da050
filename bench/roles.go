package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/testserver"
)

// stack is docket as production runs it, on servers of its own.
type stack struct {
	kafka           *testserver.Kafka
	postgres        *testserver.Postgres
	docket          string
	vars            []string
	upload, console string
	mu              sync.Mutex // for whoever ends the roles from another goroutine
	roles           map[string]*roleProcess
}

// roleProcess is one role.
type roleProcess struct {
	process
	admin string
}

// startStack starts servers and migrates; roles are started one by one.
func startStack(docket string, brokers int) (_ *stack, err error) {
	s := &stack{docket: docket, roles: map[string]*roleProcess{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.postgres, err = testserver.StartPostgres("", postgresSettings...); err != nil {
		return nil, err
	}
	if s.kafka, err = testserver.StartKafka(brokers); err != nil {
		return nil, err
	}
	if s.upload, err = testserver.FreeAddr(); err != nil {
		return nil, err
	}
	if s.console, err = testserver.FreeAddr(); err != nil {
		return nil, err
	}
	s.vars = append(
		s.vars, "DOCKET_KAFKA_BROKERS="+strings.Join(s.kafka.Brokers(), ","),
		"DOCKET_DATABASE_URL="+s.postgres.URL("postgres", ""), "DOCKET_LISTEN="+s.upload,
		"DOCKET_CONSOLE_LISTEN="+s.console, "DOCKET_KAFKA_UNREPLICATED=allow", "DOCKET_LOG_LEVEL=error",
	)
	migrate := exec.Command(docket, "migrate")
	migrate.Env = append(os.Environ(), s.vars...)
	if out, err := migrate.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("migrate: %w: %s", err, out)
	}
	return s, nil
}

// start starts a role and waits until it is ready.
func (s *stack) start(name string) (*roleProcess, error) { return s.startAs(name, name) }

// startAs starts one of several processes of a role under a name of its own, with settings of its own, and waits.
func (s *stack) startAs(key, name string, vars ...string) (*roleProcess, error) {
	r, err := s.launch(key, name, vars...)
	if err != nil {
		return nil, err
	}
	return r, testserver.WaitReady(r.admin, time.Minute)
}

// launch does not wait.
func (s *stack) launch(key, name string, vars ...string) (*roleProcess, error) {
	admin, err := testserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	d, err := testserver.LaunchDocket(testserver.DocketOptions{
		Binary: s.docket, Role: name, Admin: admin, Vars: append(slices.Clone(s.vars), vars...), Output: os.Stderr,
	})
	if err != nil {
		return nil, err
	}
	r := &roleProcess{process: process{d.Process, d.Pid()}, admin: admin}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[key] = r
	return r, nil
}

// stop ends a role in good order.
func (s *stack) stop(key string) error {
	return s.forget(key).Terminate(stopPatience)
}

// startAll starts several.
func (s *stack) startAll(names ...string) error {
	for _, name := range names {
		if _, err := s.start(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// stopPatience is how long a role may take to stop in good order.
const stopPatience = 30 * time.Second

// forget takes a role out of those that close ends.
func (s *stack) forget(key string) *roleProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.roles[key]
	delete(s.roles, key)
	return r
}

func (s *stack) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.roles {
		r.Kill()
	}
	if s.kafka != nil {
		_ = s.kafka.Close()
	}
	if s.postgres != nil {
		_ = s.postgres.Close()
	}
}

// api asks the console.
func (s *stack) api() *client { return &client{console: s.console} }

// endToEnd is the time from receipt to the committed row that 99 % of rows stay below, as the saver's histogram tells
// it: the upper border of a bucket.
func (r *roleProcess) endToEnd() (float64, error) {
	resp, err := http.Get("http://" + r.admin + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	type bucket struct{ border, count float64 }
	var buckets []bucket
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), `docket_end_to_end_seconds_bucket{le="`)
		if !ok {
			continue
		}
		border, count, _ := strings.Cut(rest, `"} `)
		b, err := strconv.ParseFloat(border, 64)
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseFloat(strings.Fields(count)[0], 64)
		if err != nil {
			return 0, err
		}
		buckets = append(buckets, bucket{b, n})
	}
	if len(buckets) == 0 {
		return 0, errors.New("no docket_end_to_end_seconds")
	}
	all := buckets[len(buckets)-1].count
	for _, b := range buckets {
		if b.count >= 0.99*all {
			return b.border * 1000, nil
		}
	}
	return 0, errors.New("docket_end_to_end_seconds does not add up")
}

// warmUploads are sent before anything is measured. Until Kafka's bytecode is compiled it needs three times the CPU,
// and the compiler as much again; that takes a minute of this load.
const warmUploads = 200_000

// warmUp sends so many uploads and waits until they are stored; it returns those that were sent.
func (s *stack) warmUp(c *corpus, uploads, connections int) ([]request, error) {
	warm := c.requests(s.upload, uploads)
	_, used, err := closed(s.upload, warm, connections, time.Minute)
	if err != nil {
		return nil, err
	}
	return c.sent(warm, used), s.api().drained()
}

// rolesOpen is the open loop with everything running.
func rolesOpen(docket string, rate int, length time.Duration, brokers, warmUp int) (result, error) {
	s, err := startStack(docket, brokers)
	if err != nil {
		return result{}, err
	}
	defer s.close()
	if err := s.startAll("ingest", "saver", "parking", "console"); err != nil {
		return result{}, err
	}
	c := newCorpus()
	requests := c.requests(s.upload, rate*int(length.Seconds()))
	warm, err := s.warmUp(c, warmUp, 64)
	if err != nil {
		return result{}, err
	}
	ingest, saver := s.roles["ingest"], s.roles["saver"]
	cpu, saverCPU := ingest.cpu(), saver.cpu()
	memory, saverMemory := ingest.watch(), saver.watch()
	l, err := open(s.upload, requests, rate)
	if err != nil {
		return result{}, err
	}
	r := l.result(fmt.Sprintf("open loop, %d/s, brokers: %d", rate, brokers), requests)
	ended := time.Now()
	if err := s.api().drained(); err != nil {
		return result{}, err
	}
	r.DrainedMs = ms(time.Since(ended))
	r.RSSSlope, r.SaverSlope = memory(), saverMemory()
	r.PeakRSS, r.SaverRSS = ingest.status("VmHWM:")/1024, saver.status("VmHWM:")/1024
	r.CPUPer100k = (ingest.cpu() - cpu) / float64(r.Events) * 100_000
	r.SaverCPUPer100k = (saver.cpu() - saverCPU) / float64(r.Events) * 100_000
	if r.EndToEndP99, err = saver.endToEnd(); err != nil {
		return r, err
	}
	return r, checkStored(s.api(), c, &r, warm)
}

// checkStored compares what was sent with what is stored, by set.
func checkStored(api *client, c *corpus, r *result, others ...[]request) error {
	want := r.Events
	for _, requests := range others {
		for _, q := range requests {
			want += q.events
		}
	}
	stored, err := api.stored(c.ids)
	if err != nil {
		return err
	}
	if stored != want {
		var pipeline json.RawMessage
		err := api.get("/api/v1/pipeline", &pipeline)
		return fmt.Errorf("%d of %d acknowledged events are stored; the pipeline: %s %w", stored, want, pipeline, err)
	}
	r.Stored = r.Events
	return nil
}

// rolesClosed is the closed loop with the saver stopped, and the drain of what it leaves.
func rolesClosed(docket string, connections int, length time.Duration) (closedLoop, drain result, err error) {
	s, err := startStack(docket, 1)
	if err != nil {
		return result{}, result{}, err
	}
	defer s.close()
	if err := s.startAll("ingest", "saver", "console"); err != nil {
		return result{}, result{}, err
	}
	c := newCorpus()
	requests := c.requests(s.upload, 30_000*int(length.Seconds()))
	warm, err := s.warmUp(c, warmUploads, connections)
	if err != nil {
		return result{}, result{}, err
	}
	if err := s.roles["saver"].Terminate(stopPatience); err != nil {
		return result{}, result{}, err
	}
	ingest := s.roles["ingest"]
	cpu := ingest.cpu()
	l, used, err := closed(s.upload, requests, connections, length)
	if err != nil {
		return result{}, result{}, err
	}
	requests = c.sent(requests, used)
	r := l.result(fmt.Sprintf("closed loop, %d connections, saver stopped", connections), requests)
	r.CPUPer100k = (ingest.cpu() - cpu) / float64(r.Events) * 100_000
	r.PeakRSS = ingest.status("VmHWM:") / 1024
	waiting := r.Events
	start := time.Now()
	saver, err := s.start("saver")
	if err != nil {
		return r, result{}, err
	}
	if err := s.api().drained(); err != nil {
		return r, result{}, err
	}
	d := result{
		Scenario: fmt.Sprintf("drain of %d decisions", waiting),
		Seconds:  time.Since(start).Seconds(),
		Events:   waiting,
	}
	d.PerSecond = float64(waiting) / d.Seconds
	d.SaverCPUPer100k = saver.cpu() / float64(waiting) * 100_000
	d.SaverRSS = saver.status("VmHWM:") / 1024
	if err := checkStored(s.api(), c, &r, warm); err != nil {
		return r, d, err
	}
	d.Stored = waiting
	return r, d, nil
}

// rolesParked lets the database be away until so many decisions are parked, and measures how they drain once it is
// back. What the parking role's memory is by then is to be compared with that for a smaller backlog.
func rolesParked(docket string, connections, backlog int) (result, error) {
	s, err := startStack(docket, 1)
	if err != nil {
		return result{}, err
	}
	defer s.close()
	if err := s.startAll("ingest", "saver", "parking", "console"); err != nil {
		return result{}, err
	}
	c := newCorpus()
	warm, err := s.warmUp(c, warmUploads/4, connections)
	if err != nil {
		return result{}, err
	}
	if err := s.postgres.Stop(true); err != nil {
		return result{}, err
	}
	requests := c.requests(s.upload, backlog/3) // of one to five decisions each
	l, used, err := closed(s.upload, requests, connections, 3*time.Minute)
	if err != nil {
		return result{}, err
	}
	requests = c.sent(requests, used)
	r := l.result("", requests)
	if err := s.api().waitFor(
		func(p pipeline) bool { return p.waiting("saver") == 0 && p.waiting("parking") > 0 },
	); err != nil {
		return r, err
	}
	if err := s.postgres.Start(); err != nil {
		return r, err
	}
	start := time.Now()
	if err := s.api().drained(); err != nil {
		return r, err
	}
	d := result{
		Scenario: fmt.Sprintf("drain of %d parked decisions", r.Events),
		Seconds:  time.Since(start).Seconds(),
		Events:   r.Events,
	}
	d.PerSecond = float64(r.Events) / d.Seconds
	parking := s.roles["parking"]
	d.ParkingCPUPer100k, d.ParkingRSS = parking.cpu()/float64(r.Events)*100_000, parking.status("VmHWM:")/1024
	if err := checkStored(s.api(), c, &r, warm); err != nil {
		return d, err
	}
	d.Stored = r.Events
	return d, nil
}

// rolesSuite repeats every scenario and reports each run.
func rolesSuite(docket, out, only string, rate, seconds, connections, times int, soak time.Duration) error {
	length := time.Duration(seconds) * time.Second
	type scenario struct {
		name string
		run  func() ([]result, error)
	}
	scenarios := []scenario{
		{"open loop, one broker", func() ([]result, error) { return one(rolesOpen(docket, rate, length, 1, warmUploads)) }},
		{
			"open loop, three brokers",
			func() ([]result, error) { return one(rolesOpen(docket, rate, length, 3, warmUploads)) },
		},
		{"closed loop and drain", func() ([]result, error) {
			r, d, err := rolesClosed(docket, connections, length/3)
			return []result{r, d}, err
		}},
	}
	for _, backlog := range []int{250_000, 1_000_000} {
		scenarios = append(scenarios, scenario{fmt.Sprintf("parked backlog of %d", backlog), func() ([]result, error) {
			return one(rolesParked(docket, connections, backlog))
		}})
	}
	if soak > 0 {
		times, scenarios = 1, scenarios[:1]
		// Hardly warmed up: the peak of memory is to be that of the rate, not of draining a backlog.
		scenarios[0].run = func() ([]result, error) { return one(rolesOpen(docket, rate, soak, 1, rate)) }
	}
	var results []result
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

func one(r result, err error) ([]result, error) { return []result{r}, err }
