package auth

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
)

const (
	// keysEvery is how old the keys of an issuer become before it is asked again. So long does a key count that the issuer
	// has withdrawn.
	keysEvery = 5 * time.Minute
	// newKeyEvery is how soon it is asked again for a key that is not known: strangers can name any.
	newKeyEvery = 10 * time.Second
	// keysTimeout bounds each request for keys.
	keysTimeout = 5 * time.Second
	// askPatience is how long a request waits for an issuer: OPA waits for ten seconds in all.
	askPatience = 2 * time.Second
)

// keySet is what an issuer signs with.
type keySet struct {
	known  keyfunc.Keyfunc
	fresh  jwkset.Storage // asks the issuer for what it does not have
	often  *rate.Limiter
	asking singleflight.Group
}

// ask asks the issuer for the key of a token, unless it was asked just now, and waits for its answer for as long as the
// token's bearer may wait.
func (k *keySet) ask(ctx context.Context, token *jwt.Token) {
	kid, _ := token.Header[jwkset.HeaderKID].(string)
	answered := k.asking.DoChan("", func() (any, error) { // whoever comes meanwhile waits for the same answer
		if !k.often.Allow() {
			return nil, nil
		}
		return k.fresh.KeyRead(context.WithoutCancel(ctx), kid)
	})
	patience := time.NewTimer(askPatience)
	defer patience.Stop()
	select {
	case <-answered:
	case <-ctx.Done():
	case <-patience.C:
	}
}

// KeySets are the keys of all issuers, which the listeners of a process share.
type KeySets map[string]*keySet

// LoadKeys asks the issuers for their keys, and goes on to until ctx is done. One that does not answer is asked again.
// Its error is Misconfigured.
func LoadKeys(
	ctx context.Context, issuers []Issuer, reg prometheus.Registerer, logger *slog.Logger,
) (KeySets, error) {
	return loadKeys(ctx, issuers, rate.Every(newKeyEvery), reg, logger)
}

func loadKeys(
	ctx context.Context, issuers []Issuer, often rate.Limit, reg prometheus.Registerer, logger *slog.Logger,
) (KeySets, error) {
	ages := newKeyAges(reg)
	loaded := make([]*keySet, len(issuers))
	var asking errgroup.Group // one that hangs keeps the others from nothing
	for n, i := range issuers {
		ages.read(i.Issuer)
		asking.Go(func() (err error) {
			if loaded[n], err = newKeySet(ctx, i, often, ages, logger); err != nil {
				err = domain.Errorf(domain.Misconfigured, "issuer %s: %w", i.Issuer, err)
			}
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	sets := KeySets{}
	for n, i := range issuers {
		sets[i.Issuer] = loaded[n]
	}
	return sets, nil
}

func newKeySet(
	ctx context.Context, i Issuer, often rate.Limit, ages *keyAges, logger *slog.Logger,
) (*keySet, error) {
	source, err := newKeySource(i, ages, logger)
	if err != nil {
		return nil, err
	}
	from, err := jwkset.NewStorageFromHTTP(source.name(), jwkset.HTTPClientStorageOptions{
		Ctx: ctx, Client: &http.Client{Transport: source}, HTTPTimeout: keysTimeout, RefreshInterval: keysEvery,
		NoErrorReturnFirstHTTPReq: true,
	})
	if err != nil {
		return nil, err
	}
	stored := map[string]jwkset.Storage{source.name(): from}
	known, err := jwkset.NewHTTPClient(jwkset.HTTPClientOptions{HTTPURLs: stored})
	if err != nil {
		return nil, err
	}
	set := &keySet{often: rate.NewLimiter(often, 1)}
	set.fresh, err = jwkset.NewHTTPClient(jwkset.HTTPClientOptions{
		HTTPURLs: stored, RefreshUnknownKID: rate.NewLimiter(rate.Inf, 1), RateLimitWaitMax: keysTimeout,
	})
	if err != nil {
		return nil, err
	}
	set.known, err = keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: known})
	return set, err
}
