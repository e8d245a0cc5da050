package parking

import (
	"math/bits"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/saver"
)

const (
	// yieldEvery is how often the share may change.
	yieldEvery = time.Second
	// leastShare leaves the backlog a quarter of the time of one batch: it is late already, but it has to end.
	leastShare = 0.25
	// trifling is a latency that nobody else notices, however low the floor.
	trifling = 10 * time.Millisecond
	// longestRest bounds the pause behind one slow batch.
	longestRest = 5 * time.Second
	// floorSpan is how long the least latency is remembered, for one or two of it: a store that has become slower for good is
	// measured anew.
	floorSpan = 5 * time.Minute
	// turnWait is how soon a batch asks again that had no turn, and patience how long it steps back behind fresh decisions.
	turnWait = 200 * time.Millisecond
	patience = time.Second
)

// yield decides how much of the store's time the backlog takes. Its share is a number of batches at once or, below one,
// the part of the time in which one batch is at the store. The share is halved when batches take twice as long as others of
// their kind did at best lately, and grows back in steps when they do not.
type yield struct {
	saver.Concurrency
	busy func() bool // the process's own fresh decisions leave no turn

	mu      sync.Mutex
	share   float64
	running int
	rest    time.Time // until then nothing begins
	denied  time.Time // since when a batch has stepped back
	changed time.Time
	// kinds are batches of the same binary order of size with as many others of ours at the store: our own concurrency is not
	// somebody else's need.
	kinds map[[2]int]*latency
}

// latency is that of batches of one kind: smoothed, and the least that the smoothed one was in the last one or two spans. The
// least of single batches would be luck.
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

func newYield(c saver.Concurrency, busy func() bool) *yield {
	return &yield{Concurrency: c, busy: busy, share: float64(c.Ceiling), kinds: map[[2]int]*latency{}}
}

// begin says whether a batch may go to the store, as the how manieth, or when to ask again. After yes, end has to be called.
func (y *yield) begin(now time.Time) (nth int, again time.Time) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.Adaptive {
		switch {
		case now.Before(y.rest):
			return 0, y.rest
		case y.running > 0 && float64(y.running+1) > y.share:
			return 0, now.Add(turnWait)
		case !y.busy():
		case y.denied.IsZero():
			y.denied = now
			return 0, now.Add(turnWait)
		case now.Sub(y.denied) < patience:
			return 0, now.Add(turnWait)
		}
	}
	y.denied = time.Time{}
	y.running++
	return y.running, time.Time{}
}

// end says how long the store took for so many rows of the nth batch; rows is zero where it took nothing.
func (y *yield) end(now time.Time, nth, rows int, took time.Duration) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.running--
	if rows == 0 || !y.Adaptive {
		return
	}
	kind := [2]int{max(nth, y.running+1), bits.Len(uint(rows))}
	if y.kinds[kind] == nil {
		y.kinds[kind] = &latency{}
	}
	ratio := y.kinds[kind].add(now, took)
	if now.Sub(y.changed) >= yieldEvery {
		switch {
		case ratio > 2:
			y.share, y.changed = max(y.share/2, leastShare), now
		case y.share < float64(y.Ceiling):
			y.share, y.changed = min(y.share+float64(y.Ceiling)/8, float64(y.Ceiling)), now
		}
	}
	if y.share < 1 {
		y.rest = now.Add(min(time.Duration(float64(took)*(1/y.share-1)), longestRest))
	}
}

// Share is the present share, for people and metrics.
func (y *yield) Share() float64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.share
}
