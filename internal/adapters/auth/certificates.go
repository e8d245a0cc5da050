package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docket-project/docket/internal/domain"
)

// Why a client certificate lets nobody in.
var (
	// ErrNoCertificate is a connection without a certificate where one is needed.
	ErrNoCertificate = errors.New("this listener wants a client certificate")
	// ErrCertificate is a certificate that does not count, or that was revoked.
	ErrCertificate = errors.New("the client certificate does not count here")
)

// ClientCertificate grants something to the certificates with a name.
type ClientCertificate struct {
	// SAN is a pattern of a subject alternative name (RFC 5280 section 4.2.1.6) with * for any text: a URI where it has a
	// "://", a mail address where it has an "@", a DNS name or an address otherwise.
	SAN    string `yaml:"san"`
	grants `yaml:",inline"`
}

// ValidateCertificates reports everything that is wrong with the section.
func ValidateCertificates(rules []ClientCertificate) error {
	return sectionErrors("client_certificates", rules, func(rule ClientCertificate) error {
		errs := []error{rule.validate(false)}
		if strings.Trim(rule.SAN, "*") == "" {
			errs = append(errs, errors.New("set san: the name that its certificates have; a pattern of anything is none"))
		}
		return errors.Join(errs...)
	})
}

// Authorities are the certificates that those of clients are checked by, and the list of the revoked ones. Both files
// are read again when they change; until a change is good, the last good ones count.
type Authorities struct {
	caFile, crlFile string
	logger          *slog.Logger

	mu      sync.Mutex
	pool    *x509.CertPool
	revoked map[string]bool      // by issuer and serial number
	checked map[[32]byte]checked // by their SHA-256
	read    [2]stamp
	looked  time.Time
	trouble string
}

// stamp tells one content of a file from another.
type stamp struct {
	changed time.Time
	size    int64
}

// checked is a certificate that was found to be good, and until when it is.
type checked struct{ until time.Time }

// maxChecked bounds the certificates that are remembered.
const maxChecked = 10_000

// LoadAuthorities reads the files; crlFile may be "". Its error is Misconfigured.
func LoadAuthorities(caFile, crlFile string, logger *slog.Logger) (*Authorities, error) {
	a := &Authorities{caFile: caFile, crlFile: crlFile, logger: logger}
	if err := a.load(); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "read the authorities of client certificates: %w", err)
	}
	return a, nil
}

func (a *Authorities) stamps() (out [2]stamp) {
	for i, file := range []string{a.caFile, a.crlFile} {
		if info, err := os.Stat(file); err == nil {
			out[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return out
}

// load reads both files, and keeps what was read before where one is not good.
func (a *Authorities) load() error {
	read := a.stamps()
	b, err := os.ReadFile(a.caFile)
	if err != nil {
		return err
	}
	pool, authorities, err := readAuthorities(b)
	if err != nil {
		return fmt.Errorf("%s: %w", a.caFile, err)
	}
	revoked := map[string]bool{}
	if a.crlFile != "" {
		if b, err = os.ReadFile(a.crlFile); err != nil {
			return err
		}
		if revoked, err = readRevoked(b, authorities, a.logger); err != nil {
			return fmt.Errorf("%s: %w", a.crlFile, err)
		}
	}
	a.pool, a.revoked, a.read, a.checked = pool, revoked, read, map[[32]byte]checked{}
	return nil
}

func readAuthorities(b []byte) (*x509.CertPool, []*x509.Certificate, error) {
	pool := x509.NewCertPool()
	var all []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, err
		}
		pool.AddCert(c)
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, nil, errors.New("there is no certificate in it (PEM)")
	}
	return pool, all, nil
}

// readRevoked reads lists of revoked certificates (RFC 5280 section 5). A list that is older than it should be counts
// all the same: what it revokes is revoked.
func readRevoked(b []byte, authorities []*x509.Certificate, logger *slog.Logger) (map[string]bool, error) {
	revoked, lists := map[string]bool{}, 0
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		signed := func(c *x509.Certificate) bool { return list.CheckSignatureFrom(c) == nil }
		if !slices.ContainsFunc(authorities, signed) {
			return nil, fmt.Errorf("the list of %s is signed by none of the authorities", list.Issuer)
		}
		if !list.NextUpdate.IsZero() && time.Now().After(list.NextUpdate) {
			logger.Warn(
				"a list of revoked client certificates is out of date: those that were revoked since are taken. Put the newest "+
					"list in its place", "issuer", list.Issuer.String(), "next_update", list.NextUpdate,
			)
		}
		for _, c := range list.RevokedCertificateEntries {
			revoked[revokedKey(list.RawIssuer, c.SerialNumber.Bytes())] = true
		}
		lists++
	}
	if lists == 0 {
		return nil, errors.New("there is no list of revoked certificates in it (PEM, X509 CRL)")
	}
	return revoked, nil
}

