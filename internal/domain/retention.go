package domain

import "time"

// LeastRetention is the shortest that an operator may ask for.
const LeastRetention = 24 * time.Hour

// RetentionState is what the store itself knows about what it keeps.
type RetentionState struct {
	// InForce is how long decisions are kept, whatever a process was configured with; 0 where nobody has said so yet.
	InForce time.Duration
	// Now is the store's own clock.
	Now time.Time
}

// Past reports that a day is wholly past a retention.
func (d Day) Past(retention time.Duration, now time.Time) bool {
	return !d.End().After(now.Add(-retention))
}

// MayGo reports that a day may ever be dropped: neither today nor yesterday, nor anything that is still to come.
func (d Day) MayGo(now time.Time) bool { return d < DayOf(now)-1 }
