package testserver

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// Signer is a key that JSON web tokens are signed with.
type Signer struct {
	ID     string
	Method jwt.SigningMethod
	Key    crypto.Signer
}

// NewSigner makes a key for RS256, or for ES256.
func NewSigner(id string, method jwt.SigningMethod) Signer {
	if method == jwt.SigningMethodRS256 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		must(err)
		return Signer{id, method, key}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	return Signer{id, jwt.SigningMethodES256, key}
}

// Sign makes a token.
func (s Signer) Sign(claims jwt.Claims) string {
	token := jwt.NewWithClaims(s.Method, claims)
	token.Header[jwkset.HeaderKID] = s.ID
	text, err := token.SignedString(s.Key)
	must(err)
	return text
}

// KeySet spells the public keys as a JWK set.
func KeySet(keys ...Signer) []byte {
	store := jwkset.NewMemoryStorage()
	for _, k := range keys {
		key, err := jwkset.NewJWKFromKey(k.Key.Public(), jwkset.JWKOptions{
			Metadata: jwkset.JWKMetadataOptions{KID: k.ID, ALG: jwkset.ALG(k.Method.Alg()), USE: jwkset.UseSig},
		})
		must(err)
		must(store.KeyWrite(context.Background(), key))
	}
	b, err := store.JSONPublic(context.Background())
	must(err)
	return b
}

// Issuer is an issuer of JSON web tokens that says where its keys are, and gives tokens to whoever asks (RFC 6749
// section 4.4). Its keys may change, and be away.
type Issuer struct {
	*httptest.Server
	// Claims makes those of a token that a client asks for.
	Claims func(client string) jwt.MapClaims
	// Exchange answers a code that a person has come back with (RFC 6749 section 4.1.3), and UserInfo who the person is.
	Exchange func(form url.Values, client, secret string) (status int, answer any)
	UserInfo func() any

	mu      sync.Mutex
	away    bool
	keys    []Signer
	asked   map[string]int
	shown   string
	signers map[string]int
}

// NewIssuer starts an issuer, which the caller closes. It signs with the last of its keys.
func NewIssuer(keys ...Signer) *Issuer {
	i := &Issuer{keys: keys, asked: map[string]int{}, signers: map[string]int{}}
	i.Server = httptest.NewUnstartedServer(http.HandlerFunc(i.answer))
	i.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that go in the middle of a handshake
	i.StartTLS()
	return i
}

func (i *Issuer) answer(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked[r.URL.Path]++
	switch {
	case r.URL.Path == "/token" && r.FormValue("grant_type") == "authorization_code":
		client, secret, _ := r.BasicAuth()
		status, answer := i.Exchange(r.PostForm, client, secret)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer)
	case r.URL.Path == "/userinfo":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(i.UserInfo())
	case r.URL.Path == "/token":
		client, _, _ := r.BasicAuth()
		last := i.keys[len(i.keys)-1]
		i.signers[last.ID]++
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": last.Sign(i.Claims(client)), "token_type": "Bearer", "expires_in": 12,
		})
	case i.away:
		w.WriteHeader(http.StatusBadGateway)
	case r.URL.Path == "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]string{
			"issuer": i.URL, "jwks_uri": i.URL + "/keys", "authorization_endpoint": i.URL + "/authorize",
			"token_endpoint": i.URL + "/token", "userinfo_endpoint": i.URL + "/userinfo", "end_session_endpoint": i.URL + "/end",
		})
	case r.URL.Path == "/keys":
		i.shown = r.Header.Get("Authorization")
		_, _ = w.Write(KeySet(i.keys...))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// Set changes the keys, and whether anybody gets them.
func (i *Issuer) Set(away bool, keys ...Signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.away = away
	if len(keys) > 0 {
		i.keys = keys
	}
}

// Asked is how often a path was asked for.
func (i *Issuer) Asked(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

// Shown is the Authorization header that its keys were asked for with.
func (i *Issuer) Shown() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.shown
}

// Signed is how many tokens it gave that are signed with a key.
func (i *Issuer) Signed(id string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.signers[id]
}

// CA is the certificate that the issuer's own is checked by.
func (i *Issuer) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw})
}

// ClaimsFor are those of a token for an audience that counts for an hour.
func (i *Issuer) ClaimsFor(subject, audience string) jwt.MapClaims {
	return jwt.MapClaims{
		"iss": i.URL, "sub": subject, "aud": audience, "exp": time.Now().Add(time.Hour).Unix(),
	}
}

// must ends what cannot go on: a test's own parts do not fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
