package domain

import (
	"crypto/sha256"
	"strings"
	"time"
	"unicode/utf8"
)

// DefaultTenant owns what is uploaded without a token.
const DefaultTenant = "default"

// SystemTenant is that of docket's own decisions, which nobody uploads.
const SystemTenant = "docket-system"

// Outcome is what a decision amounts to for the person who asks. A denial is not an error, and undefined is not a
// denial: OPA leaves "result" out where no rule gave one.
type Outcome string

// The outcomes, in the order in which they are decided; Allowed and Denied come from a mapping or from the default.
const (
	OutcomeError     Outcome = "error"
	OutcomeUndefined Outcome = "undefined"
	OutcomeAllowed   Outcome = "allowed"
	OutcomeDenied    Outcome = "denied"
	OutcomeUnknown   Outcome = "unknown"
)

// Outcomes lists every outcome.
var Outcomes = []Outcome{OutcomeAllowed, OutcomeDenied, OutcomeUndefined, OutcomeError, OutcomeUnknown}

// Decision is one row: an event's exact bytes and what was projected from them. A text field that is "" is absent.
type Decision struct {
	// Tenant, ID and Timestamp are the key. Timestamp is the event's own, truncated to microseconds in UTC; it is
	// zero where the event has none that can be read, and the decision is then kept by ReceivedAt.
	Tenant    string
	ID        string
	Timestamp time.Time
	// ReceivedAt is when ingest read the upload, and SavedAt when the store took the row (set by the store).
	ReceivedAt time.Time
	SavedAt    time.Time
	// LoggedAt is when the log took the decision in its first home. Where it belongs goes by that, so that every delivery
	// of it ends in one place, whatever the clocks of the processes say. It is not kept.
	LoggedAt time.Time `json:"-"`
	// Redacted says that a policy masked the event, so that another delivery of it may have other bytes: a rule or a key
	// has changed since. It is not kept.
	Redacted bool `json:"-"`
	// What people search by, each at most 512 bytes.
	Path        string
	Outcome     Outcome
	Reason      string
	Principal   string
	Action      string
	Resource    string
	OPA         string
	App         string
	TraceID     string
	BatchID     string // of the decisions that were asked for at once
	RequestedBy string
	Error       string
	Bundles     []Bundle
	// Masked names those of Reason, Principal, Action and Resource that a mask of OPA's replaced, parted by ", ".
	Masked string
	// Sanitised says that a projected text was altered: cut, or rid of NUL or of lone surrogates.
	Sanitised bool
	// Unsearchable says that a string inside the event cannot be de-escaped by a database, so that JSON terms of a
	// search must skip the row.
	Unsearchable bool
	// Event is the event exactly as sent, and SHA256 its hash.
	Event  []byte
	SHA256 [sha256.Size]byte
}

// ChangedColumns names the projected columns that another projection of the same event has otherwise.
func (d *Decision) ChangedColumns(other *Decision) (names []string) {
	if d.Outcome != other.Outcome {
		names = append(names, string(FieldOutcome))
	}
	for _, c := range TextColumns {
		if *c.Of(d) != *c.Of(other) {
			names = append(names, c.Name)
		}
	}
	if EncodeBundles(d.Bundles) != EncodeBundles(other.Bundles) {
		names = append(names, "bundles")
	}
	if d.Sanitised != other.Sanitised || d.Unsearchable != other.Unsearchable {
		names = append(names, "marks")
	}
	return names
}

// MaxPageBytes bounds what a page of decisions weighs; see Decision.Weight. It ends early where they are heavy.
const MaxPageBytes = 8 << 20

// Weight is about how much memory the columns take, without the event.
func (d *Decision) Weight() int {
	n := 512 + len(d.ID) + len(d.Path) + len(d.Reason) + len(d.Principal) + len(d.Action) + len(d.Resource) + len(d.OPA) +
		len(d.App) + len(d.TraceID) + len(d.BatchID) + len(d.RequestedBy) + len(d.Error)
	for _, b := range d.Bundles {
		n += 64 + len(b.Name) + len(b.Revision)
	}
	return n
}

// Logged is when the decision was logged, or now where that is not known.
func (d *Decision) Logged(now time.Time) time.Time {
	if d.LoggedAt.IsZero() {
		return now
	}
	return d.LoggedAt
}

// Time is what decisions are ordered by: the timestamp, or the time of receipt where there is none.
func (d *Decision) Time() time.Time {
	if d.Timestamp.IsZero() {
		return d.ReceivedAt
	}
	return d.Timestamp
}

// SaveStatus is what became of a record at the saver or the parking role. It is also a metric label.
type SaveStatus string

// The save statuses. The store decides the first five; SaveBatch returns no other.
const (
	// Saved is a new row.
	Saved SaveStatus = "saved"
	// Duplicate is a row that was there already, with the same bytes.
	Duplicate SaveStatus = "duplicate"
	// Conflicting is a row whose key is taken by other bytes. Nothing was written.
	Conflicting SaveStatus = "conflict"
	// TooOld is a row older than the window. Nothing was written.
	TooOld SaveStatus = "expired"
	// Skipped is a row that the store, without an error, neither wrote nor has: a trigger or a rule of somebody's does
	// that. It is no end: the row is tried again alone, and is rejected if that is skipped as well.
	Skipped SaveStatus = "skipped"
	// Erased is a record that an operator ordered not to be kept. Nothing was written.
	Erased SaveStatus = "erased"
	// Parked is a record that went to the parking topic.
	Parked SaveStatus = "parked"
	// Held is a record that went to the topic of held ones.
	Held SaveStatus = "held"
	// Dead is a record that went to a dead-letter topic.
	Dead SaveStatus = "dead"
)

// SaveStatuses lists every save status that is an end.
var SaveStatuses = []SaveStatus{Saved, Duplicate, Conflicting, TooOld, Erased, Parked, Held, Dead}

// Window is the span of timestamps that the store keeps by day.
type Window struct {
	// Retention is how far back it reaches.
	Retention time.Duration
	// Ahead is how far it reaches into the future, for clocks that are fast.
	Ahead time.Duration
}

// DefaultAhead is how far in the future a timestamp may lie and still be believed.
const DefaultAhead = 24 * time.Hour

// Placement is where a decision belongs.
type Placement int

// Where a decision belongs: by its own timestamp, by its receipt, or nowhere.
const (
	Inside Placement = iota
	Outside
	BeforeWindow
)

// Classify says where a decision with this timestamp belongs that was logged at a time.
func (w Window) Classify(timestamp, logged time.Time) Placement {
	switch {
	case timestamp.IsZero() || timestamp.After(logged.Add(w.Ahead)):
		return Outside
	case timestamp.Before(logged.Add(-w.Retention)):
		return BeforeWindow
	default:
		return Inside
	}
}

// maxText is the longest projected text, in bytes.
const maxText = 512

// cleanText replaces NUL and invalid UTF-8 by U+FFFD and cuts s to limit bytes on a rune border.
func cleanText(s string, limit int) (clean string, altered bool) {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
		altered = true
	}
	if len(s) <= limit {
		return s, altered
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit], true
}

// readableYear keeps what every store and RFC 3339 can spell.
func readableYear(t time.Time) bool {
	y := t.UTC().Year()
	return y >= 1 && y <= 9999
}

// Name makes a text of somebody else's fit to be a name in the store: at most 512 bytes, without NUL.
func Name(s string) string {
	clean, _ := cleanText(s, maxText)
	return clean
}
