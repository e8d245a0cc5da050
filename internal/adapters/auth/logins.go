package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/oauth2"

	"github.com/docket-project/docket/internal/domain"
)

// Login is how people log in with an issuer: by OpenID Connect's authorisation code flow (OpenID Connect Core 1.0,
// section 3.1) with PKCE (RFC 7636). What they may do is the issuer's console grant, by the claims of the ID token.
type Login struct {
	ClientID string `yaml:"client_id"`
	// ClientSecretFile has the secret, and is read at each login; "" is a public client.
	ClientSecretFile string `yaml:"client_secret_file,omitempty"`
	// RedirectURL is where the issuer sends people back to, as it is registered there: the console's /login/callback.
	RedirectURL string `yaml:"redirect_url"`
	// Scopes are asked for besides openid.
	Scopes []string `yaml:"scopes,omitempty"`
	// Label is what people know the issuer by; its host unless set.
	Label string `yaml:"label,omitempty"`
	// UserInfo has the claims read from the issuer's UserInfo endpoint, for those who put nothing into ID tokens.
	UserInfo bool `yaml:"userinfo,omitempty"`
}

// Callback is the path, below the console's prefix, that an issuer sends people back to.
const Callback = "/login/callback"

const (
	// leaveFor is how long a person has to log in with an issuer.
	leaveFor = 10 * time.Minute
	// discoveredFor is how long an issuer's endpoints are not asked for again, and askAgainIn how long where it did not
	// answer.
	discoveredFor = time.Hour
	askAgainIn    = 5 * time.Second
	// exchangesPerSecond and exchangesAtOnce bound how often an issuer is asked: strangers can begin logins.
	exchangesPerSecond, exchangesAtOnce = 10, 20
	// maxTo bounds the address that a person goes to after a login: it lies in a cookie.
	maxTo = 1500
)

// ErrLogin is a login with an issuer that has come to nothing.
var ErrLogin = errors.New("the login has come to nothing")

func (l *Login) validate(i Issuer) error {
	if l == nil {
		return nil
	}
	errs := []error{checkNames("login: scopes", l.Scopes...)}
	if l.ClientID == "" {
		errs = append(errs, errors.New("login: set client_id: what the issuer knows docket as"))
	}
	for _, scope := range l.Scopes {
		if strings.ContainsAny(scope, " \t") {
			errs = append(errs, fmt.Errorf("login: scopes: %q are several: write a list", scope))
		}
	}
	if i.Console == nil {
		errs = append(errs, errors.New("login: set console: what is granted to those who log in"))
	}
	if strings.HasPrefix(i.Issuer, "file:") || checkURL(i.Issuer) != nil {
		errs = append(errs, fmt.Errorf("login: the issuer %q has to be an https:// URL, where people are sent to", i.Issuer))
	}
	u, err := url.Parse(l.RedirectURL)
	if err != nil || checkURL(l.RedirectURL) != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" ||
		!strings.HasSuffix(u.Path, Callback) {
		errs = append(errs, fmt.Errorf(
			"login: redirect_url has to be the console's https:// address, as browsers know it, with %s: such as "+
				"https://docket.example%s", Callback, Callback,
		))
	}
	return errors.Join(errs...)
}

// CheckRedirects reports logins whose people would come back to another path than the console's, which is below prefix.
func CheckRedirects(issuers []Issuer, prefix string) error {
	return sectionErrors("issuers", issuers, func(i Issuer) error {
		if i.Login == nil {
			return nil
		}
		u, err := url.Parse(i.Login.RedirectURL)
		if err == nil && strings.HasSuffix(u.Path, Callback) && u.Path != prefix+Callback {
			return fmt.Errorf("login: the path of redirect_url is %s, and the console answers at %s (console_prefix)",
				u.Path, prefix+Callback)
		}
		return nil
	})
}

// leave is a login that is going on, which the browser keeps.
type leave struct {
	Issuer, State, Nonce, Verifier, To string
}

// leaveCookie names the cookie of a login, of which several tabs may have one each.
func leaveCookie(state string) string { return "docket_login_" + state[:min(len(state), 8)] }

// Choice is an issuer whom people can log in with.
type Choice struct{ Issuer, Label string }

// Choices lists them in the order of the configuration.
func (s *Sessions) Choices() (out []Choice) {
	for _, l := range s.logins {
		out = append(out, Choice{l.issuer.Issuer, l.label})
	}
	return out
}

func (s *Sessions) login(issuer string) *login {
	if i := slices.IndexFunc(s.logins, func(l *login) bool { return l.issuer.Issuer == issuer }); i >= 0 {
		return s.logins[i]
	}
	return nil
}

