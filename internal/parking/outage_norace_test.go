//go:build !race

package parking_test

import "time"

const outage = 6 * time.Hour
