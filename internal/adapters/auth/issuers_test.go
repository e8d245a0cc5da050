package auth

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

var (
	signRSA   = testserver.NewSigner("rsa", jwt.SigningMethodRS256)
	signEC    = testserver.NewSigner("ec", jwt.SigningMethodES256)
	signOther = testserver.NewSigner("other", jwt.SigningMethodES256)
)

// issuing is an issuer of tokens with claims as these tests have them.
type issuing struct{ *testserver.Issuer }

func newIssuing(t *testing.T, keys ...testserver.Signer) issuing {
	i := issuing{testserver.NewIssuer(keys...)}
	t.Cleanup(i.Close)
	return i
}

// config takes the issuer's tokens on both listeners.
func (i issuing) config(t *testing.T) Issuer {
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, i.CA(), 0o600))
	return Issuer{
		Issuer: i.URL, CAFile: file, Audiences: []string{"docket", "logs"},
		grants: grants{
			Upload: &UploadGrant{TenantClaim: "/kubernetes.io/namespace", Tenants: map[string]string{"payments": "acme"}},
			Console: &ConsoleGrant{
				RoleClaim: "/groups", Roles: map[string]string{"sre": "operator", "dev": "viewer"}, TenantsClaim: "/teams",
			},
		},
	}
}

// claims are good ones of the issuer, with changes; nil takes one out.
func (i issuing) claims(changes map[string]any) jwt.MapClaims {
	c := i.ClaimsFor("system:serviceaccount:payments:opa", "docket")
	c["kubernetes.io"] = map[string]any{"namespace": "payments"}
	c["groups"], c["teams"] = []string{"all", "dev"}, []string{"acme"}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func listenersOf(t *testing.T, logger *slog.Logger, issuers ...Issuer) (upload, console *Credentials) {
	t.Helper()
	require.NoError(t, ValidateIssuers(issuers))
	keys, err := LoadKeys(t.Context(), issuers, nil, logger)
	require.NoError(t, err)
	return &Credentials{Issuers: NewIssuers(UploadListener, issuers, keys)},
		&Credentials{Issuers: NewIssuers(ConsoleListener, issuers, keys)}
}

func TestJWT(t *testing.T) {
	i := newIssuing(t, signRSA, signEC)
	upload, console := listenersOf(t, slog.New(slog.DiscardHandler), i.config(t))
	good := i.claims(nil)
	for _, s := range []testserver.Signer{signRSA, signEC} {
		caller, err := ask(upload, "Bearer "+s.Sign(good))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(time.Hour), caller.Expires, 2*time.Second)
		caller.Expires = time.Time{}
		require.Equal(t, domain.Caller{
			Name: "system:serviceaccount:payments:opa", Tenants: domain.Tenants("acme"), How: domain.ByJWT,
			Credential: i.URL,
		}, caller)
		caller, err = ask(console, "Bearer "+s.Sign(good))
		require.NoError(t, err)
		require.Equal(t, domain.Viewer, caller.Role)
		require.Equal(t, domain.Tenants("acme"), caller.Tenants)
	}
	caller, err := ask(console, "Bearer "+signEC.Sign(i.claims(map[string]any{
		"groups": []string{"dev", "sre", "dev"}, "teams": "initech", "aud": []string{"x", "logs"},
	})))
	require.NoError(t, err)
	require.Equal(t, domain.Operator, caller.Role, "the most that any of them grants")
	require.Equal(t, domain.Tenants("initech"), caller.Tenants)

	noKid := jwt.NewWithClaims(signRSA.Method, good)
	text, err := noKid.SignedString(signRSA.Key)
	require.NoError(t, err)
	_, err = ask(upload, "Bearer "+text)
	require.NoError(t, err, "without a kid, any key may fit")
}

