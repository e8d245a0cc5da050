// Package load sends uploads: in an open loop, whose latencies count from the time a request was due, in a closed loop,
// as a surge, and with k6. It says what became of each decision that was acknowledged. What is measured is suites'.
package load

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/stack"
)

// Request is one upload, ready to be written to a connection.
type Request struct {
	wire   []byte
	Events int
	ids    []string
}

// Corpus makes the uploads of a run, in order, of one to five decisions.
type Corpus struct {
	run    events.Run
	next   int64
	Events int
	IDs    map[string]bool
	// Token is shown with every upload, unless it is empty.
	Token string
}

// NewCorpus makes an empty one.
func NewCorpus() *Corpus { return &Corpus{run: events.NewRun(), IDs: map[string]bool{}} }

// make builds the next upload.
func (c *Corpus) make(host string) Request {
	n := events.Size(c.next)
	ids := make([]string, n)
	for k := range ids {
		ids[k] = c.run.ID(c.next*events.PerUpload + int64(k))
		c.IDs[ids[k]] = true
	}
	body := c.run.Append(nil, c.next, time.Now())
	c.next++
	c.Events += n
	return Request{wire: appendRequest(nil, host, c.Token, body), Events: n, ids: ids}
}

// appendRequest appends an upload with its head.
func appendRequest(dst []byte, host, token string, body []byte) []byte {
	if token != "" {
		token = "Authorization: Bearer " + token + "\r\n"
	}
	dst = fmt.Appendf(
		dst,
		"POST /logs HTTP/1.1\r\nHost: %s\r\n%sUser-Agent: Open-Policy-Agent/1.22.2 (linux, amd64)\r\nContent-Type: "+
			"application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n",
		host,
		token,
		len(body),
	)
	return append(dst, body...)
}

// Sent forgets the requests that were not used, and returns those that were.
func (c *Corpus) Sent(requests []Request, used int) []Request {
	for _, q := range requests[used:] {
		for _, id := range q.ids {
			delete(c.IDs, id)
		}
	}
	return requests[:used]
}

// Requests builds so many.
func (c *Corpus) Requests(host string, n int) []Request {
	out := make([]Request, n)
	for i := range out {
		out[i] = c.make(host)
	}
	return out
}

// connection speaks just enough HTTP/1.1, so that the generator is not what is measured.
type connection struct {
	net.Conn
	r *bufio.Reader
}

// Dial connects to an upload listener.
func Dial(addr string) (*connection, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &connection{c, bufio.NewReaderSize(c, 4096)}, nil
}

// send makes one upload and returns the status of the answer.
func (c *connection) send(wire []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := c.Write(wire); err != nil {
		return 0, err
	}
	status, length := 0, 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		text := strings.TrimSpace(string(line))
		if text == "" {
			break
		}
		if status == 0 {
			if status, err = strconv.Atoi(strings.Fields(text)[1]); err != nil {
				return 0, err
			}
		}
		if v, ok := strings.CutPrefix(text, "Content-Length: "); ok {
			if length, err = strconv.Atoi(v); err != nil {
				return 0, err
			}
		}
	}
	_, err := c.r.Discard(length)
	return status, err
}

// Load is what a loop has measured.
type Load struct {
	mu        sync.Mutex
	latencies *hdrhistogram.Histogram // microseconds
	Refused   atomic.Int64
	uploads   atomic.Int64
	Dropped   atomic.Int64
	late      time.Duration // the most that the generator itself was late
	took      time.Duration
}

func newLoad() *Load { return &Load{latencies: hdrhistogram.New(1, 60_000_000, 3)} }

func (l *Load) record(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.latencies.RecordValue(max(d.Microseconds(), 1)) // 60 s is beyond every deadline
}

// Result are the figures of a load.
func (l *Load) Result(name string, requests []Request) Result {
	r := Result{
		Scenario: name, Seconds: l.took.Seconds(), Uploads: int(l.uploads.Load()), Refused: int(l.Refused.Load()),
		PerSecond: float64(l.uploads.Load()) / l.took.Seconds(), GeneratorMs: stack.Millis(l.late),
		P50: float64(l.latencies.ValueAtQuantile(50)) / 1000, P95: float64(l.latencies.ValueAtQuantile(95)) / 1000,
		P99: float64(l.latencies.ValueAtQuantile(99)) / 1000, Max: float64(l.latencies.Max()) / 1000,
	}
	for _, q := range requests {
		r.Events += q.Events
	}
	return r
}

