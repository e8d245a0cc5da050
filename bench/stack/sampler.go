package stack

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/procfs"

	"github.com/docket-project/docket/bench/report"
)

// Sampler looks at all processes of a run once a second.
type Sampler struct {
	Began time.Time
	// roles are asked for their metrics; pids, by name, are what the machine spends time and memory on.
	Roles map[string]*RoleProcess
	pids  func() map[string]int

	mu      sync.Mutex
	Samples []Sample
	stop    chan struct{}
	ended   chan struct{}
}

// Sample is a moment. Counters are sums since the processes' start.
type Sample struct {
	Second  float64
	Metrics map[string]float64
	CPU     map[string]float64 // seconds
	Memory  map[string]float64 // MiB
}

// watched are the metrics of interest: what is summed up over all roles under a name.
var watched = []struct {
	name, family string
	labels       map[string]string
}{
	{"arrived", "docket_ingest_events_total", nil},
	{"published", "docket_publish_records_total", map[string]string{"topic": "docket.decisions", "result": "ok"}},
	{"saved", "docket_save_records_total", map[string]string{"result": "saved"}},
	{"saved", "docket_parking_replayed_records_total", nil},
	{"parked", "docket_parked_records_total", nil},
	{"waiting for the saver", "docket_consumer_lag_records", map[string]string{"topic": "docket.decisions"}},
	{"parked, waiting", "docket_consumer_lag_records", map[string]string{"topic": "docket.parking"}},
	{"oldest for the saver", "docket_consumer_oldest_seconds", map[string]string{"topic": "docket.decisions"}},
	{"oldest parked", "docket_parking_oldest_seconds", nil},
	{"dead letters", "docket_dead_letters_total", nil},
}

// gauges that several processes tell of the same thing: the highest counts.
var shared = map[string]bool{
	"waiting for the saver": true,
	"parked, waiting":       true,
	"oldest for the saver":  true,
	"oldest parked":         true,
}

// scraper does not ask for gzip: a role is not to spend time on compressing what it tells about itself.
var scraper = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableCompression: true}}

// Watch begins to sample. Others are processes besides the servers and roles that run now, by name, and 0 is none; they
// are asked for each time.
func (s *service) Watch(others func() map[string]int) *Sampler {
	fixed := map[string]int{}
	if s.Docket {
		fixed["Kafka"] = s.Kafka.Pid(0)
	}
	for name, r := range s.Roles {
		fixed[name] = r.Pid
	}
	w := &Sampler{Began: time.Now(), Roles: maps.Clone(s.Roles), stop: make(chan struct{}), ended: make(chan struct{})}
	w.pids = func() map[string]int {
		all := maps.Clone(fixed)
		all["PostgreSQL"] = s.Postgres.Pid() // it may be started anew
		if others != nil {
			maps.Copy(all, others())
		}
		maps.DeleteFunc(all, func(_ string, pid int) bool { return pid == 0 })
		return all
	}
	w.take()
	go func() {
		defer close(w.ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.take()
			case <-w.stop:
				w.take()
				return
			}
		}
	}()
	return w
}

// End takes the last sample.
func (w *Sampler) End() {
	close(w.stop)
	<-w.ended
}

