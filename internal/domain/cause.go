package domain

import "fmt"

// Cause says why bytes of an upload were quarantined, or why a record became a dead letter. The texts are a contract:
// ingest's stand in the answer to an upload and in the docket-reason header, and all of them in the index of dead
// letters.
type Cause string

// Causes of one element: the rest of the upload is accepted.
const (
	// NotObject is an array element that is no JSON object.
	NotObject Cause = "not_object"
	// InvalidUTF8 is an element with bytes that are not UTF-8 (RFC 8259 section 8.1).
	InvalidUTF8 Cause = "invalid_utf8"
	// TooDeep is an element nested beyond Limits.Depth.
	TooDeep Cause = "too_deep"
	// EventTooLarge is an element longer than Limits.Event.
	EventTooLarge Cause = "event_too_large"
)

// Causes of a body: its elements before that point are accepted, and the body is quarantined once.
const (
	// BadGzip is a body that is not gzip, or whose checksum does not fit (RFC 1952).
	BadGzip Cause = "bad_gzip"
	// Truncated is a body that ends too early.
	Truncated Cause = "truncated"
	// BrokenJSON is a syntax error (RFC 8259).
	BrokenJSON Cause = "broken_json"
	// NotArray is a body that is JSON but no array.
	NotArray Cause = "not_array"
	// TrailingBytes is anything but white space behind the array.
	TrailingBytes Cause = "trailing_bytes"
	// BodyTooLarge is a body that inflates beyond Limits.Inflated.
	BodyTooLarge Cause = "body_too_large"
	// TooManyEvents is an array with more elements than Limits.Events.
	TooManyEvents Cause = "too_many_events"
)

// Causes of a decision that the store, in good health, did not keep.
const (
	// Expired is a decision older than the window when it reached the store.
	Expired Cause = "expired"
	// Conflict is a decision whose key is taken by other bytes: the first ones won.
	Conflict Cause = "conflict"
)

// Causes that only the index of dead letters knows: the record itself has the error.
const (
	// Rejected is a row that the store will never take.
	Rejected Cause = "rejected"
	// AttemptsExhausted is a row that failed as often as it may.
	AttemptsExhausted Cause = "attempts_exhausted"
)

// What a cause is about.
type subject int

const (
	ofElement subject = iota + 1
	ofBody
	ofRow
)

// subjects has every cause, so that a new one is classed on purpose.
var subjects = map[Cause]subject{
	NotObject: ofElement, InvalidUTF8: ofElement, TooDeep: ofElement, EventTooLarge: ofElement,
	BadGzip: ofBody, Truncated: ofBody, BrokenJSON: ofBody, NotArray: ofBody, TrailingBytes: ofBody, BodyTooLarge: ofBody,
	TooManyEvents: ofBody,
	Expired:       ofRow, Conflict: ofRow, Rejected: ofRow, AttemptsExhausted: ofRow,
}

// Causes lists every cause: those of elements, of bodies and of rows.
var Causes = []Cause{
	NotObject, InvalidUTF8, TooDeep, EventTooLarge,
	BadGzip, Truncated, BrokenJSON, NotArray, TrailingBytes, BodyTooLarge, TooManyEvents,
	Expired, Conflict, Rejected, AttemptsExhausted,
}

// BodyCauses are those of whole uploads.
var BodyCauses = []Cause{BadGzip, Truncated, BrokenJSON, NotArray, TrailingBytes, BodyTooLarge, TooManyEvents}

// OfDecision reports that the bytes of a dead letter with this cause are a decision: one that the saver has seen. A
// record without a docket-reason is one as well. A cause that docket does not know, which another program may have
// written, is not: its bytes are parsed before they are replayed.
func (c Cause) OfDecision() bool { return c == "" || subjects[c] == ofRow }

// BodyError tells ParseBatch that the body itself, not its transport, is at fault. A reader that inflates returns it.
type BodyError struct {
	// Cause is BadGzip or Truncated.
	Cause Cause
	// Err is what the decoder said.
	Err error
}

// Error names the cause and the decoder's words.
func (e *BodyError) Error() string { return fmt.Sprintf("%s: %v", e.Cause, e.Err) }

// Unwrap returns the decoder's error.
func (e *BodyError) Unwrap() error { return e.Err }
