package domain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// Class says what kind of failure an error is, and so who has to act: nobody, docket itself, an operator or whoever
// sent the row. Adapters set it in exactly one classify function each; four total tables turn it into an HTTP status,
// the saver's action, the parking role's action and the CLI's exit code. It is also a metric label and a header value,
// so the set is small and its texts are a contract.
type Class string

// The five classes. Their order in Classes is the order of precedence when several errors meet in one batch.
const (
	// Canceled is our own shutdown: no commit, no attempt, nothing to report.
	Canceled Class = "canceled"
	// Unavailable is an outage: the same call may succeed later, and no row is rejected.
	Unavailable Class = "unavailable"
	// Misconfigured needs a person: rights, schema, settings or a damaged file. Waiting alone does not help.
	Misconfigured Class = "misconfigured"
	// Invalid is a row that its destination will never take.
	Invalid Class = "invalid"
	// Unknown is everything else. It is retried a bounded number of times and then dead-lettered, never dropped.
	Unknown Class = "unknown"
)

// Classes lists every class.
var Classes = []Class{Canceled, Unavailable, Misconfigured, Invalid, Unknown}

// Error is a failure with a class, and with enough context for a person to act on it.
type Error struct {
	// Class decides what happens next.
	Class Class
	// Op names what was being done and to what, such as "publish 3 records to docket.decisions".
	Op string
	// Code is the SQLSTATE, the Kafka error or SQLite's result code, where there is one.
	Code string
	// Answered says that the store itself answered a statement with this error. It may then concern the rows' day or
	// tenant alone, and not the store.
	Answered bool
	// HeldFor is the day that it concerns, where the store knows, as HeldForDay spells it.
	HeldFor string
	// Text is the message without the contents of any row, fit for a log, a header or a console.
	Text string
	// Err is the cause. It may quote row contents and is therefore never printed on its own.
	Err error
}

// Error joins what was done with why it failed.
func (e *Error) Error() string {
	text := e.Text
	if text == "" && e.Err != nil {
		text = e.Err.Error()
	}
	if e.Op == "" {
		return text
	}
	return e.Op + ": " + text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a class. A %w operand stays reachable by errors.Is and errors.As.
func Errorf(class Class, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Class: class, Text: err.Error(), Err: errors.Unwrap(err)}
}

// ClassOf returns the class of err: the outermost *Error's, Canceled for context.Canceled, Unavailable for a deadline
// that passed, and otherwise Unknown.
func ClassOf(err error) Class {
	if err == nil {
		return Unknown
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Class
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	default:
		return Unknown
	}
}

// Answered reports that the store itself answered with err; see Error.Answered.
func Answered(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Answered
}

// HeldFor is the day that err concerns, or "" where that is not known.
func HeldFor(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.HeldFor
	}
	return ""
}

// CodeOf returns the code of the outermost *Error that has one, or "".
func CodeOf(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Code != "" {
			return e.Code
		}
		err = e.Err
	}
	return ""
}

// Reclass is err with another class: a copy, because whoever returned err may still look at it. An error without a
// class is returned with this one. text, unless empty, replaces the message.
func Reclass(err error, class Class, text string) error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Class: class, Text: cmp.Or(text, err.Error()), Err: err}
	}
	changed := *e
	changed.Class, changed.Text = class, cmp.Or(text, e.Text)
	return &changed
}
