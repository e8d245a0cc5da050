package saver

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
	// floodEvery is how often a process tells the others what it has judged, and hears from them.
	floodEvery = 2 * time.Second
	// floodStale is how old the others' word may be when a row is blamed, and how late they hear of this process's.
	floodStale = 500 * time.Millisecond
	// floodBlind is how long a process that hears nothing believes what it heard.
	floodBlind = 10 * time.Second
	// ledgerTimeout bounds one exchange; a handler may wait for it.
	ledgerTimeout = 2 * time.Second
	// maxFingerprints bounds how many ways to fail a process tells apart in one exchange.
	maxFingerprints = 100
)

// Flood stops the dead-lettering of blamed rows when there are too many to be the rows' own fault: see domain.FloodRatio.
// Every process that saves counts what it judges and shares it through the store, which also keeps whether the stop is on.
// Where that cannot be found out, blamed rows are parked. It is safe for concurrent use.
type Flood struct {
	ledger  ports.BlameLedger
	breaker *Breaker
	logger  *slog.Logger
	now     func() time.Time

	exchanging sync.Mutex // one exchange at a time

	mu       sync.Mutex
	counted  counts // since the last exchange
	told     counts // in the exchange that is under way
	report   domain.BlameReport
	heard    time.Time // when the report came
	stopping bool
	deaf     bool // the last exchange failed
}

// counts are what was judged: so many rows, and those that were blamed.
type counts struct {
	since  time.Time
	judged int64
	blames map[string]domain.Blame
}

func (c *counts) add(now time.Time, judged int64, blames ...domain.Blame) {
	if c.blames == nil || now.Sub(c.since) > domain.FloodSpan { // what could not be told for so long is past
		*c = counts{since: now, blames: map[string]domain.Blame{}}
	}
	c.judged += judged
	for _, b := range blames {
		b.Rows += c.blames[b.Fingerprint].Rows
		c.blames[b.Fingerprint] = b
	}
}

// NewFlood makes a Flood behind the breaker of the ledger's store; reg may be nil in tests.
func NewFlood(ledger ports.BlameLedger, b *Breaker, reg prometheus.Registerer, logger *slog.Logger) *Flood {
	f := &Flood{ledger: ledger, breaker: b, logger: logger, now: time.Now}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_flood_stop", Help: "1 while so many rows are blamed that they are parked instead of dead-lettered. It is a page.",
	}, func() float64 {
		if f.Stopping() {
			return 1
		}
		return 0
	})
	return f
}

// Stopping reports that blamed rows are parked for now.
func (f *Flood) Stopping() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopping
}

// Stops reports that a row blamed so is to be parked instead of dead-lettered.
func (f *Flood) Stops(b domain.Blame) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, accepted := f.report.Accepted[b.Fingerprint]
	return (f.stopping || f.now().Sub(f.heard) > floodBlind) && !accepted
}

// Judge counts what became of records, each the first time that it was decided. What the other processes have seen is asked
// for where that may matter.
func (f *Flood) Judge(ctx context.Context, records []domain.Record, verdicts []Verdict) {
	f.mu.Lock()
	now, blamed := f.now(), false
	for i, v := range verdicts {
		if v.Err != nil && !v.Blamed() {
			continue
		}
		blamed = blamed || v.Err != nil
		if records[i].Headers.WasBlamed() {
			continue
		}
		f.counted.add(now, 1)
		if v.Err == nil {
			continue
		}
		b := domain.BlameOf(v.Err, v.Path)
		if _, known := f.counted.blames[b.Fingerprint]; !known && len(f.counted.blames) >= maxFingerprints {
			b = domain.OtherBlame(v.Err)
		}
		f.counted.add(now, 0, b)
	}
	begun := f.begins()
	stale := blamed && now.Sub(f.heard) > floodStale
	f.mu.Unlock()
	if stale || begun {
		f.exchange(ctx)
	}
}

// begins says whether the stop has just begun, by what all have reported and what is not reported yet.
func (f *Flood) begins() bool {
	if f.stopping {
		return false
	}
	r := f.report
	r.Blames = slices.Clone(r.Blames)
	for _, c := range []counts{f.told, f.counted} {
		r.Judged += c.judged
		r.Blames = slices.AppendSeq(r.Blames, maps.Values(c.blames))
	}
	if r.Flooded() {
		f.set(true, r)
	}
	return f.stopping
}

// Run exchanges counts with the other processes until ctx is done.
func (f *Flood) Run(ctx context.Context) {
	tick := time.NewTicker(floodEvery)
	defer tick.Stop()
	for {
		if f.breaker.circuit.IsClosed() { // one that is away has the breaker's probes to answer, and no others
			f.exchange(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// exchange tells the ledger what was judged since the last time, reads what all processes have, and agrees with them on
// whether there is a flood. What cannot be told now is kept for the next time.
func (f *Flood) exchange(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
	defer cancel()
	f.exchanging.Lock()
	defer f.exchanging.Unlock()
	f.mu.Lock()
	at := f.now()
	f.told, f.counted = f.counted, counts{}
	told := f.told
	f.mu.Unlock()
	report, err := f.ledger.ExchangeBlames(ctx, at, told.judged, slices.Collect(maps.Values(told.blames)))

	f.mu.Lock()
	f.told = counts{}
	if err != nil {
		told.add(at, f.counted.judged, slices.Collect(maps.Values(f.counted.blames))...)
		f.counted = told
		f.hear(err)
		f.mu.Unlock()
		return
	}
	f.hear(nil)
	began := f.stopping && !f.report.Stopping // here, and nobody has been told
	f.report, f.heard = report, at
	on := report
	on.Stopping = on.Stopping || began
	f.set(on.Flooded(), report)
	agreed := f.stopping == report.Stopping
	f.report.Stopping = f.stopping
	stopping := f.stopping
	f.mu.Unlock()
	if agreed {
		return
	}
	if err := f.ledger.SetFloodStop(ctx, at, stopping); err != nil {
		f.logger.Warn("the flood stop could not be told to the other processes; it is tried again", "error", err)
		f.mu.Lock()
		f.report.Stopping = !stopping
		f.mu.Unlock()
	}
}

// hear notes whether an exchange succeeded, and says so when that changes.
func (f *Flood) hear(err error) {
	if deaf := err != nil; deaf != f.deaf {
		f.deaf = deaf
		if deaf && domain.ClassOf(err) != domain.Unavailable && domain.ClassOf(err) != domain.Canceled {
			f.logger.Error("this process cannot tell the others which rows are blamed, nor hear of them; until it can, blamed rows are parked "+
				"instead of dead-lettered. Look whether the account may use the tables blames, blame_acceptances and flood_stops", "error", err)
		}
	}
}

// set begins or ends the stop here, and says so when that changes.
func (f *Flood) set(stopping bool, r domain.BlameReport) {
	if stopping == f.stopping {
		return
	}
	f.stopping = stopping
	if !stopping {
		f.logger.Info("flood stop released: blamed rows are dead-lettered again", "judged", r.Judged, "blamed", r.Blamed())
		return
	}
	f.logger.Error("flood stop: too many rows are refused by the store to be their own fault. They are parked instead of dead-lettered, and "+
		"everything else is stored. Look for a constraint, trigger or type that has changed, mend it, and they are stored by themselves; or let "+
		"them go with: docket flood accept", "judged", r.Judged, "blamed", r.Blamed(), "within", domain.FloodSpan)
}
