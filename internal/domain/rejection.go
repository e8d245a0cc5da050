package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"time"
)

// The dead-letter guard: when more than GuardRatio of at least GuardRows rows within GuardSpan are rejected at the
// store, something is wrong that is not the rows' fault. The guard then keeps rejected rows out of the dead-letter
// topics. It goes off once GuardEvidence rows show that the ratio has fallen: that hardly anything came is no evidence.
const (
	GuardSpan     = 10 * time.Minute
	GuardRows     = 10_000
	GuardEvidence = 1_000
	GuardRatio    = 0.01
)

// AcceptanceTerm is how long an operator's acceptance counts: past a night and a meeting, not past being forgotten.
const AcceptanceTerm = 24 * time.Hour

// Rejection counts rows that the store rejected in one way. Its fingerprint is the same wherever and whenever that
// happens.
type Rejection struct {
	// Tenant is whose rows they are.
	Tenant      string
	Fingerprint string
	Class       Class
	Code        string
	// Text is the error without what differs from row to row.
	Text string
	// Path is that of the decisions.
	Path string
	// Rows were rejected so for the first time.
	Rows int64
}

// Acceptance is an operator's word that rows with a fingerprint may be dead-lettered in spite of the guard.
type Acceptance struct {
	Fingerprint string
	// Tenants are the caller's: the acceptance counts for their rows.
	Tenants         Scope
	At, Until       time.Time
	Caller, Comment string
}

// FingerprintBytes is the length of a fingerprint, which is spelled in hex.
const FingerprintBytes = 6

// numbers differ between rows and between the days' partitions.
var numbers = regexp.MustCompile(`[0-9]+`)

// sqlState is how the driver ends what PostgreSQL says.
var sqlState = regexp.MustCompile(` \(SQLSTATE [0-9A-Z]{5}\)`)

// RejectionOf is one row that was rejected with err.
func RejectionOf(err error, tenant, path string) Rejection {
	r := Rejection{Tenant: tenant, Class: ClassOf(err), Code: CodeOf(err), Path: path, Rows: 1}
	text := sqlState.ReplaceAllString(err.Error(), "") // it is the code, and no number
	r.Text, _ = cleanText(numbers.ReplaceAllString(text, "#"), maxErrorText)
	sum := sha256.Sum256([]byte(strings.Join([]string{string(r.Class), r.Code, r.Text, r.Path}, "\x00")))
	r.Fingerprint = hex.EncodeToString(sum[:FingerprintBytes])
	return r
}

// OtherRejections stands for ways to fail that are too many to tell apart.
func OtherRejections(err error, tenant string) Rejection {
	return RejectionOf(&Error{Class: ClassOf(err), Code: CodeOf(err), Text: "others, too many to tell apart"}, tenant, "")
}

// RejectionTally is what one process has judged since it last told the others.
type RejectionTally struct {
	// Judged counts the rows of each tenant that were stored or rejected, each row the first time.
	Judged map[string]int64
	// Rejections are those of them that were rejected.
	Rejections []Rejection
}

// RejectionReport is what all processes have judged within GuardSpan.
type RejectionReport struct {
	// Judged counts rows that were stored or rejected, each the first time.
	Judged int64
	// Rejections has the most rows first.
	Rejections []Rejection
	// Acceptances are those in force: rows that they speak of are dead-lettered, and do not turn the guard on.
	Acceptances []Acceptance
	// On says that the guard is on.
	On bool
}

// Add takes in what is counted of one fingerprint: the one without a text counts what was judged.
func (r *RejectionReport) Add(b Rejection) {
	if b.Fingerprint == "" {
		r.Judged += b.Rows
	} else {
		r.Rejections = append(r.Rejections, b)
	}
}

// Acceptance finds the acceptance in force for a rejection.
func (r RejectionReport) Acceptance(b Rejection) (Acceptance, bool) {
	for _, a := range r.Acceptances {
		if a.Fingerprint == b.Fingerprint && a.Tenants.Includes(b.Tenant) {
			return a, true
		}
	}
	return Acceptance{}, false
}

// Rejected counts the rejected rows that nobody has accepted.
func (r RejectionReport) Rejected() (n int64) {
	for _, b := range r.Rejections {
		if _, ok := r.Acceptance(b); !ok {
			n += b.Rows
		}
	}
	return n
}

// GuardOn reports whether the guard is to be on, given what was judged and whether it is on now.
func (r RejectionReport) GuardOn() bool {
	few := float64(r.Rejected()) <= GuardRatio*float64(r.Judged)
	if !r.On {
		return r.Judged >= GuardRows && !few
	}
	accepted := len(r.Rejections) > 0 && r.Rejected() == 0
	return !accepted && (r.Judged < GuardEvidence || !few)
}

// WasRejected reports that the record has been rejected before.
func (h Headers) WasRejected() bool { return h.ErrorClass == Invalid || h.ErrorClass == Unknown }
