package sink

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// Action is what a role does with a record after its verdict.
type Action int

// The actions.
const (
	// Done is a record that is stored, or is a row already.
	Done Action = iota
	// Leave is a record that has another home: Route.Next has to be durable there before anything is committed.
	Leave
	// Wait is a record that stays where it is and is delivered again.
	Wait
	// Stop ends without a commit: docket shuts down.
	Stop
)

// Route is where a record goes.
type Route struct {
	Action Action
	// Next is the record in its next home, where the action is Leave.
	Next domain.Record
	// Status is what became of the record, where it leaves or is done.
	Status domain.SaveStatus
	// Class is why it was parked, where the status is domain.Parked.
	Class domain.Class
}

// Router is the one table from a verdict to a record's next home, for the saver and for the parking role. It is safe
// for concurrent use.
type Router struct {
	Topics  domain.Topics
	Retry   Retry
	Guard   *Guard
	Metrics *Metrics
}

// Route says where a record goes after its verdict. A record that is parked or held already waits in place for a store
// that is away; a fresh one is parked, so that those behind it are not kept.
func (r *Router) Route(rec domain.Record, v Verdict, at time.Time) Route {
	switch {
	case v.Err == nil && (v.Status == domain.Conflicting || v.Status == domain.TooOld):
		return Route{Action: Leave, Next: notKept(r.Topics.DLQ, rec, v.Status, at), Status: v.Status}
	case v.Err == nil:
		return Route{Action: Done, Status: v.Status}
	case v.HeldFor != "":
		return r.hold(rec, v.Err, v.HeldFor, at)
	case v.Rejected() && r.Guard.Guards(v.Rejection()):
		return r.hold(rec, v.Err, domain.HeldForFingerprint(v.Rejection().Fingerprint), at)
	}
	switch domain.ClassOf(v.Err) {
	case domain.Canceled:
		return Route{Action: Stop}
	case domain.Misconfigured:
		return Route{Action: Wait}
	case domain.Unavailable:
		if rec.Topic == r.Topics.Parking || rec.Topic == r.Topics.Held {
			return Route{Action: Wait}
		}
		return Route{
			Action: Leave, Next: Forward(r.Topics.Parking, rec, at, v.Err), Status: domain.Parked, Class: domain.Unavailable,
		}
	case domain.Invalid:
		return Route{Action: Leave, Next: Forward(r.Topics.DLQ, rec, at, v.Err), Status: domain.Dead}
	case domain.Unknown:
	}
	return r.retry(rec, v.Err, at)
}

// hold sends a record where it waits without keeping others. It spends no attempt.
func (r *Router) hold(rec domain.Record, err error, key string, at time.Time) Route {
	next := Forward(r.Topics.Held, rec, at, err)
	next.Headers.HeldFor, next.Headers.NotBefore = key, time.Time{}
	return Route{Action: Leave, Next: next, Status: domain.Held}
}

// retry counts the attempt and addresses the record to the tail of the parking topic or, after the last one, to the
// parking DLQ.
func (r *Router) retry(rec domain.Record, err error, at time.Time) Route {
	next := Forward(r.Topics.Parking, rec, at, err)
	next.Headers.Attempt++
	if next.Headers.Attempt >= r.Retry.MaxAttempts {
		next.Topic, next.Headers.NotBefore = r.Topics.ParkingDLQ, time.Time{}
		return Route{Action: Leave, Next: next, Status: domain.Dead}
	}
	next.Headers.NotBefore = at.Add(r.Retry.Backoff(next.Headers.Attempt)).UTC()
	return Route{Action: Leave, Next: next, Status: domain.Parked, Class: domain.Unknown}
}

// Forward addresses a record to its next home and notes why it goes there. Key and value stay as they are.
func Forward(topic string, r domain.Record, at time.Time, err error) domain.Record {
	return domain.Record{Topic: topic, Key: r.Key, Value: r.Value, Headers: r.Moved().Failed(at, err)}
}

// notKept addresses a record to the data DLQ that the store, in good health, did not keep.
func notKept(topic string, r domain.Record, status domain.SaveStatus, at time.Time) domain.Record {
	r = Forward(topic, r, at, NotKept(status))
	r.Headers.Reason = domain.Conflict
	if status == domain.TooOld {
		r.Headers.Reason = domain.Expired
	}
	return r
}