// TestJWTs that must not count.
func TestJWTsThatAreRefused(t *testing.T) {
	i := newIssuing(t, signRSA, signEC)
	upload, console := listenersOf(t, slog.New(slog.DiscardHandler), i.config(t))
	changed := func(key string, value any) string { return signRSA.Sign(i.claims(map[string]any{key: value})) }
	inNamespace := func(value any) string { return changed("kubernetes.io", map[string]any{"namespace": value}) }
	good := signRSA.Sign(i.claims(nil))
	parts := strings.Split(good, ".")
	evil := strings.Split(inNamespace("other"), ".")
	unsigned, err := jwt.NewWithClaims(jwt.SigningMethodNone, i.claims(nil)).SignedString(jwt.UnsafeAllowNoneSignatureType)
	require.NoError(t, err)
	// The public key as the secret of an HMAC, for whoever lets the token say how it is checked.
	confused := jwt.NewWithClaims(jwt.SigningMethodHS256, i.claims(nil))
	confused.Header["kid"] = "rsa"
	hmac, err := confused.SignedString(x509.MarshalPKCS1PublicKey(signRSA.Key.Public().(*rsa.PublicKey)))
	require.NoError(t, err)
	strong := testserver.Signer{ID: "rsa", Method: jwt.SigningMethodRS512, Key: signRSA.Key}
	posing := testserver.Signer{ID: "ec", Method: jwt.SigningMethodES256, Key: signOther.Key}
	hour := time.Hour
	for name, c := range map[string]struct {
		token string
		want  error
		says  string
	}{
		"another payload":       {parts[0] + "." + evil[1] + "." + parts[2], ErrUnknown, "it is not signed by"},
		"no signature":          {parts[0] + "." + parts[1] + ".", ErrUnknown, "it is not signed by"},
		"alg none":              {unsigned, ErrUnknown, "it is not signed by"},
		"HMAC by a public key":  {hmac, ErrUnknown, "it is not signed by"},
		"an algorithm too many": {strong.Sign(i.claims(nil)), ErrUnknown, "it is not signed by"},
		"a key of nobody":       {signOther.Sign(i.claims(nil)), ErrUnknown, "has no key of its kid"},
		"another's key under a known name": {
			posing.Sign(i.claims(nil)), ErrUnknown, "it is not signed by",
		},
		"expired":              {changed("exp", time.Now().Add(-hour).Unix()), ErrExpired, "ask for another one"},
		"without end":          {changed("exp", nil), ErrUnknown, "it has no exp"},
		"not yet":              {changed("nbf", time.Now().Add(hour).Unix()), ErrUnknown, "do the clocks agree"},
		"another audience":     {changed("aud", "somebody"), ErrUnknown, "another audience"},
		"no audience":          {changed("aud", nil), ErrUnknown, ""},
		"another issuer":       {changed("iss", "https://evil.example"), ErrUnknown, "its issuer is none"},
		"nearly its issuer":    {changed("iss", i.URL+"/"), ErrUnknown, "its issuer is none"},
		"no issuer":            {changed("iss", nil), ErrUnknown, "its issuer is none"},
		"no name":              {changed("sub", nil), ErrNotGranted, "/sub"},
		"a name that is none":  {changed("sub", "a\x00b"), ErrNotGranted, "/sub"},
		"no tenant":            {changed("kubernetes.io", nil), ErrNotGranted, "has to be one text"},
		"an unknown tenant":    {inNamespace("x"), ErrNotGranted, "is no tenant here"},
		"two tenants":          {inNamespace([]string{"payments", "x"}), ErrNotGranted, "one text"},
		"a tenant of a number": {inNamespace(7), ErrNotGranted, "one text"},
		"very long":            {changed("x", strings.Repeat("x", maxJWT)), ErrUnknown, ""},
		"rubbish with dots":    {"a.b.c", ErrUnknown, ""},
		"no token":             {"", ErrNoCredentials, ""},
	} {
		t.Run(name, func(t *testing.T) {
			caller, err := ask(upload, "Bearer "+c.token)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, domain.Caller{}, caller)
			if c.token != "" {
				require.NotContains(t, err.Error(), c.token)
			}
		})
	}
	for name, c := range map[string]struct {
		change map[string]any
		says   string
	}{
		"no role":              {map[string]any{"groups": []string{"all"}}, "is a role here"},
		"no groups":            {map[string]any{"groups": nil}, "there is no text in its claim /groups"},
		"a role as its group":  {map[string]any{"groups": "admin"}, "is a role here"},
		"no teams":             {map[string]any{"teams": nil}, "names no tenant"},
		"teams of numbers":     {map[string]any{"teams": []any{"acme", 1}}, "names no tenant"},
		"a team with a NUL":    {map[string]any{"teams": "a\x00initech"}, "names no tenant"},
		"an empty team":        {map[string]any{"teams": []string{""}}, "names no tenant"},
		"a list without teams": {map[string]any{"teams": []string{}}, "names no tenant"},
	} {
		t.Run("console: "+name, func(t *testing.T) {
			_, err := ask(console, "Bearer "+signRSA.Sign(i.claims(c.change)))
			require.ErrorIs(t, err, ErrNotGranted)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// TestKeysOfAnIssuer has one that rotates its keys, and is away.
func TestKeysOfAnIssuer(t *testing.T) {
	i := newIssuing(t, signRSA)
	var said bytes.Buffer
	reg := prometheus.NewRegistry()
	cfg := i.config(t)
	tokenFile := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(tokenFile, []byte("for the keys\n"), 0o600))
	cfg.TokenFile = tokenFile
	i.Set(true)
	keys, err := loadKeys(t.Context(), []Issuer{cfg}, rate.Inf, reg, slog.New(slog.NewTextHandler(&said, nil)))
	require.NoError(t, err, "docket starts without its issuers")
	require.Contains(t, said.String(), "the keys of an issuer were not read")
	upload := &Credentials{Issuers: NewIssuers(UploadListener, []Issuer{cfg}, keys)}
	old, fresh := signRSA.Sign(i.claims(nil)), signEC.Sign(i.claims(nil))
	_, err = ask(upload, "Bearer "+old)
	require.Equal(t, domain.Unavailable, domain.ClassOf(err), "nobody can tell: %v", err)
	why, all := upload.Trouble()
	require.ErrorContains(t, why, "could not be read so far")
	require.True(t, all)

	i.Set(false, signRSA)
	_, err = ask(upload, "Bearer "+old)
	require.NoError(t, err)
	require.Equal(t, "Bearer for the keys", i.Shown())
	why, all = upload.Trouble()
	require.NoError(t, why)
	require.False(t, all)
	families, err := reg.Gather()
	require.NoError(t, err)
	require.Equal(t, "docket_issuer_keys_age_seconds", families[0].GetName())
	require.Equal(t, i.URL, families[0].GetMetric()[0].GetLabel()[0].GetValue())

	i.Set(true)
	_, err = ask(upload, "Bearer "+old)
	require.NoError(t, err, "an issuer that is away is missed by nobody whose key is known")
	_, err = ask(upload, "Bearer "+fresh)
	require.ErrorIs(t, err, ErrUnknown)
	i.Set(false, signRSA, signEC)
	for _, token := range []string{old, fresh} {
		_, err = ask(upload, "Bearer "+token)
		require.NoError(t, err, "a key that is new is asked for")
	}
	i.Set(false, signEC)
	_, err = ask(upload, "Bearer "+signOther.Sign(i.claims(nil)))
	require.ErrorIs(t, err, ErrUnknown)
	_, err = ask(upload, "Bearer "+old)
	require.NoError(t, err, "it was good a moment ago")
	upload.Issuers.good.InvalidateAll() // a minute later
	_, err = ask(upload, "Bearer "+old)
	require.ErrorIs(t, err, ErrUnknown, "a key that the issuer withdrew")
}

// TestAnswersThatAreNoKeys has an issuer that answers 200, with something else.
func TestAnswersThatAreNoKeys(t *testing.T) {
	answer := testserver.KeySet(signRSA)
	var shownTo []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shownTo = append(shownTo, r.URL.Path+" "+r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/keys", http.StatusFound)
		default:
			_, _ = w.Write(answer)
		}
	}))
	defer server.Close()
	i := newIssuing(t)
	cfg := i.config(t)
	cfg.JWKSURL, cfg.CAFile = server.URL+"/keys", ""
	var said bytes.Buffer
	keys, err := loadKeys(t.Context(), []Issuer{cfg}, rate.Inf, nil, slog.New(slog.NewTextHandler(&said, nil)))
	require.NoError(t, err)
	upload := &Credentials{Issuers: NewIssuers(UploadListener, []Issuer{cfg}, keys)}
	known, other := signRSA.Sign(i.claims(nil)), signOther.Sign(i.claims(nil))
	encrypts := strings.ReplaceAll(string(testserver.KeySet(signOther)), `"use":"sig"`, `"use":"enc"`)
	for what, bad := range map[string]string{
		"a page": "<html>log in</html>", "an error": `{"error":"maintenance"}`, "no keys": `{"keys":[]}`,
		"a key for encryption": encrypts, "much": strings.Repeat(" ", maxKeys+1),
	} {
		answer = []byte(bad)
		_, err = ask(upload, "Bearer "+other)
		require.ErrorIs(t, err, ErrUnknown, what)
		upload.Issuers.good.InvalidateAll()
		_, err = ask(upload, "Bearer "+known)
		require.NoError(t, err, "%s: the key that is known counts on", what)
	}
	require.Contains(t, said.String(), "answers without a key for signatures by RS256, ES256")
	require.Contains(t, said.String(), server.URL+"/keys")

	noKid := jwt.NewWithClaims(signOther.Method, i.claims(nil))
	text, err := noKid.SignedString(signOther.Key)
	require.NoError(t, err)
	answer = []byte(encrypts)
	_, err = ask(upload, "Bearer "+text)
	require.ErrorIs(t, err, ErrUnknown, "a key for encryption counts in no case")
	answer = testserver.KeySet(signRSA, signOther)
	_, err = ask(upload, "Bearer "+text)
	require.NoError(t, err, "a token without a kid makes docket ask as well")
	require.Contains(t, said.String(), "the keys of an issuer were read again")

	cfg.JWKSURL = server.URL + "/moved"
	said.Reset()
	_, err = loadKeys(t.Context(), []Issuer{cfg}, rate.Inf, nil, slog.New(slog.NewTextHandler(&said, nil)))
	require.NoError(t, err)
	require.Contains(t, said.String(), "docket follows no redirects")
}

