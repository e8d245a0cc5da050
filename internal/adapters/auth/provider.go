package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
)

// login is an issuer whom people log in with.
type login struct {
	issuer  Issuer
	entry   string // the issuer's entry in the configuration, hashed
	label   string
	client  *http.Client
	often   *rate.Limiter
	reading singleflight.Group
	logger  *slog.Logger
	say     rate.Sometimes

	mu       sync.Mutex
	endpoint *endpoints // nil until the issuer has said what they are
	next     time.Time  // when it is asked again, at the earliest
}

// endpoints are what an issuer says of itself (OpenID Connect Discovery 1.0).
type endpoints struct {
	*oidc.Provider
	oauth2.Endpoint
	// keys are what it signs with, which are kept until a token comes with another one.
	keys oidc.KeySet
	// logout is where a person ends the issuer's own session (OpenID Connect RP-Initiated Logout 1.0), or "".
	logout string
	// namesItself says that it says who it is where it sends people back (RFC 9207).
	namesItself bool
}

// newLogins makes those of the issuers whom people log in with. Its error is Misconfigured.
func newLogins(issuers []Issuer, logger *slog.Logger) (logins []*login, err error) {
	for _, i := range issuers {
		if i.Login == nil {
			continue
		}
		via, err := i.transport()
		if err == nil && i.Login.ClientSecretFile != "" {
			_, err = i.Login.secret()
		}
		if err != nil {
			return nil, domain.Errorf(domain.Misconfigured, "issuer %s: login: %w", i.Issuer, err)
		}
		entry, err := json.Marshal(i)
		if err != nil {
			return nil, err
		}
		hash := sha256.Sum256(entry)
		via.RegisterProtocol("file", http.NewFileTransport(http.Dir("/"))) // for jwks_url, which is docket's own setting
		l := &login{
			issuer: i, entry: hex.EncodeToString(hash[:16]), label: i.Login.Label, logger: logger,
			say:   rate.Sometimes{First: 1, Interval: time.Minute},
			often: rate.NewLimiter(exchangesPerSecond, exchangesAtOnce),
			client: &http.Client{
				Transport: bounded{via}, Timeout: keysTimeout,
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
		}
		if u, err := url.Parse(i.Issuer); err == nil && l.label == "" {
			l.label = u.Host
		}
		logins = append(logins, l)
	}
	return logins, nil
}

// bounded reads no answer to its end that is longer than maxKeys.
type bounded struct{ via http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.via.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxKeys)
	}
	return resp, err
}

// secret reads the client's.
func (l *Login) secret() (string, error) {
	if l.ClientSecretFile == "" {
		return "", nil
	}
	content, err := os.ReadFile(l.ClientSecretFile)
	if err != nil {
		return "", fmt.Errorf("client_secret_file: %w", err)
	}
	secret := strings.TrimSpace(string(content))
	if secret == "" {
		return "", fmt.Errorf("client_secret_file: there is nothing in %s", l.ClientSecretFile)
	}
	return secret, nil
}

// away is an issuer that does not answer as it should: nobody can log in with it at the moment. Why is for docket's
// log, and not for strangers.
func (l *login) away(err error) error {
	return l.fails(domain.Unavailable, "it does not answer as it should", err)
}

// fails logs why nobody can log in, once a minute, and makes an error that says so to whoever tries.
func (l *login) fails(class domain.Class, says string, err error) error {
	l.say.Do(func() {
		l.logger.Error("people cannot log in with an issuer", "issuer", l.issuer.Issuer, "class", class, "error",
			plain(err.Error()))
	})
	return domain.Errorf(
		class, "nobody can log in with %s at the moment: %s; docket's log says more, for whoever runs it", l.label, says,
	)
}

// endpoints asks the issuer for its endpoints, unless they are known; old ones count where it does not answer.
func (l *login) endpoints(ctx context.Context) (*endpoints, error) {
	l.mu.Lock()
	known, early := l.endpoint, time.Now().Before(l.next)
	l.mu.Unlock()
	switch {
	case known != nil && early:
		return known, nil
	case early:
		return nil, l.away(errors.New("it did not say where to log in a few seconds ago"))
	}
	asked, err, _ := l.reading.Do("", func() (any, error) { // whoever comes meanwhile waits for the same answer
		return l.discover(oidc.ClientContext(context.WithoutCancel(ctx), l.client))
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.endpoint, l.next = asked.(*endpoints), time.Now().Add(discoveredFor) //nolint:forcetypeassert // discover makes it
		return l.endpoint, nil
	}
	l.next = time.Now().Add(askAgainIn)
	if l.endpoint == nil {
		return nil, l.away(err)
	}
	return l.endpoint, nil
}

func (l *login) discover(ctx context.Context) (*endpoints, error) {
	p, err := oidc.NewProvider(ctx, l.issuer.Issuer)
	if err != nil {
		return nil, fmt.Errorf("it does not say where to log in: %w", err)
	}
	var says struct {
		Logout      string   `json:"end_session_endpoint"`
		Methods     []string `json:"token_endpoint_auth_methods_supported"`
		Keys        string   `json:"jwks_uri"`
		NamesItself bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := p.Claims(&says); err != nil {
		return nil, err
	}
	at := p.Endpoint()
	at.AuthStyle = oauth2.AuthStyleInHeader // what issuers have to understand: RFC 6749 section 2.3.1
	basic := len(says.Methods) == 0 || slices.Contains(says.Methods, "client_secret_basic")
	if l.issuer.Login.ClientSecretFile == "" || !basic {
		at.AuthStyle = oauth2.AuthStyleInParams
	}
	asked := map[string]string{
		"authorization_endpoint": at.AuthURL, "token_endpoint": at.TokenURL, "jwks_uri": says.Keys,
	}
	if l.issuer.Login.UserInfo {
		asked["userinfo_endpoint"] = p.UserInfoEndpoint()
	}
	for what, at := range asked {
		if !l.safe(at) {
			return nil, fmt.Errorf("its %s %q is no https:// URL", what, domain.Name(at))
		}
	}
	if !l.safe(says.Logout) {
		says.Logout = ""
	}
	if l.issuer.JWKSURL != "" {
		says.Keys = l.issuer.JWKSURL
	}
	return &endpoints{p, at, oidc.NewRemoteKeySet(ctx, says.Keys), says.Logout, says.NamesItself}, nil
}

// safe reports a URL that an issuer may lead to: one of https has no way into the clear.
func (l *login) safe(at string) bool {
	return checkURL(at) == nil && !strings.HasPrefix(at, "file:") &&
		(strings.HasPrefix(at, "https:") || !strings.HasPrefix(l.issuer.Issuer, "https:"))
}

// keysAway notes that the keys of an issuer could not be read, which the library tells as a signature that is wrong.
type keysAway struct {
	oidc.KeySet
	why error
}

// VerifySignature implements oidc.KeySet.
func (k *keysAway) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.KeySet.VerifySignature(ctx, token)
	if err != nil && strings.HasPrefix(err.Error(), "fetching keys") {
		k.why = err
	}
	return payload, err
}

// config is what the issuer knows docket as.
func (l *login) config(at *endpoints) (*oauth2.Config, error) {
	secret, err := l.issuer.Login.secret()
	if err != nil {
		return nil, l.fails(domain.Misconfigured, "docket's own settings of it are wrong", err)
	}
	return &oauth2.Config{
		ClientID: l.issuer.Login.ClientID, ClientSecret: secret, Endpoint: at.Endpoint,
		RedirectURL: l.issuer.Login.RedirectURL, Scopes: append([]string{oidc.ScopeOpenID}, l.issuer.Login.Scopes...),
	}, nil
}
