//go:build race

package parking_test

import "time"

// outage is shorter under the race detector, where SQLite takes ten times as long.
const outage = time.Hour
