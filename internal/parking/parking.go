// Package parking replays what the store could not take. A record parked because the store was away waits in place
// until the store is back and spends no attempt; a record that was itself to blame is tried again with exponential
// backoff and, after its last attempt, dead-lettered. It leaves saving and the search for guilty rows to a func of the
// saver's Writer, and redelivery to the log.
package parking

import (
	"context"
	"log/slog"
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
	storeWaitMax = 5 * time.Second
)

// Parking handles batches of the parking topic. It is safe for concurrent use.
type Parking struct {
	retry   saver.Retry
	save    func(context.Context, []domain.Record) []saver.Verdict
	log     ports.Publisher
	metrics *saver.Metrics
	logger  *slog.Logger
	now     func() time.Time

	replayed prometheus.Counter
	attempts prometheus.Histogram

	mu        sync.Mutex // backoff is not safe for concurrent use
	storeWait *backoff.ExponentialBackOff
}

// New makes a Parking; save is the Writer's, and reg may be nil in tests.
func New(save func(context.Context, []domain.Record) []saver.Verdict, log ports.Publisher, retry saver.Retry, m *saver.Metrics,
	reg prometheus.Registerer, logger *slog.Logger) *Parking {
	f := promauto.With(reg)
	return &Parking{
		retry: retry, save: save, log: log, metrics: m, logger: logger, now: time.Now,
		replayed: f.NewCounter(prometheus.CounterOpts{
			Name: "docket_parking_replayed_records_total", Help: "Parked records that the store has taken.",
		}),
		attempts: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_parking_attempts", Help: "Failed attempts of a record when it left the parking topic.",
			Buckets: []float64{0, 1, 2, 3, 5, 8, 10, 15, 20},
		}),
		storeWait: backoff.NewExponentialBackOff(backoff.WithInitialInterval(storeWaitMin), backoff.WithMaxInterval(storeWaitMax),
			backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0)),
	}
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
	verdicts := p.save(ctx, due)
	holds, err := p.waitForStore(due, verdicts)
	if err != nil {
		return nil, err
	}
	next, left := p.next(batch, due, verdicts, holds, now)
	if len(next) > 0 {
		if err := p.log.Publish(ctx, next); err != nil {
			return nil, err
		}
	}
	left.count(p)
	return holds, nil
}

// dueAt is when a record may be tried. A time further off than any backoff is a clock that was set back.
func (p *Parking) dueAt(r domain.Record, now time.Time) time.Time {
	if r.Headers.NotBefore.After(now.Add(p.retry.BackoffMax)) {
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
			if find(holds, due[i]) == nil {
				holds = append(holds, ports.Hold{Topic: due[i].Topic, Partition: due[i].Partition, Offset: due[i].Offset})
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
	p.logger.Info("the store does not take parked records yet", "records", len(due), "again_in", pause, "error", failure)
	return holds, nil
}

// departures counts the records that left their place.
type departures struct {
	fates    map[domain.Fate]int
	reparked int
	attempts []int
}

func (d departures) count(p *Parking) {
	for f, n := range d.fates {
		p.metrics.Records.WithLabelValues(string(f)).Add(float64(n))
	}
	p.metrics.Parked.WithLabelValues(string(domain.Unknown)).Add(float64(d.reparked))
	p.replayed.Add(float64(d.fates[domain.Saved] + d.fates[domain.Duplicate]))
	for _, n := range d.attempts {
		p.attempts.Observe(float64(n))
	}
}

// next addresses every record in front of the holds that has another home: those not yet due go to the tail unchanged,
// so that they do not keep the others waiting.
func (p *Parking) next(batch, due []domain.Record, verdicts []saver.Verdict, holds []ports.Hold, now time.Time) ([]domain.Record, departures) {
	left := departures{fates: map[domain.Fate]int{}}
	var out []domain.Record
	n := 0 // of due
	for _, r := range batch {
		isDue := n < len(due) && due[n].Partition == r.Partition && due[n].Offset == r.Offset && due[n].Topic == r.Topic
		var v saver.Verdict
		if isDue {
			v = verdicts[n]
			n++
		}
		if h := find(holds, r); h != nil && r.Offset >= h.Offset {
			continue // delivered again
		}
		switch {
		case !isDue:
			out = append(out, domain.Record{Topic: p.retry.Topics.Parking, Key: r.Key, Value: r.Value, Headers: r.Headers})
			continue
		case v.Err == nil:
			left.fates[v.Fate]++
			if v.Fate == domain.Conflicting || v.Fate == domain.TooOld {
				out = append(out, saver.Rejected(p.retry.Topics, r, v.Fate, now))
			}
		case actionOf(domain.ClassOf(v.Err)) == bury:
			left.fates[domain.Dead]++
			out = append(out, saver.Rehome(p.retry.Topics.DLQ, r, now, v.Err))
		default:
			again, last := p.retry.Again(r, now, v.Err)
			out = append(out, again)
			if !last {
				left.reparked++
				continue
			}
			left.fates[domain.Dead]++
		}
		left.attempts = append(left.attempts, r.Headers.Attempt)
	}
	return out, left
}

func find(holds []ports.Hold, r domain.Record) *ports.Hold {
	for i := range holds {
		if holds[i].Topic == r.Topic && holds[i].Partition == r.Partition {
			return &holds[i]
		}
	}
	return nil
}
