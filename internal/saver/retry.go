package saver

import (
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/docket-project/docket/internal/domain"
)

// Retry says what happens to a row that failed of its own fault.
type Retry struct {
	Topics domain.Topics
	// MaxAttempts is how often it fails before it is dead-lettered.
	MaxAttempts int
	// BackoffMin doubles with every attempt up to BackoffMax; the wait is drawn evenly from zero to that (full jitter).
	BackoffMin, BackoffMax time.Duration
}

// Again counts the attempt and addresses the record to the tail of the parking topic or, after the last one, to the
// parking DLQ.
func (p Retry) Again(r domain.Record, at time.Time, err error) (next domain.Record, last bool) {
	next = Rehome(p.Topics.Parking, r, at, err)
	next.Headers.Attempt++
	if next.Headers.Attempt >= p.MaxAttempts {
		next.Topic, next.Headers.NotBefore = p.Topics.ParkingDLQ, time.Time{}
		return next, true
	}
	next.Headers.NotBefore = at.Add(p.Backoff(next.Headers.Attempt)).UTC()
	return next, false
}

// Postpone addresses the record to the tail of the parking topic without counting an attempt: a flood is not its fault.
func (p Retry) Postpone(r domain.Record, at time.Time, err error) domain.Record {
	next := Rehome(p.Topics.Parking, r, at, err)
	next.Headers.NotBefore = p.PostponedUntil(at)
	return next
}

// PostponedUntil draws when a row that a flood has parked is tried again.
func (p Retry) PostponedUntil(at time.Time) time.Time {
	return at.Add(p.BackoffMax/2 + p.Backoff(maxDoublings)/2).UTC()
}

// maxDoublings bring any backoff to its ceiling.
const maxDoublings = 64

// Backoff draws the wait before the attempt after this one, which is counted from 1.
func (p Retry) Backoff(attempt int) time.Duration {
	// cenkalti's jitter spans (1 - f) to (1 + f) of an interval; half the ceiling with f = 1 is zero to the ceiling.
	b := backoff.NewExponentialBackOff(backoff.WithInitialInterval(p.BackoffMin/2), backoff.WithMaxInterval(p.BackoffMax/2),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(1), backoff.WithMaxElapsedTime(0))
	var d time.Duration
	for range min(max(attempt, 1), maxDoublings) {
		d = b.NextBackOff()
	}
	return d
}
