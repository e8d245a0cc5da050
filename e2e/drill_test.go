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

	"github.com/stretchr/testify/require"
)

// finding is a drill's line in docs/drills.md. Negative values were not measured.
type finding struct {
	fault, where          string
	detected, recovered   time.Duration
	bound                 time.Duration // that recovered has to keep within
	before, during, after time.Duration // p95 of uploads
	refused               int64
	sent                  int
	parked, dead          int
	lost, duplicates      int
}

var findings struct {
	mu  sync.Mutex
	all []finding
}

// site is a docket under drill: where its uploads go, who is asked for trouble, and where everything has to be in the
// end.
type site interface {
	uploads() string
	admins() []string
	backlog() (waiting map[string]int64, oldest map[string]float64, err error)
	drained(t *testing.T)
	// settle looks where everything is.
	settle(t *testing.T) outcome
}

// outcome is where everything is, and how many in a drill died, were parked (-1 is unknown) and spent an attempt.
type outcome struct {
	rows, dead             []where
	died, parked, attempts int
}

// drill is one fault under load. Its steps are inject, heal and verify, in this order.
type drill struct {
	*finding
	t      *testing.T
	site   site
	load   *load
	end    outcome
	reason string // what docket said last before the fault ended

	began, injected, healed time.Time
	watch                   context.CancelFunc
	watched                 sync.WaitGroup
	restore                 func()
}

const unmeasured = -1

// newDrill puts a load on docket, warms it up and lets it flow for a while.
func newDrill(
	t *testing.T, fault, where string, s site, known *ledger, rate int, before time.Duration, events func(int) []string,
) *drill {
	t.Helper()
	d := &drill{
		t: t, site: s, watch: func() {},
		finding: &finding{fault: fault, where: where, detected: unmeasured, recovered: unmeasured, parked: unmeasured},
	}
	client := newClient(t)
	warm := startLoad(
		t, client, s.uploads(), known, rate, decisions("warm-"+shortName(), 0),
	) // connections, caches, compiled code
	sleepFor(t, 2*time.Second)
	warm.finish()
	s.drained(t) // every role has its partitions
	d.load = startLoad(t, client, s.uploads(), known, rate, events)
	d.began = time.Now()
	sleepFor(t, before)
	return d
}