// one sends a request until it is taken, as OPA would, and records the first answer's latency from since on.
func (l *Load) one(c *connection, addr string, r Request, since time.Time) (*connection, error) {
	for try := 0; ; try++ {
		status, err := c.send(r.wire)
		if try == 0 {
			l.record(time.Since(since))
		}
		if err == nil && status == 200 {
			l.uploads.Add(1)
			return c, nil
		}
		l.Refused.Add(1)
		if try == 50 {
			return c, fmt.Errorf("refused 50 times: %d %w", status, err)
		}
		if err != nil {
			_ = c.Close()
			if c, err = Dial(addr); err != nil {
				return nil, err
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Once sends at a rate and never again: an upload that finds no free connection is dropped, and one that is refused
// stays so.
func Once(addr string, requests []Request, rate int) *Load {
	l := newLoad()
	queue := make(chan Request)
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			var c *connection
			for r := range queue {
				start := time.Now()
				err := error(nil)
				if c == nil {
					c, err = Dial(addr)
				}
				status := 0
				if err == nil {
					status, err = c.send(r.wire)
				}
				l.record(time.Since(start))
				if status == 200 {
					l.uploads.Add(1)
				} else {
					l.Refused.Add(1)
				}
				if err != nil && c != nil {
					_ = c.Close()
					c = nil
				}
			}
			if c != nil {
				_ = c.Close()
			}
		})
	}
	start := time.Now()
	step := time.Second / time.Duration(rate)
	for i, r := range requests {
		if wait := time.Until(start.Add(time.Duration(i) * step)); wait > 0 {
			time.Sleep(wait)
		}
		select {
		case queue <- r:
		default:
			l.Dropped.Add(1)
		}
	}
	close(queue)
	wg.Wait()
	l.took = time.Since(start)
	return l
}

// Open sends at a rate, whatever the answers do. Latencies count from when a request was due.
func Open(addr string, requests []Request, rate int) (*Load, error) {
	type due struct {
		Request
		at time.Time
	}
	l := newLoad()
	queue := make(chan due, len(requests))
	var wg sync.WaitGroup
	failures := make(chan error, 1)
	for range min(256, len(requests)) {
		wg.Go(func() {
			c, err := Dial(addr)
			for d := range queue {
				if err == nil {
					c, err = l.one(c, addr, d.Request, d.at)
				}
			}
			if err != nil {
				select {
				case failures <- err:
				default:
				}
			}
			if c != nil {
				_ = c.Close()
			}
		})
	}
	start := time.Now()
	step := time.Second / time.Duration(rate)
	for i, r := range requests {
		at := start.Add(time.Duration(i) * step)
		if wait := time.Until(at); wait > 0 {
			time.Sleep(wait)
		}
		l.late = max(l.late, time.Since(at))
		queue <- due{r, at}
	}
	close(queue)
	wg.Wait()
	l.took = time.Since(start)
	select {
	case err := <-failures:
		return l, err
	default:
		return l, nil
	}
}

// Closed keeps every connection busy until the time is over or the requests are used up.
func Closed(addr string, requests []Request, connections int, length time.Duration) (*Load, int, error) {
	l := newLoad()
	var next atomic.Int64
	var wg sync.WaitGroup
	failures := make(chan error, connections)
	start := time.Now()
	for range connections {
		wg.Go(func() {
			c, err := Dial(addr)
			for err == nil && time.Since(start) < length {
				i := int(next.Add(1)) - 1
				if i >= len(requests) {
					break
				}
				c, err = l.one(c, addr, requests[i], time.Now())
			}
			if err != nil {
				failures <- err
			}
			if c != nil {
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	l.took = time.Since(start)
	select {
	case err := <-failures:
		return l, 0, err
	default:
		return l, min(int(next.Load()), len(requests)), nil
	}
}

// Result is one scenario's figures. Durations are milliseconds.
type Result struct {
	Scenario    string  `json:"scenario"`
	Seconds     float64 `json:"seconds"`
	Uploads     int     `json:"uploads"`
	Refused     int     `json:"refused"`
	PerSecond   float64 `json:"uploads_per_second"`
	Events      int     `json:"events"`
	Stored      int     `json:"stored"`
	P50         float64 `json:"p50_ms"`
	P95         float64 `json:"p95_ms"`
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`
	DrainedMs   float64 `json:"drained_after_ms"`
	PeakRSS     float64 `json:"peak_rss_mib"`
	RSSSlope    float64 `json:"rss_slope_percent"`
	CPUPer100k  float64 `json:"cpu_seconds_per_100k_events"`
	GeneratorMs float64 `json:"generator_max_late_ms"`
	// Of the roles.
	EndToEndP99     float64 `json:"received_to_row_p99_ms,omitempty"`
	SaverRSS        float64 `json:"saver_peak_rss_mib,omitempty"`
	SaverSlope      float64 `json:"saver_rss_slope_percent,omitempty"`
	SaverCPUPer100k float64 `json:"saver_cpu_seconds_per_100k_events,omitempty"`
	// Of the parking role, where it drains.
	ParkingRSS        float64 `json:"parking_peak_rss_mib,omitempty"`
	ParkingCPUPer100k float64 `json:"parking_cpu_seconds_per_100k_events,omitempty"`
}
