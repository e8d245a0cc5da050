// Package tail shows decisions as they are acknowledged: it reads the log, once for all who look, whatever the store
// does. It leaves queries to search and streams to its callers, and keeps nothing for who is not there.
package tail

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/sync/errgroup"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/search"
)

const (
	// maxWaiting is how many bytes of decisions wait for who looks at most. Who is slower misses the others.
	maxWaiting = 1 << 20
	// beginWithin is how long the first one to look waits for the log.
	beginWithin = 5 * time.Second
	// A log that cannot be followed is tried again.
	retryFirst = 200 * time.Millisecond
	retryLast  = 5 * time.Second
)

// Log is what a tail asks of the log.
type Log interface {
	Follow(ctx context.Context, topic string, begun func(), visit func([]domain.Record)) error
}

// Tail is what many look at. It follows the log while somebody looks. It is safe for concurrent use.
type Tail struct {
	log     Log
	topic   string
	project func(domain.Record) domain.Decision
	logger  *slog.Logger

	mu    sync.Mutex
	looks map[*Look]struct{}
	// stop ends the reader, and ended is closed behind it; nil while nobody looks. begun is closed once it follows.
	stop         context.CancelFunc
	begun, ended chan struct{}
}

// New makes the tail of a topic of decisions.
func New(log Log, topic string, project func(domain.Record) domain.Decision, logger *slog.Logger) *Tail {
	return &Tail{log: log, topic: topic, project: project, logger: logger, looks: map[*Look]struct{}{}}
}

// Look is one who looks.
type Look struct {
	tail   *Tail
	scope  domain.Scope
	fits   *search.Matcher
	events bool
	// More has room for one: something is sent there once there is something to take.
	More chan struct{}

	mu      sync.Mutex
	waiting []domain.Decision
	weight  int
	lagged  bool
	missed  int
}

// Look begins to look at what fits, from now on: what is acknowledged after it has returned is shown. Decisions have
// their events where these are wanted. Close ends it. The error is Unavailable where the log does not answer.
func (t *Tail) Look(ctx context.Context, scope domain.Scope, where domain.Expr, events bool) (*Look, error) {
	l := &Look{
		tail: t, scope: scope, fits: search.NewMatcher(where), events: events, More: make(chan struct{}, 1),
	}
	t.mu.Lock()
	t.looks[l] = struct{}{}
	if t.stop == nil {
		t.begin()
	}
	begun := t.begun
	t.mu.Unlock()
	timer := time.NewTimer(beginWithin)
	defer timer.Stop()
	select {
	case <-begun:
		return l, nil
	case <-timer.C:
		l.Close()
		return nil, domain.Errorf(domain.Unavailable, "the log does not answer, so that nothing can be followed; try again")
	case <-ctx.Done():
		l.Close()
		return nil, ctx.Err()
	}
}

// Close ends it, and the reader with the last one.
func (l *Look) Close() {
	t := l.tail
	t.mu.Lock()
	delete(t.looks, l)
	var ended chan struct{}
	if len(t.looks) == 0 && t.stop != nil {
		t.stop()
		t.stop, ended = nil, t.ended
	}
	t.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// Take returns what has come since the last time, in the order of the log. lagged says that something was left out:
// missed decisions or, where that is 0, nobody knows how many.
func (l *Look) Take() (decisions []domain.Decision, lagged bool, missed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	decisions, lagged, missed = l.waiting, l.lagged, l.missed
	l.waiting, l.weight, l.lagged, l.missed = nil, 0, false, 0
	return decisions, lagged, missed
}

// begin starts the reader. The caller holds t.mu.
func (t *Tail) begin() {
	ctx, stop := context.WithCancel(context.Background())
	t.stop, t.begun, t.ended = stop, make(chan struct{}), make(chan struct{})
	go t.follow(ctx, t.begun, t.ended)
}

// follow reads the log until ctx is done. After a pause nobody knows what was written meanwhile.
func (t *Tail) follow(ctx context.Context, begun, ended chan struct{}) {
	defer close(ended)
	retry := backoff.NewExponentialBackOff(backoff.WithInitialInterval(retryFirst),
		backoff.WithMaxInterval(retryLast), backoff.WithMaxElapsedTime(0))
	began := false
	for {
		err := t.log.Follow(ctx, t.topic, func() {
			retry.Reset()
			if began {
				for _, l := range t.looking() {
					l.lag(0)
				}
				return
			}
			began = true
			close(begun)
		}, t.show)
		if ctx.Err() != nil {
			return
		}
		wait := retry.NextBackOff()
		t.logger.Warn("the log cannot be followed; trying again", "topic", t.topic, "after", wait, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// looking are those who look at the moment.
func (t *Tail) looking() []*Look {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.looks))
}

// show hands records to those whose query they fit. A record is projected once for all. Who looks is judged beside the
// others: a hundred queries take a hundred times as long, and the log goes on.
func (t *Tail) show(batch []domain.Record) {
	shown := make([]func() *shownDecision, len(batch))
	for i, r := range batch {
		shown[i] = sync.OnceValue(func() *shownDecision {
			d := t.project(r)
			// The record's bytes are a part of the whole upload's.
			return &shownDecision{d, sync.OnceValue(func() []byte { return bytes.Clone(d.Event) })}
		})
	}
	var judging errgroup.Group
	judging.SetLimit(runtime.GOMAXPROCS(0))
	for _, l := range t.looking() {
		judging.Go(func() error {
			for i, r := range batch {
				if !l.scope.Includes(r.Headers.Owner()) {
					continue
				}
				s := shown[i]()
				if !l.fits.Fits(&s.Decision) {
					continue
				}
				var event []byte
				if l.events {
					event = s.event()
				}
				l.add(s.Decision, event)
			}
			return nil
		})
	}
	_ = judging.Wait() // nothing fails
}

// shownDecision is a decision with bytes of its own for those who want them.
type shownDecision struct {
	domain.Decision
	event func() []byte
}

// add has a decision wait, with these bytes as its event, if there is room for it. One alone has
// room.
func (l *Look) add(d domain.Decision, event []byte) {
	d.Event = event
	weight := d.Weight() + len(d.Event)
	l.mu.Lock()
	full := len(l.waiting) > 0 && l.weight+weight > maxWaiting
	if !full {
		l.waiting, l.weight = append(l.waiting, d), l.weight+weight
	}
	l.mu.Unlock()
	if full {
		l.lag(1)
		return
	}
	l.wake()
}

// lag notes that so many were left out; 0 is nobody knows how many.
func (l *Look) lag(missed int) {
	l.mu.Lock()
	l.lagged = true
	l.missed += missed
	l.mu.Unlock()
	l.wake()
}

func (l *Look) wake() {
	select {
	case l.More <- struct{}{}:
	default:
	}
}
