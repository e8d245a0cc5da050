package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

// The flood stop: when more than FloodRatio of at least FloodRows rows within FloodSpan are blamed at the store, something is
// wrong that is not the rows'.
const (
	FloodSpan  = 10 * time.Minute
	FloodRows  = 10_000
	FloodRatio = 0.01
)

// Blame counts rows that the store refused in one way. Its fingerprint is the same wherever and whenever that happens.
type Blame struct {
	Fingerprint string
	Class       Class
	Code        string
	// Text is the error without what differs from row to row.
	Text string
	// Path is that of the decisions.
	Path string
	// Rows were blamed so for the first time.
	Rows int64
	// Accepted says that somebody has looked: until then these rows are dead-lettered and make no flood.
	Accepted *Acceptance
}

// Acceptance is an operator's word that rows with a fingerprint may be dead-lettered.
type Acceptance struct {
	Fingerprint string
	At, Until   time.Time
	Who, Reason string
}

// numbers differ between rows and between the days' partitions.
var numbers = regexp.MustCompile(`[0-9]+`)

// BlameOf is one row that was refused with err.
func BlameOf(err error, path string) Blame {
	b := Blame{Class: ClassOf(err), Code: CodeOf(err), Path: path, Rows: 1}
	b.Text, _ = cleanText(numbers.ReplaceAllString(err.Error(), "#"), maxErrorText)
	sum := sha256.Sum256([]byte(strings.Join([]string{string(b.Class), b.Code, b.Text, b.Path}, "\x00")))
	b.Fingerprint = hex.EncodeToString(sum[:6])
	return b
}

// BlameReport is what all processes have judged within FloodSpan.
type BlameReport struct {
	// Judged counts rows that were stored or blamed, each the first time.
	Judged int64
	Blames []Blame
}

// Add takes in a row of a ledger: the one without a fingerprint counts what was judged, and the zero Acceptance is none.
func (r *BlameReport) Add(b Blame, a Acceptance) {
	if b.Fingerprint == "" {
		r.Judged += b.Rows
		return
	}
	if a.Until.Unix() > 0 {
		a.Fingerprint, a.At, a.Until = b.Fingerprint, a.At.UTC(), a.Until.UTC()
		b.Accepted = &a
	}
	r.Blames = append(r.Blames, b)
}

// Blamed counts the blamed rows that nobody has accepted.
func (r BlameReport) Blamed() (n int64) {
	for _, b := range r.Blames {
		if b.Accepted == nil {
			n += b.Rows
		}
	}
	return n
}

// Flooded reports that blamed rows are to be parked instead of dead-lettered.
func (r BlameReport) Flooded() bool {
	return r.Judged >= FloodRows && float64(r.Blamed()) > FloodRatio*float64(r.Judged)
}

// Accepted reports whether rows with a fingerprint are dead-lettered all the same.
func (r BlameReport) Accepted(fingerprint string) bool {
	for _, b := range r.Blames {
		if b.Fingerprint == fingerprint {
			return b.Accepted != nil
		}
	}
	return false
}

// WasBlamed reports that the record has been blamed before.
func (h Headers) WasBlamed() bool { return h.ErrorClass == Invalid || h.ErrorClass == Unknown }
