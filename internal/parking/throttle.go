package parking

import (
	"math/bits"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/sink"
)

const (
	// throttleEvery is how often the share may change.
	throttleEvery = time.Second
	// leastShare leaves the backlog a quarter of the time of one batch: it is late already, but it has to end.
	leastShare = 0.25
	// trifling is a latency that does not matter, however low the floor.
	trifling = 10 * time.Millisecond
	// longestRest bounds the pause behind one slow batch.
	longestRest = 5 * time.Second
	// floorSpan is how long the least latency is remembered, for one or two of it: a store that has become slower for good
	// is measured anew.
	floorSpan = 5 * time.Minute
	// turnWait is how soon a batch asks again that had no turn, and patience how long it steps back behind fresh
	// decisions.
	turnWait = 200 * time.Millisecond
	patience = time.Second
)

// throttle decides how much of the store's time the backlog takes. Its share is a number of batches at once or, below
// one, the part of the time in which one batch is at the store. The share is halved when batches take twice as long as
// others of their kind did at best lately, and grows back in steps when they do not.
type throttle struct {
	sink.Concurrency
	busy func() bool // the process's own fresh decisions leave no turn

	mu      sync.Mutex
	share   float64
	running int
	rest    time.Time // until then nothing begins
	denied  time.Time // since when a batch has stepped back
	changed time.Time
	// kinds are batches of the same binary order of size, with as many others of the backlog's at the store: the backlog's
	// own concurrency is no reason to throttle it.
	kinds map[[2]int]*latency
}

// latency is that of batches of one kind: smoothed, and the least that the smoothed one was in the last one or two
// spans. The least of single batches would be luck.
type latency struct {
	smooth       time.Duration
	since        time.Time
	last, recent time.Duration // zero is unknown
}

// add returns how many times the floor the latency is now.
func (l *latency) add(at time.Time, took time.Duration) float64 {
	took = max(took, trifling)
	if l.smooth == 0 {
		l.smooth = took
	}
	l.smooth += (took - l.smooth) / 5
	if at.Sub(l.since) > floorSpan {
		l.since, l.last, l.recent = at, l.recent, 0
	}
	if l.recent == 0 || l.smooth < l.recent {
		l.recent = l.smooth
	}
	least := l.recent
	if l.last > 0 {
		least = min(least, l.last)
	}
	return float64(l.smooth) / float64(least)
}

func newThrottle(c sink.Concurrency, busy func() bool) *throttle {
	return &throttle{Concurrency: c, busy: busy, share: float64(c.Ceiling), kinds: map[[2]int]*latency{}}
}

// begin says whether a batch may go to the store, and which of those at once it is, counted from 1, or when to
// ask again. After a turn, end has to be called.
func (t *throttle) begin(now time.Time) (nth int, again time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Adaptive {
		switch {
		case now.Before(t.rest):
			return 0, t.rest
		case t.running > 0 && float64(t.running+1) > t.share:
			return 0, now.Add(turnWait)
		case !t.busy():
		case t.denied.IsZero():
			t.denied = now
			return 0, now.Add(turnWait)
		case now.Sub(t.denied) < patience:
			return 0, now.Add(turnWait)
		}
	}
	t.denied = time.Time{}
	t.running++
	return t.running, time.Time{}
}

// end says how long the store took for so many rows of the nth batch; rows is zero where it took nothing.
func (t *throttle) end(now time.Time, nth, rows int, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if rows == 0 || !t.Adaptive {
		return
	}
	kind := [2]int{max(nth, t.running+1), bits.Len(uint(rows))}
	if t.kinds[kind] == nil {
		t.kinds[kind] = &latency{}
	}
	ratio := t.kinds[kind].add(now, took)
	if now.Sub(t.changed) >= throttleEvery {
		switch {
		case ratio > 2:
			t.share, t.changed = max(t.share/2, leastShare), now
		case t.share < float64(t.Ceiling):
			t.share, t.changed = min(t.share+float64(t.Ceiling)/8, float64(t.Ceiling)), now
		}
	}
	if t.share < 1 {
		t.rest = now.Add(min(time.Duration(float64(took)*(1/t.share-1)), longestRest))
	}
}

// Share is the present share, for people and metrics.
func (t *throttle) Share() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.share
}
