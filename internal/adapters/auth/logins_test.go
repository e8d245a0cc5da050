package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

// consoleSite is where these tests' browsers reach the pages.
var consoleSite = Site{Path: "/docket/", Secure: true}

// loggingIn is an issuer whom people log in with, and the sessions of a console that knows it.
type loggingIn struct {
	issuing
	*Sessions
	config Issuer
	secret string
	log    bytes.Buffer
	// nonce and challenge are those that the browser was sent away with, and claims what the ID token has besides.
	nonce, challenge string
	claims           map[string]any
	signer           testserver.Signer
	// status and answer are what the token endpoint answers instead of tokens.
	status int
	answer any
}

func newLoggingIn(t *testing.T, edit ...func(*Issuer)) *loggingIn {
	l := &loggingIn{issuing: newIssuing(t, signRSA, signEC), secret: filepath.Join(t.TempDir(), "secret"), signer: signEC}
	require.NoError(t, os.WriteFile(l.secret, []byte("s3cret\n"), 0o600))
	l.config = l.issuing.config(t)
	l.config.Upload, l.config.Audiences = nil, nil
	l.config.Name = "/email"
	l.config.Login = &Login{
		ClientID: "docket console", ClientSecretFile: l.secret, RedirectURL: "https://docket.example/docket/login/callback",
		Scopes: []string{"groups"}, Label: "Example",
	}
	for _, e := range edit {
		e(&l.config)
	}
	require.NoError(t, ValidateIssuers([]Issuer{l.config}))
	l.Sessions = l.console(t, l.config)
	l.Exchange = func(form url.Values, client, secret string) (int, any) {
		if l.answer != nil {
			return l.status, l.answer
		}
		if client != "docket+console" || secret != "s3cret" { // as RFC 6749 section 2.3.1 spells them
			return http.StatusUnauthorized, map[string]string{"error": "invalid_client"}
		}
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if form.Get("code") != "the-code" || base64.RawURLEncoding.EncodeToString(sum[:]) != l.challenge {
			return http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "secret-word"}
		}
		claims := l.issuing.claims(map[string]any{"aud": "docket console", "nonce": l.nonce, "email": "ann@example.com"})
		maps.Copy(claims, l.claims)
		maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
		return http.StatusOK, map[string]any{
			"access_token": "access", "token_type": "Bearer", "id_token": l.signer.Sign(claims), "expires_in": 60,
		}
	}
	return l
}

// console is another one with the same key, and maybe another configuration.
func (l *loggingIn) console(t *testing.T, issuers ...Issuer) *Sessions {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, make([]byte, 32), 0o600))
	s, err := NewSessions(
		&Credentials{Listener: ConsoleListener, Issuers: NewIssuers(ConsoleListener, issuers, nil)}, issuers, key,
		slog.New(slog.NewTextHandler(&l.log, nil)),
	)
	require.NoError(t, err)
	return s
}

// away begins a login, and returns what the issuer sends the browser back with.
func (l *loggingIn) away(t *testing.T) (back url.Values, cookie *http.Cookie) {
	t.Helper()
	there, cookie, err := l.Leave(t.Context(), l.URL, "/decisions?q=a", consoleSite)
	require.NoError(t, err)
	u, err := url.Parse(there)
	require.NoError(t, err)
	q := u.Query()
	require.Equal(t, l.URL+"/authorize", u.Scheme+"://"+u.Host+u.Path)
	require.Equal(t, "code", q.Get("response_type"))
	require.Equal(t, "S256", q.Get("code_challenge_method"))
	require.Equal(t, "openid groups", q.Get("scope"))
	require.Equal(t, l.config.Login.RedirectURL, q.Get("redirect_uri"))
	require.NotContains(t, there, "s3cret")
	l.nonce, l.challenge = q.Get("nonce"), q.Get("code_challenge")
	return url.Values{"code": {"the-code"}, "state": {q.Get("state")}, "iss": {l.URL}}, cookie
}

