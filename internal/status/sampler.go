package status

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/ports"
)

const (
	sampleEvery = time.Second
	// askEvery is how often the log is asked whether it takes records while it does; asking costs it an fsync.
	askEvery = 5 * time.Second
	// rateSpan is how far back rates look.
	rateSpan = 10 * time.Second
	// sampleTimeout bounds one sample, and viewTimeout one for somebody who asks.
	sampleTimeout = 3 * time.Second
	viewTimeout   = 2 * time.Second
)

// Log is what the sampler asks of the log.
type Log interface {
	Backlog(ctx context.Context, group string, topics ...string) ([]ports.Backlog, error)
	Ready(ctx context.Context) error
}

// Consumed is a topic and the group that consumes it. Role, unless empty, is whose stage it is; a topic without is one
// of dead letters. Name is the stage's, if a role has several. Those of one group stand together in a list.
type Consumed struct {
	Group, Topic string
	Role         Role
	Name         string
}

// HeldStage is the name of the stage of held records.
const HeldStage = "held"

// Sampler samples the log once a second: what waits, how old it is, how fast it moves, and whether the log takes
// records. Metrics, /readyz and the API read the sample, so that looking costs the log nothing.
type Sampler struct {
	log      Log
	consumed []Consumed
	store    *Store
	logger   *slog.Logger
	// deadOpen counts the open dead letters, as the index last said.
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

// NewSampler samples the topics in consumed; store is nil for a process that saves nothing; reg may be nil in tests.
func NewSampler(log Log, consumed []Consumed, store *Store, reg prometheus.Registerer, logger *slog.Logger) *Sampler {
	s := &Sampler{log: log, consumed: consumed, store: store, logger: logger, ready: errNotSampled}
	f := promauto.With(reg)
	dead := false
	for _, c := range consumed {
		labels := prometheus.Labels{"topic": c.Topic}
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "docket_consumer_lag_records", Help: "Records that wait to be consumed.", ConstLabels: labels,
		}, func() float64 { return float64(s.last(c.Topic).Waiting()) })
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "docket_consumer_oldest_seconds", Help: "Age of the oldest record that waits.", ConstLabels: labels,
		}, func() float64 { return Age(s.last(c.Topic).Oldest) })
		if c.Role == Parking && c.Name == "" {
			f.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "docket_parking_oldest_seconds", Help: "Age of the oldest parked record.",
			}, func() float64 { return Age(s.last(c.Topic).Oldest) })
		}
		dead = dead || c.Role == ""
	}
	if dead {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "docket_dead_letters_open", Help: "Open dead letters: those that no operator has dealt with.",
		}, func() float64 { return float64(s.deadOpen.Load()) })
	}
	return s
}

// Age is how long ago a time is, in seconds; 0 for none.
func Age(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(time.Since(t).Seconds(), 0)
}

// Run samples until ctx is done.
func (s *Sampler) Run(ctx context.Context) {
	every(ctx, sampleEvery, s.sample)
}

// every calls f, and rests for d after each call, until ctx is done.
func every(ctx context.Context, d time.Duration, f func(context.Context)) {
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		f(ctx)
		rest.Reset(d)
	}
}

func (s *Sampler) sample(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	s.ask(ctx)
	now, err := s.read(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.unread++; s.unread == 3 {
			s.logger.Warn("the log's backlog cannot be read; lag and age are those of before", "error", err)
		}
		return
	}
	s.unread = 0
	for len(s.samples) > 1 && now.at.Sub(s.samples[0].at) > rateSpan {
		s.samples = s.samples[1:]
	}
	s.samples = append(s.samples, now)
}

