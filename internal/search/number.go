package search

import (
	"bytes"
	"regexp"

	"github.com/cockroachdb/apd/v3"
	"github.com/go-json-experiment/json/jsontext"
)

// jsonNumber is how JSON spells a number (RFC 8259 section 6).
var jsonNumber = regexp.MustCompile(`^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$`)

// longestNumber bounds the digits that are compared as a number. Reading more of them takes a time that grows with
// their square.
const longestNumber = 4096

// number reads a text that may be a number as JSON spells it, without rounding. What is longer than longestNumber, or
// has an exponent beyond 100,000, is none.
func number(text string) (*apd.Decimal, bool) {
	if !jsonNumber.MatchString(text) {
		return nil, false
	}
	return numberOf(jsontext.Value(text))
}

// numberOf is number of a JSON value.
func numberOf(v jsontext.Value) (*apd.Decimal, bool) {
	if len(v) > longestNumber || v.Kind() != '0' {
		return nil, false
	}
	d, _, err := apd.NewFromString(string(v))
	return d, err == nil
}

// plainNumber spells a number without an exponent, if it is not too long for that, and without zeros that say nothing.
func plainNumber(v jsontext.Value) string {
	const longest = 20                 // zeros in a row
	if !bytes.ContainsAny(v, ".eE-") { // as most are
		return string(v)
	}
	d, ok := numberOf(v)
	if !ok {
		return string(v)
	}
	if d.Reduce(d); d.IsZero() {
		return "0"
	}
	if d.Exponent > longest || d.Exponent < -longest {
		return d.Text('e')
	}
	return d.Text('f')
}

// EqualNumbers reports that two JSON values are the same number, however each is spelled.
func EqualNumbers(a, b jsontext.Value) bool {
	x, ok := numberOf(a)
	if !ok {
		return false
	}
	y, ok := numberOf(b)
	return ok && x.Cmp(y) == 0
}
