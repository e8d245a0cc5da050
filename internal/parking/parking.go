// Package parking replays what the store could not take. A record parked because the store was away waits in place
// until the store is back and spends no attempt; a record that was itself to blame is tried again with exponential
// backoff and, after its last attempt, dead-lettered. It leaves saving and the search for guilty rows to a func of the
// saver's Writer, and redelivery to the log.
package parking

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
)

// Group is the parking role's consumer group.
const Group = "docket-parking"

// Store wait: how often the store is asked whether it is back.
const (
	storeWaitMin = 500 * time.Millisecond
	storeWaitMax = 5 * time.Second // with its jitter
)

// Config is what a Parking works with.
type Config struct {
	// Save is the Writer's, and Busy says that fresh decisions leave no turn at the store.
	Save  func(context.Context, []domain.Record) []saver.Verdict
	Busy  func() bool
	Log   ports.Publisher
	Retry saver.Retry
	Flood *saver.Flood
	// Concurrency bounds the batches at the store; adaptive, the backlog yields when the store is slow.
	Concurrency saver.Concurrency
	Metrics     *saver.Metrics
	Logger      *slog.Logger
}

// Parking handles batches of the parking topic. It is safe for concurrent use.
type Parking struct {
	Config
	yield *yield
	now   func() time.Time

	replayed prometheus.Counter
	attempts prometheus.Histogram

	mu        sync.Mutex // backoff is not safe for concurrent use
	storeWait *backoff.ExponentialBackOff
}

// New makes a Parking; reg may be nil in tests.
func New(cfg Config, reg prometheus.Registerer) *Parking {
	f := promauto.With(reg)
	p := &Parking{
		Config: cfg, yield: newYield(cfg.Concurrency, cfg.Busy), now: time.Now,
		replayed: f.NewCounter(prometheus.CounterOpts{
			Name: "docket_parking_replayed_records_total", Help: "Parked records that the store has taken.",
		}),
		attempts: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_parking_attempts", Help: "Failed attempts of a record when it left the parking topic.",
			Buckets: []float64{0, 1, 2, 3, 5, 8, 10, 15, 20},
		}),
		storeWait: backoff.NewExponentialBackOff(backoff.WithInitialInterval(storeWaitMin), backoff.WithMaxInterval(storeWaitMax*2/3),
			backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0)),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_parking_concurrency", Help: "The backlog's share of the store: batches at once or, below 1, part of the time of one.",
	}, p.yield.Share)
	return p
}

// action is what the parking role does with a record whose save failed.
type action int

const (
	stop      action = iota // end without a commit
	storeWait               // in place, nothing written
	bury                    // to the data DLQ
	retry                   // to the topic's tail, or to the parking DLQ after the last attempt
)

// actionOf is total over the classes.
func actionOf(c domain.Class) action {
	switch c {
	case domain.Canceled:
		return stop
	case domain.Unavailable, domain.Misconfigured:
		return storeWait
	case domain.Invalid:
		return bury
	case domain.Unknown:
		return retry
	}
	return retry
}

// Handle replays a batch; see ports.Handler.
func (p *Parking) Handle(ctx context.Context, batch []domain.Record) ([]ports.Hold, error) {
	now := p.now()
	due := make([]domain.Record, 0, len(batch))
	for _, r := range batch {
		if !now.Before(p.dueAt(r, now)) {
			due = append(due, r)
		}
	}
	if len(due) == 0 {
		return p.holdUntilDue(batch, now), nil
	}
	nth, again := p.yield.begin(now)
	if nth == 0 {
		return ports.HoldAll(batch, again), nil
	}
	tried, verdicts := p.try(ctx, due)
	holds, err := p.waitForStore(tried, verdicts)
	taken := len(tried)
	if slices.ContainsFunc(verdicts, func(v saver.Verdict) bool { return v.Err != nil }) {
		taken = 0 // what it took was not the store's alone
	}
	p.yield.end(p.now(), nth, taken, p.now().Sub(now))
	if err != nil {
		return nil, err
	}
	next, left := p.next(batch, tried, verdicts, holds, now)
	if len(next) > 0 {
		if err := p.Log.Publish(ctx, next); err != nil {
			return nil, err
		}
	}
	left.count(p)
	if len(tried) < len(due) {
		holds = rest(holds, batch, p.now().Add(floodPause))
	}
	return holds, nil
}

