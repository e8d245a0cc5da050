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
	// ledgerTimeout bounds one exchange; a handler may wait for it.
	ledgerTimeout = 2 * time.Second
	// maxFingerprints bounds how many ways to fail a process tells apart between two reports.
	maxFingerprints = 100
)

// Flood stops the dead-lettering of blamed rows when there are too many to be the rows' own fault: see domain.FloodRatio.
// Every process that saves counts what it judges and shares it through the store, which is there whenever a row is blamed.
// It is safe for concurrent use.
type Flood struct {
	ledger  ports.BlameLedger
	breaker *Breaker
	logger  *slog.Logger
	now     func() time.Time

	mu       sync.Mutex
	judged   int64 // since the last exchange, as are these
	blames   map[string]domain.Blame
	report   domain.BlameReport // of all processes, at the last exchange
	heard    time.Time
	stopping bool
}

// NewFlood makes a Flood behind the breaker of the ledger's store; reg may be nil in tests.
func NewFlood(ledger ports.BlameLedger, b *Breaker, reg prometheus.Registerer, logger *slog.Logger) *Flood {
	f := &Flood{ledger: ledger, breaker: b, logger: logger, now: time.Now, blames: map[string]domain.Blame{}}
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
	return f.stopping && !f.report.Accepted(b.Fingerprint)
}

// Judge counts what became of records, each the first time that it was decided. What the other processes have seen is asked
// for where that may matter.
func (f *Flood) Judge(ctx context.Context, records []domain.Record, verdicts []Verdict) {
	f.mu.Lock()
	blamed := false
	for i, v := range verdicts {
		if v.Err != nil && !v.Blamed() {
			continue
		}
		blamed = blamed || v.Err != nil
		if records[i].Headers.WasBlamed() {
			continue
		}
		f.judged++
		if v.Err == nil {
			continue
		}
		b := domain.BlameOf(v.Err, v.Path)
		if known, ok := f.blames[b.Fingerprint]; ok || len(f.blames) < maxFingerprints {
			b.Rows += known.Rows
			f.blames[b.Fingerprint] = b
		}
	}
	f.decide()
	stale := blamed && f.now().Sub(f.heard) > floodStale
	f.mu.Unlock()
	if stale {
		f.exchange(ctx)
	}
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

// exchange tells the ledger what was judged since the last time and reads what all processes have. What cannot be told now
// is kept for the next time.
func (f *Flood) exchange(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, ledgerTimeout)
	defer cancel()
	f.mu.Lock()
	at, judged, blames := f.now(), f.judged, f.blames
	f.judged, f.blames = 0, map[string]domain.Blame{}
	f.mu.Unlock()
	var err error
	if judged > 0 {
		err = f.ledger.RecordBlames(ctx, at, judged, slices.Collect(maps.Values(blames)))
	}
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.judged += judged
		for fingerprint, b := range blames {
			b.Rows += f.blames[fingerprint].Rows
			f.blames[fingerprint] = b
		}
		f.logger.Debug("what was judged could not be told to the other processes yet", "error", err)
		return
	}
	report, err := f.ledger.Blames(ctx, at)
	if err != nil {
		f.logger.Debug("what the other processes have judged could not be read", "error", err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report, f.heard = report, at
	f.decide()
}

// decide says whether there is a flood, by what all have reported and what is not reported yet.
func (f *Flood) decide() {
	r := domain.BlameReport{Judged: f.report.Judged + f.judged, Blames: slices.Clone(f.report.Blames)}
	for _, b := range f.blames {
		if !f.report.Accepted(b.Fingerprint) {
			r.Blames = append(r.Blames, b)
		}
	}
	flooded := r.Flooded()
	if flooded == f.stopping {
		return
	}
	f.stopping = flooded
	if !flooded {
		f.logger.Info("flood stop released: blamed rows are dead-lettered again")
		return
	}
	f.logger.Error("flood stop: too many rows are refused by the store to be their own fault. They are parked instead of dead-lettered, and "+
		"everything else is stored. Look for a constraint, trigger or type that has changed, mend it, and they are stored by themselves; or let "+
		"them go with: docket flood accept", "judged", r.Judged, "blamed", r.Blamed(), "within", domain.FloodSpan)
}
