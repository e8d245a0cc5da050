package domain

import "time"

// Loss is offsets of one partition of the log whose records are gone, and of which the group may not have done all:
// what they were, nobody can tell any more. A loss that is found again is the same.
type Loss struct {
	// At is when it was found last, or given up.
	At time.Time
	// Caller is who gave it up, and empty where docket has found it.
	Caller    string
	Group     string // empty where the log as such has lost them
	Topic     string
	Partition int32
	// First and Last bound it. Where Last is in front of First, nobody knows how many they were.
	First, Last int64
}

// Records counts the range, and is 1 where it is not known.
func (l Loss) Records() int64 { return max(l.Last-l.First+1, 1) }