const (
	// sampleSize is how many of the rows that a flood has parked for one reason are tried first: searching for guilty rows
	// costs a transaction for each, and where these fail the others do.
	sampleSize = 20
	// floodPause is how long a partition rests behind a batch with rows that were spared so: they are written to its tail, and
	// come again.
	floodPause = 5 * time.Second
)

// try saves what is due and returns what of it was tried, with the verdicts. While a flood is stopped, rows that were
// blamed before are tried by samples.
func (p *Parking) try(ctx context.Context, due []domain.Record) ([]domain.Record, []saver.Verdict) {
	if !p.Flood.Stopping() {
		verdicts := p.Save(ctx, due)
		p.Flood.Judge(ctx, due, verdicts)
		return due, verdicts
	}
	tried, spared := sample(due)
	verdicts := p.Save(ctx, tried)
	p.Flood.Judge(ctx, tried, verdicts)
	for i, v := range verdicts {
		if v.Blamed() {
			delete(spared, reasonOf(tried[i]))
		}
	}
	var more []domain.Record
	for _, records := range spared {
		more = append(more, records...)
	}
	if len(more) == 0 {
		return tried, verdicts
	}
	mended := p.Save(ctx, more)
	p.Flood.Judge(ctx, more, mended)
	return append(tried, more...), append(verdicts, mended...)
}

// sample takes out what was blamed before, but for the first few of each reason.
func sample(due []domain.Record) (tried []domain.Record, spared map[string][]domain.Record) {
	spared = map[string][]domain.Record{}
	taken := map[string]int{}
	for _, r := range due {
		reason := ""
		if r.Headers.WasBlamed() {
			reason = reasonOf(r)
			taken[reason]++
		}
		if taken[reason] > sampleSize {
			spared[reason] = append(spared[reason], r)
		} else {
			tried = append(tried, r)
		}
	}
	return tried, spared
}

// reasonOf is what a record was blamed for, whatever its path.
func reasonOf(r domain.Record) string {
	h := r.Headers
	return domain.BlameOf(&domain.Error{Class: h.ErrorClass, Code: h.ErrorCode, Text: h.Error}, "").Fingerprint
}

// rest holds the partitions of a batch behind its last records, where they are not held already.
func rest(holds []ports.Hold, batch []domain.Record, until time.Time) []ports.Hold {
	for i := len(batch) - 1; i >= 0; i-- {
		if r := batch[i]; find(holds, r) == nil {
			holds = append(holds, ports.Hold{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset + 1, Until: until})
		}
	}
	return holds
}

// dueAt is when a record may be tried. A time further off than any backoff is a clock that was set back.
func (p *Parking) dueAt(r domain.Record, now time.Time) time.Time {
	if r.Headers.NotBefore.After(now.Add(p.Retry.BackoffMax)) {
		return now
	}
	return r.Headers.NotBefore
}

// recheck bounds a hold for a record that is not due, so that neither what is parked behind it nor a clock that is set
// back has to wait for long.
const recheck = time.Second

// holdUntilDue holds every partition until the first of its records is due, or for recheck.
func (p *Parking) holdUntilDue(batch []domain.Record, now time.Time) []ports.Hold {
	var holds []ports.Hold
	for _, r := range batch {
		if h := find(holds, r); h == nil {
			holds = append(holds, ports.Hold{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Until: now.Add(min(recheck, p.dueAt(r, now).Sub(now)))})
		} else {
			h.Until = now.Add(min(h.Until.Sub(now), p.dueAt(r, now).Sub(now)))
		}
	}
	return holds
}

