//go:build !race

package porttest

import "time"

// How much of what a suite could try by chance it tries. The race detector makes a search take ten times as long, and
// finds nothing in the hundredth that it has not found in the tenth.
const (
	chances     = 250
	madeUpTurns = 4
	madeUpPaths = 2500
)

var searchTimes = []time.Duration{time.Nanosecond, 100 * time.Microsecond, time.Millisecond, 3 * time.Millisecond}
