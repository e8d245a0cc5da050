package domain

import "time"

// Process is one of docket's processes, as it tells the others of itself.
type Process struct {
	// Name tells it from all others, and Role is what it does: serve, ingest, saver, parking or console.
	Name, Role, Host string
	Started          time.Time
	// Seen is when it last told, by the store's clock, and Age how long ago that was.
	Seen time.Time
	Age  time.Duration
	// Ready says that it does its work, and Trouble, by role, what is not well.
	Ready   bool
	Trouble map[string][]Message
}

// ProcessStale is when a process counts as gone that has not told of itself: it does so every few seconds.
const ProcessStale = 20 * time.Second

// Live reports that the process has told of itself lately.
func (p Process) Live() bool { return p.Age <= ProcessStale }
