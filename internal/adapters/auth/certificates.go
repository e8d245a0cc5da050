package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

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
	// SAN is a pattern of a subject alternative name (RFC 5280 section 4.2.1.6) with * for any text: of an address if it
	// is one, of a URI where it has a colon, of a mail address where it has an "@", and of a DNS name otherwise.
	SAN    string `yaml:"san"`
	grants `yaml:",inline"`
}

// ValidateCertificates reports everything that is wrong with the section.
func ValidateCertificates(rules []ClientCertificate) error {
	known := map[string]bool{}
	return sectionErrors("client_certificates", rules, func(rule ClientCertificate) error {
		errs := []error{rule.validate(false)}
		if strings.Trim(rule.SAN, `*.:/@\ `) == "" || rule.SAN != strings.TrimSpace(rule.SAN) {
			errs = append(errs, errors.New("set san: the name that its certificates have; a pattern of anything is none"))
		}
		if known[rule.SAN] {
			errs = append(errs, fmt.Errorf("%s has an entry already", rule.SAN))
		}
		known[rule.SAN] = true
		return errors.Join(errs...)
	})
}

// Authorities are the certificates that those of clients are checked by, and the list of the revoked ones. Both files
// are read again when they change; until a change is good, the last good ones count.
type Authorities struct {
	caFile, crlFile string
	logger          *slog.Logger

	mu       sync.Mutex
	inForce  *ruling
	read     [2]Stamp
	looked   time.Time
	trouble  string
	outdated rate.Sometimes
}

// ruling is what the files said when they were read, and what was found by it. Only its caches change.
type ruling struct {
	pool    *x509.CertPool
	revoked map[string]bool // by issuer and serial number
	next    time.Time       // when the first list of revoked ones is out of date; zero without any
	good    *otter.Cache[[sha256.Size]byte, time.Time]
	bad     *otter.Cache[[sha256.Size]byte, badChain]
}

// badChain is what is wrong with certificates, which are not looked at again for a while: anybody can show some that
// take long.
type badChain struct {
	err   error
	until time.Time
}

const (
	// maxChecked bounds the certificates that are remembered, good ones and bad ones each.
	maxChecked = 10_000
	// badFor is how long bad ones are.
	badFor = 10 * time.Second
	// maxChain bounds what a client shows: its own certificate and those that lead to an authority. A handshake asks for
	// them and does not check them, and to try many takes long.
	maxChain = 6
	// outdatedEvery is how often it is said that a list is out of date.
	outdatedEvery = time.Hour
)

// LoadAuthorities reads the files; crlFile may be "". Its error is Misconfigured.
func LoadAuthorities(caFile, crlFile string, logger *slog.Logger) (*Authorities, error) {
	a := &Authorities{
		caFile: caFile, crlFile: crlFile, logger: logger, outdated: rate.Sometimes{First: 1, Interval: outdatedEvery},
	}
	if err := a.load(); err != nil {
		return nil, domain.Errorf(domain.Misconfigured, "read the authorities of client certificates: %w", err)
	}
	return a, nil
}

// load reads both files, and keeps what was read before where one is not good.
func (a *Authorities) load() error {
	read := Stamps(a.caFile, a.crlFile)
	b, err := os.ReadFile(a.caFile)
	if err != nil {
		return err
	}
	pool, authorities, err := readAuthorities(b)
	if err != nil {
		return fmt.Errorf("%s: %w", a.caFile, err)
	}
	fresh := &ruling{
		pool: pool,
		good: otter.Must(&otter.Options[[sha256.Size]byte, time.Time]{MaximumSize: maxChecked}),
		bad:  otter.Must(&otter.Options[[sha256.Size]byte, badChain]{MaximumSize: maxChecked}),
	}
	if a.crlFile != "" {
		if b, err = os.ReadFile(a.crlFile); err != nil {
			return err
		}
		if fresh.revoked, fresh.next, err = readRevoked(b, authorities); err != nil {
			return fmt.Errorf("%s: %w", a.crlFile, err)
		}
	}
	a.inForce, a.read = fresh, read
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

// readRevoked reads lists of revoked certificates (RFC 5280 section 5), each of the authority that signed it. A list
// that is older than it should be counts all the same: what it revokes is revoked.
func readRevoked(
	b []byte, authorities []*x509.Certificate,
) (revoked map[string]bool, next time.Time, err error) {
	revoked = map[string]bool{}
	lists := 0
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, next, err
		}
		signed := func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(c) == nil
		}
		if !slices.ContainsFunc(authorities, signed) {
			return nil, next, fmt.Errorf("the list of %s is signed by none of the authorities", list.Issuer)
		}
		if slices.ContainsFunc(list.Extensions, func(e pkix.Extension) bool { return e.Critical }) {
			return nil, next, fmt.Errorf(
				"the list of %s is not of all its certificates, or of others' (it has a critical extension)", list.Issuer,
			)
		}
		if !list.NextUpdate.IsZero() && (next.IsZero() || list.NextUpdate.Before(next)) {
			next = list.NextUpdate
		}
		for _, c := range list.RevokedCertificateEntries {
			revoked[revokedKey(list.RawIssuer, c.SerialNumber.Bytes())] = true
		}
		lists++
	}
	if lists == 0 {
		return nil, next, errors.New("there is no list of revoked certificates in it (PEM, X509 CRL)")
	}
	return revoked, next, nil
}

