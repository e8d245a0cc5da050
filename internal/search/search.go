// Package search is the query language: it reads queries, spells them in their canonical form, says which part of one a
// store can answer by its columns, and judges decisions by all of it. It reads no store.
package search

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/participle/v2"
	"github.com/alecthomas/participle/v2/lexer"

	"github.com/docket-project/docket/internal/domain"
)

// Limits of a query: its length in bytes, its terms, and how deep parentheses and NOT nest.
const (
	MaxBytes = 8 << 10
	MaxTerms = domain.MaxTerms
	MaxDepth = 32
)

// Error is what is wrong with a query.
type Error struct {
	// Column is where, in characters from 1.
	Column int
	// Found says what is wrong, and Expected what could stand there instead.
	Found, Expected string
}

// Where is the error without what was expected.
func (e *Error) Where() string { return fmt.Sprintf("column %d of the query: %s", e.Column, e.Found) }

func (e *Error) Error() string { return e.Where() + "; expected " + e.Expected }

// Query is a query that was read.
type Query struct {
	domain.Filter
	// Dated says that the query names a time itself.
	Dated bool
	// Otherwise is what to look for where nothing fits Filter; nil is nothing. A word that looks like an id is looked for
	// as one, and then as a text.
	Otherwise *domain.Filter
}

// Parse reads a query. now is where durations back are counted from. Without since it looks back for
// domain.DefaultSpan, and to the beginning where it asks for ids. The error is an *Error.
func Parse(text string, now time.Time) (Query, error) {
	r := reader{text: text, now: now}
	if err := r.check(); err != nil {
		return Query{}, err
	}
	parsed, err := parser.ParseString("", text)
	if err != nil {
		return Query{}, r.syntax(err)
	}
	return r.query(parsed)
}

// reader reads one query.
type reader struct {
	text   string
	now    time.Time
	tokens []lexer.Token
	terms  int
	// asText has words that look like ids be texts. ids says that there was one.
	asText, ids bool
	since       time.Time
	until       time.Time
	untilAt     int
	hasSince    bool
	hasUntil    bool
}

// errorAt is an error at a place of the text, in bytes from 0.
func (r *reader) errorAt(offset int, expected, found string, args ...any) *Error {
	column := 1 + utf8.RuneCountInString(r.text[:min(max(offset, 0), len(r.text))])
	return &Error{Column: column, Expected: expected, Found: fmt.Sprintf(found, args...)}
}

// What is expected most often.
const (
	aTerm  = `a term such as outcome:denied, input.method:DELETE, "a text" or (a OR b)`
	aValue = `a value right behind it, such as denied, rbac/*, "in quotes" or (a OR b)`
)

// check refuses what must not get as far as the grammar.
func (r *reader) check() error {
	if len(r.text) > MaxBytes {
		return r.errorAt(MaxBytes, "a shorter query", "the query has more than %d bytes", MaxBytes)
	}
	for at, ch := range r.text {
		if ch == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(r.text[at:]); size == 1 {
				return r.errorAt(at, "text in UTF-8", "there is a byte that is no UTF-8")
			}
		}
		if ch == 0 {
			return r.errorAt(at, "text without it", "there is a NUL")
		}
	}
	l, err := language.LexString("", r.text)
	if err != nil {
		return r.unread(err)
	}
	depth := 0
	for {
		t, err := l.Next()
		if err != nil {
			return r.unread(err)
		}
		r.tokens = append(r.tokens, t)
		switch {
		case t.EOF():
			return nil
		case t.Value == "(":
			depth++
		case t.Value == ")":
			depth--
		}
		if depth > MaxDepth {
			return r.errorAt(t.Pos.Offset, "fewer parentheses", "parentheses nest deeper than %d", MaxDepth)
		}
	}
}

// offsetOf is where the library found something wrong.
func (r *reader) offsetOf(err error) int {
	if p, ok := err.(participle.Error); ok { //nolint:errorlint // the library returns it as it is
		return min(p.Position().Offset, len(r.text))
	}
	return len(r.text)
}

// unread tells what could not be cut up into words: a quote is all that there is to it.
func (r *reader) unread(err error) error {
	at := r.offsetOf(err)
	if quote := strings.IndexByte(r.text[at:], '"'); quote >= 0 {
		at += quote
	}
	return r.errorAt(
		at, `a " that ends it; inside, \" is a quote and \\ a backslash`, "a quote begins here and does not end",
	)
}

// syntax tells what the grammar did not understand.
func (r *reader) syntax(err error) error {
	at := r.offsetOf(err)
	open, before := 0, lexer.Token{}
	for _, t := range r.tokens {
		if t.Pos.Offset >= at {
			break
		}
		switch t.Value {
		case "(":
			open++
		case ")":
			open--
		}
		if strings.TrimSpace(t.Value) != "" {
			before = t
		}
	}
	found := "the query ends here"
	if at < len(r.text) {
		found = fmt.Sprintf("%.40q stands here", r.text[at:])
	}
	switch {
	case before.Type == language.Symbols()["Field"]:
		return r.errorAt(at, aValue, "%s, and %s has no value", found, before.Value)
	case open > 0:
		return r.errorAt(at, aTerm+", and a ) in the end", "%s", found)
	default:
		return r.errorAt(at, aTerm, "%s", found)
	}
}
