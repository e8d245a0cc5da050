package suites

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/docket-project/docket/bench/events"
	"github.com/docket-project/docket/bench/load"
	"github.com/docket-project/docket/bench/report"
	"github.com/docket-project/docket/bench/stack"
)

// k6Case is one script on one service under one condition.
type k6Case struct {
	service   string
	condition string
	script    string
	env       map[string]string
	length    time.Duration // k6's, roughly
	delay     time.Duration // to the database
	// The database is away from one part of the length to another; 0 to 1 is before k6 begins until after it has ended.
	away *[2]float64
	// warm is how many uploads the service takes before anything is measured.
	warm int64
}

func (c k6Case) name() string { return c.service + ", " + c.condition }

// k6Figures is what a case has come to. Times are milliseconds.
type k6Figures struct {
	Service    string  `json:"service"`
	Condition  string  `json:"condition"`
	Uploads    int64   `json:"uploads"`
	Dropped    int64   `json:"dropped_uploads"`
	DroppedPer float64 `json:"dropped_per_second"`
	// Refused are clean: 503 or 429, and when to come again. Failed are all other uploads without a 200.
	Refused int64   `json:"refused_uploads"`
	Failed  int64   `json:"failed_uploads"`
	Avg     float64 `json:"avg_ms"`
	P50     float64 `json:"p50_ms"`
	P90     float64 `json:"p90_ms"`
	P95     float64 `json:"p95_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
	// AwayP95 is that of the uploads that were answered while the database was away.
	AwayP95 float64 `json:"away_p95_ms,omitempty"`
	load.Tally
	// Settled is how long after k6's end everything was stored; it counts the start of a database that was away.
	Settled     float64            `json:"settled_after_seconds"`
	DeadLetters float64            `json:"dead_letters"`
	CPU         float64            `json:"cpu_seconds_per_100k_decisions"` // of the service's own processes, while k6 ran
	Cores       map[string]float64 `json:"cores"`                          // of every process, while k6 ran
	Memory      map[string]float64 `json:"peak_memory_mib"`
	Slopes      map[string]float64 `json:"rss_slope_percent"` // over the second half
	HeapSlopes  map[string]float64 `json:"heap_slope_percent"`
	Goroutines  map[string]float64 `json:"peak_goroutines"`
	PeakWaiting float64            `json:"peak_waiting_decisions"`

	metrics map[string]load.K6Trend
}

// K6Suite runs a scenario and writes its report. An error that is not about the figures comes without one.
func K6Suite(docket, k6, scripts, out, name string, rate int, soak time.Duration, users int) error {
	s, ok := k6Scenarios(rate, soak, users)[name]
	if !ok {
		return fmt.Errorf(
			"%s is no scenario: %s", name, strings.Join(slices.Sorted(maps.Keys(k6Scenarios(rate, soak, users))), ", "),
		)
	}
	environment, err := describe(docket, k6)
	if err != nil {
		return err
	}
	r := &report.Report{Title: s.title, About: s.about, At: time.Now(), Environment: environment}
	var figures []*k6Figures
	for _, c := range s.cases {
		if c.script == "outage.js" {
			c.env = maps.Clone(c.env)
			c.env["P95"] = fmt.Sprintf("%.1f", outageLimit(figures))
		}
		fmt.Fprintf(os.Stderr, "%s: starting servers and warming up …\n", c.name())
		f, charts, err := c.measure(docket, k6, scripts)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
		figures = append(figures, f)
		r.Runs = append(r.Runs, report.Run{Name: c.name(), Charts: charts})
		fmt.Fprintf(
			os.Stderr, "  %s: dropped %d, refused %d, failed %d, p95 %.1f ms; %d of %d acknowledged decisions stored\n",
			c.name(), f.Dropped, f.Refused, f.Failed, f.P95, f.Acked-f.Lost, f.Acked,
		)
	}
	r.Tables = append(k6Tables(figures), s.tables(figures)...)
	r.Verdicts = s.verdicts(figures)
	return errors.Join(writeJSON(out, "figures.json", figures), finish(r, out))
}

// finish writes a report and prints its verdicts. A figure that is not what was asked for is an error.
func finish(r *report.Report, out string) error {
	if err := r.Write(out); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s\n", filepath.Join(out, "report.html"))
	for _, v := range r.Verdicts {
		met := "met"
		if !v.Met {
			met = "MISSED"
		}
		fmt.Printf("%-7s%s: asked %s, measured %s\n", met, v.What, v.Asked, v.Measured)
	}
	if missed := r.Missed(); len(missed) > 0 {
		return fmt.Errorf("%d of %d figures are not what was asked for", len(missed), len(r.Verdicts))
	}
	return nil
}

// measure runs the case on servers of its own.
func (c k6Case) measure(docket, k6, scripts string) (*k6Figures, []report.Chart, error) {
	s, err := stack.StartService(docket, c.service, c.delay)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	warm := &load.Surge{Addr: s.Upload, EmbeddedSuite: events.NewRun(), Uploads: c.warm, Connections: 64}
	if err := errors.Join(warm.Send(), s.Settled()); err != nil {
		return nil, nil, err
	}
	others, err := s.Count(s.Table)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "docket-k6-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	run := events.NewRun()

	var generator atomic.Int64
	w := s.Watch(func() map[string]int { return map[string]int{"k6": int(generator.Load())} })
	whole := c.away != nil && *c.away == [2]float64{0, 1}
	var marks []report.Span
	if whole {
		if err := s.Postgres.Stop(true); err != nil {
			return nil, nil, err
		}
	}
	process, err := load.StartK6(k6, filepath.Join(scripts, c.script), dir, s.Upload, s.Console, run, c.env)
	if err != nil {
		return nil, nil, err
	}
	generator.Store(int64(process.Pid))
	from := time.Since(w.Began).Seconds()
	away := make(chan error, 1)
	if c.away != nil && !whole {
		at := func(part float64) time.Duration { return time.Duration(part * float64(c.length)) }
		go func() {
			time.Sleep(at(c.away[0]))
			mark := report.Span{Name: "database away", From: time.Since(w.Began).Seconds()}
			err := s.Postgres.Stop(true)
			time.Sleep(at(c.away[1] - c.away[0]))
			err = errors.Join(err, s.Postgres.Start())
			mark.To = time.Since(w.Began).Seconds() // its recovery takes a while
			marks = []report.Span{mark}
			away <- err
		}()
	} else {
		away <- nil
	}
	c.wait(process, w)
	to := time.Since(w.Began).Seconds()
	if whole {
		marks = []report.Span{{Name: "database away", From: 0, To: to}}
		if err := s.Postgres.Start(); err != nil {
			return nil, nil, err
		}
	}
	if err := errors.Join(<-away, s.Settled()); err != nil {
		return nil, nil, err
	}
	w.End()
	if err := w.Complete(); err != nil {
		return nil, nil, err
	}
	settled := w.Samples[len(w.Samples)-1].Second - to
	result, err := process.Result(w.Began)
	if err != nil {
		return nil, nil, err
	}
	f := c.figures(result, w, from, to)
	f.Settled = settled
	for _, m := range marks {
		f.AwayP95 = result.P95(m.From, m.To)
	}
	if f.Tally, err = load.TakeTally(s.Stack, s.Table, run, result.Sent, result.Acked, others); err != nil {
		return nil, nil, err
	}
	return f, w.Charts(result.Latency, w.Processes(), marks, s.Docket), nil
}

// wait tells every five seconds how things stand.
func (c k6Case) wait(k *load.K6Run, w *stack.Sampler) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-k.Done():
			return
		case <-tick.C:
			fmt.Fprintln(os.Stderr, w.Progress(c.name(), c.length))
		}
	}
}

// figures are everything but the tally.
func (c k6Case) figures(r *load.K6Result, w *stack.Sampler, from, to float64) *k6Figures {
	latency := r.Metrics["http_req_duration"]
	f := &k6Figures{
		Service:    c.service,
		Condition:  c.condition,
		Uploads:    int64(r.Sent.Count()),
		Dropped:    r.Count("dropped_iterations"),
		Refused:    r.Count("uploads_refused"),
		Failed:     r.Count("uploads_failed"),
		DroppedPer: r.Metrics["dropped_iterations"]["rate"],
		Avg:        latency["avg"],
		P50:        latency["med"],
		P90:        latency["p(90)"],
		P95:        latency["p(95)"],
		P99:        latency["p(99)"],
		Max:        latency["max"],
		Cores:      map[string]float64{},
		Memory:     map[string]float64{},
		Slopes:     map[string]float64{},
		HeapSlopes: map[string]float64{},
		Goroutines: map[string]float64{},
		metrics:    r.Metrics,
	}
	last := w.Samples[len(w.Samples)-1]
	f.DeadLetters = w.Most("dead letters")
	for name := range last.CPU {
		f.Cores[name] = w.CPUSpent(from, to, name) / (to - from)
		f.Memory[name] = w.Peak(name)
		f.Slopes[name] = w.Slope(from+(to-from)/2, to, func(s stack.Sample) float64 { return s.Memory[name] })
	}
	f.PeakWaiting = w.Most("waiting for the saver")
	own := 0.0
	for name := range w.Roles {
		f.Goroutines[name] = w.Most("goroutines of " + name)
		f.HeapSlopes[name] = w.Slope(from+(to-from)/2, to, func(s stack.Sample) float64 {
			return s.Metrics["heap goal of "+
				""+name]
		})
		own += f.Cores[name] * (to - from)
	}
	f.CPU = own / float64(3*max(f.Uploads, 1)) * 100_000
	return f
}

// outageLimit is the most that the p95 may be without a database: half as much again as with it, or 5 ms more. The
// first case of an outage is the one with it.
func outageLimit(figures []*k6Figures) float64 {
	for _, f := range figures {
		if f.Service != stack.Synchronous {
			return max(1.5*f.P95, f.P95+5)
		}
	}
	return math.Inf(1)
}

// k6Tables are those of every scenario.
func k6Tables(figures []*k6Figures) []report.Table {
	uploads := report.Table{
		Title: "Uploads",
		Columns: []string{
			"service",
			"uploads",
			"dropped",
			"dropped/s",
			"refused",
			"failed",
			"average ms",
			"p50",
			"p90",
			"p95",
			"p99",
			"max",
			"p95 while the database was away",
		},
	}
	decisions := report.Table{
		Title: "Decisions, by set",
		Columns: []string{
			"service",
			"sent",
			"acknowledged",
			"stored",
			"lost",
			"twice",
			"never sent",
			"dead letters",
			"all stored after",
		},
	}
	cost := report.Table{Title: "What it took", Columns: []string{"service", "CPU s per 100,000 decisions"}}
	var names []string
	for _, f := range figures {
		for name := range f.Cores {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	cost.Columns = append(cost.Columns, names...)
	for _, f := range figures {
		who := f.Service + ", " + f.Condition
		away := "–"
		if f.AwayP95 > 0 {
			away = millis(f.AwayP95)
		}
		uploads.Rows = append(
			uploads.Rows,
			[]string{who, n(f.Uploads), n(f.Dropped), fmt.Sprintf("%.1f", f.DroppedPer), n(f.Refused), n(f.Failed),
				millis(f.Avg), millis(f.P50), millis(f.P90), millis(f.P95), millis(f.P99), millis(f.Max), away},
		)
		decisions.Rows = append(
			decisions.Rows,
			[]string{
				who,
				n(int64(f.Sent)),
				n(int64(f.Acked)),
				n(int64(f.Stored)),
				n(int64(f.Lost)),
				n(int64(f.Twice)),
				n(int64(f.Strangers)),
				n(int64(f.DeadLetters)),
				fmt.Sprintf("%.1f s", f.Settled),
			},
		)
		row := []string{who, fmt.Sprintf("%.1f", f.CPU)}
		for _, name := range names {
			cell := "–"
			if _, ok := f.Cores[name]; ok {
				cell = fmt.Sprintf("%.2f cores, %.0f MiB", f.Cores[name], f.Memory[name])
			}
			row = append(row, cell)
		}
		cost.Rows = append(cost.Rows, row)
	}
	return []report.Table{uploads, decisions, cost}
}

func millis(v float64) string { return fmt.Sprintf("%.1f", v) }

// n parts thousands.
func n(v int64) string {
	text := strconv.FormatInt(v, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
