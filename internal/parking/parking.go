// Package parking replays what the store could not take. A record that was parked because the store was away waits in
// place until the store is back, and spends no attempt. A record that was itself rejected is tried again with
// exponential backoff and dead-lettered after its last attempt. It leaves saving and routing to sink, and redelivery to
// the log.
//
// Records that are not due make way: they are published unchanged behind those that are, and the partition is paused
// only when none is due. The backlog's share of the store may be less than one batch at a time: a pause then follows
// each batch.
//
// What the store, in good health, does not take for a while is held in a topic of its own, by what it waits for: Held
// tries samples and, once one succeeds, goes through the topic.
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
	"github.com/docket-project/docket/internal/sink"
)

// Group is the parking role's consumer group.
const Group = "docket-parking"

// Store wait: how often the store is asked whether it is back.
const (
	storeWaitMin = 500 * time.Millisecond
	storeWaitMax = 5 * time.Second // with its jitter
)

// Parts are what a Parking works with.
type Parts struct {
	// Save is the Writer's, and Busy says that fresh decisions leave no turn at the store.
	Save   func(context.Context, []domain.Record) []sink.Verdict
	Busy   func() bool
	Log    ports.Publisher
	Router *sink.Router
	// Concurrency bounds the batches at the store; adaptive, the backlog is throttled while the store is slow.
	Concurrency sink.Concurrency
	Logger      *slog.Logger
}

// Parking handles batches of the parking topic. It is safe for concurrent use.
type Parking struct {
	Parts
	throttle *throttle
	now      func() time.Time

	replayed prometheus.Counter
	attempts prometheus.Histogram

	mu        sync.Mutex // backoff is not safe for concurrent use
	storeWait *backoff.ExponentialBackOff
}

// New makes a Parking; reg may be nil in tests.
func New(parts Parts, reg prometheus.Registerer) *Parking {
	f := promauto.With(reg)
	p := &Parking{
		Parts:    parts,
		throttle: newThrottle(parts.Concurrency, parts.Busy),
		now:      time.Now,
		replayed: f.NewCounter(prometheus.CounterOpts{
			Name: "docket_parking_replayed_records_total", Help: "Parked records that the store has taken.",
		}),
		attempts: f.NewHistogram(prometheus.HistogramOpts{
			Name: "docket_parking_attempts", Help: "Failed attempts of a record when it left the parking topic.",
			Buckets: []float64{0, 1, 2, 3, 5, 8, 10, 15, 20},
		}),
		storeWait: backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(storeWaitMin), backoff.WithMaxInterval(storeWaitMax*2/3), backoff.WithMultiplier(2),
			backoff.WithMaxElapsedTime(0),
		),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_parking_concurrency",
		Help: "The backlog's share of the store: batches at once or, below 1, part of the time of one.",
	}, p.throttle.Share)
	return p
}

// Handle replays a batch; see ports.Handler.
func (p *Parking) Handle(ctx context.Context, batch []domain.Record) ([]ports.Pause, error) {
	now := p.now()
	due := make([]domain.Record, 0, len(batch))
	for _, r := range batch {
		if !now.Before(p.dueAt(r, now)) {
			due = append(due, r)
		}
	}
	if len(due) == 0 {
		return p.pauseUntilDue(batch, now), nil
	}
	nth, again := p.throttle.begin(now)
	if nth == 0 {
		return ports.PauseAll(batch, again), nil
	}
	verdicts := p.Save(ctx, due)
	p.Router.Guard.Judge(ctx, due, verdicts)
	taken := len(due)
	if slices.ContainsFunc(verdicts, func(v sink.Verdict) bool { return v.Err != nil }) {
		taken = 0 // what it took was not the store's alone
	}
	p.throttle.end(p.now(), nth, taken, p.now().Sub(now))
	routes := make([]sink.Route, len(due))
	for i, r := range due {
		if routes[i] = p.Router.Route(r, verdicts[i], now); routes[i].Action == sink.Stop {
			return nil, verdicts[i].Err
		}
	}
	pauses := p.waitForStore(due, verdicts, routes)
	out, attempts := p.depart(batch, due, routes, pauses)
	if err := out.Publish(ctx, p.Log); err != nil {
		return nil, err
	}
	p.replayed.Add(float64(out.Statuses[domain.Saved] + out.Statuses[domain.Duplicate]))
	for _, n := range attempts {
		p.attempts.Observe(float64(n))
	}
	return pauses, nil
}

// dueAt is when a record may be tried. A time further off than any backoff is a clock that was set back.
func (p *Parking) dueAt(r domain.Record, now time.Time) time.Time {
	if r.Headers.NotBefore.After(now.Add(p.Router.Retry.BackoffMax)) {
		return now
	}
	return r.Headers.NotBefore
}

// recheck bounds a pause for a record that is not due, so that neither what is parked behind it nor a clock that is set
// back has to wait for long.
const recheck = time.Second

// pauseUntilDue pauses every partition until the first of its records is due, or for recheck.
func (p *Parking) pauseUntilDue(batch []domain.Record, now time.Time) []ports.Pause {
	var pauses []ports.Pause
	for _, r := range batch {
		wait := p.dueAt(r, now).Sub(now)
		if at := find(pauses, r); at == nil {
			until := now.Add(min(recheck, wait))
			pauses = append(pauses, ports.Pause{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Until: until})
		} else {
			at.Until = now.Add(min(at.Until.Sub(now), wait))
		}
	}
	return pauses
}

// waitForStore pauses every partition at its first record that has to wait for the store.
func (p *Parking) waitForStore(tried []domain.Record, verdicts []sink.Verdict, routes []sink.Route) []ports.Pause {
	var pauses []ports.Pause
	var failure error
	for i, r := range tried {
		if routes[i].Action != sink.Wait {
			continue
		}
		failure = verdicts[i].Err
		if at := find(pauses, r); at == nil {
			pauses = append(pauses, ports.Pause{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset})
		} else {
			at.Offset = min(at.Offset, r.Offset)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(pauses) == 0 {
		p.storeWait.Reset()
		return nil
	}
	wait := p.storeWait.NextBackOff()
	for i := range pauses {
		pauses[i].Until = p.now().Add(wait)
	}
	p.Logger.Info("the store does not take parked records yet", "records", len(tried), "again_in", wait, "error", failure)
	return pauses
}

// depart takes in every record in front of the pauses, and returns the attempts of those that leave the parking topic.
// Those that are not due go to its tail, so that they do not keep the others waiting.
func (p *Parking) depart(
	batch, due []domain.Record, routes []sink.Route, pauses []ports.Pause,
) (out *sink.Departures, attempts []int) {
	out = p.Router.Departures()
	of := make(map[domain.Position]sink.Route, len(due))
	for i, r := range due {
		of[r.Position()] = routes[i]
	}
	for _, r := range batch {
		if at := find(pauses, r); at != nil && r.Offset >= at.Offset {
			continue // delivered again
		}
		route, isDue := of[r.Position()]
		if !isDue {
			out.Next = append(
				out.Next, domain.Record{Topic: p.Router.Topics.Parking, Key: r.Key, Value: r.Value, Headers: r.Moved()},
			)
			continue
		}
		out.Add(route)
		if route.Status != domain.Parked {
			attempts = append(attempts, r.Headers.Attempt)
		}
	}
	return out, attempts
}

func find(pauses []ports.Pause, r domain.Record) *ports.Pause {
	for i := range pauses {
		if pauses[i].Topic == r.Topic && pauses[i].Partition == r.Partition {
			return &pauses[i]
		}
	}
	return nil
}
