package domain

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"slices"
	"strings"
	"sync"
	"time"
)

// Subject is a keyed hash of a principal: who reads it does not learn the name, and who knows a name and the key finds
// what was ordered about it.
type Subject [sha256.Size]byte

// SubjectOf hashes a principal with the store's key.
func SubjectOf(key []byte, principal string) Subject {
	return subjectOf(hmac.New(sha256.New, key), principal)
}

func subjectOf(h hash.Hash, principal string) (s Subject) {
	h.Reset()
	h.Write([]byte(principal))
	h.Sum(s[:0])
	return s
}

// String is what people are told of it: enough to compare two of them.
func (s Subject) String() string { return hex.EncodeToString(s[:8]) }

// Subjects spells several.
func Subjects(all []Subject) string {
	texts := make([]string, len(all))
	for i, s := range all {
		texts[i] = s.String()
	}
	return strings.Join(texts, ", ")
}

// Erasure is an operator's order that docket keeps nothing about some subjects that was decided, or received, up to a
// time. It counts for what has a row as well as for what comes out of the log later.
type Erasure struct {
	// Job is the job that was ordered.
	Job      string
	Subjects []Subject
	Tenants  Scope
	At       time.Time
	// Until is when nothing from before At can be in the log any more, so that the order is over; zero while that is not
	// known.
	Until time.Time
}

// Covers reports that a decision of a subject is one of those that were ordered to go. A clock that is wrong, OPA's or
// docket's, keeps none of them. docket's own decisions, which say who looked at what, go where their tenant is named.
func (e Erasure) Covers(d *Decision) bool {
	if e.Tenants.All() && d.Tenant == SystemTenant {
		return false
	}
	return e.Tenants.Includes(d.Tenant) &&
		(!d.Time().After(e.At) || !d.ReceivedAt.IsZero() && !d.ReceivedAt.After(e.At))
}

// Erasures are those that are in force. Nil has none.
type Erasures struct {
	of     map[Subject][]Erasure
	hashes sync.Pool // of hash.Hash: each decision that is saved is asked about
}

// NewErasures makes a set of them, of subjects that were hashed with a key.
func NewErasures(key []byte, all []Erasure) *Erasures {
	e := &Erasures{of: map[Subject][]Erasure{}}
	e.hashes.New = func() any { return hmac.New(sha256.New, key) }
	for _, one := range all {
		for _, s := range one.Subjects {
			e.of[s] = append(e.of[s], one)
		}
	}
	return e
}

// None reports that nothing is in force.
func (e *Erasures) None() bool { return e == nil || len(e.of) == 0 }

// Cover reports that a decision is not to be kept.
func (e *Erasures) Cover(d *Decision) bool {
	if e.None() || d.Principal == "" {
		return false
	}
	h := e.hashes.Get().(hash.Hash)
	s := subjectOf(h, d.Principal)
	e.hashes.Put(h)
	return slices.ContainsFunc(e.of[s], func(one Erasure) bool { return one.Covers(d) })
}

// Expiry is when a topic keeps nothing any more that stands in it now; a zero time is never.
type Expiry struct {
	Topic string
	At    time.Time
}

// Principals are those whom an erasure's filter names, each once.
func (j Job) Principals() []string {
	return slices.Compact(slices.Sorted(slices.Values(j.Filter.Where.Named(FieldPrincipal))))
}
