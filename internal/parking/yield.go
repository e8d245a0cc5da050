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
	// floorSpan is how long the least latency is remembered, once or twice: a store that has become slower for good is
	// measured anew.
	floorSpan = 5 * time.Minute
	// turnWait is how soon a batch asks again that had no turn, and patience how long it steps back behind fresh decisions.
	turnWait = 50 * time.Millisecond
	patience = time.Second
)

// yield decides how much of the store's time the backlog takes. Its share is a number of batches at once or, below one,
// the part of the time in which one batch is at the store. The share is halved when batches take twice as long as the
// fastest of their size did lately, and grows back in steps when they do not.
type yield struct {
	saver.Concurrency
	busy func() bool // the process's own fresh decisions leave no turn

	mu      sync.Mutex
	share   float64
	running int
	rest    time.Time // until then nothing begins
	denied  time.Time // since when a batch has stepped back
	ratio   float64   // of latency to floor, smoothed
	changed time.Time
	floors  [32]floor // by the binary order of a batch's size
}

// floor is the least latency of the last one or two spans.
type floor struct {
	since     time.Time
	last, now time.Duration // zero is unknown
}

func (f *floor) add(at time.Time, took time.Duration) time.Duration {
	if at.Sub(f.since) > floorSpan {
		f.since, f.last, f.now = at, f.now, 0
	}
	if f.now == 0 || took < f.now {
		f.now = took
	}
	if f.last == 0 {
		return f.now
	}
	return min(f.last, f.now)
}

func newYield(c saver.Concurrency, busy func() bool) *yield {
	return &yield{Concurrency: c, busy: busy, share: float64(c.Ceiling)}
}

// begin says whether a batch may go to the store, or when to ask again. After yes, end has to be called.
func (y *yield) begin(now time.Time) (again time.Time, ok bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.Adaptive {
		switch {
		case now.Before(y.rest):
			return y.rest, false
		case y.running > 0 && float64(y.running+1) > y.share:
			return now.Add(turnWait), false
		case !y.busy():
		case y.denied.IsZero():
			y.denied = now
			return now.Add(turnWait), false
		case now.Sub(y.denied) < patience:
			return now.Add(turnWait), false
		}
	}
	y.denied = time.Time{}
	y.running++
	return time.Time{}, true
}

// end says how long the store took for so many rows; rows is zero where it took nothing.
func (y *yield) end(now time.Time, rows int, took time.Duration) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.running--
	if rows == 0 || !y.Adaptive {
		return
	}
	least := y.floors[bits.Len(uint(rows))].add(now, took)
	ratio := float64(max(took, trifling)) / float64(max(least, trifling))
	if y.ratio == 0 {
		y.ratio = ratio
	}
	y.ratio += 0.3 * (ratio - y.ratio)
	if now.Sub(y.changed) >= yieldEvery {
		switch {
		case y.ratio > 2:
			y.share, y.ratio, y.changed = max(y.share/2, leastShare), 1, now
		case y.share < float64(y.Ceiling):
			y.share, y.changed = min(y.share+float64(y.Ceiling)/8, float64(y.Ceiling)), now
		}
	}
	if y.share < 1 {
		y.rest = now.Add(time.Duration(float64(took) * (1/y.share - 1)))
	}
}

// Share is the present share, for people and metrics.
func (y *yield) Share() float64 {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.share
}
