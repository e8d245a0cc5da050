package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serial int64

// signed makes a certificate; by is nil for one that signs itself.
func signed(t *testing.T, by *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	change(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	parent, parentKey := template, key
	if by != nil {
		parent, parentKey = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

func newAuthority(t *testing.T, by *authority) *authority {
	return signed(t, by, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		c.Subject.CommonName = "authority " + c.SerialNumber.String()
	})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// named has a URI or DNS name.
func (a *authority) named(t *testing.T, name string) *authority {
	return signed(t, a, func(c *x509.Certificate) {
		u, err := url.Parse(name)
		switch {
		case err == nil && u.Scheme != "":
			c.URIs = []*url.URL{u}
		case net.ParseIP(name) != nil:
			c.IPAddresses = []net.IP{net.ParseIP(name)}
		default:
			c.DNSNames = []string{name}
		}
	})
}

// revoking lists certificates as revoked.
func (a *authority) revoking(t *testing.T, next time.Time, revoked ...*authority) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: r.cert.SerialNumber, RevocationTime: time.Now(),
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// mutual is a listener that asks for certificates.
type mutual struct {
	*httptest.Server
	who    Authenticator
	caller domain.Caller
	err    error
}

func newMutual(t *testing.T, who Authenticator) *mutual {
	m := &mutual{who: who}
	m.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		m.caller, m.err = m.who.Authenticate(r)
	}))
	m.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	m.StartTLS()
	t.Cleanup(m.Close)
	return m
}

// client shows certificates, the first of which is its own.
func (m *mutual) client(own *authority, between ...*authority) *http.Client {
	via := m.Client().Transport.(*http.Transport).Clone()
	if own != nil {
		shown := tls.Certificate{PrivateKey: own.key, Certificate: [][]byte{own.cert.Raw}}
		for _, c := range between {
			shown.Certificate = append(shown.Certificate, c.cert.Raw)
		}
		via.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &shown, nil
		}
	}
	return &http.Client{Transport: via}
}

// get asks by a client, with a bearer token unless that is empty.
func (m *mutual) get(t *testing.T, client *http.Client, token string) (domain.Caller, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.URL, nil)
	require.NoError(t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return m.caller, m.err
}

func authoritiesOf(t *testing.T, logger *slog.Logger, ca, crl []byte) (*Authorities, string, string) {
	t.Helper()
	dir := t.TempDir()
	caFile, crlFile := filepath.Join(dir, "ca.pem"), ""
	require.NoError(t, os.WriteFile(caFile, ca, 0o600))
	if crl != nil {
		crlFile = filepath.Join(dir, "crl.pem")
		require.NoError(t, os.WriteFile(crlFile, crl, 0o600))
	}
	a, err := LoadAuthorities(caFile, crlFile, logger)
	require.NoError(t, err)
	return a, caFile, crlFile
}

var certificateRules = []ClientCertificate{
	{SAN: "spiffe://example.org/ns/payments/*", grants: grants{
		Upload: &UploadGrant{Tenant: "acme", OPAs: []string{"edge-*"}},
	}},
	{SAN: "*.Acme.example", grants: grants{
		Upload: &UploadGrant{Tenant: "acme"}, Console: &ConsoleGrant{Role: "operator", Tenants: []string{"acme"}},
	}},
	{SAN: "10.1.2.3", grants: grants{Upload: &UploadGrant{Tenant: "initech"}}},
}