// back is the request that a browser comes back with.
func backWith(q url.Values, cookies ...*http.Cookie) *http.Request {
	r := httptest.NewRequest(http.MethodGet, Callback+"?"+q.Encode(), nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r
}

func TestLogin(t *testing.T) {
	l := newLoggingIn(t)
	require.Equal(t, []Choice{{l.URL, "Example"}}, l.Choices())
	require.False(t, l.TakesTokens())
	q, cookie := l.away(t)
	require.True(t, cookie.HttpOnly && cookie.Secure && cookie.SameSite == http.SameSiteLaxMode)
	require.Equal(t, "/docket/login", cookie.Path)
	require.Equal(t, int(leaveFor.Seconds()), cookie.MaxAge)
	for _, word := range []string{l.nonce, q.Get("state"), "decisions"} {
		require.NotContains(t, cookie.Value, word)
	}
	begun, gone, to, err := l.Return(backWith(q, cookie), consoleSite)
	require.NoError(t, err)
	require.Equal(t, "/decisions?q=a", to)
	require.Equal(t, cookie.Name, gone.Name)
	require.Negative(t, gone.MaxAge)
	require.Equal(t, SessionCookie, begun.Name)
	require.Equal(t, "/docket/", begun.Path)
	require.Less(t, len(begun.Value), 700)
	caller, err := visit(l.Sessions, begun)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(SessionFor), caller.Expires, 2*time.Second)
	caller.Expires = time.Time{}
	require.Equal(t, domain.Caller{
		Name: "ann@example.com", Role: domain.Viewer, Tenants: domain.Tenants("acme"), How: domain.ByLogin, Credential: l.URL,
	}, caller)
	require.Equal(t, 1, l.Asked("/.well-known/openid-configuration"), "it is known for an hour")

	l.Set(true) // the issuer being away is missed by nobody who is logged in
	_, err = visit(l.Sessions, begun)
	require.NoError(t, err)

	label, there := l.LogoutURL(t.Context(), l.URL)
	require.Equal(t, "Example", label)
	require.Equal(t, l.URL+"/end?client_id=docket+console", there)
	r := httptest.NewRequest(http.MethodPost, "/logout", nil)
	r.AddCookie(begun)
	_, issuer := l.End(r, consoleSite)
	require.Equal(t, l.URL, issuer)
	_, err = visit(l.Sessions, begun)
	require.ErrorIs(t, err, ErrSessionEnded)
	label, there = l.LogoutURL(t.Context(), "https://evil.example")
	require.Empty(t, label+there)
}

// TestLoginEnds with what it was granted by.
func TestLoginEnds(t *testing.T) {
	l := newLoggingIn(t)
	q, cookie := l.away(t)
	begun, _, _, err := l.Return(backWith(q, cookie), consoleSite)
	require.NoError(t, err)
	_, err = visit(l.console(t, l.config), begun)
	require.NoError(t, err, "of another console with the same key and configuration")
	changed, console := l.config, *l.config.Console
	console.Roles = map[string]string{"dev": "operator"}
	changed.Console = &console
	_, err = visit(l.console(t, changed), begun)
	require.ErrorIs(t, err, ErrSessionEnded, "the grant is another one")
	_, err = visit(l.console(t), begun)
	require.ErrorIs(t, err, ErrSessionEnded, "nobody logs in with it any more")
	changed = l.config
	changed.Login = nil
	changed.Audiences = []string{"docket"}
	_, err = visit(l.console(t, changed), begun)
	require.ErrorIs(t, err, ErrSessionEnded)
}

