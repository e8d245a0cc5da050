package auth

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"

	"github.com/docket-project/docket/internal/domain"
)

// ErrContradiction is a certificate and a token that are of different tenants.
var ErrContradiction = errors.New(
	"the client certificate and the bearer token are of different tenants: show one, or two of the same tenant",
)

// Credentials know the callers of one listener by what they show: a bearer token (of the file, or a JSON web token),
// a client certificate, or both. By a kind of which there is none here nobody is known.
type Credentials struct {
	Tokens       *Tokens
	Issuers      *Issuers
	Certificates *Certificates
	// Listener is where they count, and Uses is told who was known by them; nil tells nobody.
	Listener string
	Uses     *Uses
	// people says that they log in with an issuer.
	people bool
}

// Authenticate looks at the bearer token (RFC 6750 section 2.1) and at the certificate. Where there are both, the token
// says who it is.
func (c *Credentials) Authenticate(r *http.Request) (domain.Caller, error) {
	caller, err := c.known(r)
	if err != nil {
		return domain.Caller{}, err
	}
	c.note(caller, r)
	return caller, nil
}

// Trouble says why callers whose credentials may be good are refused, or nil; all says that everybody is.
func (c *Credentials) Trouble() (why error, all bool) {
	tokens, known := error(nil), false
	if c.Tokens != nil {
		var n int
		n, tokens = c.Tokens.state()
		known = n > 0
	}
	keys, readable := c.Issuers.state()
	certificates := c.Certificates != nil && Granted(c.Listener, nil, c.Certificates.rules)
	return errors.Join(tokens, keys), !known && !readable && !certificates && !c.people
}

// note tells that a caller was known.
func (c *Credentials) note(caller domain.Caller, r *http.Request) {
	if c.Uses != nil {
		c.Uses.saw(c.Listener, caller, r)
	}
}

func (c *Credentials) known(r *http.Request) (domain.Caller, error) {
	if err := c.Certificates.demand(r); err != nil {
		return domain.Caller{}, err
	}
	holder, shown, err := c.Certificates.find(r)
	token, ok := bearer(r)
	if !ok && (shown || err != nil) {
		return holder, err
	}
	if !ok {
		return domain.Caller{}, ErrNoCredentials
	}
	caller, err := c.bearer(r, token)
	if err != nil {
		return domain.Caller{}, err
	}
	return caller, agree(caller, holder, shown)
}

// agree reports a token, or a session, and a certificate of different tenants.
func agree(caller, holder domain.Caller, shown bool) error {
	if shown && !caller.Tenants.Meets(holder.Tenants) {
		return ErrContradiction
	}
	return nil
}

func (c *Credentials) bearer(r *http.Request, token string) (domain.Caller, error) {
	if c.Tokens != nil {
		if caller, err := c.Tokens.find(sha256.Sum256([]byte(token))); !errors.Is(err, ErrUnknown) {
			return caller, err
		}
	}
	if caller, ok, err := c.Issuers.find(r.Context(), token); ok {
		return caller, err
	}
	return domain.Caller{}, ErrUnknown
}

// bearer is the bearer token of a request.
func bearer(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}