func TestCertificates(t *testing.T) {
	root := newAuthority(t, nil)
	between := newAuthority(t, root)
	stranger := newAuthority(t, nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.pem(), nil)
	require.NoError(t, ValidateCertificates(certificateRules))
	upload := newMutual(t, &Credentials{Certificates: NewCertificates(a, UploadListener, certificateRules, false)})
	console := newMutual(t, &Credentials{Certificates: NewCertificates(a, ConsoleListener, certificateRules, false)})

	spiffe := root.named(t, "spiffe://example.org/ns/payments/sa/opa")
	for range 2 { // the second one is remembered
		caller, err := upload.get(t, upload.client(spiffe), "")
		require.NoError(t, err)
		require.Equal(t, domain.Caller{
			Name: "spiffe://example.org/ns/payments/sa/opa", Tenants: domain.Tenants("acme"), OPAs: []string{"edge-*"},
			How: domain.ByCertificate, Expires: spiffe.cert.NotAfter,
		}, caller)
	}
	caller, err := console.get(t, console.client(between.named(t, "Ops.ACME.example"), between), "")
	require.NoError(t, err)
	require.Equal(t, domain.Operator, caller.Role)
	require.Equal(t, "ops.acme.example", caller.Name)
	require.Equal(t, domain.Tenants("acme"), caller.Tenants)
	caller, err = upload.get(t, upload.client(root.named(t, "10.1.2.3")), "")
	require.NoError(t, err)
	require.Equal(t, "initech", caller.Tenant())

	expired := signed(t, root, func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = []string{"a.acme.example"}, time.Now().Add(-time.Minute)
	})
	server := signed(t, root, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"a.acme.example"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	common := signed(t, root, func(c *x509.Certificate) { c.Subject.CommonName = "a.acme.example" })
	odd := signed(t, root, func(c *x509.Certificate) {
		c.EmailAddresses = []string{"spiffe://example.org/ns/payments/x@y"}
	})
	child := signed(t, spiffe, func(c *x509.Certificate) { c.DNSNames = []string{"a.acme.example"} })
	for name, c := range map[string]struct {
		on      *mutual
		own     *authority
		between []*authority
		want    error
	}{
		"none":                         {upload, nil, nil, ErrNoCredentials},
		"another authority":            {upload, stranger.named(t, "a.acme.example"), nil, ErrCertificate},
		"without what lies between":    {upload, between.named(t, "a.acme.example"), nil, ErrCertificate},
		"expired":                      {upload, expired, nil, ErrCertificate},
		"a server's":                   {upload, server, nil, ErrCertificate},
		"a common name is none":        {upload, common, nil, ErrNotGranted},
		"a URI in a mail address":      {upload, odd, nil, ErrNotGranted},
		"another name":                 {upload, root.named(t, "spiffe://example.org/ns/other/sa/opa"), nil, ErrNotGranted},
		"nearly the name":              {upload, root.named(t, "acme.example"), nil, ErrNotGranted},
		"nothing on that listener":     {console, spiffe, nil, ErrNotGranted},
		"an authority of its own kind": {upload, child, []*authority{spiffe}, ErrCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			caller, err := c.on.get(t, c.on.client(c.own, c.between...), "")
			require.ErrorIs(t, err, c.want)
			require.Equal(t, domain.Caller{}, caller)
		})
	}
}

// TestCertificatesAndTokens has listeners with both.
func TestCertificatesAndTokens(t *testing.T) {
	root, stranger := newAuthority(t, nil), newAuthority(t, nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.pem(), nil)
	tokens, _, err := load(t, "edge acme "+hashOf("acme's")+"\nother initech "+hashOf("initech's"), Uploader)
	require.NoError(t, err)
	listener := func(rules []ClientCertificate, required bool) *mutual {
		return newMutual(t, &Credentials{Tokens: tokens, Certificates: NewCertificates(a, UploadListener, rules, required)})
	}
	either, both := listener(certificateRules, false), listener(certificateRules, true)
	onlyTLS := listener(nil, true)
	known, nobody := root.named(t, "a.acme.example"), root.named(t, "b.example")
	for name, c := range map[string]struct {
		on    *mutual
		own   *authority
		token string
		want  error
		who   string
	}{
		"a token is enough":                     {either, nil, "acme's", nil, "edge"},
		"a certificate is enough":               {either, known, "", nil, "a.acme.example"},
		"the token says who":                    {either, known, "acme's", nil, "edge"},
		"two tenants":                           {either, known, "initech's", ErrContradiction, ""},
		"a bad token beside a good certificate": {either, known, "x", ErrUnknown, ""},
		"a mesh's certificate beside a token":   {either, stranger.named(t, "x"), "acme's", nil, "edge"},
		"one that is granted nothing, a token":  {either, nobody, "acme's", nil, "edge"},
		"neither":                               {either, nil, "", ErrNoCredentials, ""},
		"both, and a token alone":               {both, nil, "acme's", ErrNoCertificate, ""},
		"both, and a bad certificate":           {both, stranger.named(t, "a.acme.example"), "acme's", ErrCertificate, ""},
		"both, and a certificate that is named": {both, known, "", nil, "a.acme.example"},
		"both, and both":                        {both, nobody, "acme's", nil, "edge"},
		"certificates name nobody, and alone":   {onlyTLS, known, "", ErrNotGranted, ""},
		"certificates name nobody, and a token": {onlyTLS, known, "initech's", nil, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			caller, err := c.on.get(t, c.on.client(c.own), c.token)
			if c.want == nil {
				require.NoError(t, err)
			}
			require.ErrorIs(t, err, c.want)
			require.Equal(t, c.who, caller.Name)
		})
	}
	_, err = ask(either.who, "")
	require.ErrorIs(t, err, ErrNoCredentials, "without TLS")
}

