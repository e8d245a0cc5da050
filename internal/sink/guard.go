package sink

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	// guardEvery is how often a process tells the others what it has judged, and hears from them.
	guardEvery = 2 * time.Second
	// guardStale is how old the others' report may be when a row is rejected, and how late they hear of this process's.
	guardStale = 500 * time.Millisecond
	// guardBlind is how long a process that hears nothing believes what it heard.
	guardBlind = 10 * time.Second
	// exchangeTimeout bounds one exchange; a handler may wait for it.
	exchangeTimeout = 2 * time.Second
	// maxFingerprints bounds how many ways to fail a process tells apart in one exchange.
	maxFingerprints = 100
)

// Guard holds rejected rows, instead of letting them be dead-lettered, while there are too many to be the rows' own
// fault: see domain.GuardRatio. Every process that saves counts what it judges and shares the counts through the store,
// which also keeps whether the guard is on. Where that cannot be found out, rejected rows are held. It is safe for
// concurrent use.
type Guard struct {
	stats   ports.RejectionStats
	breaker *Breaker
	logger  *slog.Logger
	now     func() time.Time

	exchanging sync.Mutex // one exchange at a time

	mu      sync.Mutex
	counted tally // since the last exchange
	told    tally // in the exchange that is under way
	report  domain.RejectionReport
	heard   time.Time // when the report came
	on      bool
	deaf    bool   // the last exchange failed
	known   uint64 // counts changes of what is let through
}

// rejected is what rejections are counted by.
type rejected struct{ tenant, fingerprint string }

// tally is what was judged: so many rows of each tenant, and those that were rejected.
type tally struct {
	since      time.Time
	judged     map[string]int64
	rejections map[rejected]domain.Rejection
	// fingerprints are those of the rejections, whatever the tenant.
	fingerprints map[string]bool
}

// begin starts anew where nothing is counted, or where it could not be told for so long that it is past.
func (c *tally) begin(now time.Time) {
	if c.judged == nil || now.Sub(c.since) > domain.GuardSpan {
		*c = tally{
			since: now, judged: map[string]int64{}, rejections: map[rejected]domain.Rejection{}, fingerprints: map[string]bool{},
		}
	}
}

// add counts one row that was judged, and that it was rejected unless r is nil.
func (c *tally) add(now time.Time, tenant string, r *domain.Rejection) {
	c.begin(now)
	c.judged[tenant]++
	if r != nil {
		c.reject(*r)
	}
}

func (c *tally) reject(r domain.Rejection) {
	key := rejected{r.Tenant, r.Fingerprint}
	r.Rows += c.rejections[key].Rows
	c.rejections[key] = r
	c.fingerprints[r.Fingerprint] = true
}

// join adds what another tally counted.
func (c *tally) join(now time.Time, other tally) {
	c.begin(now)
	for tenant, n := range other.judged {
		c.judged[tenant] += n
	}
	for _, r := range other.rejections {
		c.reject(r)
	}
}

// spelled is the tally as the stats take it.
func (c *tally) spelled() domain.RejectionTally {
	return domain.RejectionTally{Judged: c.judged, Rejections: slices.Collect(maps.Values(c.rejections))}
}

// NewGuard makes a Guard behind the breaker of the stats' store; reg may be nil in tests.
func NewGuard(stats ports.RejectionStats, b *Breaker, reg prometheus.Registerer, logger *slog.Logger) *Guard {
	g := &Guard{stats: stats, breaker: b, logger: logger, now: time.Now}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_dead_letter_guard",
		Help: "1 while so many rows are rejected that they are held instead of dead-lettered. It is a page.",
	}, func() float64 {
		if g.On() {
			return 1
		}
		return 0
	})
	return g
}

// On reports that rejected rows are held for now.
func (g *Guard) On() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.on
}

// Guards reports that a row that was rejected so is to be held instead of dead-lettered.
func (g *Guard) Guards(r domain.Rejection) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, accepted := g.report.Acceptance(r)
	return (g.on || g.now().Sub(g.heard) > guardBlind) && !accepted
}

// Known changes whenever the guard goes on or off, or an operator accepts or revokes: rows that were held may leave
// then.
func (g *Guard) Known() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.known
}

// Judge counts what became of records, each the first time that it was decided. The other processes are asked what they
// have seen where that may matter.
func (g *Guard) Judge(ctx context.Context, records []domain.Record, verdicts []Verdict) {
	g.mu.Lock()
	now, anyRejected := g.now(), false
	for i, v := range verdicts {
		if v.Err != nil && !v.Rejected() {
			continue
		}
		anyRejected = anyRejected || v.Err != nil
		if h := records[i].Headers; !h.WasRejected() {
			g.counted.add(now, h.Owner(), g.rejectionOf(v, h.Owner()))
		}
	}
	begun := g.turnsOn()
	stale := anyRejected && now.Sub(g.heard) > guardStale
	g.mu.Unlock()
	if stale || begun {
		g.exchange(ctx)
	}
}