func revokedKey(issuer, serial []byte) string { return string(issuer) + "\x00" + string(serial) }

// refresh reads the files again where one has changed, and says once what is wrong with them.
func (a *Authorities) refresh(now time.Time) {
	if now.Sub(a.looked) < reloadEvery {
		return
	}
	a.looked = now
	if a.trouble == "" && a.stamps() == a.read {
		return
	}
	trouble := ""
	if err := a.load(); err != nil {
		trouble = err.Error()
	}
	if trouble != "" && trouble != a.trouble {
		a.logger.Error(
			"the authorities of client certificates were not read again: the last good ones count. Put the files in place; "+
				"they are read again every second", "authorities", a.caFile, "revoked", a.crlFile, "error", trouble,
		)
	}
	if trouble == "" {
		a.logger.Info("the authorities of client certificates were read again", "authorities", a.caFile, "revoked", a.crlFile)
	}
	a.trouble = trouble
}

// check reports what is wrong with a client's certificates, of which the first is its own and the others lead to an
// authority. That the client has the key was seen by the handshake. What it found is remembered, because a connection
// brings many requests; a connection does not outlive its certificate, nor one that was revoked.
func (a *Authorities) check(chain []*x509.Certificate) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.refresh(now)
	key := sha256.Sum256(chain[0].Raw)
	if known, ok := a.checked[key]; ok && now.Before(known.until) {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	verified, err := chain[0].Verify(x509.VerifyOptions{
		Roots: a.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: now,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	good := slices.IndexFunc(verified, func(way []*x509.Certificate) bool {
		return !slices.ContainsFunc(way, a.isRevoked)
	})
	if good < 0 {
		return fmt.Errorf("%w: it was revoked", ErrCertificate)
	}
	if len(a.checked) >= maxChecked {
		clear(a.checked)
	}
	until := chain[0].NotAfter
	for _, c := range verified[good] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	a.checked[key] = checked{until}
	return nil
}

func (a *Authorities) isRevoked(c *x509.Certificate) bool {
	return a.revoked[revokedKey(c.RawIssuer, c.SerialNumber.Bytes())]
}

// Certificates know callers by their client certificates, on one listener.
type Certificates struct {
	authorities *Authorities
	listener    string
	rules       []ClientCertificate
	required    bool
}

// NewCertificates knows those callers that a rule grants something to on a listener; required says that every caller
// needs a good certificate, whatever else it shows. It is nil where no certificate counts.
func NewCertificates(a *Authorities, listener string, rules []ClientCertificate, required bool) *Certificates {
	c := &Certificates{authorities: a, listener: listener, required: required}
	for _, rule := range rules {
		if rule.on(listener) != nil {
			c.rules = append(c.rules, rule)
		}
	}
	if len(c.rules) == 0 && !required {
		return nil
	}
	return c
}

// demand reports a client that has not shown the certificate that it needs.
func (c *Certificates) demand(r *http.Request) error {
	if c == nil || !c.required {
		return nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ErrNoCertificate
	}
	return c.authorities.check(r.TLS.PeerCertificates)
}

// find returns whose certificate the client has shown; shown is false where it has none that something is granted to.
// Errors: ErrCertificate and ErrNotGranted.
func (c *Certificates) find(r *http.Request) (caller domain.Caller, shown bool, err error) {
	if c == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return caller, false, nil
	}
	own := r.TLS.PeerCertificates[0]
	if err := c.authorities.check(r.TLS.PeerCertificates); err != nil {
		return caller, false, err
	}
	for _, rule := range c.rules {
		name, ok := rule.names(own)
		if !ok {
			continue
		}
		caller, err := rule.on(c.listener).caller(name, nil)
		caller.How, caller.Expires = domain.ByCertificate, own.NotAfter
		caller.Credential = domain.Name(own.Issuer.String())
		return caller, err == nil, err
	}
	return caller, false, fmt.Errorf("%w: no entry of client_certificates has one of its names", ErrNotGranted)
}

// names returns the name of a certificate that the rule is about.
func (rule ClientCertificate) names(c *x509.Certificate) (string, bool) {
	var names []string
	pattern := rule.SAN
	switch {
	case strings.Contains(pattern, "://"):
		for _, u := range c.URIs {
			names = append(names, u.String())
		}
	case strings.Contains(pattern, "@"):
		names = c.EmailAddresses
	default:
		pattern = strings.ToLower(pattern)
		for _, name := range c.DNSNames {
			names = append(names, strings.ToLower(name))
		}
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
	}
	literals := domain.Literals(pattern)
	for _, name := range names {
		if domain.Matches(name, literals) {
			return domain.Name(name), true
		}
	}
	return "", false
}
