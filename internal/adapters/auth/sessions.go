package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/maypok86/otter/v2"

	"github.com/docket-project/docket/internal/domain"
)

// SessionCookie is the name of the cookie that a session is kept in.
const SessionCookie = "docket_session"

const (
	// SessionFor is how long a person is known after logging in.
	SessionFor = 12 * time.Hour
	// IdleFor is how long a session lasts of which nothing is heard.
	IdleFor = 2 * time.Hour
	// maxCookie is how long the value of a cookie may be: browsers keep 4,096 bytes of all that one is (RFC 6265 section
	// 6.1).
	maxCookie = 3800
	// clocksDiffer is how much longer than a session it is remembered that it has ended: the clock of a store is another
	// one.
	clocksDiffer = time.Hour
	// maxReturned is how many logins that have ended are remembered.
	maxReturned = 10_000
	// renewEvery is how old a cookie becomes before the browser gets a new one.
	renewEvery = 5 * time.Minute
)

// errTooLong is a session that no browser keeps.
var errTooLong = errors.New("it is longer than browsers keep cookies")

// Sessions know people by a cookie, once they have logged in, and programs by their tokens. A session is kept by the
// browser alone, sealed with a key of docket's, so that it needs no store: a console can be looked at while the
// database is away. It ends after SessionFor, after IdleFor without a request, at a logout, or as soon as what it goes
// back to does not count any more: the token is out of the file, or the issuer's entry in the configuration is another
// one.
type Sessions struct {
	credentials *Credentials
	// seal is that of sessions, and leaving that of logins that are going on.
	seal, leaving *securecookie.SecureCookie
	logins        []*login
	// returned are the logins that were ended lately: each is good for one try.
	returned *otter.Cache[string, struct{}]
	// Ended are those that have ended before their time.
	Ended *Ended
	// Refused is told of logins that fail for the person's own reasons.
	Refused func(*http.Request, error)
}

// session is what the cookie holds: since when it is and when it was renewed, in seconds since 1970, and either the
// hash of a token or a person.
type session struct {
	ID     string
	Began  int64
	Seen   int64
	Token  []byte  `json:",omitempty"`
	Person *person `json:",omitempty"`
}

// person is somebody whom an issuer has vouched for, and what its claims said at the login.
type person struct {
	Issuer  string
	Entry   string // the issuer's entry in the configuration that this was granted by
	Name    string
	Role    domain.Role
	All     bool     `json:",omitempty"` // tenants
	Tenants []string `json:",omitempty"`
}

// ends is when the session ends by itself, at the latest.
func (s session) ends() time.Time { return time.Unix(s.Began, 0).Add(SessionFor).UTC() }

// over reports that the session has ended by itself, or begins later than clocks may differ.
func (s session) over(now time.Time) bool {
	return !now.Before(s.ends()) || time.Unix(s.Began, 0).Sub(now) > leeway
}

// idle reports that a copy of the session was not used for too long.
func (s session) idle(now time.Time) bool { return now.Sub(time.Unix(s.Seen, 0)) >= IdleFor }

// sessionKey is how many bytes the keys have that a session is signed and encrypted with.
const sessionKey = 32

// NewSessions lets in whoever has a token of the file, logs in with an issuer, or shows a credential with each request.
// keyFile holds the key that sessions are sealed with, at least 32 bytes, which all consoles behind one name have to
// share; "" makes one that only this process knows. Its error is Misconfigured.
func NewSessions(
	credentials *Credentials, issuers []Issuer, keyFile string, logger *slog.Logger,
) (*Sessions, error) {
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
	sealing := func(lasts time.Duration) *securecookie.SecureCookie {
		seal := securecookie.New(sign[:], encrypt[:]).MaxAge(int(lasts.Seconds())).MaxLength(0) // see maxCookie
		return seal.SetSerializer(securecookie.JSONEncoder{})
	}
	logins, err := newLogins(issuers, logger)
	if err != nil {
		return nil, err
	}
	credentials.people = len(logins) > 0
	return &Sessions{
		Refused:     func(*http.Request, error) {},
		credentials: credentials, logins: logins, seal: sealing(SessionFor), leaving: sealing(leaveFor),
		returned: otter.Must(&otter.Options[string, struct{}]{MaximumSize: maxReturned}),
		Ended:    &Ended{logger: logger, ids: map[string]time.Time{}},
	}, nil
}

// TakesTokens reports whether a token begins a session.
func (s *Sessions) TakesTokens() bool { return s.credentials.Tokens != nil }