// TestWhereTheTokenGoes has an issuer whose keys are elsewhere, by its own word.
func TestWhereTheTokenGoes(t *testing.T) {
	shown := ""
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown += r.Header.Get("Authorization")
		_, _ = w.Write(testserver.KeySet(signRSA))
	}))
	defer elsewhere.Close()
	keysAt, asked := elsewhere.URL, ""
	var issuer *httptest.Server
	issuer = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Get("Authorization")
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": issuer.URL, "jwks_uri": keysAt})
	}))
	defer issuer.Close()
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("docket's own"), 0o600))
	cfg := Issuer{
		Issuer: issuer.URL, TokenFile: token, Audiences: []string{"docket"},
		grants: grants{Upload: &UploadGrant{Tenant: "a"}},
	}
	var said bytes.Buffer
	_, err := LoadKeys(t.Context(), []Issuer{cfg}, nil, slog.New(slog.NewTextHandler(&said, nil)))
	require.NoError(t, err)
	require.Empty(t, said.String())
	require.Equal(t, "Bearer docket's own", asked)
	require.Empty(t, shown)
	keysAt = "file://" + token
	_, err = LoadKeys(t.Context(), []Issuer{cfg}, nil, slog.New(slog.NewTextHandler(&said, nil)))
	require.NoError(t, err)
	require.Contains(t, said.String(), "is no https:// URL")
}