// waitForStore holds every partition at its first record that the store could not take.
func (p *Parking) waitForStore(due []domain.Record, verdicts []saver.Verdict) ([]ports.Hold, error) {
	var holds []ports.Hold
	var failure error
	for i, v := range verdicts {
		if v.Err == nil {
			continue
		}
		switch actionOf(domain.ClassOf(v.Err)) {
		case stop:
			return nil, v.Err
		case storeWait:
			failure = v.Err
			if h := find(holds, due[i]); h == nil {
				holds = append(holds, ports.Hold{Topic: due[i].Topic, Partition: due[i].Partition, Offset: due[i].Offset})
			} else {
				h.Offset = min(h.Offset, due[i].Offset)
			}
		case bury, retry: // in next
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(holds) == 0 {
		p.storeWait.Reset()
		return nil, nil
	}
	pause := p.storeWait.NextBackOff()
	for i := range holds {
		holds[i].Until = p.now().Add(pause)
	}
	p.Logger.Info("the store does not take parked records yet", "records", len(due), "again_in", pause, "error", failure)
	return holds, nil
}

// departures counts the records that left their place.
type departures struct {
	fates    map[domain.Fate]int
	reparked map[domain.Class]int
	attempts []int
}

func (d departures) count(p *Parking) {
	for f, n := range d.fates {
		p.Metrics.Records.WithLabelValues(string(f)).Add(float64(n))
	}
	for c, n := range d.reparked {
		p.Metrics.Parked.WithLabelValues(string(c)).Add(float64(n))
	}
	p.replayed.Add(float64(d.fates[domain.Saved] + d.fates[domain.Duplicate]))
	for _, n := range d.attempts {
		p.attempts.Observe(float64(n))
	}
}

// next addresses every record in front of the holds that has another home: those that were not tried go to the tail, so that
// they do not keep the others waiting.
func (p *Parking) next(batch, tried []domain.Record, verdicts []saver.Verdict, holds []ports.Hold, now time.Time) ([]domain.Record, departures) {
	left := departures{fates: map[domain.Fate]int{}, reparked: map[domain.Class]int{}}
	verdict := make(map[domain.Place]saver.Verdict, len(tried))
	for i, r := range tried {
		verdict[r.Place()] = verdicts[i]
	}
	var out []domain.Record
	for _, r := range batch {
		if h := find(holds, r); h != nil && r.Offset >= h.Offset {
			continue // delivered again
		}
		v, isTried := verdict[r.Place()]
		switch {
		case !isTried:
			r.Headers.NotBefore = p.later(r, now)
			out = append(out, domain.Record{Topic: p.Retry.Topics.Parking, Key: r.Key, Value: r.Value, Headers: r.Headers})
			continue
		case v.Err == nil:
			left.fates[v.Fate]++
			if v.Fate == domain.Conflicting || v.Fate == domain.TooOld {
				out = append(out, saver.Rejected(p.Retry.Topics, r, v.Fate, now))
			}
		case p.Flood.Stops(domain.BlameOf(v.Err, v.Path)):
			left.reparked[domain.ClassOf(v.Err)]++
			out = append(out, p.Retry.Postpone(r, now, v.Err))
			continue
		case actionOf(domain.ClassOf(v.Err)) == bury:
			left.fates[domain.Dead]++
			out = append(out, saver.Rehome(p.Retry.Topics.DLQ, r, now, v.Err))
		default:
			again, last := p.Retry.Again(r, now, v.Err)
			out = append(out, again)
			if !last {
				left.reparked[domain.Unknown]++
				continue
			}
			left.fates[domain.Dead]++
		}
		left.attempts = append(left.attempts, r.Headers.Attempt)
	}
	return out, left
}

// later is when a record that was not tried may be: when it said or, where it was due and spared, after another wait.
func (p *Parking) later(r domain.Record, now time.Time) time.Time {
	if now.Before(p.dueAt(r, now)) {
		return r.Headers.NotBefore
	}
	return p.Retry.PostponedUntil(now)
}

func find(holds []ports.Hold, r domain.Record) *ports.Hold {
	for i := range holds {
		if holds[i].Topic == r.Topic && holds[i].Partition == r.Partition {
			return &holds[i]
		}
	}
	return nil
}
