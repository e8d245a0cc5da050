package domain

import (
	"crypto/sha256"
	"time"
)

// Dictionary is what a tenant's events are packed with in the store: values that many of its events share. Rows name it
// by its hash for as long as they exist, so it never changes and is never removed.
type Dictionary struct {
	SHA256 [sha256.Size]byte
	Tenant string
	// Bytes are a serialized dictionary of s2 (https://pkg.go.dev/github.com/klauspost/compress/s2#Dict), at most
	// MaxDictionary.
	Bytes []byte
	// Ratio is what events shrank to that it was tried with, as a part of 1.
	Ratio float64
	// MadeAt is set by the store.
	MadeAt time.Time
}

// MaxDictionary bounds a dictionary, in bytes. s2 looks no further back.
const MaxDictionary = 64<<10 + 16

// NewDictionary names bytes by their hash.
func NewDictionary(tenant string, b []byte, ratio float64) Dictionary {
	return Dictionary{SHA256: sha256.Sum256(b), Tenant: tenant, Bytes: b, Ratio: ratio}
}

// Lease is a right that one process at a time has, for as long as it lasts.
type Lease struct {
	Name, Owner string
}