func (w *Sampler) take() {
	s := Sample{
		Second:  time.Since(w.Began).Seconds(),
		Metrics: map[string]float64{},
		CPU:     map[string]float64{},
		Memory:  map[string]float64{},
	}
	for name, r := range w.Roles {
		if r.admin == "" {
			continue
		}
		families, err := r.scrape()
		if err != nil {
			continue // it has just been killed, or is being started
		}
		for _, m := range watched {
			v := value(families[m.family], m.labels)
			if shared[m.name] {
				s.Metrics[m.name] = max(s.Metrics[m.name], v)
			} else {
				s.Metrics[m.name] += v
			}
		}
		s.Metrics["goroutines of "+name] = value(families["go_goroutines"], nil)
		// When the collector runs next: twice of what is in use, GOGC being 100. It shows a leak below RSS's noise.
		s.Metrics["heap goal of "+name] = value(families["go_memstats_next_gc_bytes"], nil)
	}
	for name, pid := range w.pids() {
		s.CPU[name], s.Memory[name] = Spent(pid)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Samples = append(w.Samples, s)
}

// scrape asks a role for its metrics.
func (r *RoleProcess) scrape() (map[string]*dto.MetricFamily, error) {
	resp, err := scraper.Get("http://" + r.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(resp.Body)
}

// value sums up the metrics of a family that have the labels.
func value(family *dto.MetricFamily, labels map[string]string) (sum float64) {
next:
	for _, m := range family.GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		for name, v := range labels {
			if has[name] != v {
				continue next
			}
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// Spent is the CPU time of a process and its children in seconds, those that have ended included, and their memory in
// MiB: what each has for itself, and once what they share, as PostgreSQL's do.
func Spent(pid int) (cpu, memory float64) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, 0
	}
	own, sharedBytes := uint64(0), uint64(0)
	count := func(p procfs.Proc) {
		if stat, err := p.Stat(); err == nil {
			cpu += stat.CPUTime()
		}
		if status, err := p.NewStatus(); err == nil {
			own += status.RssAnon
			sharedBytes = max(sharedBytes, status.RssShmem+status.RssFile)
		}
	}
	count(p)
	if stat, err := p.Stat(); err == nil {
		cpu += float64(stat.CUTime+stat.CSTime) / 100 // USER_HZ
	}
	for _, child := range children(pid) {
		if c, err := procfs.NewProc(child); err == nil {
			count(c)
		}
	}
	return cpu, float64(own+sharedBytes) / (1 << 20)
}

// Latest is the last sample and how fast counters have moved since a few seconds before.
func (w *Sampler) Latest() (s Sample, rate func(name string) float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.Samples[len(w.Samples)-1]
	before := w.Samples[max(len(w.Samples)-6, 0)]
	return last, func(name string) float64 {
		if last.Second == before.Second {
			return 0
		}
		return max(last.Metrics[name]-before.Metrics[name], 0) / (last.Second - before.Second)
	}
}

// rates is how fast a counter moved, second by second. One that fell belongs to a process that was started again.
func (w *Sampler) rates(name string, of func(Sample) float64) report.Line {
	line := report.Line{Name: name}
	for i := 1; i < len(w.Samples); i++ {
		was, is := w.Samples[i-1], w.Samples[i]
		if took := is.Second - was.Second; took > 0.2 {
			line.Points = append(line.Points, report.Point{Second: is.Second, Value: max(of(is)-of(was), 0) / took})
		}
	}
	return line
}

// values is a gauge as it was.
func (w *Sampler) values(name string, of func(Sample) float64) report.Line {
	line := report.Line{Name: name}
	for _, s := range w.Samples {
		line.Points = append(line.Points, report.Point{Second: s.Second, Value: of(s)})
	}
	return line
}

// CPUSpent is what the named processes have used from one second of the run to another.
func (w *Sampler) CPUSpent(from, to float64, names ...string) (sum float64) {
	for _, name := range names {
		for i := 1; i < len(w.Samples); i++ {
			was, is := w.Samples[i-1], w.Samples[i]
			if is.Second > from && is.Second <= to+1 {
				sum += max(is.CPU[name]-was.CPU[name], 0)
			}
		}
	}
	return sum
}

// Peak is the most memory that a process had, in MiB.
func (w *Sampler) Peak(name string) (most float64) {
	for _, s := range w.Samples {
		most = max(most, s.Memory[name])
	}
	return most
}

// Complete is an error unless every process was there to the end: what is not there has no dead letters and does not
// grow.
func (w *Sampler) Complete() error {
	last := w.Samples[len(w.Samples)-1]
	for name, r := range w.Roles {
		if last.Memory[name] == 0 {
			return fmt.Errorf("%s ended while it was measured", name)
		}
		if _, told := last.Metrics["goroutines of "+name]; r.admin != "" && !told {
			return fmt.Errorf("%s did not tell its metrics in the end", name)
		}
	}
	return nil
}

// Most is the highest that a gauge or counter was.
func (w *Sampler) Most(name string) (most float64) {
	for _, s := range w.Samples {
		most = max(most, s.Metrics[name])
	}
	return most
}

// Slope is by how much of its mean a value rose from one second to another, as the straight line through it does.
// Moments at which it is 0 were not told.
func (w *Sampler) Slope(from, to float64, value func(Sample) float64) float64 {
	var values []float64
	for _, s := range w.Samples {
		if v := value(s); s.Second > from && s.Second <= to && v != 0 {
			values = append(values, v)
		}
	}
	return slope(values)
}

// Processes are the names of all that were there halfway.
func (w *Sampler) Processes() []string {
	return slices.Sorted(maps.Keys(w.Samples[len(w.Samples)/2].CPU))
}

// Charts are the plots of a run.
func (w *Sampler) Charts(latency []report.Line, names []string, marks []report.Span, docket bool) []report.Chart {
	metric := func(name string) func(Sample) float64 { return func(s Sample) float64 { return s.Metrics[name] } }
	out := []report.Chart{}
	if docket {
		rates := report.Chart{Title: "Decisions a second", Unit: "decisions/s"}
		for _, name := range []string{"arrived", "published", "saved", "parked"} {
			rates.Lines = append(rates.Lines, w.rates(name, metric(name)))
		}
		out = append(out, rates)
	}
	if latency != nil {
		out = append(out, report.Chart{Title: "Latency of uploads", Unit: "ms", Log: true, Lines: latency})
	}
	if docket {
		waiting := report.Chart{Title: "Decisions that wait", Unit: "decisions"}
		oldest := report.Chart{Title: "Age of the oldest that waits", Unit: "s"}
		for _, name := range []string{"waiting for the saver", "parked, waiting"} {
			waiting.Lines = append(waiting.Lines, w.values(name, metric(name)))
		}
		for _, name := range []string{"oldest for the saver", "oldest parked"} {
			oldest.Lines = append(oldest.Lines, w.values(name, metric(name)))
		}
		out = append(out, waiting, oldest)
	}
	cpu := report.Chart{Title: "CPU", Unit: "cores"}
	memory := report.Chart{Title: "Memory", Unit: "MiB"}
	for _, name := range names {
		cpu.Lines = append(cpu.Lines, w.rates(name, func(s Sample) float64 { return s.CPU[name] }))
		memory.Lines = append(memory.Lines, w.values(name, func(s Sample) float64 { return s.Memory[name] }))
	}
	out = append(out, cpu, memory)
	for i := range out {
		out[i].Marks = marks
	}
	return out
}

// Progress tells in a line how a run goes on.
func (w *Sampler) Progress(name string, of time.Duration) string {
	s, rate := w.Latest()
	line := fmt.Sprintf("  %s  %3.0f of %.0f s", name, s.Second, of.Seconds())
	if _, docket := s.Metrics["arrived"]; !docket {
		return line + fmt.Sprintf("  memory %.0f MiB", s.Memory[Synchronous])
	}
	return line + fmt.Sprintf("  arrived %5.0f/s  saved %5.0f/s  parked %5.0f/s  waiting %.0f + %.0f parked",
		rate("arrived"), rate("saved"), rate("parked"), s.Metrics["waiting for the saver"], s.Metrics["parked, waiting"])
}