func revokedKey(issuer, serial []byte) string { return string(issuer) + "\x00" + string(serial) }

// current is what counts now. It reads the files again where one has changed, and says once what is wrong with them.
func (a *Authorities) current(now time.Time) *ruling {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.looked) < reloadEvery {
		return a.inForce
	}
	a.looked = now
	if a.trouble != "" || Stamps(a.caFile, a.crlFile) != a.read {
		a.refresh()
	}
	if next := a.inForce.next; !next.IsZero() && now.After(next) {
		a.outdated.Do(func() {
			a.logger.Warn(
				"a list of revoked client certificates is out of date: those that were revoked since are taken. Put the newest "+
					"list in its place", "revoked", a.crlFile, "next_update", next,
			)
		})
	}
	return a.inForce
}

func (a *Authorities) refresh() {
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
	now := time.Now()
	r := a.current(now)
	own := sha256.Sum256(chain[0].Raw)
	if until, ok := r.good.GetIfPresent(own); ok && now.Before(until) {
		return nil
	}
	if len(chain) > maxChain {
		return fmt.Errorf("%w: it comes with more than %d others", ErrCertificate, maxChain-1)
	}
	h := sha256.New()
	for _, c := range chain {
		h.Write(c.Raw)
	}
	all := [sha256.Size]byte(h.Sum(nil))
	if known, ok := r.bad.GetIfPresent(all); ok && now.Before(known.until) {
		return known.err
	}
	until, err := r.verify(chain, now)
	if err != nil {
		r.bad.Set(all, badChain{err, now.Add(badFor)})
		return err
	}
	r.good.Set(own, until)
	return nil
}

// verify returns until when a client's certificates are good.
func (r *ruling) verify(chain []*x509.Certificate, now time.Time) (until time.Time, err error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	verified, err := chain[0].Verify(x509.VerifyOptions{
		Roots: r.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: now,
	})
	if err != nil {
		return until, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	good := slices.IndexFunc(verified, func(way []*x509.Certificate) bool {
		return !slices.ContainsFunc(way, r.isRevoked)
	})
	if good < 0 {
		return until, fmt.Errorf("%w: it was revoked", ErrCertificate)
	}
	until = chain[0].NotAfter
	for _, c := range verified[good] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return until, nil
}

func (r *ruling) isRevoked(c *x509.Certificate) bool {
	return r.revoked[revokedKey(c.RawIssuer, c.SerialNumber.Bytes())]
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
	if !required && !Granted(listener, nil, rules) {
		return nil
	}
	return &Certificates{authorities: a, listener: listener, rules: rules, required: required}
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
		grant := rule.on(c.listener)
		if grant == nil {
			return caller, false, fmt.Errorf(
				"%w: the entry of client_certificates that fits grants nothing on the %s listener", ErrNotGranted, c.listener,
			)
		}
		caller, err := grant.caller(name, nil)
		caller.How, caller.Expires = domain.ByCertificate, own.NotAfter
		caller.Credential = domain.Name(own.Issuer.String())
		return caller, err == nil, err
	}
	return caller, false, fmt.Errorf("%w: no entry of client_certificates fits %s", ErrNotGranted, namesOf(own))
}

// namesOf are the first names of a certificate, for people.
func namesOf(c *x509.Certificate) string {
	names := append(slices.Clone(c.DNSNames), c.EmailAddresses...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "a certificate without a subject alternative name"
	}
	return domain.Name(strings.Join(names[:min(len(names), 3)], ", "))
}

// names returns the name of a certificate that the rule is about.
func (rule ClientCertificate) names(c *x509.Certificate) (string, bool) {
	var names []string
	pattern := rule.SAN
	switch {
	case net.ParseIP(pattern) != nil:
		pattern = net.ParseIP(pattern).String()
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
	case strings.Contains(pattern, ":"):
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
	}
	literals := domain.Literals(pattern)
	for _, name := range names {
		if domain.Matches(name, literals) {
			return domain.Name(name), true
		}
	}
	return "", false
}
