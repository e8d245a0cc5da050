package app

import "time"

// How long a test waits for something that has to happen, and how often it looks.
const (
	testPatience = 30 * time.Second
	testTick     = 20 * time.Millisecond
)