// inject makes the fault, which returns what ends it, and looks from then on until docket itself says that something is
// wrong. However the test ends, the fault does.
func (d *drill) inject(fault func() (restore func())) {
	d.t.Helper()
	d.injected = time.Now()
	ctx, cancel := context.WithCancel(d.t.Context())
	d.watch = cancel
	d.watched.Go(func() {
		for ctx.Err() == nil {
			if d.reason = d.trouble(); d.reason != "" {
				d.detected = time.Since(d.injected)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	var once sync.Once
	restore := fault()
	d.restore = func() { once.Do(restore) }
	d.t.Cleanup(func() {
		if d.healed.IsZero() {
			d.restore()
		}
	})
}

// heal ends the fault.
func (d *drill) heal() {
	d.t.Helper()
	d.watch()
	d.watched.Wait()
	if reason := d.trouble(); reason != "" { // the first may have been of something on the way there
		d.reason = reason
	}
	d.restore()
	d.healed = time.Now()
}

// trouble is what the roles that answer complain of. A role that starts or ends says so too, which is not what is
// looked for.
func (d *drill) trouble() string {
	for _, addr := range d.site.admins() {
		reasons, err := complaints(addr)
		if err != nil {
			continue
		}
		for _, r := range reasons {
			if !strings.Contains(r, "docket is starting") && !strings.HasSuffix(r, ": docket is stopping") {
				return r
			}
		}
	}
	return ""
}

// complaints are the reasons that the roles of a process give for not being well.
func complaints(addr string) (out []string, err error) {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get("http://" + addr + "/readyz?verbose")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Roles map[string]struct{ Reasons []string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	for name, r := range answer.Roles {
		for _, reason := range r.Reasons {
			out = append(out, name+": "+reason)
		}
	}
	return out, nil
}

// unhealthy is what is not yet as it should be: a role is silent or complains, something is parked, or fresh decisions
// are late.
func (d *drill) unhealthy() error {
	for _, addr := range d.site.admins() {
		if reasons, err := complaints(addr); err != nil || len(reasons) > 0 {
			return fmt.Errorf("%s: %v %w", addr, reasons, err)
		}
	}
	waiting, oldest, err := d.site.backlog()
	if err != nil {
		return err
	}
	if waiting["parking"] > 0 || waiting["held"] > 0 || oldest["saver"] > 1.5 {
		return fmt.Errorf("waiting: %v, oldest: %v s", waiting, oldest)
	}
	return nil
}

// verify waits until docket has recovered, for bound at most, goes on with the load for a while, ends it and checks the
// whole invariant.
func (d *drill) verify(bound, after time.Duration) {
	d.t.Helper()
	lost, twice, phantom, altered := d.conclude(bound, after)
	require.Empty(d.t, lost, "acknowledged and lost")
	require.Empty(d.t, twice, "stored twice")
	require.Empty(d.t, phantom, "stored and never sent")
	require.Empty(d.t, altered, "the bytes are not those that were sent")
}

// conclude is verify without its judgement on what was found.
func (d *drill) conclude(bound, after time.Duration) (lost, twice, phantom, altered []string) {
	d.t.Helper()
	d.bound = bound
	var healthy time.Time // since then, without a break
	eventually(d.t, bound, func() error {
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
	sleepFor(d.t, after)
	end := time.Now()
	d.load.finish()
	d.before, d.during = d.load.p95(d.began, d.injected), d.load.p95(d.injected, d.healed)
	d.after = d.load.p95(d.healed, end)
	d.refused, d.sent = d.load.refused.Load(), int(d.load.sent.Load())
	require.Empty(d.t, d.load.ledger.unacknowledged(), "every upload is acknowledged in the end")
	d.site.drained(d.t)
	d.end = d.site.settle(d.t)
	d.parked, d.dead = d.end.parked, d.end.died
	lost, twice, phantom, altered = d.load.ledger.judge(d.end.rows, d.end.dead)
	d.lost, d.duplicates = len(lost), len(twice)
	d.t.Logf("%+v %s", *d.finding, d.reason)
	findings.mu.Lock()
	defer findings.mu.Unlock()
	findings.all = append(findings.all, *d.finding)
	return lost, twice, phantom, altered
}

// unspent is what an outage owes everybody: no dead letter, and no attempt.
func (d *drill) unspent() {
	d.t.Helper()
	require.Zero(d.t, d.dead, "an outage is nobody's fault")
	require.Zero(d.t, d.end.attempts, "an outage spends no attempt")
}

// report prints what the drills found and, where DRILLS_OUT says so and nothing failed, puts it into the document.
func report(passed bool) error {
	findings.mu.Lock()
	defer findings.mu.Unlock()
	if len(findings.all) == 0 {
		return nil
	}
	columns := []string{
		"fault",
		"where",
		"detected",
		"recovered",
		"within",
		"p95 before",
		"during",
		"after",
		"refused",
		"sent",
		"parked",
		"dead",
		"lost",
		"duplicates",
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(columns, "\t")))
	rows := "| " + strings.Join(columns, " | ") + " |\n" + strings.Repeat("|---", len(columns)) + "|\n"
	for _, f := range findings.all {
		cells := f.cells()
		fmt.Fprintln(w, strings.Join(cells, "\t"))
		rows += "| " + strings.Join(cells, " | ") + " |\n"
	}
	if err := w.Flush(); err != nil {
		return err
	}
	file := os.Getenv("DRILLS_OUT")
	if file == "" || !passed {
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
	return os.WriteFile(file, []byte(head+begin+rows+end+tail), 0o644) //nolint:gosec // a document
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
	count := func(n int) string {
		if n < 0 {
			return "–"
		}
		return fmt.Sprint(n)
	}
	return []string{
		f.fault,
		f.where,
		span(f.detected, 10*time.Millisecond),
		span(f.recovered, 100*time.Millisecond),
		span(f.bound, time.Second),
		p95(f.before),
		p95(f.during),
		p95(f.after),
		fmt.Sprint(f.refused),
		count(f.sent),
		count(f.parked),
		count(f.dead),
		count(f.lost),
		count(f.duplicates),
	}
}