// TestLoginsThatAreRefused are those that an attacker, or a mistaken issuer, would make.
func TestLoginsThatAreRefused(t *testing.T) {
	evil := newIssuing(t, signOther)
	type edit = func(l *loggingIn, q url.Values, c *http.Cookie)
	claim := func(key string, value any) edit {
		return func(l *loggingIn, _ url.Values, _ *http.Cookie) { l.claims = map[string]any{key: value} }
	}
	query := func(key, value string) edit {
		return func(_ *loggingIn, q url.Values, _ *http.Cookie) { q.Set(key, value) }
	}
	answers := func(status int, with any) edit {
		return func(l *loggingIn, _ url.Values, _ *http.Cookie) { l.status, l.answer = status, with }
	}
	const none, other = "this browser has begun none", "was made for another login"
	for name, c := range map[string]struct {
		edit edit
		want error
		says string
	}{
		"another state":   {query("state", "x"), ErrLogin, none},
		"no state":        {query("state", ""), ErrLogin, none},
		"no cookie":       {func(_ *loggingIn, _ url.Values, c *http.Cookie) { c.Name = "other" }, ErrLogin, none},
		"a forged cookie": {func(_ *loggingIn, _ url.Values, c *http.Cookie) { c.Value = "A" + c.Value[1:] }, ErrLogin, none},
		"half a state": {func(_ *loggingIn, q url.Values, _ *http.Cookie) {
			q.Set("state", q.Get("state")[:10])
		}, ErrLogin, none},
		"another's code": {query("code", "other"), ErrLogin, "Example answers invalid_grant"},
		"another issuer": {query("iss", evil.URL), ErrLogin, "another issuer has answered"},
		"the person says no": {func(_ *loggingIn, q url.Values, _ *http.Cookie) {
			q.Set("error", "access_denied")
			q.Set("error_description", "no\x1b[31m\nway <b>")
		}, ErrLogin, "Example answers access_denied no [31m way <b>"},
		"another's nonce":  {claim("nonce", "other"), ErrLogin, other},
		"no nonce":         {claim("nonce", nil), ErrLogin, other},
		"another audience": {claim("aud", "other"), ErrLogin, "does not count"},
		"another party": {func(l *loggingIn, _ url.Values, _ *http.Cookie) {
			l.claims = map[string]any{"aud": []string{"docket console", "x"}, "azp": "x"}
		}, ErrLogin, "made for another client"},
		"its time is over": {claim("exp", time.Now().Add(-time.Minute).Unix()), ErrLogin, "does not count"},
		"another issuer's": {claim("iss", evil.URL), ErrLogin, "does not count"},
		"a key of nobody": {func(l *loggingIn, _ url.Values, _ *http.Cookie) {
			l.signer = signOther
		}, ErrLogin, "does not count"},
		"no role": {
			claim("groups", []string{"all"}), ErrNotGranted,
			"no value of its claim /groups is a role here; Example says that you are ann@example.com",
		},
		"no groups":        {claim("groups", nil), ErrNotGranted, "there is no text in its claim /groups"},
		"no tenant":        {claim("teams", nil), ErrNotGranted, "names no tenant"},
		"no name":          {claim("email", nil), ErrNotGranted, "has to be one text, the name"},
		"a name that lies": {claim("email", "ann\n"), ErrNotGranted, "has to be one text, the name"},
		"too many tenants": {claim("teams", many(400)), ErrNotGranted, "400 tenants are more than a session has room for"},
		"no ID token":      {answers(200, map[string]any{"access_token": "a"}), ErrLogin, "has sent no ID token"},
		"a refusal":        {answers(400, map[string]any{"error": "unauthorized_client"}), ErrLogin, "unauthorized_client"},
		"too many at once": {func(l *loggingIn, _ url.Values, _ *http.Cookie) {
			l.logins[0].often.SetBurst(0)
		}, nil, "nobody can log in with Example at the moment"},
		"an issuer in need": {answers(502, "rubbish"), nil, "nobody can log in with Example at the moment"},
		"too many for it":   {answers(429, "rubbish"), nil, "nobody can log in with Example at the moment"},
		"rubbish":           {answers(200, "rubbish"), nil, "nobody can log in with Example at the moment"},
		"a long answer":     {answers(200, strings.Repeat("x", 2<<20)), nil, "nobody can log in with Example at the moment"},
		"no keys":           {func(l *loggingIn, _ url.Values, _ *http.Cookie) { l.Set(true) }, nil, "nobody can log in"},
		"another secret": {func(l *loggingIn, _ url.Values, _ *http.Cookie) {
			require.NoError(t, os.WriteFile(l.secret, []byte("other"), 0o600))
		}, nil, "does not know docket by its client_id and client_secret_file"},
		"no secret any more": {func(l *loggingIn, _ url.Values, _ *http.Cookie) {
			require.NoError(t, os.Remove(l.secret))
		}, nil, "docket's own settings of it are wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoggingIn(t)
			q, cookie := l.away(t)
			c.edit(l, q, cookie)
			begun, gone, _, err := l.Return(backWith(q, cookie), consoleSite)
			require.Nil(t, begun)
			require.Negative(t, gone.MaxAge)
			require.ErrorContains(t, err, c.says)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			} else {
				require.Contains(t, []domain.Class{domain.Unavailable, domain.Misconfigured}, domain.ClassOf(err))
			}
			for _, secret := range []string{"s3cret", "the-code", "secret-word", "rubbish", l.secret} {
				require.NotContains(t, err.Error(), secret)
			}
			if c.want == nil {
				require.Contains(t, l.log.String(), "people cannot log in with an issuer")
				require.Less(t, l.log.Len(), 2000, "however much the issuer says")
				require.NotContains(t, l.log.String(), "s3cret")
			}
		})
	}
}