// rejectionOf is what a verdict counts as, nil for a row that is stored.
func (g *Guard) rejectionOf(v Verdict, tenant string) *domain.Rejection {
	if v.Err == nil {
		return nil
	}
	r := domain.RejectionOf(v.Err, tenant, v.Path)
	if g.counted.fingerprints[r.Fingerprint] || len(g.counted.fingerprints) < maxFingerprints {
		return &r
	}
	r = domain.OtherRejections(v.Err, tenant)
	return &r
}

// turnsOn says whether the guard has just gone on, by what all have reported and what is not reported yet.
func (g *Guard) turnsOn() bool {
	if g.on {
		return false
	}
	r := g.report
	r.Rejections = slices.Clone(r.Rejections)
	for _, c := range []tally{g.told, g.counted} {
		for _, n := range c.judged {
			r.Judged += n
		}
		r.Rejections = slices.AppendSeq(r.Rejections, maps.Values(c.rejections))
	}
	if r.GuardOn() {
		g.set(true, r)
	}
	return g.on
}

// Run exchanges counts with the other processes until ctx is done.
func (g *Guard) Run(ctx context.Context) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		if g.breaker.circuit.IsClosed() { // a store that is away has the breaker's probes to answer, and no others
			g.exchange(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// exchange tells the stats what was judged since the last time, reads what all processes have, and agrees with them on
// whether the guard is on. What cannot be told now is kept for the next time.
func (g *Guard) exchange(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	g.exchanging.Lock()
	defer g.exchanging.Unlock()
	g.mu.Lock()
	at := g.now()
	g.told, g.counted = g.counted, tally{}
	told := g.told
	g.mu.Unlock()
	report, err := g.stats.ExchangeRejections(ctx, at, told.spelled())

	g.mu.Lock()
	g.told = tally{}
	if err != nil {
		told.join(at, g.counted)
		g.counted = told
		g.hear(err)
		g.mu.Unlock()
		return
	}
	g.hear(nil)
	if !slices.EqualFunc(g.report.Acceptances, report.Acceptances, func(a, b domain.Acceptance) bool {
		return a.Fingerprint == b.Fingerprint && a.Tenants == b.Tenants
	}) {
		g.known++
	}
	began := g.on && !g.report.On // here, and the other processes do not know
	g.report, g.heard = report, at
	now := report
	now.On = now.On || began
	g.set(now.GuardOn(), report)
	agreed := g.on == report.On
	g.report.On = g.on
	on := g.on
	g.mu.Unlock()
	if agreed {
		return
	}
	if err := g.stats.SetGuard(ctx, at, on); err != nil {
		g.logger.Warn(
			"the other processes could not be told that the dead-letter guard has changed; docket tries again", "error", err,
		)
		g.mu.Lock()
		g.report.On = !on
		g.mu.Unlock()
	}
}

// hear notes whether an exchange succeeded, and says so when that changes.
func (g *Guard) hear(err error) {
	deaf := err != nil
	if deaf == g.deaf {
		return
	}
	g.deaf = deaf
	if deaf && domain.ClassOf(err) != domain.Unavailable && domain.ClassOf(err) != domain.Canceled {
		g.logger.Error(
			"this process cannot share its rejection stats with the others; until it can, rejected rows are held "+
				"instead of dead-lettered. Check that the account may use the tables rejections, rejection_acceptances and "+
				"guard_periods",
			"error",
			err,
		)
	}
}

// set turns the guard on or off here, and says so when that changes.
func (g *Guard) set(on bool, r domain.RejectionReport) {
	if on == g.on {
		return
	}
	g.on = on
	g.known++
	if !on {
		g.logger.Info(
			"the dead-letter guard is off: rejected rows are dead-lettered again", "judged", r.Judged, "rejected",
			r.Rejected(),
		)
		return
	}
	g.logger.Error(
		"the dead-letter guard is on: the store rejects too many rows for it to be the rows' own fault. They are held "+
			"instead of dead-lettered, and everything else is stored. Look for a constraint, trigger or type that has changed "+
			"and fix it: "+
			"then docket stores them by itself; or accept their fingerprints",
		"judged",
		r.Judged,
		"rejected",
		r.Rejected(),
		"within",
		domain.GuardSpan,
	)
}
