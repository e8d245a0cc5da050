package parking

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/sink"
)

func newTestThrottle(busy *bool) (*throttle, *time.Time) {
	now := time.Unix(1e9, 0)
	return newThrottle(sink.Concurrency{Ceiling: 2, Adaptive: true}, func() bool { return *busy }), &now
}

// batches lets batches of a size follow each other, each taking so long, and returns how many there were.
func (y *throttle) batches(t *testing.T, now *time.Time, rows int, took, during time.Duration) (n int) {
	t.Helper()
	for end := now.Add(during); now.Before(end); {
		nth, again := y.begin(*now)
		if nth == 0 {
			require.True(t, again.After(*now), "a batch that has no turn is told when to ask again")
			*now = again
			continue
		}
		*now = now.Add(took)
		y.end(*now, nth, rows, took)
		n++
	}
	return n
}

func TestThrottleHalvesAndGrowsBack(t *testing.T) {
	var busy bool
	y, now := newTestThrottle(&busy)
	y.batches(t, now, 1000, 40*time.Millisecond, 5*time.Second)
	require.EqualValues(t, 2, y.Share(), "nothing disturbs it")
	y.batches(t, now, 1000, 70*time.Millisecond, 5*time.Second)
	require.EqualValues(t, 2, y.Share(), "less than twice the floor")
	y.batches(t, now, 1000, 200*time.Millisecond, 2*time.Second)
	require.LessOrEqual(t, y.Share(), 1.0)
	y.batches(t, now, 1000, 200*time.Millisecond, 20*time.Second)
	require.Equal(t, leastShare, y.Share(), "and no further: the backlog has to end")
	slow := y.batches(t, now, 1000, 200*time.Millisecond, 10*time.Second)
	require.InDelta(t, 10/0.8, float64(slow), 2, "a quarter of the time")
	y.batches(t, now, 1000, 40*time.Millisecond, 10*time.Second)
	require.EqualValues(t, 2, y.Share(), "back within ten seconds")
}

// TestThrottleComparesBatchesOfASize has small batches among large ones, which are faster without the store being so.
func TestThrottleComparesBatchesOfASize(t *testing.T) {
	var busy bool
	y, now := newTestThrottle(&busy)
	for range 20 {
		y.batches(t, now, 3, 12*time.Millisecond, time.Second)
		y.batches(t, now, 1000, 100*time.Millisecond, time.Second)
	}
	require.EqualValues(t, 2, y.Share())
}

// TestThrottleToAStoreThatIsSlowForGood does not for ever.
func TestThrottleToAStoreThatIsSlowForGood(t *testing.T) {
	var busy bool
	y, now := newTestThrottle(&busy)
	y.batches(t, now, 1000, 20*time.Millisecond, 5*time.Second)
	y.batches(t, now, 1000, 200*time.Millisecond, time.Minute)
	require.Equal(t, leastShare, y.Share())
	y.batches(t, now, 1000, 200*time.Millisecond, 2*floorSpan+10*time.Second)
	require.EqualValues(t, 2, y.Share())
}

func TestThrottleConcurrency(t *testing.T) {
	var busy bool
	y, now := newTestThrottle(&busy)
	for want := range 2 {
		nth, _ := y.begin(*now)
		require.Equal(t, want+1, nth)
	}
	nth, _ := y.begin(*now)
	require.Zero(t, nth, "two at once are the ceiling")
	y.end(*now, 1, 0, time.Second)
	nth, _ = y.begin(*now)
	require.Equal(t, 2, nth)
	require.EqualValues(t, 2, y.Share(), "a batch that the store did not take says nothing about its speed")
}

// TestThrottleIsNotToItself has two batches of its own at once, which take twice as long as one.
func TestThrottleIsNotToItself(t *testing.T) {
	var busy bool
	y, now := newTestThrottle(&busy)
	y.batches(t, now, 1000, 30*time.Millisecond, 5*time.Second)
	for range 100 {
		first, _ := y.begin(*now)
		second, _ := y.begin(*now)
		*now = now.Add(70 * time.Millisecond)
		y.end(*now, first, 1000, 70*time.Millisecond)
		y.end(*now, second, 1000, 70*time.Millisecond)
	}
	require.EqualValues(t, 2, y.Share())
}

func TestThrottleToFreshDecisions(t *testing.T) {
	busy := true
	y, now := newTestThrottle(&busy)
	start := *now
	n := y.batches(t, now, 1000, 10*time.Millisecond, 10*time.Second)
	require.InDelta(t, 10, n, 2, "one batch a second, however busy the store is")
	require.GreaterOrEqual(t, now.Sub(start), 10*time.Second)
	busy = false
	require.Greater(t, y.batches(t, now, 1000, 10*time.Millisecond, time.Second), 90)
}

func TestThrottleSwitchedOff(t *testing.T) {
	busy := true
	y := newThrottle(sink.Concurrency{Ceiling: 2}, func() bool { return busy })
	now := time.Unix(1e9, 0)
	y.batches(t, &now, 1000, time.Millisecond, time.Second)
	require.Greater(t, y.batches(t, &now, 1000, time.Second, 30*time.Second), 28)
	require.EqualValues(t, 2, y.Share())
}
