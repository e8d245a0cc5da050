package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docket-project/docket/internal/testserver"
)

// Millis is a duration in milliseconds.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Process is a process under test. Where another program runs it, pid is not that one's.
type Process struct {
	*testserver.Process
	Pid int
}

// Client asks a console listener.
type Client struct{ console string }

// docketProcess is a docket serve under test.
type docketProcess struct {
	Process
	Client
	Upload, admin string
}

// StartDocket runs docket, under strace where fsync is to be slow.
func StartDocket(binary, dir string, fsyncDelay time.Duration) (*docketProcess, error) {
	var addrs [3]string
	for i := range addrs {
		var err error
		if addrs[i], err = testserver.FreeAddr(); err != nil {
			return nil, err
		}
	}
	d := &docketProcess{Upload: addrs[0], Client: Client{addrs[1]}, admin: addrs[2]}
	o := testserver.DocketOptions{Binary: binary, Role: "serve", Admin: d.admin, Output: os.Stderr, Vars: []string{
		"DOCKET_DATA=" + dir, "DOCKET_LISTEN=" + d.Upload, "DOCKET_CONSOLE_LISTEN=" + d.console, "DOCKET_LOG_LEVEL=warn",
	}}
	if fsyncDelay > 0 {
		o.Under = []string{
			"strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
			"-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", fsyncDelay.Microseconds()),
		}
	}
	started, err := testserver.LaunchDocket(o)
	if err != nil {
		return nil, err
	}
	d.Process = Process{started.Process, started.Pid()}
	if err := testserver.WaitReady(d.admin, time.Minute); err != nil {
		d.Kill()
		return nil, err
	}
	if fsyncDelay > 0 { // strace's only child
		traced := children(d.Pid)
		if len(traced) == 0 {
			d.Kill()
			return nil, errors.New("strace runs nothing")
		}
		d.Pid = traced[0]
	}
	return d, nil
}

// children are the processes that a process has started and that run.
func children(pid int) (out []int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil // it has ended
	}
	for word := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(word); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// Status reads a line of /proc/PID/status, in KiB.
func (d *Process) Status(field string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), field)
	n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	return n
}

// CPU is the time the process has used, in seconds.
func (d *Process) CPU() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ
}

// Watch samples memory every second. The returned func stops, and tells how much a straight line through the samples of
// the second half of the run rises over that half, in percent of its mean.
func (d *Process) Watch() func() float64 {
	stop, done := make(chan struct{}), make(chan []float64)
	go func() {
		var samples []float64
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				samples = append(samples, d.Status("VmRSS:"))
			case <-stop:
				done <- samples
				return
			}
		}
	}()
	return func() float64 {
		close(stop)
		samples := <-done
		return slope(samples[len(samples)/2:])
	}
}

// slope fits a straight line by least squares.
func slope(y []float64) float64 {
	n := float64(len(y))
	if n < 2 {
		return 0
	}
	var sx, sy, sxy, sxx float64
	for i, v := range y {
		x := float64(i)
		sx, sy, sxy, sxx = sx+x, sy+v, sxy+x*v, sxx+x*x
	}
	if sy == 0 {
		return 0 // a process that was not there
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx) * (n - 1) / (sy / n) * 100
}

// Get asks the console, and reads its JSON.
func (d *Client) Get(path string, into any) error {
	resp, err := http.Get("http://" + d.console + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s %w", path, resp.Status, b, err)
	}
	return json.Unmarshal(b, into)
}

// Pipeline is what waits at each stage.
type Pipeline struct {
	Stages []struct {
		Name          string
		Waiting       int64
		OldestSeconds float64 `json:"oldest_seconds"`
	}
	SampledAt time.Time `json:"sampled_at"`
}

// Waiting is how many records wait at a stage.
func (p Pipeline) Waiting(stage string) (n int64) {
	for _, s := range p.Stages {
		if s.Name == stage {
			n = s.Waiting
		}
	}
	return n
}

// Oldest is how long the oldest of a stage has waited, in seconds.
func (p Pipeline) Oldest(stage string) (age float64) {
	for _, s := range p.Stages {
		if s.Name == stage {
			age = s.OldestSeconds
		}
	}
	return age
}

// DrainedPipeline has nothing on its way.
func DrainedPipeline(p Pipeline) bool { return p.Waiting("saver") == 0 && p.Waiting("parking") == 0 }

// Drained waits until nothing is on its way.
func (d *Client) Drained() error { return d.WaitFor(DrainedPipeline) }

// WaitFor asks until the pipeline is as it should be.
func (d *Client) WaitFor(good func(Pipeline) bool) error { return d.Within(5*time.Minute, good) }

// Within does so for a time.
func (d *Client) Within(patience time.Duration, good func(Pipeline) bool) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(250 * time.Millisecond) {
		var p Pipeline
		if err := d.Get("/api/v1/pipeline", &p); err != nil {
			return err
		}
		fresh := time.Since(p.SampledAt) < time.Second // a log that does not answer in time is shown as it was
		if len(p.Stages) > 0 && fresh && good(p) {
			return nil
		}
	}
	return fmt.Errorf("what waits did not become what it should be within %s", patience)
}

// Stored counts the ids of the corpus that are stored, by reading all of them. Anything else that is stored is an
// error.
func (d *Client) Stored(ids map[string]bool) (int, error) {
	n := 0
	query := url.Values{"limit": {"1000"}, "since": {"24h"}}
	for {
		var page struct {
			Items []struct {
				DecisionID string `json:"decision_id"`
			}
			NextCursor *string `json:"next_cursor"`
		}
		if err := d.Get("/api/v1/decisions?"+query.Encode(), &page); err != nil {
			return n, err
		}
		for _, i := range page.Items {
			if !ids[i.DecisionID] {
				return n, fmt.Errorf("%s is stored and was not sent, or is stored twice", i.DecisionID)
			}
			delete(ids, i.DecisionID)
			n++
		}
		if page.NextCursor == nil {
			return n, nil
		}
		query.Set("cursor", *page.NextCursor)
	}
}