func many(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("tenant-%d", i))
	}
	return names
}

// TestLoginTabs have a login each.
func TestLoginTabs(t *testing.T) {
	l := newLoggingIn(t)
	first, one := l.away(t)
	nonce, challenge := l.nonce, l.challenge
	second, other := l.away(t)
	_, _, _, err := l.Return(backWith(second, one, other), consoleSite)
	require.NoError(t, err)
	l.nonce, l.challenge = nonce, challenge
	_, _, _, err = l.Return(backWith(first, one, other), consoleSite)
	require.NoError(t, err)
}

// TestLoginByUserInfo has an issuer that puts nothing into ID tokens.
func TestLoginByUserInfo(t *testing.T) {
	l := newLoggingIn(t, func(i *Issuer) { i.Login.UserInfo = true })
	l.claims = map[string]any{"groups": nil, "teams": nil, "email": nil}
	sub := "system:serviceaccount:payments:opa"
	l.UserInfo = func() any {
		return map[string]any{"sub": sub, "email": "bob@example.com", "groups": []string{"sre"}, "teams": "acme"}
	}
	q, cookie := l.away(t)
	begun, _, _, err := l.Return(backWith(q, cookie), consoleSite)
	require.NoError(t, err)
	caller, err := visit(l.Sessions, begun)
	require.NoError(t, err)
	require.Equal(t, "bob@example.com", caller.Name)
	require.Equal(t, domain.Operator, caller.Role)

	sub = "somebody else"
	q, cookie = l.away(t)
	_, _, _, err = l.Return(backWith(q, cookie), consoleSite)
	require.ErrorIs(t, err, ErrLogin)
	require.ErrorContains(t, err, "is about somebody else")
}

// TestLoginWhileTheIssuerIsAway tells people so, and goes on by what is known.
func TestLoginWhileTheIssuerIsAway(t *testing.T) {
	l := newLoggingIn(t)
	l.Set(true)
	_, _, err := l.Leave(t.Context(), l.URL, "/", consoleSite)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err))
	require.ErrorContains(t, err, "nobody can log in with Example at the moment")
	for range 50 {
		_, _, err = l.Leave(t.Context(), l.URL, "/", consoleSite)
		require.Equal(t, domain.Unavailable, domain.ClassOf(err))
	}
	require.Equal(t, 1, l.Asked("/.well-known/openid-configuration"), "strangers do not have it asked again and again")
	_, _, err = l.Leave(t.Context(), "https://evil.example", "/", consoleSite)
	require.ErrorIs(t, err, ErrLogin)
	l.Set(false)
	l.logins[0].next = time.Time{} // a few seconds later
	l.away(t)
	l.Set(true)
	l.logins[0].next = time.Time{} // an hour later
	l.away(t)
	for _, long := range []string{strings.Repeat("x", 5000), strings.Repeat("&", 1400)} {
		_, cookie, err := l.Leave(t.Context(), l.URL, "/"+long, consoleSite)
		require.NoError(t, err, "a long address is not gone back to")
		require.Less(t, len(cookie.Value), maxCookie)
	}
}

// TestLoginReplayed has a browser come back twice.
func TestLoginReplayed(t *testing.T) {
	l := newLoggingIn(t)
	q, cookie := l.away(t)
	_, _, _, err := l.Return(backWith(q, cookie), consoleSite)
	require.NoError(t, err)
	_, _, _, err = l.Return(backWith(q, cookie), consoleSite)
	require.ErrorIs(t, err, ErrLogin)
	require.ErrorContains(t, err, "it has come back before")
}