// TestTwoReaders has claims of which one reader takes another value than the next.
func TestTwoReaders(t *testing.T) {
	i := newIssuing(t, signRSA)
	upload, _ := listenersOf(t, slog.New(slog.DiscardHandler), i.config(t))
	for n, odd := range []string{
		`"aud":"docket"`, `"aud":"docket","aud":"docket"`, `"aud":"other","AUD":"docket"`, `"Iss":"x","aud":"docket"`,
		`"aud":"docket","x":{"a":1,"a":2}`,
	} {
		good, err := json.Marshal(i.claims(map[string]any{"aud": nil}))
		require.NoError(t, err)
		payload := strings.TrimSuffix(string(good), "}") + "," + odd + "}"
		signing := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"rsa"}`)) + "." +
			base64.RawURLEncoding.EncodeToString([]byte(payload))
		signature, err := signRSA.Method.Sign(signing, signRSA.Key)
		require.NoError(t, err)
		_, err = ask(upload, "Bearer "+signing+"."+base64.RawURLEncoding.EncodeToString(signature))
		if n == 0 {
			require.NoError(t, err, "nothing is odd")
			continue
		}
		require.ErrorIs(t, err, ErrUnknown, odd)
	}
}

// TestGoodTokens are remembered for no longer than they count.
func TestGoodTokens(t *testing.T) {
	i := newIssuing(t, signRSA)
	upload, _ := listenersOf(t, slog.New(slog.DiscardHandler), i.config(t))
	token := signRSA.Sign(i.claims(map[string]any{"exp": time.Now().Add(-leeway / 2).Unix()}))
	_, err := ask(upload, "Bearer "+token)
	require.NoError(t, err, "within the leeway of clocks")
	known, ok := upload.Issuers.good.GetIfPresent(sha256.Sum256([]byte(token)))
	require.True(t, ok)
	require.False(t, time.Now().Before(known.until))
	lasting := signRSA.Sign(i.claims(nil))
	_, err = ask(upload, "Bearer "+lasting)
	require.NoError(t, err)
	known, ok = upload.Issuers.good.GetIfPresent(sha256.Sum256([]byte(lasting)))
	require.True(t, ok)
	require.WithinDuration(t, time.Now().Add(goodFor), known.until, time.Second)
	refused := signOther.Sign(i.claims(nil))
	_, err = ask(upload, "Bearer "+refused)
	require.Error(t, err)
	_, ok = upload.Issuers.good.GetIfPresent(sha256.Sum256([]byte(refused)))
	require.False(t, ok, "only good ones are")
}

// TestStrangersAndAnIssuer has tokens with made-up key ids, which must not make docket ask the issuer for each.
func TestStrangersAndAnIssuer(t *testing.T) {
	i := newIssuing(t, signRSA)
	upload, _ := listenersOf(t, slog.New(slog.DiscardHandler), i.config(t))
	for n := range 50 {
		made := signOther
		made.ID = strings.Repeat("x", n)
		_, err := ask(upload, "Bearer "+made.Sign(i.claims(nil)))
		require.ErrorIs(t, err, ErrUnknown)
	}
	require.LessOrEqual(t, i.Asked("/keys"), 3)
	require.Equal(t, 1, i.Asked("/.well-known/openid-configuration"))
	_, err := ask(upload, "Bearer "+signRSA.Sign(i.claims(nil)))
	require.NoError(t, err)
}

// TestKeysFromAFile has an issuer that docket cannot reach, and one whose word on its keys is not taken.
func TestKeysFromAFile(t *testing.T) {
	i := newIssuing(t)
	file := filepath.Join(t.TempDir(), "keys.json")
	require.NoError(t, os.WriteFile(file, testserver.KeySet(signRSA), 0o600))
	cfg := i.config(t)
	cfg.JWKSURL, cfg.CAFile = "file://"+file, ""
	upload, _ := listenersOf(t, slog.New(slog.DiscardHandler), cfg)
	_, err := ask(upload, "Bearer "+signRSA.Sign(i.claims(nil)))
	require.NoError(t, err)
	require.Zero(t, i.Asked("/keys"))

	var said bytes.Buffer
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": "https://x.example", "jwks_uri": "http://x.example/"})
	}))
	defer liar.Close()
	cfg.Issuer, cfg.JWKSURL = liar.URL, ""
	_, _ = listenersOf(t, slog.New(slog.NewTextHandler(&said, nil)), cfg)
	require.Contains(t, said.String(), "is about another issuer")
}

func TestIssuersThatAreNone(t *testing.T) {
	good := Issuer{
		Issuer: "https://a.example", Audiences: []string{"docket"}, grants: grants{Upload: &UploadGrant{Tenant: "acme"}},
	}
	require.NoError(t, ValidateIssuers([]Issuer{good}))
	local := good
	local.JWKSURL = "http://127.0.0.1:8080/keys"
	require.NoError(t, ValidateIssuers([]Issuer{local}))
	for says, change := range map[string]func(*Issuer){
		"set issuer":                            func(i *Issuer) { i.Issuer = "" },
		"set audiences":                         func(i *Issuer) { i.Audiences = nil },
		"is no https:// or file:/// URL":        func(i *Issuer) { i.JWKSURL = "http://keys.example/" },
		"which is asked where the keys are":     func(i *Issuer) { i.Issuer = "kubernetes/serviceaccount" },
		`algorithms: "HS256" is none of`:        func(i *Issuer) { i.Algorithms = []string{"HS256"} },
		`algorithms: "none" is none of`:         func(i *Issuer) { i.Algorithms = []string{"none"} },
		"name: \"sub\" is no JSON pointer":      func(i *Issuer) { i.Name = "sub" },
		"set upload or console":                 func(i *Issuer) { i.grants = grants{} },
		"upload: set either tenant or":          func(i *Issuer) { i.Upload = &UploadGrant{} },
		"upload: tenants says what values of":   func(i *Issuer) { i.Upload.Tenants = map[string]string{"a": "b"} },
		"upload.tenant_claim: \"x\" is no JSON": func(i *Issuer) { i.Upload = &UploadGrant{TenantClaim: "x"} },
		"upload: tenant: docket-system has":     func(i *Issuer) { i.Upload = &UploadGrant{Tenant: "docket-system"} },
		`upload: tenants: "" is no name`: func(i *Issuer) {
			i.Upload = &UploadGrant{TenantClaim: "/x", Tenants: map[string]string{"a": ""}}
		},
		"console: set either role or role_claim": func(i *Issuer) { i.Console = &ConsoleGrant{} },
		`"king" is no role`:                      func(i *Issuer) { i.Console = &ConsoleGrant{Role: "king"} },
		`roles: "a": "king" is no role`: func(i *Issuer) {
			i.Console = &ConsoleGrant{RoleClaim: "/x", Roles: map[string]string{"a": "king"}}
		},
		"console: set tenants or tenants_claim": func(i *Issuer) {
			i.Console = &ConsoleGrant{Role: "viewer", Tenants: []string{"a"}, TenantsClaim: "/x"}
		},
		"console: tenants is empty": func(i *Issuer) { i.Console = &ConsoleGrant{Role: "viewer", Tenants: []string{}} },
	} {
		changed := good
		upload := *good.Upload
		changed.Upload = &upload
		change(&changed)
		err := ValidateIssuers([]Issuer{good, changed})
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, "issuers: entry 2")
	}
	require.ErrorContains(t, ValidateIssuers([]Issuer{good, good}), "has an entry already")
	missing := good
	missing.CAFile = "/nowhere"
	_, err := LoadKeys(t.Context(), []Issuer{missing}, nil, slog.New(slog.DiscardHandler))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
}