// TestSessionsNeedTheCertificate has a console where everybody needs one, and a cookie that came without.
func TestSessionsNeedTheCertificate(t *testing.T) {
	root := newAuthority(t, nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.pem(), nil)
	tokens, _, err := load(t, "ann viewer "+hashOf("secret"), ConsoleUser)
	require.NoError(t, err)
	sessions, err := NewSessions(&Credentials{
		Tokens: tokens, Certificates: NewCertificates(a, ConsoleListener, nil, true),
	}, "")
	require.NoError(t, err)
	cookie, err := sessions.Begin("secret", "/", true)
	require.NoError(t, err)
	_, err = visit(sessions, cookie)
	require.ErrorIs(t, err, ErrNoCertificate)
}

// TestAuthoritiesAreReadAgain has a connection that outlives its certificate's good name.
func TestAuthoritiesAreReadAgain(t *testing.T) {
	root, next := newAuthority(t, nil), newAuthority(t, nil)
	good, revoked := root.named(t, "good.acme.example"), root.named(t, "bad.acme.example")
	var said bytes.Buffer
	a, caFile, crlFile := authoritiesOf(
		t, slog.New(slog.NewTextHandler(&said, nil)), root.pem(), root.revoking(t, time.Now().Add(time.Hour)),
	)
	m := newMutual(t, &Credentials{Certificates: NewCertificates(a, UploadListener, certificateRules, false)})
	later := func() { a.looked = time.Time{} } // a second later
	change := func(file string, b []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, b, 0o600))
		require.NoError(t, os.Chtimes(file, time.Time{}, time.Now().Add(time.Duration(len(b))*time.Second)))
		later()
	}
	keep, lose := m.client(good), m.client(revoked)
	works := func(c *http.Client) bool { _, err := m.get(t, c, ""); return err == nil }
	require.True(t, works(keep) && works(lose))

	change(crlFile, root.revoking(t, time.Now().Add(time.Hour), revoked))
	require.True(t, works(keep))
	require.False(t, works(lose), "on the same connection")
	require.ErrorIs(t, m.err, ErrCertificate)

	for _, rubbish := range [][]byte{nil, []byte("x"), next.revoking(t, time.Now().Add(time.Hour)), root.pem()} {
		change(crlFile, rubbish)
		require.True(t, works(keep), "the last good list counts")
		require.False(t, works(lose))
	}
	require.Contains(t, said.String(), "were not read again")
	said.Reset()
	change(crlFile, root.revoking(t, time.Now().Add(-time.Minute), revoked))
	require.False(t, works(lose), "a list that is out of date still revokes")
	require.Contains(t, said.String(), "is out of date")

	change(crlFile, append(root.revoking(t, time.Now().Add(time.Hour)), next.revoking(t, time.Now().Add(time.Hour))...))
	require.False(t, works(lose), "a list by nobody that is known")
	change(caFile, append(root.pem(), next.pem()...))
	require.True(t, works(lose), "it is not revoked any more, and both authorities count")
	require.True(t, works(m.client(next.named(t, "x.acme.example"))))
	change(caFile, next.pem())
	require.True(t, works(keep), "its list is signed by nobody now: the last good files count")
	change(crlFile, next.revoking(t, time.Now().Add(time.Hour)))
	require.False(t, works(keep), "its authority is gone")
	require.NoError(t, os.Remove(caFile))
	later()
	require.True(t, works(m.client(next.named(t, "y.acme.example"))))
}

func TestAuthoritiesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "rubbish")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	_, err := LoadAuthorities(file, "", slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "there is no certificate in it")
	_, err = LoadAuthorities(filepath.Join(dir, "none"), "", slog.New(slog.DiscardHandler))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
	require.True(t, errors.Is(err, os.ErrNotExist))
	for says, rule := range map[string]ClientCertificate{
		"set san":                           {grants: grants{Upload: &UploadGrant{Tenant: "a"}}},
		"a pattern of anything":             {SAN: "**", grants: grants{Upload: &UploadGrant{Tenant: "a"}}},
		"set upload or console":             {SAN: "x"},
		"a certificate has no claims":       {SAN: "x", grants: grants{Upload: &UploadGrant{TenantClaim: "/x"}}},
		"console.role_claim: a certificate": {SAN: "x", grants: grants{Console: &ConsoleGrant{RoleClaim: "/x"}}},
	} {
		require.ErrorContains(t, ValidateCertificates([]ClientCertificate{rule}), says)
	}
}
