package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"
	"github.com/maypok86/otter/v2"

	"github.com/docket-project/docket/internal/domain"
)

// Issuer is one whose JSON web tokens (RFC 7519) are taken: those of OPA's oauth2 credentials, of Kubernetes' service
// accounts, of programs.
type Issuer struct {
	// Issuer is what the tokens have as iss, to the letter.
	Issuer string `yaml:"issuer"`
	// JWKSURL is where its keys are (RFC 7517): https://, file://, or http:// on loopback. Without it the issuer says so,
	// at /.well-known/openid-configuration (OpenID Connect Discovery 1.0).
	JWKSURL string `yaml:"jwks_url,omitempty"`
	// CAFile has the certificates that the issuer's own is checked by, and TokenFile the bearer token that docket asks for
	// the keys with, which Kubernetes wants.
	CAFile    string `yaml:"ca_file,omitempty"`
	TokenFile string `yaml:"token_file,omitempty"`
	// Audiences are those of which a token has to be for one: without any, no token of it is taken, and people only log
	// in. Algorithms are what it may be signed with: RS256 and ES256 unless set.
	Audiences  []string `yaml:"audiences,omitempty"`
	Algorithms []string `yaml:"algorithms,omitempty"`
	// Name is a JSON pointer to the claim that names the caller: /sub unless set.
	Name string `yaml:"name,omitempty"`
	// Login is how people log in with the issuer; nil where they do not.
	Login  *Login `yaml:"login,omitempty"`
	grants `yaml:",inline"`
}

// safeAlgorithms are those that a token may be signed with: none in which the key that checks can also sign.
var safeAlgorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// algorithms are those that the issuer's tokens may be signed with.
func (i Issuer) algorithms() []string {
	if len(i.Algorithms) == 0 {
		return usualAlgorithms
	}
	return i.Algorithms
}

var usualAlgorithms = []string{"RS256", "ES256"}

const usualName = "/sub"

// ValidateIssuers reports everything that is wrong with the section.
func ValidateIssuers(issuers []Issuer) error {
	known := map[string]bool{}
	return sectionErrors("issuers", issuers, func(i Issuer) error {
		errs := []error{
			i.validate(true), checkClaim("name", i.Name, true), checkNames("audiences", i.Audiences...),
		}
		if i.Issuer == "" {
			errs = append(errs, errors.New("set issuer: what its tokens have as iss"))
		}
		if known[i.Issuer] {
			errs = append(errs, fmt.Errorf("%s has an entry already", i.Issuer))
		}
		known[i.Issuer] = true
		if len(i.Audiences) == 0 && (i.Login == nil || i.Upload != nil) {
			errs = append(errs, errors.New("set audiences: a token that was made for something else must not count here"))
		}
		errs = append(errs, i.Login.validate(i))
		keys, what := i.JWKSURL, "jwks_url"
		if keys == "" {
			keys, what = i.Issuer, "issuer, which is asked where the keys are as there is no jwks_url"
		}
		if err := checkURL(keys); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
		for _, name := range i.Algorithms {
			if !slices.Contains(safeAlgorithms, name) {
				errs = append(errs, fmt.Errorf("algorithms: %q is none of %s", name, strings.Join(safeAlgorithms, ", ")))
			}
		}
		return errors.Join(errs...)
	})
}

// checkURL reports a URL that keys must not come from.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("it cannot be read as a URL")
	}
	if u.User != nil {
		return errors.New("a URL here has no user and password: they would be printed; docket shows the token of token_file")
	}
	switch {
	case u.Scheme == "https" && u.Host != "", u.Scheme == "file" && u.Path != "" && u.Host == "":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf(
		"%q is no https:// or file:/// URL: keys that come in the clear, but from this machine, may be anybody's", text,
	)
}

const (
	// leeway is how far the clocks of docket and the issuer may differ.
	leeway = 30 * time.Second
	// maxJWT bounds a token, in bytes.
	maxJWT = 16 << 10
	// goodFor is how long a token is not looked at again: to check a signature takes as long as to split a small upload.
	goodFor = time.Minute
	maxGood = 10_000
)

// Issuers know callers by the JSON web tokens of their issuers, on one listener. An issuer that is away is missed by
// nobody whose key was known before.
type Issuers struct {
	byName map[string]*issuer
	good   *otter.Cache[[sha256.Size]byte, goodToken] // by the hash of a token
}

// goodToken is a token that was checked, and whose it is.
type goodToken struct {
	caller domain.Caller
	until  time.Time
}

type issuer struct {
	Issuer
	keys   *keySet
	parser *jwt.Parser
	grant  granted
}

// NewIssuers knows the callers of those issuers that something is granted to on a listener; nil where there are none.
func NewIssuers(listener string, issuers []Issuer, keys KeySets) *Issuers {
	out := &Issuers{
		byName: map[string]*issuer{},
		good:   otter.Must(&otter.Options[[sha256.Size]byte, goodToken]{MaximumSize: maxGood}),
	}
	for _, i := range issuers {
		grant := i.on(listener)
		if grant == nil || len(i.Audiences) == 0 {
			continue
		}
		if i.Name == "" {
			i.Name = usualName
		}
		out.byName[i.Issuer] = &issuer{
			Issuer: i, keys: keys[i.Issuer], grant: grant,
			parser: jwt.NewParser(
				jwt.WithValidMethods(i.algorithms()), jwt.WithIssuer(i.Issuer), jwt.WithAudience(i.Audiences...),
				jwt.WithExpirationRequired(), jwt.WithLeeway(leeway),
			),
		}
	}
	if len(out.byName) == 0 {
		return nil
	}
	return out
}

