package web

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/docket-project/docket/internal/adapters/auth"
	"github.com/docket-project/docket/internal/domain"
)

// Certificate is a pair of files that is read again when they change, so that a renewed certificate needs no restart.
// Whoever renews them writes one file after the other: until both fit together again, the last good pair is served.
type Certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	read    [2]auth.Stamp // of the files, when they were read last
	checked time.Time
	trouble string
}

// certificateEvery is how long a renewed certificate may wait for its first handshake, at most.
const certificateEvery = time.Second

// LoadCertificate reads the pair and registers how long it is valid. Its error is Misconfigured.
func LoadCertificate(certFile, keyFile string, reg prometheus.Registerer, logger *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	if err := c.load(); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "load the TLS certificate: %w", err)
	}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "docket_tls_certificate_expiry_seconds",
		Help: "Seconds until the certificate that is served expires; negative once it has.",
	}, func() float64 { return time.Until(c.current().Leaf.NotAfter).Seconds() })
	return c, nil
}

// Config serves the certificate over HTTP/1.1 and HTTP/2.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}

// current is the newest good pair.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= certificateEvery {
		c.checked = now
		c.refresh()
	}
	return c.pair
}

// refresh reads the files again where one has changed, and says once what is wrong with them.
func (c *Certificate) refresh() {
	if c.trouble == "" && auth.Stamps(c.certFile, c.keyFile) == c.read {
		return
	}
	trouble := ""
	if err := c.load(); err != nil {
		trouble = err.Error()
	}
	if trouble != "" && trouble != c.trouble {
		c.logger.Error(
			"the TLS certificate was not read again: the last good one is served on. Put both files in place; they are read "+
				"again every second", "certificate", c.certFile, "key", c.keyFile, "expires", c.pair.Leaf.NotAfter,
			"error", trouble,
		)
	}
	if trouble == "" {
		c.logger.Info("the TLS certificate was read again", "certificate", c.certFile, "expires", c.pair.Leaf.NotAfter)
	}
	c.trouble = trouble
}

// load reads the pair, and keeps the old one where the new one is not good.
func (c *Certificate) load() error {
	read := auth.Stamps(c.certFile, c.keyFile)
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	until := pair.Leaf.NotAfter
	if c.pair != nil && time.Now().After(until) && c.pair.Leaf.NotAfter.After(until) {
		return fmt.Errorf("%s has expired at %s", c.certFile, until.UTC().Format(time.RFC3339))
	}
	c.pair, c.read = &pair, read
	return nil
}
