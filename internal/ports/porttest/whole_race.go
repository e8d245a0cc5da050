//go:build race

package porttest

import "time"

// Under the race detector, less of it; see the other file.
const (
	chances     = 25
	madeUpTurns = 1
	madeUpPaths = 1500
)

var searchTimes = []time.Duration{time.Nanosecond, time.Millisecond}
