// Package auth turns the credentials of a request into a domain.Caller, one Authenticator for each listener. It leaves
// what a caller may do to the use cases, and answering those whom it does not know to its caller.
package auth

import (
	"errors"
	"net/http"

	"github.com/docket-project/docket/internal/domain"
)

// Authenticator says who a request comes from. Errors: ErrNoCredentials, ErrUnknown, ErrExpired
// and ErrSessionEnded.
type Authenticator interface {
	Authenticate(r *http.Request) (domain.Caller, error)
}

// Why a caller is not known.
var (
	// ErrNoCredentials is a request without a bearer token, and without a client certificate.
	ErrNoCredentials = errors.New("this listener wants a bearer token: send Authorization: Bearer <token>")
	// ErrUnknown is a token that is in no file, or not any more.
	ErrUnknown = errors.New("the bearer token is not known here")
	// ErrExpired is a token whose time is over.
	ErrExpired = errors.New("the bearer token expired")
	// ErrSessionEnded is a session that is over, or whose token is in no file any more.
	ErrSessionEnded = errors.New("the session has ended: log in again")
)

// Anonymous knows everybody as the same caller. A listener has it on purpose: on loopback, or because docket was told
// that something in front of it asks.
type Anonymous struct{ Caller domain.Caller }

// AnonymousUploader uploads for the default tenant.
func AnonymousUploader() Anonymous {
	return Anonymous{
		domain.Caller{Name: domain.ByNothing, Tenants: domain.Tenants(domain.DefaultTenant), How: domain.ByNothing},
	}
}

// AnonymousOperator may do everything on the console listener, for all tenants.
func AnonymousOperator() Anonymous {
	return Anonymous{
		domain.Caller{Name: domain.ByNothing, Tenants: domain.AllTenants(), Role: domain.Admin, How: domain.ByNothing},
	}
}

// Authenticate returns the one caller.
func (a Anonymous) Authenticate(*http.Request) (domain.Caller, error) { return a.Caller, nil }