// ask finds out whether the log takes records: now and then while it does, and every time while it does not.
func (s *Sampler) ask(ctx context.Context) {
	if s.Publishable() == nil && time.Since(s.asked) < askEvery {
		return
	}
	s.asked = time.Now()
	ready := s.log.Ready(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if (s.ready == nil) != (ready == nil) && !errors.Is(s.ready, errNotSampled) && ctx.Err() == nil {
		if ready == nil {
			s.logger.Info("the log takes records again")
		} else {
			s.logger.Warn("the log takes no records: uploads are refused until it does", "error", ready)
		}
	}
	s.ready = ready
}

func (s *Sampler) read(ctx context.Context) (sample, error) {
	out := sample{at: time.Now(), byTopic: map[string]ports.Backlog{}}
	for i := 0; i < len(s.consumed); {
		group, topics := s.consumed[i].Group, []string{} // those of one group stand together, and are one question
		for ; i < len(s.consumed) && s.consumed[i].Group == group; i++ {
			topics = append(topics, s.consumed[i].Topic)
		}
		partitions, err := s.log.Backlog(ctx, group, topics...)
		if err != nil {
			return out, err
		}
		for _, b := range partitions {
			sum := out.byTopic[b.Topic]
			sum.Start, sum.Committed, sum.End = sum.Start+b.Start, sum.Committed+b.Committed, sum.End+b.End
			if sum.Oldest.IsZero() || !b.Oldest.IsZero() && b.Oldest.Before(sum.Oldest) {
				sum.Oldest = b.Oldest
			}
			out.byTopic[b.Topic] = sum
		}
	}
	return out, nil
}

// Counter counts dead letters.
type Counter func(ctx context.Context, scope domain.Scope, f domain.Filter) (map[domain.DeadState]int64, error)

// CountDead asks the index how many dead letters are open, until ctx is done. While the store is away the last answer
// stands.
func (s *Sampler) CountDead(ctx context.Context, count Counter) {
	open := domain.Filter{Where: domain.Equals(domain.FieldState, string(domain.DeadOpen))}
	every(ctx, sampleEvery, func(ctx context.Context) {
		if n, err := count(ctx, domain.AllTenants(), open); err == nil {
			s.deadOpen.Store(n[domain.DeadOpen])
		}
	})
}

// Publishable is nil while the log takes records.
func (s *Sampler) Publishable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *Sampler) last(topic string) ports.Backlog {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) == 0 {
		return ports.Backlog{}
	}
	return s.samples[len(s.samples)-1].byTopic[topic]
}

// Backlog is what waits for a role, as it was last sampled.
func (s *Sampler) Backlog(role Role) ports.Backlog {
	for _, c := range s.consumed {
		if c.Role == role {
			return s.last(c.Topic)
		}
	}
	return ports.Backlog{}
}

// Pipeline is the state of everything between an upload and its row.
type Pipeline struct {
	Stages []Stage
	// Breaker is that of the process that answers; NextProbe is when an open one asks the store again.
	Breaker   string
	NextProbe time.Duration
	// Guard says that the dead-letter guard is on.
	Guard       bool
	DeadLetters []DeadTopic
	// DeadLettersOpen counts the open dead letters.
	DeadLettersOpen int64
	// SampledAt is when the figures were taken, and Stale that the log did not answer this time.
	SampledAt time.Time
	Stale     bool
}

// Stage is a topic and the role that consumes it. Rates are records a second over the last ten.
type Stage struct {
	Role    Role
	Name    string
	Topic   string
	In, Out float64
	Waiting int64
	Oldest  time.Time
	// Moved says that the rates are of a span that was long enough to tell.
	Moved bool
}

// DeadTopic is a topic of dead letters, which only the index consumes.
type DeadTopic struct {
	Topic string
	// Records counts what the topic has, and Waiting those that are not indexed yet.
	Records, Waiting int64
}

// Pipeline reads what waits anew, so that a person who has just sent something sees the truth; without an answer from
// the log the last sample has to do.
func (s *Sampler) Pipeline(ctx context.Context) Pipeline {
	ctx, cancel := context.WithTimeout(ctx, viewTimeout)
	defer cancel()
	last, err := s.read(ctx)
	breaker, next := s.store.Breaker()
	p := Pipeline{Breaker: breaker, NextProbe: next, Guard: s.store.Guard(), DeadLettersOpen: s.deadOpen.Load()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil { // what was known last, if anything, with its time
		p.Stale, last = true, sample{}
		if len(s.samples) > 0 {
			last = s.samples[len(s.samples)-1]
		}
	}
	first := last
	if len(s.samples) > 0 {
		first = s.samples[0]
	}
	p.SampledAt = last.at.UTC()
	seconds := last.at.Sub(first.at).Seconds()
	for _, c := range s.consumed {
		was, is := first.byTopic[c.Topic], last.byTopic[c.Topic]
		if c.Role == "" {
			p.DeadLetters = append(p.DeadLetters, DeadTopic{Topic: c.Topic, Records: is.End - is.Start, Waiting: is.Waiting()})
			continue
		}
		stage := Stage{
			Role: c.Role, Name: cmp.Or(c.Name, string(c.Role)), Topic: c.Topic, Waiting: is.Waiting(), Oldest: is.Oldest,
		}
		if seconds > 0 {
			stage.In, stage.Out = float64(is.End-was.End)/seconds, float64(is.Committed-was.Committed)/seconds
			stage.Moved = seconds > rateSpan.Seconds()/2
		}
		p.Stages = append(p.Stages, stage)
	}
	return p
}