// find returns whose token this is; ok is false where it is no token of these issuers. Errors: ErrUnknown, ErrExpired,
// ErrNotGranted, and Unavailable while the issuer's keys were never read.
func (s *Issuers) find(ctx context.Context, token string) (c domain.Caller, ok bool, err error) {
	if s == nil {
		return c, false, nil
	}
	if len(token) > maxJWT && strings.Count(token, ".") == 2 {
		return c, true, fmt.Errorf("%w: it is longer than %d bytes", ErrUnknown, maxJWT)
	}
	hash, now := sha256.Sum256([]byte(token)), time.Now()
	if known, ok := s.good.GetIfPresent(hash); ok && now.Before(known.until) {
		return known.caller, true, nil
	}
	if c, ok, err = s.check(ctx, token); ok && err == nil {
		until := now.Add(goodFor)
		if c.Expires.Before(until) {
			until = c.Expires
		}
		s.good.Set(hash, goodToken{c, until})
	}
	return c, ok, err
}

// isNew reports an error that a key which docket does not know yet may explain: without a kid, any key may be meant.
func isNew(token *jwt.Token, err error) bool {
	if err == nil || token == nil {
		return false
	}
	_, named := token.Header[jwkset.HeaderKID]
	return errors.Is(err, jwkset.ErrKeyNotFound) ||
		!named && (errors.Is(err, jwt.ErrTokenSignatureInvalid) || errors.Is(err, jwt.ErrTokenUnverifiable))
}

// check is find of a token that was not seen lately.
func (s *Issuers) check(ctx context.Context, token string) (c domain.Caller, ok bool, err error) {
	claims, named, ok := claimsOf(token)
	if !ok {
		return c, false, nil
	}
	i := s.byName[named.Issuer]
	if i == nil {
		return c, true, fmt.Errorf("%w: its issuer is none of this listener's", ErrUnknown)
	}
	signed := &jwt.RegisteredClaims{}
	read, err := i.parser.ParseWithClaims(token, signed, i.keys.known.KeyfuncCtx(ctx))
	if isNew(read, err) {
		i.keys.ask(ctx, read)
		_, err = i.parser.ParseWithClaims(token, signed, i.keys.known.KeyfuncCtx(ctx))
	}
	if err != nil {
		return c, true, i.why(ctx, err, named.ExpiresAt)
	}
	names, whole := texts(claims, i.Name)
	if len(names) != 1 || !whole {
		return c, true, fmt.Errorf("%w: its claim %s has to be one text, the caller's name", ErrNotGranted, i.Name)
	}
	if c, err = i.grant.caller(names[0], claims); err != nil {
		return c, true, err
	}
	c.How, c.Credential, c.Expires = domain.ByJWT, domain.Name(i.Issuer.Issuer), signed.ExpiresAt.Time
	return c, true, nil
}

// state reports the issuers whose keys were never read; readable says that there are others.
func (s *Issuers) state() (err error, readable bool) {
	if s == nil {
		return nil, false
	}
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		all, failed := s.byName[name].keys.known.Storage().KeyReadAll(context.Background())
		if failed != nil || len(all) == 0 {
			err = errors.Join(err, fmt.Errorf("the keys of the issuer %s could not be read so far", name))
		} else {
			readable = true
		}
	}
	return err, readable
}

// claimsOf are what a token says, which nobody has checked; ok is false where it is no JSON web token. Names that stand
// twice, or that others could read as one of RFC 7519's, make it none: one reader must not check what another grants
// by.
func claimsOf(token string) (claims jsontext.Value, named jwt.RegisteredClaims, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, named, false
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !claims.IsValid() || claims.Kind() != '{' {
		return nil, named, false
	}
	odd := false
	domain.Members(claims, func(key string, _ jsontext.Value) bool {
		odd = slices.ContainsFunc(registered, func(name string) bool { return key != name && strings.EqualFold(key, name) })
		return !odd
	})
	if odd {
		return nil, named, false
	}
	_, _, err = jwt.NewParser().ParseUnverified(token, &named)
	return claims, named, err == nil
}

// registered are the claims that are checked, as RFC 7519 section 4.1 spells them.
var registered = []string{"iss", "sub", "aud", "exp", "nbf", "iat"}

// why words what is wrong with a token, without a word of it.
func (i *issuer) why(ctx context.Context, err error, expires *jwt.NumericDate) error {
	switch {
	case errors.Is(err, jwkset.ErrKeyNotFound), errors.Is(err, jwt.ErrTokenUnverifiable):
		if all, err := i.keys.known.Storage().KeyReadAll(ctx); err == nil && len(all) == 0 {
			return domain.Errorf(
				domain.Unavailable, "the keys of the issuer %s could not be read so far: docket cannot tell whose the token is",
				i.Issuer.Issuer,
			)
		}
		return fmt.Errorf("%w: the issuer %s has no key of its kid and alg, as far as docket knows; it asks every %s at most",
			ErrUnknown, i.Issuer.Issuer, newKeyEvery)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return fmt.Errorf(
			"%w: it is not signed by %s with one of %s", ErrUnknown, i.Issuer.Issuer, strings.Join(i.algorithms(), ", "),
		)
	case errors.Is(err, jwt.ErrTokenExpired) && expires != nil:
		return fmt.Errorf("%w at %s: ask for another one", ErrExpired, expires.UTC().Format(time.RFC3339))
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return fmt.Errorf("%w: it is for another audience than %s", ErrUnknown, strings.Join(i.Audiences, ", "))
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return fmt.Errorf("%w: it is not valid yet; do the clocks agree?", ErrUnknown)
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return fmt.Errorf("%w: it has no exp or no aud, so that it would count for ever or anywhere", ErrUnknown)
	}
	return fmt.Errorf("%w: it is no valid token of %s", ErrUnknown, i.Issuer.Issuer)
}
