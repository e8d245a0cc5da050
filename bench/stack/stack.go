// Package stack runs docket and its servers for benchmarks: embedded, or as production does, beside a synchronous
// service to compare with. It watches their processes, asks their console, and ends them. Loads and scenarios are
// load's and suites'.
package stack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/docket-project/docket/internal/testserver"
)

// Stack is docket as production runs it, on servers of its own.
type Stack struct {
	Kafka           *testserver.Kafka
	Postgres        *testserver.Postgres
	docket          string
	Vars            []string
	Upload, Console string
	mu              sync.Mutex // for whoever ends the roles from another goroutine
	Roles           map[string]*RoleProcess
}

// RoleProcess is one role.
type RoleProcess struct {
	Process
	admin string
}

// StartStack starts servers and migrates; roles are started one by one.
func StartStack(docket string, brokers int) (_ *Stack, err error) {
	s := &Stack{docket: docket, Roles: map[string]*RoleProcess{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.Postgres, err = testserver.StartPostgres("", PostgresSettings...); err != nil {
		return nil, err
	}
	if s.Kafka, err = testserver.StartKafka(brokers); err != nil {
		return nil, err
	}
	if s.Upload, err = testserver.FreeAddr(); err != nil {
		return nil, err
	}
	if s.Console, err = testserver.FreeAddr(); err != nil {
		return nil, err
	}
	s.Vars = append(
		s.Vars, "DOCKET_KAFKA_BROKERS="+strings.Join(s.Kafka.Brokers(), ","),
		"DOCKET_DATABASE_URL="+s.Postgres.URL("postgres", ""), "DOCKET_LISTEN="+s.Upload,
		"DOCKET_CONSOLE_LISTEN="+s.Console, "DOCKET_KAFKA_UNREPLICATED=allow", "DOCKET_LOG_LEVEL=error",
	)
	migrate := exec.Command(docket, "migrate")
	migrate.Env = append(os.Environ(), s.Vars...)
	if out, err := migrate.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("migrate: %w: %s", err, out)
	}
	return s, nil
}

// Start starts a role and waits until it is ready.
func (s *Stack) Start(name string) (*RoleProcess, error) { return s.StartAs(name, name) }

// StartAs starts one of several processes of a role under a name of its own, with settings of its own, and waits.
func (s *Stack) StartAs(key, name string, vars ...string) (*RoleProcess, error) {
	r, err := s.Launch(key, name, vars...)
	if err != nil {
		return nil, err
	}
	return r, testserver.WaitReady(r.admin, time.Minute)
}

// Launch does not wait.
func (s *Stack) Launch(key, name string, vars ...string) (*RoleProcess, error) {
	admin, err := testserver.FreeAddr()
	if err != nil {
		return nil, err
	}
	d, err := testserver.LaunchDocket(testserver.DocketOptions{
		Binary: s.docket, Role: name, Admin: admin, Vars: append(slices.Clone(s.Vars), vars...), Output: os.Stderr,
	})
	if err != nil {
		return nil, err
	}
	r := &RoleProcess{Process: Process{d.Process, d.Pid()}, admin: admin}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Roles[key] = r
	return r, nil
}

// Stop ends a role in good order.
func (s *Stack) Stop(key string) error {
	return s.Forget(key).Terminate(StopPatience)
}

// StartAll starts several.
func (s *Stack) StartAll(names ...string) error {
	for _, name := range names {
		if _, err := s.Start(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// StopPatience is how long a role may take to stop in good order.
const StopPatience = 30 * time.Second

// Forget takes a role out of those that close ends.
func (s *Stack) Forget(key string) *RoleProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.Roles[key]
	delete(s.Roles, key)
	return r
}

// Close ends the roles and the servers.
func (s *Stack) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.Roles {
		r.Kill()
	}
	if s.Kafka != nil {
		_ = s.Kafka.Close()
	}
	if s.Postgres != nil {
		_ = s.Postgres.Close()
	}
}

// API asks the console.
func (s *Stack) API() *Client { return &Client{console: s.Console} }

// EndToEnd is the time from receipt to the committed row that 99 % of rows stay below, as the saver's histogram tells
// it: the upper border of a bucket.
func (r *RoleProcess) EndToEnd() (float64, error) {
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

// NewDistance puts a proxy in front of a database; delay says how much later its answers come.
func NewDistance(upstream string, delay time.Duration) (*toxiproxy.Proxy, error) {
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

// Metric reads one value.
func (r *RoleProcess) Metric(name string) (float64, error) {
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

// PostgresSettings are those of every measurement: a small server that is sized for its machine, and durable.
var PostgresSettings = []string{
	"shared_buffers=2GB",
	"max_wal_size=8GB",
	"checkpoint_timeout=15min",
	"checkpoint_completion_target=0.9",
	"wal_compression=lz4",
	"max_connections=100",
}
