package domain

import "time"

// Observation is what ingest has seen of one OPA since it last reported: a change, to be added to what is known.
type Observation struct {
	// Tenant and OPA name it; OPA is its labels.id, or "" where uploads bring none.
	Tenant string
	OPA    string
	// Version is the newest labels.version.
	Version string
	// First and Last are when its uploads were received; zero where only a status came.
	First, Last time.Time
	// Uploads and Events count what was acknowledged.
	Uploads, Events int64
	// Status is the newest body of POST /status, exactly as sent (inflated), or nil; StatusAt is when it came.
	Status   []byte
	StatusAt time.Time
}

// Merge adds a later observation of the same OPA.
func (s *Observation) Merge(later Observation) {
	if later.Version != "" {
		s.Version = later.Version
	}
	if s.First.IsZero() || !later.First.IsZero() && later.First.Before(s.First) {
		s.First = later.First
	}
	if later.Last.After(s.Last) {
		s.Last = later.Last
	}
	s.Uploads += later.Uploads
	s.Events += later.Events
	if later.StatusAt.After(s.StatusAt) {
		s.Status, s.StatusAt = later.Status, later.StatusAt
	}
}

// OPA is what is known of one OPA.
type OPA struct {
	Observation
	// Interval is the usual time between two uploads, recent ones weighing more; zero until there were two.
	Interval time.Duration
}

// SlowInterval is where OPA's own defaults begin (min_delay_seconds 300, max_delay_seconds 600): an OPA that uploads
// this rarely most likely runs with them.
const SlowInterval = 2 * time.Minute

// Slow reports whether the OPA seems to run with its default upload delays.
func (o OPA) Slow() bool { return o.Interval >= SlowInterval }