// Leave begins a login with an issuer: where to send the browser, and a cookie that it brings back with it. to is where
// the person wants to go afterwards. Errors: ErrLogin where there is no such issuer, Unavailable, and Misconfigured.
func (s *Sessions) Leave(ctx context.Context, issuer, to string, at Site) (there string, c *http.Cookie, err error) {
	l := s.login(issuer)
	if l == nil {
		return "", nil, fmt.Errorf("%w: docket's configuration has no login with this issuer", ErrLogin)
	}
	known, err := l.endpoints(ctx)
	if err != nil {
		return "", nil, err
	}
	config, err := l.config(known)
	if err != nil {
		return "", nil, err
	}
	if len(to) > maxTo {
		to = "/"
	}
	going := leave{issuer, random(), random(), oauth2.GenerateVerifier(), to}
	value, err := s.leaving.Encode(leaveCookie(going.State), going)
	if err == nil && len(value) > maxCookie {
		going.To = "/"
		value, err = s.leaving.Encode(leaveCookie(going.State), going)
	}
	if err != nil {
		return "", nil, fmt.Errorf("seal the login: %w", err)
	}
	there = config.AuthCodeURL(going.State, oidc.Nonce(going.Nonce), oauth2.S256ChallengeOption(going.Verifier))
	return there, at.cookie(leaveCookie(going.State), "login", value, leaveFor), nil
}

// random is a text that nobody guesses, of 128 bits.
func random() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// Return ends a login with an issuer: the cookie of the session that begins, the one that takes back what Leave gave,
// and where the person wants to go. Errors: ErrLogin, ErrNotGranted, Unavailable, and Misconfigured.
func (s *Sessions) Return(r *http.Request, at Site) (begun, gone *http.Cookie, to string, err error) {
	asked := r.URL.Query()
	state := asked.Get("state")
	name := leaveCookie(state)
	gone = at.cookie(name, "login", "", 0)
	var going leave
	cookie, err := r.Cookie(name)
	if err != nil || s.leaving.Decode(name, cookie.Value, &going) != nil ||
		subtle.ConstantTimeCompare([]byte(state), []byte(going.State)) == 0 {
		return nil, gone, "/", fmt.Errorf(
			"%w: this browser has begun none that is still going on. It has %s, and has to come back to the address that it "+
				"began at", ErrLogin, leaveFor,
		)
	}
	if _, again := s.returned.SetIfAbsent(state, struct{}{}); !again {
		return nil, gone, going.To, fmt.Errorf("%w: it has come back before; begin another one", ErrLogin)
	}
	begun, err = s.arrive(r, going, asked, at)
	return begun, gone, going.To, err
}

// arrive makes the session of a person that an issuer has sent back.
func (s *Sessions) arrive(r *http.Request, going leave, asked url.Values, at Site) (*http.Cookie, error) {
	l := s.login(going.Issuer)
	if l == nil {
		return nil, fmt.Errorf("%w: docket's configuration has no login with its issuer any more", ErrLogin)
	}
	known, err := l.endpoints(r.Context())
	if err != nil {
		return nil, err
	}
	if from := asked.Get("iss"); from != going.Issuer && (from != "" || known.namesItself) { // RFC 9207
		return nil, fmt.Errorf("%w: another issuer has answered", ErrLogin)
	}
	if code := asked.Get("error"); code != "" { // RFC 6749 section 4.1.2.1
		return nil, fmt.Errorf("%w: %s answers %s", ErrLogin, l.label, plain(code+" "+asked.Get("error_description")))
	}
	if !l.often.Allow() {
		return nil, l.away(errors.New("too many log in at once; try again in a few seconds"))
	}
	claims, err := l.exchange(oidc.ClientContext(r.Context(), l.client), known, asked.Get("code"), going)
	if err != nil {
		return nil, err
	}
	p, err := l.person(claims)
	if err != nil {
		return nil, err
	}
	caller, err := s.callerOf(session{Person: &p})
	if err != nil {
		return nil, err
	}
	holder, shown, _ := s.credentials.Certificates.find(r)
	if err := agree(caller, holder, shown); err != nil {
		return nil, err
	}
	begun, err := s.begin(r, session{Person: &p}, at)
	if errors.Is(err, errTooLong) {
		return nil, fmt.Errorf(
			"%w: %d tenants are more than a session has room for; grant them by a role without tenants, or fewer",
			ErrNotGranted, len(p.Tenants),
		)
	}
	return begun, err
}

// plain is what somebody else says, fit for a page and a log.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, domain.Name(text))
	return strings.TrimSpace(strings.ToValidUTF8(text[:min(len(text), 200)], ""))
}

