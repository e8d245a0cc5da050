package domain

import "time"

// Credential is one that docket knows callers by, and when it was used: of a file of tokens, or of whoever showed one.
type Credential struct {
	// Listener is where it counts, How one of ByToken, ByJWT, ByCertificate and ByLogin, and Name the caller's.
	Listener, How, Name string
	// ID tells credentials of one name apart: the first digits of a token's hash, as in the file, or who issued it.
	ID string
	// Tenant is one that it is for, or "" for all of them; a credential for several has a line for each.
	Tenant string
	Role   Role
	// Expires is when it ends; zero where it does not, or is renewed again and again.
	Expires time.Time
	// Listed is when a process had it in its file last; zero for what stands in none.
	Listed time.Time
	// First and Last are when it was used, Uses how often, and Address where from the last time.
	First, Last time.Time
	Uses        int64
	Address     string
}

// CredentialState says whether a credential counts.
type CredentialState string

// The states of credentials.
const (
	CredentialActive  CredentialState = "active"
	CredentialExpired CredentialState = "expired"
	// CredentialRemoved is a token that stands in no file of a process that runs.
	CredentialRemoved CredentialState = "removed"
)

// How often processes tell which tokens their files have, and when one that nobody tells of is removed.
const (
	CredentialsListedEvery = time.Minute
	credentialMissedFor    = 3 * CredentialsListedEvery
)

// CredentialsKept is how long a credential is listed that is neither used nor in a file.
const CredentialsKept = 90 * 24 * time.Hour

// State is the credential's at a time.
func (c Credential) State(now time.Time) CredentialState {
	switch {
	case !c.Expires.IsZero() && !now.Before(c.Expires):
		return CredentialExpired
	case c.How == ByToken && now.Sub(c.Listed) > credentialMissedFor:
		return CredentialRemoved
	}
	return CredentialActive
}

// Merge adds a later report of the same credential.
func (c *Credential) Merge(later Credential) {
	c.Role, c.Expires = later.Role, later.Expires
	if later.Listed.After(c.Listed) {
		c.Listed = later.Listed
	}
	if c.First.IsZero() || !later.First.IsZero() && later.First.Before(c.First) {
		c.First = later.First
	}
	if later.Last.After(c.Last) {
		c.Last, c.Address = later.Last, later.Address
	}
	c.Uses += later.Uses
}

// EndedSession is a session of a person that was ended before its time.
type EndedSession struct {
	ID string
	// Until is when it would have ended by itself.
	Until time.Time
}
