package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

// The flood stop: when more than FloodRatio of at least FloodRows rows within FloodSpan are blamed at the store, something is
// wrong that is not the rows'. It ends once FloodEvidence rows show that the ratio has fallen: that hardly anything came is
// no evidence.
const (
	FloodSpan     = 10 * time.Minute
	FloodRows     = 10_000
	FloodEvidence = 1_000
	FloodRatio    = 0.01
)

// LongestAcceptance is how long an operator's word counts: past a night and a meeting, not past being forgotten.
const LongestAcceptance = 24 * time.Hour

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
}

// Acceptance is an operator's word that rows with a fingerprint may be dead-lettered.
type Acceptance struct {
	Fingerprint string
	At, Until   time.Time
	Who, Reason string
}

// FingerprintBytes is the length of a fingerprint, which is spelled in hex.
const FingerprintBytes = 6

// numbers differ between rows and between the days' partitions.
var numbers = regexp.MustCompile(`[0-9]+`)

// BlameOf is one row that was refused with err.
func BlameOf(err error, path string) Blame {
	b := Blame{Class: ClassOf(err), Code: CodeOf(err), Path: path, Rows: 1}
	b.Text, _ = cleanText(numbers.ReplaceAllString(err.Error(), "#"), maxErrorText)
	sum := sha256.Sum256([]byte(strings.Join([]string{string(b.Class), b.Code, b.Text, b.Path}, "\x00")))
	b.Fingerprint = hex.EncodeToString(sum[:FingerprintBytes])
	return b
}

// OtherBlame stands for ways to fail that are too many to tell apart.
func OtherBlame(err error) Blame {
	return BlameOf(&Error{Class: ClassOf(err), Code: CodeOf(err), Text: "others, too many to tell apart"}, "")
}

// BlameReport is what all processes have judged within FloodSpan.
type BlameReport struct {
	// Judged counts rows that were stored or blamed, each the first time.
	Judged int64
	// Blames has the most rows first.
	Blames []Blame
	// Accepted are the acceptances in force, by fingerprint: such rows are dead-lettered and make no flood.
	Accepted map[string]Acceptance
	// Stopping says that the flood stop is on.
	Stopping bool
}

// Add takes in a row of a ledger: the one without a fingerprint counts what was judged.
func (r *BlameReport) Add(b Blame) {
	if b.Fingerprint == "" {
		r.Judged += b.Rows
	} else {
		r.Blames = append(r.Blames, b)
	}
}

// Accept takes in an acceptance that is in force.
func (r *BlameReport) Accept(a Acceptance) {
	if r.Accepted == nil {
		r.Accepted = map[string]Acceptance{}
	}
	a.At, a.Until = a.At.UTC(), a.Until.UTC()
	r.Accepted[a.Fingerprint] = a
}

// Blamed counts the blamed rows that nobody has accepted.
func (r BlameReport) Blamed() (n int64) {
	for _, b := range r.Blames {
		if _, ok := r.Accepted[b.Fingerprint]; !ok {
			n += b.Rows
		}
	}
	return n
}

// Flooded reports whether blamed rows are to be parked instead of dead-lettered.
func (r BlameReport) Flooded() bool {
	few := float64(r.Blamed()) <= FloodRatio*float64(r.Judged)
	if !r.Stopping {
		return r.Judged >= FloodRows && !few
	}
	accepted := len(r.Blames) > 0 && r.Blamed() == 0
	return !accepted && (r.Judged < FloodEvidence || !few)
}

// WasBlamed reports that the record has been blamed before.
func (h Headers) WasBlamed() bool { return h.ErrorClass == Invalid || h.ErrorClass == Unknown }