// exchange turns a code into the claims of a person, which the issuer's signature, the nonce and the audience vouch
// for.
func (l *login) exchange(
	ctx context.Context, known *endpoints, code string, going leave,
) (jsontext.Value, error) {
	config, err := l.config(known)
	if err != nil {
		return nil, err
	}
	tokens, err := config.Exchange(ctx, code, oauth2.VerifierOption(going.Verifier))
	if err != nil {
		return nil, l.whyNot(err)
	}
	raw, ok := tokens.Extra("id_token").(string)
	if !ok {
		return nil, fmt.Errorf("%w: %s has sent no ID token", ErrLogin, l.label)
	}
	keys := &keysAway{KeySet: known.keys}
	checked, err := oidc.NewVerifier(l.issuer.Issuer, keys, &oidc.Config{
		ClientID: config.ClientID, SupportedSigningAlgs: l.issuer.algorithms(),
		Now: func() time.Time { return time.Now().Add(-leeway) },
	}).Verify(ctx, raw)
	if keys.why != nil {
		return nil, l.away(keys.why)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the ID token of %s does not count: %s", ErrLogin, l.label, plain(err.Error()))
	}
	if subtle.ConstantTimeCompare([]byte(checked.Nonce), []byte(going.Nonce)) == 0 {
		return nil, fmt.Errorf("%w: the ID token of %s was made for another login", ErrLogin, l.label)
	}
	claims, _, ok := claimsOf(raw)
	party := config.ClientID
	if azp := domain.ValueAt(claims, []string{"azp"}); len(azp) > 0 {
		party, _ = domain.TextOf(azp)
	}
	if !ok || party != config.ClientID {
		return nil, fmt.Errorf("%w: the ID token of %s was made for another client", ErrLogin, l.label)
	}
	if !l.issuer.Login.UserInfo {
		return claims, nil
	}
	info, err := known.UserInfo(ctx, config.TokenSource(ctx, tokens))
	if err != nil {
		return nil, l.away(fmt.Errorf("its UserInfo endpoint: %w", err))
	}
	if info.Subject != checked.Subject { // OpenID Connect Core 1.0 section 5.3.2
		return nil, fmt.Errorf("%w: the UserInfo of %s is about somebody else", ErrLogin, l.label)
	}
	var all json.RawMessage
	if err := info.Claims(&all); err != nil || !jsontext.Value(all).IsValid() {
		return nil, fmt.Errorf("%w: the UserInfo of %s is no JSON that has each name once", ErrLogin, l.label)
	}
	return jsontext.Value(all), nil
}

// whyNot words why a code was not exchanged, without what the issuer sent.
func (l *login) whyNot(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return l.away(err)
	}
	switch status := refused.Response.StatusCode; {
	case refused.ErrorCode == "invalid_client" || status == http.StatusUnauthorized:
		return l.fails(
			domain.Misconfigured, "it does not know docket by its client_id and client_secret_file",
			fmt.Errorf("its token endpoint answers %d %s", status, plain(refused.ErrorCode)),
		)
	case status >= http.StatusInternalServerError || refused.ErrorCode == "":
		return l.away(fmt.Errorf("its token endpoint answers %d", status))
	}
	return fmt.Errorf("%w: %s answers %s", ErrLogin, l.label, plain(refused.ErrorCode))
}

// person is who the claims are about, and what is granted to them. Its error is ErrNotGranted.
func (l *login) person(claims jsontext.Value) (p person, err error) {
	at := l.issuer.Name
	if at == "" {
		at = usualName
	}
	names, whole := texts(claims, at)
	if len(names) != 1 || !whole {
		return p, fmt.Errorf("%w: the claim %s of whoever logs in has to be one text, the name", ErrNotGranted, at)
	}
	c, err := l.issuer.Console.caller(names[0], claims)
	if err != nil {
		return p, fmt.Errorf("%w; %s says that you are %s", err, l.label, names[0])
	}
	return person{
		Issuer: l.issuer.Issuer, Entry: l.entry, Name: c.Name, Role: c.Role, All: c.Tenants.All(), Tenants: c.Tenants.Names(),
	}, nil
}

// LogoutURL is where a person ends the session that an issuer itself has of them; "" where the issuer does not say.
func (s *Sessions) LogoutURL(ctx context.Context, issuer string) (label, there string) {
	l := s.login(issuer)
	if l == nil {
		return "", ""
	}
	known, err := l.endpoints(ctx)
	if err != nil || known.logout == "" {
		return l.label, ""
	}
	u, err := url.Parse(known.logout)
	if err != nil {
		return l.label, ""
	}
	q := u.Query()
	q.Set("client_id", l.issuer.Login.ClientID)
	u.RawQuery = q.Encode()
	return l.label, u.String()
}
