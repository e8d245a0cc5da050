package domain

import "fmt"

// Reason says why bytes of an upload were put aside instead of being accepted as a decision. The texts are a contract:
// they stand in the upload's answer, in the docket-reason header and in the dead-letter index.
type Reason string

// Reasons of one element: the rest of the batch is accepted.
const (
	// NotObject is an array element that is no JSON object.
	NotObject Reason = "not_object"
	// InvalidUTF8 is an element with bytes that are not UTF-8 (RFC 8259 section 8.1).
	InvalidUTF8 Reason = "invalid_utf8"
	// TooDeep is an element nested beyond Limits.Depth.
	TooDeep Reason = "too_deep"
	// EventTooLarge is an element longer than Limits.Event.
	EventTooLarge Reason = "event_too_large"
)

// Reasons of a body: its elements before that point are accepted, and the body is put aside once.
const (
	// BadGzip is a body that is not gzip or whose checksum does not fit (RFC 1952).
	BadGzip Reason = "bad_gzip"
	// Truncated is a body that ends too early.
	Truncated Reason = "truncated"
	// BrokenJSON is a syntax error (RFC 8259).
	BrokenJSON Reason = "broken_json"
	// NotArray is a body that is JSON but no array.
	NotArray Reason = "not_array"
	// TrailingBytes is anything but white space behind the array.
	TrailingBytes Reason = "trailing_bytes"
	// BodyTooLarge is a body that inflates beyond Limits.Inflated.
	BodyTooLarge Reason = "body_too_large"
	// TooManyEvents is an array with more elements than Limits.Events.
	TooManyEvents Reason = "too_many_events"
)

// Reasons a whole decision is dead-lettered by the saver.
const (
	// Expired is a decision older than the retention window when it reached the store.
	Expired Reason = "expired"
	// Conflict is a decision whose key is taken by other bytes: the first ones won.
	Conflict Reason = "conflict"
)

// Reasons that only the index of dead letters knows: the record itself tells the error.
const (
	// Refused is a row that the store will never take.
	Refused Reason = "refused"
	// GaveUp is a row that failed as often as it may.
	GaveUp Reason = "gave_up"
)

// BodyReasons are those of whole uploads.
var BodyReasons = []Reason{BadGzip, Truncated, BrokenJSON, NotArray, TrailingBytes, BodyTooLarge, TooManyEvents}

// Quarantines reports that the reason is ingest's: the bytes are no decision that the saver has seen.
func (r Reason) Quarantines() bool {
	switch r {
	case NotObject, InvalidUTF8, TooDeep, EventTooLarge, BadGzip, Truncated, BrokenJSON, NotArray, TrailingBytes, BodyTooLarge, TooManyEvents:
		return true
	default:
		return false
	}
}

// BodyError tells ParseBatch that the body itself, not its transport, is at fault. A reader that inflates returns it.
type BodyError struct {
	// Reason is BadGzip or Truncated.
	Reason Reason
	// Err is what the decoder said.
	Err error
}

// Error names the reason and the decoder's words.
func (e *BodyError) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }

// Unwrap returns the decoder's error.
func (e *BodyError) Unwrap() error { return e.Err }
