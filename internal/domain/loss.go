package domain

import "time"

// Loss is records of one partition of the log that are gone before their group had done them: what they were, nobody
// can tell any more. A loss that is found again is the same.
type Loss struct {
	// At is when it was found, or given up.
	At time.Time
	// Caller is who gave it up, or LossFound.
	Caller    string
	Group     string // "" is not one of the groups: the log as such has lost them
	Topic     string
	Partition int32
	// First and Last bound it. Where Last is in front of First, nobody knows how many it were.
	First, Last int64
}

// LossFound is the caller of losses that docket itself has found.
const LossFound = "docket"

// Records counts the range, and is 1 where it is not known.
func (l Loss) Records() int64 { return max(l.Last-l.First+1, 1) }
