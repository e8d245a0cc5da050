package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/docket-project/docket/internal/domain"
)

// maxKeys bounds what an issuer answers, in bytes.
const maxKeys = 1 << 20

// keySource gets the keys of an issuer: with its certificates, its token, and by its own word where they are. It is the
// transport of the library that keeps them.
type keySource struct {
	issuer Issuer
	via    *http.Transport
	ages   *keyAges
	logger *slog.Logger

	mu      sync.Mutex
	url     *url.URL // nil until the issuer has said where its keys are
	known   bool     // some were read
	trouble string   // what was said of it last
}

func newKeySource(i Issuer, ages *keyAges, logger *slog.Logger) (*keySource, error) {
	via, err := i.transport()
	if err != nil {
		return nil, err
	}
	via.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	s := &keySource{issuer: i, ages: ages, logger: logger, via: via}
	if i.JWKSURL != "" {
		s.url, err = url.Parse(i.JWKSURL)
	}
	return s, err
}

// transport is the way to the issuer, whose certificate is checked by CAFile where there is one.
func (i Issuer) transport() (*http.Transport, error) {
	via := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if i.CAFile == "" {
		return via, nil
	}
	pem, err := os.ReadFile(i.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	via.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !via.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: there is no certificate in %s", i.CAFile)
	}
	return via, nil
}

// name is the URL that the library asks for.
func (s *keySource) name() string {
	if s.issuer.JWKSURL != "" {
		return s.issuer.JWKSURL
	}
	return s.issuer.Issuer
}

// RoundTrip asks for the keys, and hands on those that tokens may be signed with. An answer without any is none: the
// keys that are known must not be lost to a page that says that the issuer is being repaired.
func (s *keySource) RoundTrip(r *http.Request) (*http.Response, error) {
	keys, err := s.keys(r.Context())
	s.note(err)
	if err != nil {
		return nil, err
	}
	s.ages.read(s.issuer.Issuer)
	return &http.Response{
		StatusCode: http.StatusOK, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: r,
		Body: io.NopCloser(bytes.NewReader(keys)), ContentLength: int64(len(keys)),
	}, nil
}

// note says once what is wrong with an issuer, and that it is well again.
func (s *keySource) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		if s.trouble != "" {
			s.logger.Info("the keys of an issuer were read again", "issuer", s.issuer.Issuer)
		}
		s.known, s.trouble = true, ""
		return
	}
	if s.issuer.JWKSURL == "" { // it may have moved them
		s.url = nil
	}
	effect := "none is known: its tokens are answered 503"
	if s.known {
		effect = "those that are known count on; a token that is signed with a new one is refused"
	}
	if err.Error() != s.trouble {
		s.logger.Error(
			"the keys of an issuer were not read; it is asked again when a token comes whose key is not known, and every few "+
				"minutes", "issuer", s.issuer.Issuer, "effect", effect, "error", err,
		)
	}
	s.trouble = err.Error()
}

// keys are the usable ones of the issuer, as a JWK set.
func (s *keySource) keys(ctx context.Context) ([]byte, error) {
	at, err := s.where(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := s.get(ctx, at)
	if err != nil {
		return nil, err
	}
	var all jwkset.JWKSMarshal
	if err := json.Unmarshal(answer, &all); err != nil {
		return nil, fmt.Errorf("%s answers no JWK set: %w", at, err)
	}
	usable := jwkset.JWKSMarshal{}
	for _, key := range all.Keys {
		signs := key.USE == "" || key.USE == jwkset.UseSig // it may be left out: RFC 7517 section 4.2
		if signs && key.KTY != jwkset.KtyOct && (key.ALG == "" || slices.Contains(s.issuer.algorithms(), key.ALG.String())) {
			usable.Keys = append(usable.Keys, key)
		}
	}
	if len(usable.Keys) == 0 {
		return nil, fmt.Errorf(
			"%s answers without a key for signatures by %s", at, strings.Join(s.issuer.algorithms(), ", "),
		)
	}
	return json.Marshal(usable)
}

// get asks for something of the issuer. Its token is shown where the configuration says to ask, and nowhere that the
// issuer's answer leads to.
func (s *keySource) get(ctx context.Context, at *url.URL) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	if asked, err := url.Parse(s.name()); s.issuer.TokenFile != "" && err == nil && asked.Host == at.Host {
		token, err := os.ReadFile(s.issuer.TokenFile) // Kubernetes writes a new one every hour
		if err != nil {
			return nil, fmt.Errorf("token_file: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := s.via.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", at, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s; docket follows no redirects: name the keys' own URL", at, resp.Status)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxKeys+1))
	if len(answer) > maxKeys {
		return nil, fmt.Errorf("%s answers more than %d bytes", at, maxKeys)
	}
	return answer, err
}

// where asks the issuer where its keys are, unless that is known.
func (s *keySource) where(ctx context.Context) (*url.URL, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.url != nil {
		return s.url, nil
	}
	at, err := url.Parse(strings.TrimSuffix(s.issuer.Issuer, "/") + "/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	answer, err := s.get(ctx, at)
	if err != nil {
		return nil, err
	}
	var says struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(answer, &says); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if says.Issuer != s.issuer.Issuer {
		return nil, fmt.Errorf("%s is about another issuer, %q", at, domain.Name(says.Issuer))
	}
	if err := checkURL(says.JWKSURI); err != nil || strings.HasPrefix(says.JWKSURI, "file:") ||
		at.Scheme == "https" && !strings.HasPrefix(says.JWKSURI, "https:") {
		return nil, fmt.Errorf("%s: jwks_uri %q is no https:// URL", at, domain.Name(says.JWKSURI))
	}
	s.url, err = url.Parse(says.JWKSURI)
	return s.url, err
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// keyAges tells how long ago the keys of each issuer were read.
type keyAges struct {
	desc *prometheus.Desc

	mu sync.Mutex
	at map[string]time.Time
}

func newKeyAges(reg prometheus.Registerer) *keyAges {
	a := &keyAges{at: map[string]time.Time{}, desc: prometheus.NewDesc(
		"docket_issuer_keys_age_seconds", "Seconds since the keys of an issuer of tokens were read, or since the start.",
		[]string{"issuer"}, nil,
	)}
	if reg != nil {
		reg.MustRegister(a)
	}
	return a
}

func (a *keyAges) read(issuer string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[issuer] = time.Now()
}

// Describe implements prometheus.Collector.
func (a *keyAges) Describe(to chan<- *prometheus.Desc) { to <- a.desc }

// Collect implements prometheus.Collector.
func (a *keyAges) Collect(to chan<- prometheus.Metric) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for issuer, at := range a.at {
		to <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, time.Since(at).Seconds(), issuer)
	}
}
