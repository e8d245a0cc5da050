package api

import (
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Credential is one that docket knows callers by.
type Credential struct {
	Listener    string                 `json:"listener"`
	Kind        string                 `json:"kind"`
	Name        string                 `json:"name"`
	Credential  Text                   `json:"credential"`
	Tenant      Text                   `json:"tenant"`
	Role        Text                   `json:"role"`
	State       domain.CredentialState `json:"state"`
	ExpiresAt   Instant                `json:"expires_at"`
	FirstUsed   Instant                `json:"first_used_at"`
	LastUsed    Instant                `json:"last_used_at"`
	Uses        int64                  `json:"uses"`
	LastAddress Text                   `json:"last_address"`
}

// CredentialOf spells a credential as it is at a time.
func CredentialOf(c domain.Credential, now time.Time) Credential {
	return Credential{
		Listener: c.Listener, Kind: c.How, Name: c.Name, Credential: Text(c.ID), Tenant: Text(c.Tenant), Role: Text(c.Role),
		State: c.State(now), ExpiresAt: At(c.Expires), FirstUsed: At(c.First), LastUsed: At(c.Last), Uses: c.Uses,
		LastAddress: Text(c.Address),
	}
}
