// Package saver moves decisions from the log to the store: it saves batches, finds the rows to blame when one fails,
// dead-letters what the store will never take, and parks what it cannot take now. It leaves gathering, committing and
// redelivery to the log, and replaying what is parked to the parking role.
package saver

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

// Group is the saver's consumer group.
const Group = "docket-saver"

// Metrics counts what becomes of records; the saver and the parking role share it.
type Metrics struct {
	Records *prometheus.CounterVec
	Parked  *prometheus.CounterVec
}

// NewMetrics registers the counters; reg may be nil in tests.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Records: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "docket_save_records_total", Help: "Records taken from the log, by what became of them.",
		}, []string{"result"}),
		Parked: promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
			Name: "docket_parked_records_total", Help: "Records that went to the parking topic, by the class of the failure.",
		}, []string{"class"}),
	}
	for _, f := range []domain.Fate{domain.Saved, domain.Duplicate, domain.Conflicting, domain.TooOld, domain.Parked, domain.Dead} {
		m.Records.WithLabelValues(string(f))
	}
	for _, c := range []domain.Class{domain.Unavailable, domain.Invalid, domain.Unknown} {
		m.Parked.WithLabelValues(string(c))
	}
	return m
}

// Saver handles batches of the decisions topic. It is safe for concurrent use.
type Saver struct {
	writer  *Writer
	log     ports.Publisher
	retry   Retry
	flood   *Flood
	metrics *Metrics
	logger  *slog.Logger
	now     func() time.Time
}

// New makes a Saver.
func New(w *Writer, log ports.Publisher, retry Retry, f *Flood, m *Metrics, logger *slog.Logger) *Saver {
	return &Saver{writer: w, log: log, retry: retry, flood: f, metrics: m, logger: logger, now: time.Now}
}

// action is what the saver does with a record whose save failed.
type action int

const (
	stop  action = iota // end without a commit
	wait                // deliver the batch again
	park                // to the parking topic
	bury                // to the data DLQ
	retry               // to the parking topic, with an attempt counted
)

// actionOf is total over the classes.
func actionOf(c domain.Class) action {
	switch c {
	case domain.Canceled:
		return stop
	case domain.Unavailable:
		return park
	case domain.Misconfigured:
		return wait
	case domain.Invalid:
		return bury
	case domain.Unknown:
		return retry
	}
	return retry
}

// Handle saves a batch; see ports.Handler. What is not stored is durable in its next home before Handle returns nil.
func (s *Saver) Handle(ctx context.Context, batch []domain.Record) ([]ports.Hold, error) {
	verdicts := s.writer.Save(ctx, batch)
	s.flood.Judge(ctx, batch, verdicts)
	now := s.now()
	var next []domain.Record
	results := map[domain.Fate]int{}
	classes := map[domain.Class]int{}
	var failure error
	for i, v := range verdicts {
		r := batch[i]
		if v.Err == nil {
			results[v.Fate]++
			if v.Fate == domain.Conflicting || v.Fate == domain.TooOld {
				next = append(next, Rejected(s.retry.Topics, r, v.Fate, now))
			}
			continue
		}
		failure = v.Err
		class := domain.ClassOf(v.Err)
		if v.Blamed() && s.flood.Stops(domain.BlameOf(v.Err, v.Path)) {
			results[domain.Parked]++
			classes[class]++
			next = append(next, s.retry.Postpone(r, now, v.Err))
			continue
		}
		switch actionOf(class) {
		case stop, wait:
			return nil, v.Err
		case bury:
			results[domain.Dead]++
			next = append(next, Rehome(s.retry.Topics.DLQ, r, now, v.Err))
		case park:
			results[domain.Parked]++
			classes[domain.Unavailable]++
			next = append(next, Rehome(s.retry.Topics.Parking, r, now, v.Err))
		case retry:
			again, last := s.retry.Again(r, now, v.Err)
			if last {
				results[domain.Dead]++
			} else {
				results[domain.Parked]++
				classes[domain.Unknown]++
			}
			next = append(next, again)
		}
	}
	if len(next) > 0 {
		if err := s.log.Publish(ctx, next); err != nil {
			return nil, err
		}
		level := slog.LevelWarn
		if results[domain.Parked] == len(next) {
			level = slog.LevelDebug // an outage, which the breaker has told already; or a row that is tried again
		}
		s.logger.Log(ctx, level, "not everything of a batch was stored", "records", len(batch), "parked", results[domain.Parked],
			"dead", results[domain.Dead], "conflicts", results[domain.Conflicting], "expired", results[domain.TooOld], "error", failure)
	}
	for f, n := range results {
		s.metrics.Records.WithLabelValues(string(f)).Add(float64(n))
	}
	for c, n := range classes {
		s.metrics.Parked.WithLabelValues(string(c)).Add(float64(n))
	}
	return nil, nil
}

// Rehome addresses a record to its next home and notes why it goes there. Key and value stay as they are.
func Rehome(topic string, r domain.Record, at time.Time, err error) domain.Record {
	if r.Headers.Origin == "" {
		r.Headers.Origin = r.Origin()
	}
	r.Headers = r.Headers.Failed(at, err)
	return domain.Record{Topic: topic, Key: r.Key, Value: r.Value, Headers: r.Headers}
}

// Rejected addresses a record to the data DLQ that the store, in good health, did not keep.
func Rejected(topics domain.Topics, r domain.Record, f domain.Fate, at time.Time) domain.Record {
	reason := domain.Conflict
	if f == domain.TooOld {
		reason = domain.Expired
	}
	r = Rehome(topics.DLQ, r, at, domain.Errorf(domain.Invalid, "%s", WhyRejected(f)))
	r.Headers.Reason = reason
	return r
}

// WhyRejected tells people of a fate that is not the row's place in the store.
func WhyRejected(f domain.Fate) string {
	if f == domain.TooOld {
		return "the decision is older than what the store retains"
	}
	return "the key is taken by other bytes: the first ones stay"
}
