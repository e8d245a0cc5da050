package kafka

import (
	"fmt"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// clockTolerance is how far the brokers' clocks may be from docket's. What is kept, and where a decision is placed,
	// goes by theirs.
	clockTolerance = time.Minute
	// clockMemory is how long a difference is remembered that is not met again.
	clockMemory = 3 * time.Minute
)

// clocks compares the brokers' clocks with docket's, by the records that are consumed.
type clocks struct {
	mu   sync.Mutex
	off  time.Duration // the brokers' clock is ahead by it
	seen time.Time
}

// look compares the time that a broker gave a fresh decision with docket's: it is not later than now, and hardly
// earlier than its receipt.
func (c *clocks) look(r domain.Record, now time.Time) {
	off := r.WrittenAt.Sub(now)
	if off <= clockTolerance {
		if off = r.WrittenAt.Sub(r.Headers.ReceivedAt); r.Headers.ReceivedAt.IsZero() || off >= -clockTolerance {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off, c.seen = off, now
}

// weakness says how far the clocks are apart, if that was seen lately.
func (c *clocks) weakness(now time.Time) []Weakness {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen.IsZero() || now.Sub(c.seen) > clockMemory {
		return nil
	}
	how := "ahead of"
	if c.off < 0 {
		how = "behind"
	}
	return []Weakness{{Text: fmt.Sprintf(
		"a broker's clock is %s %s docket's, and it decides how long a record is kept: synchronise both",
		c.off.Abs().Round(time.Minute), how,
	)}}
}
