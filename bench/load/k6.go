package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/report"
	"github.com/docket-project/docket/bench/stack"
	"github.com/docket-project/docket/internal/testserver"
)

// K6Run is one run of a script.
type K6Run struct {
	stack.Process
	dir string
}

// K6Trend are a metric's figures over a run, by k6's names: count, rate, avg, med, p(90), p(95), p(99), max, value.
type K6Trend map[string]float64

// K6Result is what k6 tells after a run.
type K6Result struct {
	Metrics map[string]K6Trend
	// Sent and Acked are the numbers of all uploads, and of those that were answered with 200.
	Sent, Acked bits
	// Latency has a line for each percentile, by the second.
	Latency []report.Line
	// seconds are the latencies of what was answered in each second of the run, in microseconds.
	seconds map[int]*hdrhistogram.Histogram
}

// StartK6 runs a script against the listeners of a service. k6 collects its garbage rarely: there is memory, and on two
// cores its collector would be part of what it measures.
func StartK6(binary, script, dir, upload, console string, run events.Run, env map[string]string) (*K6Run, error) {
	args := []string{
		"run", "--quiet", "--no-usage-report", "--log-format", "raw", "--console-output", filepath.Join(dir, "ledger"),
		"--summary-export", filepath.Join(dir, "summary.json"), "--address", "",
		"-e", "UPLOAD_URL=http://" + upload + "/logs", "-e", "CONSOLE_URL=http://" + console, "-e", "RUN=" +
			string(run), "-e", "LEDGER=1",
	}
	for name, value := range env {
		args = append(args, "-e", name+"="+value)
	}
	out, err := os.Create(filepath.Join(dir, "k6.txt"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p, err := testserver.Launch([]string{"GOGC=400"}, out, binary, append(args, script)...)
	if err != nil {
		return nil, fmt.Errorf("k6: %w; make k6 builds it", err)
	}
	return &K6Run{stack.Process{Process: p, Pid: p.Pid()}, dir}, nil
}

// crossedThresholds is k6's exit code where all went well but the figures, which are judged from what it measured.
const crossedThresholds = 99

// Result reads what the run left, once it has ended.
func (k *K6Run) Result(began time.Time) (*K6Result, error) {
	r := &K6Result{}
	if code := k.ExitCode(); code != 0 && code != crossedThresholds {
		text, _ := os.ReadFile(filepath.Join(k.dir, "k6.txt"))
		return nil, fmt.Errorf("k6 ended with exit code %d: %s", code, text)
	}
	b, err := os.ReadFile(filepath.Join(k.dir, "summary.json"))
	if err != nil {
		return nil, err
	}
	var summary struct {
		Metrics map[string]map[string]any
	}
	if err := json.Unmarshal(b, &summary); err != nil {
		return nil, fmt.Errorf("k6's summary: %w", err)
	}
	r.Metrics = map[string]K6Trend{}
	for name, values := range summary.Metrics {
		r.Metrics[name] = K6Trend{}
		for what, v := range values {
			if f, ok := v.(float64); ok { // thresholds are an object
				r.Metrics[name][what] = f
			}
		}
	}
	return r, r.readLedger(filepath.Join(k.dir, "ledger"), began)
}

// readLedger reads the lines that k6/uploads.js writes: number, status, when the answer came, milliseconds it took.
func (r *K6Result) readLedger(name string, began time.Time) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	percentiles := []struct {
		name string
		q    float64
	}{{"p50", 50}, {"p95", 95}, {"p99", 99}, {"max", 100}}
	r.Latency = make([]report.Line, len(percentiles))
	for i, p := range percentiles {
		r.Latency[i].Name = p.name
	}
	r.seconds = map[int]*hdrhistogram.Histogram{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "Request Failed") {
			continue // k6's own; the line of the upload follows
		}
		var upload, at int64
		var status int
		var took float64
		if _, err := fmt.Sscan(lines.Text(), &upload, &status, &at, &took); err != nil {
			return fmt.Errorf("k6 wrote %q, which tells of no upload: %w", lines.Text(), err)
		}
		r.Sent.set(upload)
		if status == http.StatusOK {
			r.Acked.set(upload)
		}
		second := int(time.UnixMilli(at).Sub(began).Seconds())
		h := r.seconds[second]
		if h == nil {
			h = hdrhistogram.New(1, 60_000_000, 3)
			r.seconds[second] = h
		}
		_ = h.RecordValue(max(int64(took*1000), 1)) // a minute is beyond every deadline
	}
	for _, second := range slices.Sorted(maps.Keys(r.seconds)) {
		for i, p := range percentiles {
			r.Latency[i].Points = append(
				r.Latency[i].Points,
				report.Point{Second: float64(second), Value: float64(r.seconds[second].ValueAtQuantile(p.q)) / 1000},
			)
		}
	}
	told := int64(r.Sent.Count())
	counted := r.Count("uploads_accepted") + r.Count("uploads_refused") + r.Count("uploads_failed")
	if told != counted {
		return fmt.Errorf("k6 made %d uploads and wrote of %d", counted, told)
	}
	return nil
}

// P95 is that of the uploads that were answered between two seconds of the run, in milliseconds.
func (r *K6Result) P95(from, to float64) float64 {
	all := hdrhistogram.New(1, 60_000_000, 3)
	for second, h := range r.seconds {
		if float64(second) >= from && float64(second)+1 <= to {
			all.Merge(h)
		}
	}
	return float64(all.ValueAtQuantile(95)) / 1000
}

// Count is how often something happened, by k6's name for it.
func (r *K6Result) Count(metric string) int64 { return int64(r.Metrics[metric]["count"]) }
