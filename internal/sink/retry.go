package sink

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Retry says how often, and when, a row is tried again that failed of its own fault.
type Retry struct {
	// MaxAttempts is how often it fails before it is dead-lettered.
	MaxAttempts int
	// BackoffMin doubles with every attempt up to BackoffMax; the wait is drawn evenly from zero to that (full jitter).
	BackoffMin, BackoffMax time.Duration
}

// maxDoublings bring any backoff to its ceiling.
const maxDoublings = 64

// Backoff draws the wait before the attempt after this one, which is counted from 1.
func (p Retry) Backoff(attempt int) time.Duration {
	// cenkalti's jitter spans (1 - f) to (1 + f) of an interval; half the ceiling with f = 1 is zero to the ceiling.
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(p.BackoffMin/2), backoff.WithMaxInterval(p.BackoffMax/2), backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(1), backoff.WithMaxElapsedTime(0),
	)
	var d time.Duration
	for range min(max(attempt, 1), maxDoublings) {
		d = b.NextBackOff()
	}
	return d
}