// Authenticate reads the bearer token or, without one, the session; without either it looks at the certificate.
func (s *Sessions) Authenticate(r *http.Request) (domain.Caller, error) {
	if r.Header.Get("Authorization") != "" {
		return s.credentials.Authenticate(r)
	}
	if _, err := r.Cookie(SessionCookie); err != nil {
		return s.credentials.Authenticate(r)
	}
	if err := s.Demand(r); err != nil {
		return domain.Caller{}, err
	}
	if held, ok := s.held(r); ok {
		if caller, err := s.callerOf(held); err == nil {
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

// shown is the session that a request shows; ok is false where there is none, and where it is over.
func (s *Sessions) shown(r *http.Request) (held session, ok bool) {
	cookie, err := r.Cookie(SessionCookie)
	if err != nil || s.seal.Decode(SessionCookie, cookie.Value, &held) != nil {
		return held, false
	}
	return held, held.ID != "" && !held.over(time.Now())
}

// held is the session that a request shows; ok is false where there is none, and where it has ended.
func (s *Sessions) held(r *http.Request) (held session, ok bool) {
	held, ok = s.shown(r)
	return held, ok && !held.idle(time.Now()) && !s.Ended.has(held.ID)
}

// callerOf is whose session it is. Its error is that it goes back to nothing that counts.
func (s *Sessions) callerOf(held session) (domain.Caller, error) {
	switch p := held.Person; {
	case p != nil:
		l := s.login(p.Issuer)
		if l == nil || l.entry != p.Entry {
			return domain.Caller{}, ErrSessionEnded
		}
		c := domain.Caller{
			Name: p.Name, Role: p.Role, Tenants: domain.Tenants(p.Tenants...), How: domain.ByLogin,
			Credential: domain.Name(p.Issuer), Expires: held.ends(),
		}
		if p.All {
			c.Tenants = domain.AllTenants()
		}
		return c, nil
	case s.credentials.Tokens != nil && len(held.Token) == sha256.Size:
		return s.credentials.Tokens.find([sha256.Size]byte(held.Token))
	}
	return domain.Caller{}, ErrSessionEnded
}

// Demand reports a browser that has not shown the certificate that everybody needs: a login would not help it.
func (s *Sessions) Demand(r *http.Request) error { return s.credentials.Certificates.demand(r) }

// Site is where a browser reaches the pages: the path that they begin at, and whether by TLS only.
type Site struct {
	Path   string
	Secure bool
}

// cookie is one of the site's, for the pages below a path of it. It is taken back where it has no value.
func (s Site) cookie(name, below, value string, lasts time.Duration) *http.Cookie {
	c := &http.Cookie{
		Name: name, Value: value, Path: s.Path + below, HttpOnly: true, Secure: s.Secure, SameSite: http.SameSiteLaxMode,
		MaxAge: int(lasts.Seconds()),
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// Begin makes the cookie of a token's session, and ends the one that the request shows. Its error is ErrUnknown or
// ErrExpired where the token is none of the file.
func (s *Sessions) Begin(r *http.Request, token string, at Site) (*http.Cookie, error) {
	if !s.TakesTokens() {
		return nil, ErrUnknown
	}
	hash := sha256.Sum256([]byte(token))
	if _, err := s.credentials.Tokens.find(hash); err != nil {
		return nil, err
	}
	return s.begin(r, session{Token: hash[:]}, at)
}

// begin makes the cookie of a new session, which takes the place of the one that the request shows.
func (s *Sessions) begin(r *http.Request, held session, at Site) (*http.Cookie, error) {
	s.end(r)
	held.ID, held.Began = random(), time.Now().Unix()
	return s.sealed(held, at)
}

// sealed makes the cookie that a session has from now on.
func (s *Sessions) sealed(held session, at Site) (*http.Cookie, error) {
	held.Seen = time.Now().Unix()
	value, err := s.seal.Encode(SessionCookie, held)
	if err == nil && len(value) > maxCookie {
		err = errTooLong
	}
	if err != nil {
		return nil, fmt.Errorf("seal the session: %w", err)
	}
	return at.cookie(SessionCookie, "", value, held.ends().Sub(time.Unix(held.Seen, 0))), nil
}

// Renew makes the cookie that takes the place of the one that a request shows, or nil where that is new enough or does
// not count: so a session goes on for as long as somebody uses it.
func (s *Sessions) Renew(r *http.Request, at Site) *http.Cookie {
	held, ok := s.held(r)
	if !ok || time.Since(time.Unix(held.Seen, 0)) < renewEvery || r.Header.Get("Authorization") != "" {
		return nil
	}
	if _, err := s.callerOf(held); err != nil {
		return nil
	}
	c, err := s.sealed(held, at)
	if err != nil {
		return nil // it was sealed before, and has not become longer
	}
	return c
}

// End ends the session that a request shows, every copy of its cookie included, and makes the cookie that takes it
// back. issuer is the one whose login it goes back to; "" for a token's.
func (s *Sessions) End(r *http.Request, at Site) (gone *http.Cookie, issuer string) {
	if held, ok := s.end(r); ok && held.Person != nil {
		issuer = held.Person.Issuer
	}
	return at.cookie(SessionCookie, "", "", 0), issuer
}

// end ends the session that a request shows. One that is idle may have copies that are not.
func (s *Sessions) end(r *http.Request) (held session, ok bool) {
	if held, ok = s.shown(r); ok {
		s.Ended.end(r.Context(), domain.EndedSession{ID: held.ID, Until: held.ends().Add(clocksDiffer)})
	}
	return held, ok
}
