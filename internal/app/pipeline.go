package app

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/adapters/httpapi"
	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/parking"
	"github.com/docket-project/docket/internal/ports"
	"github.com/docket-project/docket/internal/saver"
)

const (
	sampleEvery = time.Second
	// askEvery is how often the log is asked whether it takes records while it does; asking costs it an fsync.
	askEvery = 5 * time.Second
	// rateSpan is how far back rates look.
	rateSpan = 10 * time.Second
)

// pipeline samples the log once a second: what waits, how old it is, how fast it moves, and whether it takes records.
// Metrics, /readyz and the API read the sample, so that looking costs the log nothing.
type pipeline struct {
	log     ports.Log
	topics  domain.Topics
	groups  map[string][]string // which topics to sample, by the group that consumes them
	breaker *saver.Breaker
	flood   *saver.Flood
	logger  *slog.Logger
	// deadOpen counts the dead letters that nobody has dealt with, as the index last said.
	deadOpen atomic.Int64

	mu      sync.Mutex
	samples []sample // the last rateSpan, oldest first
	unread  int      // samples in a row that failed
	ready   error
	asked   time.Time
}

// sample is the log at one time.
type sample struct {
	at      time.Time
	byTopic map[string]ports.Backlog // summed over partitions
}

var errNotSampled = errors.New("docket is starting")

// newPipeline samples what concerns a role: its own topic and, for the parking role and the console, the dead letters. Only
// ingest, which has no store, is without a breaker and a flood stop.
func newPipeline(log ports.Log, role Role, topics domain.Topics, b *saver.Breaker, flood *saver.Flood, reg prometheus.Registerer, logger *slog.Logger) *pipeline {
	p := &pipeline{log: log, topics: topics, groups: map[string][]string{}, breaker: b, flood: flood, logger: logger, ready: errNotSampled}
	f := promauto.With(reg)
	consumed := func(group, topic string) {
		p.groups[group] = append(p.groups[group], topic)
		labels := prometheus.Labels{"topic": topic}
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "docket_consumer_lag_records", Help: "Records that wait to be consumed.", ConstLabels: labels},
			func() float64 { return float64(p.last(topic).Waiting()) })
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "docket_consumer_oldest_seconds", Help: "Age of the oldest record that waits.", ConstLabels: labels},
			func() float64 { return age(p.last(topic).Oldest) })
	}
	if role.is(Saver) || role == Console {
		consumed(saver.Group, topics.Decisions)
	}
	if role.is(Parking) || role == Console {
		consumed(parking.Group, topics.Parking)
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "docket_parking_oldest_seconds", Help: "Age of the oldest parked record."},
			func() float64 { return age(p.last(topics.Parking).Oldest) })
		consumed(parking.IndexGroup, topics.DLQ)
		consumed(parking.IndexGroup, topics.ParkingDLQ)
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: "docket_dead_letters_open", Help: "Dead letters that nobody has dealt with."},
			func() float64 { return float64(p.deadOpen.Load()) })
	}
	return p
}

func held(b ports.Backlog) int64 { return b.End - b.Start }

func age(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(time.Since(t).Seconds(), 0)
}

// run samples until ctx is done.
func (p *pipeline) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		p.sample(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *pipeline) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	p.ask(ctx)
	s, err := p.read(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if p.unread++; p.unread == 3 {
			p.logger.Warn("the log's backlog cannot be read; lag and age are those of before", "error", err)
		}
		return
	}
	p.unread = 0
	for len(p.samples) > 1 && s.at.Sub(p.samples[0].at) > rateSpan {
		p.samples = p.samples[1:]
	}
	p.samples = append(p.samples, s)
}

// ask finds out whether the log takes records: now and then while it does, and every time while it does not.
func (p *pipeline) ask(ctx context.Context) {
	if p.publishable() == nil && time.Since(p.asked) < askEvery {
		return
	}
	p.asked = time.Now()
	ready := p.log.Ready(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if (p.ready == nil) != (ready == nil) && !errors.Is(p.ready, errNotSampled) && ctx.Err() == nil {
		p.logger.Warn("the log's readiness changed", "ready", ready == nil, "error", ready)
	}
	p.ready = ready
}

func (p *pipeline) read(ctx context.Context) (sample, error) {
	s := sample{at: time.Now(), byTopic: map[string]ports.Backlog{}}
	for group, topics := range p.groups {
		partitions, err := p.log.Backlog(ctx, group, topics...)
		if err != nil {
			return s, err
		}
		for _, b := range partitions {
			sum := s.byTopic[b.Topic]
			sum.Start, sum.Committed, sum.End = sum.Start+b.Start, sum.Committed+b.Committed, sum.End+b.End
			if sum.Oldest.IsZero() || !b.Oldest.IsZero() && b.Oldest.Before(sum.Oldest) {
				sum.Oldest = b.Oldest
			}
			s.byTopic[b.Topic] = sum
		}
	}
	return s, nil
}

// countDead asks the index how many dead letters are open, until ctx is done. While the store is away the last answer stands.
func (p *pipeline) countDead(ctx context.Context, store ports.DeadLetterIndex) {
	open := domain.Query{Terms: []domain.Term{{Field: domain.FieldState, Matches: []domain.Match{{Text: string(domain.DeadOpen)}}}}}
	for {
		if n, err := store.CountDeadLetters(ctx, open); err == nil {
			p.deadOpen.Store(n[domain.DeadOpen])
		}
		if sleep(ctx, sampleEvery) != nil {
			return
		}
	}
}

// publishable is nil while the log takes records.
func (p *pipeline) publishable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

func (p *pipeline) last(topic string) ports.Backlog {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.samples) == 0 {
		return ports.Backlog{}
	}
	return p.samples[len(p.samples)-1].byTopic[topic]
}

// view is the pipeline as the API shows it. What waits is read anew, so that a person who has just sent something sees
// the truth; without an answer from the log the last sample has to do.
func (p *pipeline) view(ctx context.Context) httpapi.Pipeline {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	last, err := p.read(ctx)
	state, next := p.breaker.State()
	v := httpapi.Pipeline{Breaker: state, NextProbe: next.Seconds(), FloodStop: p.flood.Stopping(), DeadLettersOpen: p.deadOpen.Load()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil { // what was known last, if anything, with its time
		last = sample{}
		if len(p.samples) > 0 {
			last = p.samples[len(p.samples)-1]
		}
	}
	first := last
	if len(p.samples) > 0 {
		first = p.samples[0]
	}
	v.SampledAt = last.at.UTC()
	seconds := last.at.Sub(first.at).Seconds()
	for _, stage := range []struct{ name, topic string }{{"saver", p.topics.Decisions}, {"parking", p.topics.Parking}} {
		was, is := first.byTopic[stage.topic], last.byTopic[stage.topic]
		s := httpapi.Stage{Name: stage.name, Topic: stage.topic, Waiting: is.Waiting(), OldestSeconds: age(is.Oldest)}
		if seconds > 0 {
			s.InPerSecond, s.OutPerSecond = float64(is.End-was.End)/seconds, float64(is.Committed-was.Committed)/seconds
		}
		if !is.Oldest.IsZero() {
			s.OldestAt = &is.Oldest
		}
		v.Stages = append(v.Stages, s)
	}
	v.Parked = last.byTopic[p.topics.Parking].Waiting()
	for _, topic := range []string{p.topics.DLQ, p.topics.ParkingDLQ} {
		v.DeadLetters = append(v.DeadLetters, httpapi.DeadLetterTopic{Topic: topic, Records: held(last.byTopic[topic]), Waiting: last.byTopic[topic].Waiting()})
	}
	return v
}
