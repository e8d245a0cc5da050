package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/securecookie"

	"github.com/docket-project/docket/internal/domain"
)

// SessionCookie is the name of the cookie that a session is kept in.
const SessionCookie = "docket_session"

// SessionFor is how long a person is known after logging in.
const SessionFor = 12 * time.Hour

// Sessions know people by a cookie, once they have shown a token, and programs by their tokens. A session is kept by
// the browser alone, sealed with a key of docket's, so that it needs no store: a console can be looked at while the
// database is away. It ends after SessionFor, or as soon as its token is taken out of the file.
type Sessions struct {
	credentials *Credentials
	seal        *securecookie.SecureCookie
}

// session is what the cookie holds.
type session struct {
	Token [sha256.Size]byte // its hash
}

// sessionKey is how many bytes the keys have that a session is signed and encrypted with.
const sessionKey = 32

// NewSessions lets in whoever has a token of the file, or shows a credential with each request. keyFile holds the key
// that sessions are sealed with, at least 32 bytes, which all consoles behind one name have to share; "" makes one that
// only this process knows. Its error is Misconfigured.
func NewSessions(credentials *Credentials, keyFile string) (*Sessions, error) {
	secret := make([]byte, sessionKey)
	_, _ = rand.Read(secret) // it never fails
	if keyFile != "" {
		var err error
		if secret, err = os.ReadFile(keyFile); err != nil {
			return nil, domain.Errorf(domain.Misconfigured, "read the key of sessions: %w", err)
		}
		if len(secret) < sessionKey {
			return nil, domain.Errorf(
				domain.Misconfigured, "the key of sessions in %s has %d bytes: it needs %d at least (make one with: "+
					"head -c 32 /dev/urandom > FILE)", keyFile, len(secret), sessionKey,
			)
		}
	}
	sign := sha256.Sum256(append([]byte("sign "), secret...))
	encrypt := sha256.Sum256(append([]byte("encrypt "), secret...))
	seal := securecookie.New(sign[:], encrypt[:]).MaxAge(int(SessionFor.Seconds()))
	return &Sessions{credentials: credentials, seal: seal.SetSerializer(securecookie.JSONEncoder{})}, nil
}

// Authenticate reads the bearer token or, without one, the session; without either it looks at the certificate.
func (s *Sessions) Authenticate(r *http.Request) (domain.Caller, error) {
	if r.Header.Get("Authorization") != "" {
		return s.credentials.Authenticate(r)
	}
	cookie, err := r.Cookie(SessionCookie)
	if err != nil {
		return s.credentials.Authenticate(r)
	}
	if err := s.Demand(r); err != nil {
		return domain.Caller{}, err
	}
	var held session
	if s.seal.Decode(SessionCookie, cookie.Value, &held) == nil {
		if caller, err := s.credentials.Tokens.find(held.Token); err == nil {
			holder, shown, _ := s.credentials.Certificates.find(r)
			if err := agree(caller, holder, shown); err != nil {
				return domain.Caller{}, err
			}
			s.credentials.note(caller, r)
			return caller, nil
		}
	}
	if caller, err := s.credentials.Authenticate(r); err == nil { // an old cookie does not stand before a certificate
		return caller, nil
	}
	return domain.Caller{}, ErrSessionEnded
}

// Demand reports a browser that has not shown the certificate that everybody needs: a token would not help it.
func (s *Sessions) Demand(r *http.Request) error { return s.credentials.Certificates.demand(r) }

// Begin makes the cookie of a token's session. path is where pages begin, and secure that they are reached by TLS only.
// Its error is ErrUnknown or ErrExpired where the token is none of the file.
func (s *Sessions) Begin(token, path string, secure bool) (*http.Cookie, error) {
	hash := sha256.Sum256([]byte(token))
	if _, err := s.credentials.Tokens.find(hash); err != nil {
		return nil, err
	}
	value, err := s.seal.Encode(SessionCookie, session{hash})
	if err != nil {
		return nil, fmt.Errorf("seal the session: %w", err)
	}
	c := sessionCookie(path, secure)
	c.Value, c.MaxAge = value, int(SessionFor.Seconds())
	return c, nil
}

// End makes the cookie that ends a session.
func (s *Sessions) End(path string, secure bool) *http.Cookie {
	c := sessionCookie(path, secure)
	c.MaxAge = -1
	return c
}

func sessionCookie(path string, secure bool) *http.Cookie {
	return &http.Cookie{
		Name: SessionCookie, Path: path, HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode,
	}
}
