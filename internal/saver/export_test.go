package saver

import "time"

// SetClock is for tests.
func (f *Flood) SetClock(now func() time.Time) { f.now = now }
