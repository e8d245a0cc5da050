package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

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

	mu  sync.Mutex
	url *url.URL // nil until the issuer has said where its keys are
}

func newKeySource(i Issuer, ages *keyAges) (*keySource, error) {
	s := &keySource{issuer: i, ages: ages, via: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}}
	s.via.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	if i.CAFile != "" {
		pem, err := os.ReadFile(i.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		s.via.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !s.via.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: there is no certificate in %s", i.CAFile)
		}
	}
	if i.JWKSURL == "" {
		return s, nil
	}
	var err error
	s.url, err = url.Parse(i.JWKSURL)
	return s, err
}

// name is the URL that the library asks for.
func (s *keySource) name() string {
	if s.issuer.JWKSURL != "" {
		return s.issuer.JWKSURL
	}
	return s.issuer.Issuer
}

// RoundTrip asks for the keys.
func (s *keySource) RoundTrip(r *http.Request) (*http.Response, error) {
	at, err := s.where(r.Context())
	if err != nil {
		return nil, err
	}
	resp, err := s.get(r.Context(), at)
	if err == nil && resp.StatusCode == http.StatusOK {
		s.ages.read(s.issuer.Issuer)
	} else if s.issuer.JWKSURL == "" { // it may have moved them
		s.mu.Lock()
		s.url = nil
		s.mu.Unlock()
	}
	return resp, err
}

// get asks for something of the issuer.
func (s *keySource) get(ctx context.Context, at *url.URL) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	if s.issuer.TokenFile != "" {
		token, err := os.ReadFile(s.issuer.TokenFile) // Kubernetes writes a new one every hour
		if err != nil {
			return nil, fmt.Errorf("token_file: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := s.via.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxKeys), resp.Body}
	return resp, nil
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
	resp, err := s.get(ctx, at)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var says struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: set jwks_url if the issuer does not say where its keys are", at, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&says); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	if says.Issuer != s.issuer.Issuer {
		return nil, fmt.Errorf("%s is about another issuer, %q", at, domain.Name(says.Issuer))
	}
	if err := checkURL(says.JWKSURI); err != nil {
		return nil, fmt.Errorf("%s: jwks_uri: %w", at, err)
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
		"docket_issuer_keys_age_seconds", "Seconds since the keys of an issuer of tokens were read.", []string{"issuer"}, nil,
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
