package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// finding is a drill's line in docs/drills.md. Negative durations were not measured.
type finding struct {
	fault, where          string
	detected, recovered   time.Duration
	before, during, after time.Duration // p95 of uploads
	refused               int64
	sent                  int
	parked, dead          int64
	lost, duplicates      int
}

var findings struct {
	mu  sync.Mutex
	all []finding
}

// drill is one fault under load. Its steps are inject, heal and verify, in this order; each notes the time.
type drill struct {
	*finding
	t    *testing.T
	dk   *docket // where uploads and questions go
	load *load
	// roles are the admin listeners that are asked for trouble.
	roles func() []string

	began, injected, healed time.Time
	watch                   context.CancelFunc
	watched                 sync.WaitGroup
}

const unmeasured = -1

// newDrill puts a load on docket and lets it flow for a while.
func newDrill(t *testing.T, fault, where string, dk *docket, roles func() []string, rate int, before time.Duration, events func(int) []string) *drill {
	t.Helper()
	d := &drill{
		t: t, dk: dk, roles: roles, watch: func() {},
		finding: &finding{fault: fault, where: where, detected: unmeasured, recovered: unmeasured},
	}
	warm := startLoad(t, "http://"+dk.upload, rate, decisions("warm-"+shortName(), 0)) // connections, caches, compiled code
	eventually(t, 30*time.Second, func() error {
		if n := len(warm.ledger.ackedIDs()); n < 2*rate {
			return fmt.Errorf("%d acknowledged", n)
		}
		return nil
	})
	warm.finish()
	dk.drained(t) // every role has its partitions
	d.load = startLoad(t, "http://"+dk.upload, rate, events)
	d.load.ledger.adopt(warm.ledger)
	d.began = time.Now()
	sleepFor(t, before)
	return d
}

// inject makes the fault and looks from then on until docket itself says that something is wrong.
func (d *drill) inject(fault func()) {
	d.t.Helper()
	d.injected = time.Now()
	ctx, cancel := context.WithCancel(d.t.Context())
	d.watch = cancel
	d.watched.Go(func() {
		for ctx.Err() == nil {
			if d.trouble(false) != "" {
				d.detected = time.Since(d.injected)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	fault()
}

// heal ends the fault.
func (d *drill) heal(mend func()) {
	d.t.Helper()
	d.watch()
	d.watched.Wait()
	mend()
	d.healed = time.Now()
}

// trouble is what the roles complain of; a role that does not answer does so when silence counts.
func (d *drill) trouble(silence bool) string {
	for _, addr := range d.roles() {
		client := http.Client{Timeout: 2 * time.Second}
		resp, err := client.Get("http://" + addr + "/readyz?verbose")
		if err != nil {
			if silence {
				return err.Error()
			}
			continue
		}
		var answer struct {
			Ready bool
			Roles map[string]struct{ Reasons []string }
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		_ = resp.Body.Close()
		if err != nil {
			return err.Error()
		}
		for name, r := range answer.Roles {
			if len(r.Reasons) > 0 {
				return name + ": " + strings.Join(r.Reasons, "; ")
			}
		}
	}
	return ""
}

// verify waits until docket has recovered, ends the load and checks the whole invariant. count looks where everything ended.
func (d *drill) verify(patience time.Duration, count func(d *drill)) {
	d.t.Helper()
	var healthy time.Time // since then, without a break
	eventually(d.t, patience, func() error {
		if err := d.unhealthy(); err != nil {
			healthy = time.Time{}
			return err
		}
		if healthy.IsZero() {
			healthy = time.Now()
		}
		if lasted := time.Since(healthy); lasted < 2*time.Second {
			return fmt.Errorf("well for %s", lasted)
		}
		return nil
	})
	d.recovered = max(healthy.Sub(d.healed), 0)
	end := time.Now()
	d.load.finish()
	d.before, d.during, d.after = d.load.p95(d.began, d.injected), d.load.p95(d.injected, d.healed), d.load.p95(d.healed, end)
	d.refused = d.load.refused.Load()
	d.dk.drained(d.t)
	d.sent = d.load.events()
	count(d)
	d.enter()
}

// unhealthy is what is not yet as it should be: a role complains, something is parked, or fresh decisions are late.
func (d *drill) unhealthy() error {
	if trouble := d.trouble(true); trouble != "" {
		return fmt.Errorf("%s", trouble)
	}
	waiting, oldest, err := d.dk.backlog()
	if err != nil {
		return err
	}
	if waiting["parking"] > 0 || oldest["saver"] > 1.5 {
		return fmt.Errorf("waiting: %v, oldest: %v s", waiting, oldest)
	}
	return nil
}

// enter puts the finding into the table.
func (d *drill) enter() {
	d.t.Logf("%+v", *d.finding)
	findings.mu.Lock()
	defer findings.mu.Unlock()
	findings.all = append(findings.all, *d.finding)
}

// backlog asks how much waits at each stage, and for how many seconds.
func (d *docket) backlog() (waiting map[string]int64, oldest map[string]float64, err error) {
	var p struct {
		Stages []struct {
			Name          string
			Waiting       int64
			OldestSeconds float64 `json:"oldest_seconds"`
		}
		SampledAt time.Time `json:"sampled_at"`
	}
	status, body, err := d.get("/api/v1/pipeline")
	if err != nil || status != http.StatusOK {
		return nil, nil, fmt.Errorf("%d %w", status, err)
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return nil, nil, err
	}
	if len(p.Stages) == 0 || time.Since(p.SampledAt) > time.Second {
		return nil, nil, fmt.Errorf("not sampled since %s", p.SampledAt) // a log that does not answer in time is shown as it was
	}
	waiting, oldest = map[string]int64{}, map[string]float64{}
	for _, s := range p.Stages {
		waiting[s.Name], oldest[s.Name] = s.Waiting, s.OldestSeconds
	}
	return waiting, oldest, nil
}

// report prints what the drills found and, where DRILLS_OUT says so, puts it into the document.
func report() error {
	findings.mu.Lock()
	defer findings.mu.Unlock()
	if len(findings.all) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tWHERE\tDETECTED\tRECOVERED\tP95 BEFORE\tDURING\tAFTER\tREFUSED\tSENT\tPARKED\tDEAD\tLOST\tDUPLICATES")
	var rows strings.Builder
	for _, f := range findings.all {
		cells := f.cells()
		fmt.Fprintln(w, strings.Join(cells, "\t"))
		fmt.Fprintln(&rows, "| "+strings.Join(cells, " | ")+" |")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	file := os.Getenv("DRILLS_OUT")
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	const begin, end = "<!-- table -->\n", "<!-- end -->\n"
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for the table", file)
	}
	const columns = "| fault | where | detected | recovered | p95 before | during | after | refused | sent | parked | dead | lost | duplicates |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
	return os.WriteFile(file, []byte(head+begin+columns+rows.String()+end+tail), 0o644) //nolint:gosec // a document
}

func (f *finding) cells() []string {
	span := func(d time.Duration, unit time.Duration) string {
		if d < 0 {
			return "–"
		}
		return d.Round(unit).String()
	}
	p95 := func(d time.Duration) string {
		if d == 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return []string{
		f.fault, f.where, span(f.detected, 10*time.Millisecond), span(f.recovered, 100*time.Millisecond), p95(f.before), p95(f.during), p95(f.after),
		fmt.Sprint(f.refused), fmt.Sprint(f.sent), fmt.Sprint(f.parked), fmt.Sprint(f.dead), fmt.Sprint(f.lost), fmt.Sprint(f.duplicates),
	}
}
