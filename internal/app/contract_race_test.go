//go:build race

package app

// The caps of the upload contract's test are lower under the race detector, where SQLite and gzip take ten times as long:
// an upload is answered within 8 s.
const (
	contractEvents   = 5_000
	contractInflated = 24 << 20
)