// TestLoginKeys are where the configuration says, and an issuer does not lead into the clear.
func TestLoginKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(file, testserver.KeySet(signOther), 0o600))
	l := newLoggingIn(t, func(i *Issuer) { i.JWKSURL = "file://" + file })
	q, cookie := l.away(t)
	_, _, _, err := l.Return(backWith(q, cookie), consoleSite)
	require.ErrorContains(t, err, "does not count", "the issuer's own keys are not those of jwks_url")
	l.signer = signOther
	q, cookie = l.away(t)
	_, _, _, err = l.Return(backWith(q, cookie), consoleSite)
	require.NoError(t, err)
	require.Zero(t, l.Asked("/keys"))
	for _, at := range []string{"http://x.example", "http://localhost:1", "file:///x", ""} {
		require.False(t, l.logins[0].safe(at), at)
	}
	require.True(t, l.logins[0].safe("https://x.example/keys"))
}

// TestLoginAndCertificate are of one tenant, where a browser has both.
func TestLoginAndCertificate(t *testing.T) {
	l := newLoggingIn(t)
	root := testserver.NewAuthority(nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.CertPEM(), nil)
	l.credentials.Certificates = NewCertificates(a, ConsoleListener, certificateRules, false)
	own := root.Client("a.acme.example")
	for teams, want := range map[string]error{"acme": nil, "initech": ErrContradiction} {
		l.claims = map[string]any{"teams": teams}
		q, cookie := l.away(t)
		r := backWith(q, cookie)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{own.Cert}}
		_, _, _, err := l.Return(r, consoleSite)
		require.ErrorIs(t, err, want, teams)
	}
}

func TestLoginSettings(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Issuer)
		says string
	}{
		"no client":        {func(i *Issuer) { i.Login.ClientID = "" }, "login: set client_id"},
		"no grant":         {func(i *Issuer) { i.Console = nil; i.Upload = &UploadGrant{Tenant: "a"} }, "login: set console"},
		"an upload grant":  {func(i *Issuer) { i.Upload = &UploadGrant{Tenant: "a"} }, "set audiences"},
		"in the clear":     {func(i *Issuer) { i.Login.RedirectURL = "http://docket.example" + Callback }, "redirect_url"},
		"another page":     {func(i *Issuer) { i.Login.RedirectURL = "https://docket.example/" }, "redirect_url"},
		"with a query":     {func(i *Issuer) { i.Login.RedirectURL += "?a=b" }, "redirect_url"},
		"a file":           {func(i *Issuer) { i.Login.RedirectURL = "file:///login/callback" }, "redirect_url"},
		"issuer in clear":  {func(i *Issuer) { i.Issuer = "http://login.example" }, "has to be an https:// URL"},
		"issuer by name":   {func(i *Issuer) { i.Issuer, i.JWKSURL = "me", "https://x.example" }, "has to be an https://"},
		"several scopes":   {func(i *Issuer) { i.Login.Scopes = []string{"email groups"} }, "write a list"},
		"a scope of two":   {func(i *Issuer) { i.Login.Scopes = []string{" groups"} }, "login: scopes"},
		"nothing is wrong": {func(*Issuer) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			i := Issuer{Issuer: "https://login.example", grants: grants{Console: &ConsoleGrant{Role: "viewer"}}, Login: &Login{
				ClientID: "docket", RedirectURL: "https://docket.example/login/callback",
			}}
			c.edit(&i)
			err := ValidateIssuers([]Issuer{i})
			if c.says == "" {
				require.NoError(t, err)
				require.NoError(t, CheckRedirects([]Issuer{i, {}}, ""))
				require.ErrorContains(t, CheckRedirects([]Issuer{i}, "/docket"), "/docket/login/callback")
				return
			}
			require.ErrorContains(t, err, c.says)
		})
	}
	missing := Issuer{Issuer: "https://x.example", Login: &Login{ClientSecretFile: "/nowhere"}}
	_, err := NewSessions(&Credentials{}, []Issuer{missing}, "", slog.New(slog.DiscardHandler))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.ErrorContains(t, err, "issuer https://x.example: login: client_secret_file")
}

// TestIDTokensAreNoBearerTokens unless an audience says so.
func TestIDTokensAreNoBearerTokens(t *testing.T) {
	l := newLoggingIn(t)
	token := signEC.Sign(l.issuing.claims(map[string]any{"aud": "docket console"}))
	_, err := ask(l.Sessions, "Bearer "+token)
	require.ErrorIs(t, err, ErrUnknown)
}
