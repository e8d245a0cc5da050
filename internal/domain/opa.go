package domain

import "time"

// MaxOPAs bounds the OPAs of a tenant that are told apart. What an OPA calls itself is its own word: ids that were made
// up must not grow what is kept, nor cost an upload anything.
const MaxOPAs = 10_000

// Labels are what an OPA says of itself, in events and in status reports. It is its own word.
type Labels struct{ ID, Version, App string }

// ReadLabels reads the JSON value of "labels" as the columns opa and app are read: where a key repeats the last one
// stands, and what is no text is absent.
func ReadLabels(labels []byte) Labels {
	return Labels{ID: LabelID(labels), Version: label(labels, "version"), App: label(labels, "app")}
}

// LabelID is the ID of ReadLabels.
func LabelID(labels []byte) string { return label(labels, "id") }

func label(labels []byte, key string) string {
	var c capture
	return c.spell(ValueAt(labels, []string{key}))
}

// OtherOPAs is the line of those that are not told apart.
const OtherOPAs = "(others)"

// FoldOPAs makes one observation of those that there is no room for; known says of which OPAs there is a line already.
// The observations are of one tenant.
func FoldOPAs(observations []Observation, known func(opa string) bool, room int) []Observation {
	others := Observation{OPA: OtherOPAs}
	out := make([]Observation, 0, len(observations)+1)
	for _, o := range observations {
		switch {
		case o.OPA == OtherOPAs:
			others.Tenant = o.Tenant
			others.Merge(o)
		case known(o.OPA):
			out = append(out, o)
		case room > 0:
			room--
			out = append(out, o)
		default:
			o.Version, o.App, o.Status, o.StatusAt = "", "", nil, time.Time{}
			others.Tenant = o.Tenant
			others.Merge(o)
		}
	}
	if others.Uploads+others.Events > 0 {
		out = append(out, others)
	}
	return out
}

// Observation is what ingest has seen of one OPA since it last reported: a change, to be added to what is known.
type Observation struct {
	// Tenant and OPA name it; OPA is its labels.id, or "" where uploads bring none.
	Tenant string
	OPA    string
	// Version is the newest labels.version, and App the newest labels.app.
	Version, App string
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
	if later.App != "" {
		s.App = later.App
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

// MaxStatuses bounds the statuses of a list, in bytes: the OPAs behind have StatusAt only.
const MaxStatuses = 6 << 20

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

// OPAState says whether an OPA is still there.
type OPAState string

// The states of OPAs.
const (
	OPALive OPAState = "live"
	// OPASilent is one of which nothing was heard for longer than it usually takes.
	OPASilent OPAState = "silent"
	// OPAGone is one of which nothing was heard for a day: pods come and go, and each has an id of its own.
	OPAGone OPAState = "gone"
)

// When an OPA is silent, and gone: it may miss two uploads, and has a quarter of an hour in any case.
const (
	OPAPatience   = 15 * time.Minute
	OPAIntervals  = 3
	OPAGoneBehind = 24 * time.Hour
)

// State is the OPA's at a time.
func (o OPA) State(now time.Time) OPAState {
	seen := o.Last
	if o.StatusAt.After(seen) {
		seen = o.StatusAt
	}
	switch quiet := now.Sub(seen); {
	case quiet <= max(OPAIntervals*o.Interval, OPAPatience):
		return OPALive
	case quiet <= OPAGoneBehind:
		return OPASilent
	}
	return OPAGone
}

// OPAGroup counts the OPAs of an application.
type OPAGroup struct {
	Tenant, App        string
	Live, Silent, Gone int64
}