// NotKept is why the store, in good health, did not keep a row: Conflicting or TooOld.
func NotKept(status domain.SaveStatus) error {
	if status == domain.TooOld {
		return domain.Errorf(domain.Invalid, "the decision is older than what the store retains")
	}
	return domain.Errorf(domain.Invalid, "another event with the same tenant, id and timestamp is stored already: it "+
		"stays")
}

// Departures are the routes of a batch's records.
type Departures struct {
	metrics *Metrics
	dlq     string
	// Next are the records that leave, in their next homes.
	Next []domain.Record
	// Statuses counts what became of the records.
	Statuses map[domain.SaveStatus]int
	parked   map[domain.Class]int
}

// Departures begins a batch.
func (r *Router) Departures() *Departures {
	return &Departures{
		metrics: r.Metrics, dlq: r.Topics.DLQ, Statuses: map[domain.SaveStatus]int{}, parked: map[domain.Class]int{},
	}
}

// Add takes in a route whose action is Done or Leave.
func (d *Departures) Add(r Route) {
	if r.Action == Leave {
		d.Next = append(d.Next, r.Next)
	}
	d.Statuses[r.Status]++
	if r.Status == domain.Parked {
		d.parked[r.Class]++
	}
}

// Publish makes what leaves durable in its next home, and then counts. After an error nothing of the batch is done.
func (d *Departures) Publish(ctx context.Context, log ports.Publisher) error {
	if len(d.Next) > 0 {
		err := log.Publish(ctx, d.Next)
		if domain.ClassOf(err) == domain.Invalid {
			err = d.publishFitting(ctx, log)
		}
		if err != nil {
			return err
		}
	}
	for status, n := range d.Statuses {
		d.metrics.records.WithLabelValues(string(status)).Add(float64(n))
	}
	for class, n := range d.parked {
		d.metrics.parked.WithLabelValues(string(class)).Add(float64(n))
	}
	return nil
}

// publishFitting deals with records that their next home does not take, the largest first: they would be delivered
// again for ever. One that another program wrote goes to the data DLQ in parts. Docket's own fit, unless somebody has
// lowered a limit; nothing else is published then, because it would be with each delivery.
func (d *Departures) publishFitting(ctx context.Context, log ports.Publisher) error {
	rest := slices.Clone(d.Next)
	slices.SortStableFunc(rest, func(a, b domain.Record) int { return len(b.Value) - len(a.Value) })
	for len(rest) > 0 {
		r := rest[0]
		err := log.Publish(ctx, rest[:1])
		if domain.ClassOf(err) == domain.Invalid && r.Foreign() {
			err = log.Publish(ctx, r.Parts(d.dlq))
		}
		if domain.ClassOf(err) == domain.Invalid {
			return domain.Reclass(err, domain.Misconfigured, fmt.Sprintf(
				"topic %s does not take a record of %d bytes that docket has to write: raise its max.message.bytes, which "+
					"somebody has lowered", r.Topic, len(r.Value),
			))
		}
		if err != nil {
			return err
		}
		if rest = rest[1:]; len(rest) == 0 {
			return nil
		}
		if err := log.Publish(ctx, rest); domain.ClassOf(err) != domain.Invalid || err == nil {
			return err
		}
	}
	return nil
}

// Metrics counts what becomes of records; the saver and the parking role of a process share it.
type Metrics struct {
	records *prometheus.CounterVec
	parked  *prometheus.CounterVec
}

// NewMetrics registers the counters; reg may be nil in tests.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		records: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "docket_save_records_total", Help: "Records taken from the log, by what became of them.",
		}, []string{"result"}),
		parked: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "docket_parked_records_total", Help: "Records that went to the parking topic, by the class of the failure.",
		}, []string{"class"}),
	}
	for _, s := range domain.SaveStatuses {
		m.records.WithLabelValues(string(s))
	}
	for _, c := range []domain.Class{domain.Unavailable, domain.Invalid, domain.Unknown} {
		m.parked.WithLabelValues(string(c))
	}
	return m
}
