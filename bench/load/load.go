// Package load sends uploads: in an open loop, whose latencies count from the time a request was due, in a closed loop,
// as a surge, and with k6. It says what became of each decision that was acknowledged. What is measured is suites'.
package load

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/klauspost/compress/gzip"

	"github.com/docket-project/docket/bench/stack"
)

// Request is one upload, ready to be written to a connection.
type Request struct {
	wire   []byte
	Events int
	ids    []string
}

// Corpus makes distinct uploads of one to five decisions of about 1.4 KB.
type Corpus struct {
	run    string
	next   int
	Events int
	IDs    map[string]bool
	buf    bytes.Buffer
	zip    *gzip.Writer
}

// NewCorpus makes an empty one.
func NewCorpus() *Corpus {
	z, err := gzip.NewWriterLevel(nil, gzip.DefaultCompression)
	if err != nil {
		panic(err) // the level is a constant
	}
	return &Corpus{run: strconv.FormatInt(time.Now().UnixNano(), 36), IDs: map[string]bool{}, zip: z}
}

// make builds the next upload.
func (c *Corpus) make(host string) Request {
	c.buf.Reset()
	c.zip.Reset(&c.buf)
	n := c.next%5 + 1
	ids := make([]string, n)
	for i := range n {
		sep := ","
		if i == 0 {
			sep = "["
		}
		id := c.ID()
		ids[i] = id
		c.IDs[id] = true
		_, _ = io.WriteString(c.zip, sep) // to memory
		c.Event(c.zip, id)
	}
	_, _ = io.WriteString(c.zip, "]")
	_ = c.zip.Close()
	c.next++
	var wire bytes.Buffer
	fmt.Fprintf(
		&wire,
		"POST /logs HTTP/1.1\r\nHost: %s\r\nUser-Agent: Open-Policy-Agent/1.22.2 (linux, amd64)\r\nContent-Type: "+
			"application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n",
		host,
		c.buf.Len(),
	)
	wire.Write(c.buf.Bytes())
	return Request{wire: wire.Bytes(), Events: n, ids: ids}
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

// ID makes the next decision id, as scattered as a UUID.
func (c *Corpus) ID() string {
	c.Events++
	return fmt.Sprintf("%08x-%s-%d", uint32(c.Events)*2654435761, c.run, c.Events)
}

// Event writes one decision.
func (c *Corpus) Event(w io.Writer, id string) {
	fmt.Fprintf(
		w,
		`{"labels":{"app":"shop","env":"prod","id":"opa-%d","version":"1.22.2"},"decision_id":%q,"trace_id":"%032x","span_id":"%016x","bundles":{"authz":{"revision":"W3sibCI6InN5cy9jYXRhbG9nIiwicyI6NDA3MX1d"}},"path":"http/authz/allow","input":{"method":"GET","path":["finance","salary","user%d"],"user":"alice%d","subject":{"id":"alice","roles":["employee","manager","auditor"],"department":"finance","clearance":3},"source":{"address":"10.0.%d.%d","port":443},"headers":{"accept":"application/json","user-agent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36","x-request-id":"%032x","x-forwarded-for":"203.0.113.7, 10.0.0.1"},"resource":{"type":"salary","owner":"bob","sensitivity":"high","tags":["pii","payroll"]}},"result":{"allow":false,"reasons":["user is not the owner","user is not in the group hr"],"obligations":[{"type":"log","level":"warn"}]},"requested_by":"10.0.12.7:51442","timestamp":%q,"metrics":{"counter_server_query_cache_hit":1,"timer_rego_input_parse_ns":32111,"timer_rego_query_eval_ns":187221,"timer_server_handler_ns":301232,"timer_rego_external_resolve_ns":1042},"req_id":%d}`,
		c.next%200, id, c.Events, c.Events, c.Events%1000, c.Events%5000, c.Events%256, c.Events%251, c.Events,
		time.Now().UTC().Format(time.RFC3339Nano), c.Events,
	)
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
