package auth

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"github.com/docket-project/docket/internal/domain"
	"github.com/docket-project/docket/internal/testserver"
)

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
func (m *mutual) client(own *testserver.Pair, between ...*testserver.Pair) *http.Client {
	via := m.Client().Transport.(*http.Transport).Clone()
	if own != nil {
		shown := tls.Certificate{PrivateKey: own.Key, Certificate: [][]byte{own.Cert.Raw}}
		for _, c := range between {
			shown.Certificate = append(shown.Certificate, c.Cert.Raw)
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
	root := testserver.NewAuthority(nil)
	between := testserver.NewAuthority(root)
	stranger := testserver.NewAuthority(nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.CertPEM(), nil)
	require.NoError(t, ValidateCertificates(certificateRules))
	upload := newMutual(t, &Credentials{Certificates: NewCertificates(a, UploadListener, certificateRules, false)})
	console := newMutual(t, &Credentials{Certificates: NewCertificates(a, ConsoleListener, certificateRules, false)})

	spiffe := root.Client("spiffe://example.org/ns/payments/sa/opa")
	for range 2 { // the second one is remembered
		caller, err := upload.get(t, upload.client(spiffe), "")
		require.NoError(t, err)
		require.Equal(t, domain.Caller{
			Name: "spiffe://example.org/ns/payments/sa/opa", Tenants: domain.Tenants("acme"), OPAs: []string{"edge-*"},
			How: domain.ByCertificate, Credential: root.Cert.Subject.String(), Expires: spiffe.Cert.NotAfter,
		}, caller)
	}
	caller, err := console.get(t, console.client(between.Client("Ops.ACME.example"), between), "")
	require.NoError(t, err)
	require.Equal(t, domain.Operator, caller.Role)
	require.Equal(t, "ops.acme.example", caller.Name)
	require.Equal(t, domain.Tenants("acme"), caller.Tenants)
	caller, err = upload.get(t, upload.client(root.Client("10.1.2.3")), "")
	require.NoError(t, err)
	require.Equal(t, "initech", caller.Tenant())

	expired := root.Sign(func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = []string{"a.acme.example"}, time.Now().Add(-time.Minute)
	})
	server := root.Sign(func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"a.acme.example"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	common := root.Sign(func(c *x509.Certificate) { c.Subject.CommonName = "a.acme.example" })
	odd := root.Sign(func(c *x509.Certificate) {
		c.EmailAddresses = []string{"spiffe://example.org/ns/payments/x@y"}
	})
	child := spiffe.Sign(func(c *x509.Certificate) { c.DNSNames = []string{"a.acme.example"} })
	for name, c := range map[string]struct {
		on      *mutual
		own     *testserver.Pair
		between []*testserver.Pair
		want    error
	}{
		"none":                         {upload, nil, nil, ErrNoCredentials},
		"another authority":            {upload, stranger.Client("a.acme.example"), nil, ErrCertificate},
		"without what lies between":    {upload, between.Client("a.acme.example"), nil, ErrCertificate},
		"expired":                      {upload, expired, nil, ErrCertificate},
		"a server's":                   {upload, server, nil, ErrCertificate},
		"a common name is none":        {upload, common, nil, ErrNotGranted},
		"a URI in a mail address":      {upload, odd, nil, ErrNotGranted},
		"another name":                 {upload, root.Client("spiffe://example.org/ns/other/sa/opa"), nil, ErrNotGranted},
		"nearly the name":              {upload, root.Client("acme.example"), nil, ErrNotGranted},
		"nothing on that listener":     {console, spiffe, nil, ErrNotGranted},
		"an authority of its own kind": {upload, child, []*testserver.Pair{spiffe}, ErrCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			caller, err := c.on.get(t, c.on.client(c.own, c.between...), "")
			require.ErrorIs(t, err, c.want)
			require.Equal(t, domain.Caller{}, caller)
		})
	}
}

// TestFirstEntry has a certificate of which a narrow entry grants something elsewhere, and a wide one more here.
func TestFirstEntry(t *testing.T) {
	root := testserver.NewAuthority(nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.CertPEM(), nil)
	rules := []ClientCertificate{
		{SAN: "ci.sre.example.org", grants: grants{Upload: &UploadGrant{Tenant: "acme"}}},
		{SAN: "*.sre.example.org", grants: grants{Console: &ConsoleGrant{Role: "admin"}}},
	}
	console := newMutual(t, &Credentials{Certificates: NewCertificates(a, ConsoleListener, rules, false)})
	_, err := console.get(t, console.client(root.Client("ci.sre.example.org")), "")
	require.ErrorIs(t, err, ErrNotGranted)
	require.ErrorContains(t, err, "grants nothing on the console listener")
	caller, err := console.get(t, console.client(root.Client("ann.sre.example.org")), "")
	require.NoError(t, err)
	require.Equal(t, domain.Admin, caller.Role)
	_, err = console.get(t, console.client(root.Client("x.example")), "")
	require.ErrorContains(t, err, "no entry of client_certificates fits x.example")
}

// TestStrangersChains has clients whose certificates take long to look at: anybody can make some.
func TestStrangersChains(t *testing.T) {
	root := testserver.NewAuthority(nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.CertPEM(), nil)
	m := newMutual(t, &Credentials{Certificates: NewCertificates(a, UploadListener, certificateRules, false)})
	between := []*testserver.Pair{root}
	for range maxChain - 1 {
		between = append(between, testserver.NewAuthority(between[len(between)-1]))
	}
	deep := between[len(between)-1].Client("a.acme.example")
	slices.Reverse(between)
	_, err := m.get(t, m.client(deep, between[:maxChain]...), "")
	require.ErrorContains(t, err, "it comes with more than 5 others")
	_, err = m.get(t, m.client(deep, between[:maxChain-1]...), "")
	require.NoError(t, err)

	stranger := testserver.NewAuthority(nil).Client("b.acme.example")
	for range 2 {
		_, err = m.get(t, m.client(stranger), "")
		require.ErrorIs(t, err, ErrCertificate)
	}
	require.Equal(t, 1, a.inForce.bad.EstimatedSize(), "it is not looked at again")
	require.Equal(t, 1, a.inForce.good.EstimatedSize())
}

// TestOldCookie has somebody whose session has ended, and who shows a certificate.
func TestOldCookie(t *testing.T) {
	root := testserver.NewAuthority(nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.CertPEM(), nil)
	tokens, _, err := load(t, "ann viewer "+hashOf("secret")+" tenants=initech", ConsoleUser)
	require.NoError(t, err)
	sessions, err := NewSessions(&Credentials{
		Tokens: tokens, Certificates: NewCertificates(a, ConsoleListener, certificateRules, false),
	}, nil, "", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	cookie, err := sessions.Begin(nobody(), "secret", plainSite)
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{root.Client("a.acme.example").Cert}}
	r.AddCookie(&http.Cookie{Name: SessionCookie, Value: "old"})
	caller, err := sessions.Authenticate(r)
	require.NoError(t, err)
	require.Equal(t, domain.ByCertificate, caller.How)
	r.Header.Del("Cookie")
	r.AddCookie(cookie)
	_, err = sessions.Authenticate(r)
	require.ErrorIs(t, err, ErrContradiction, "a session and a certificate of different tenants")
}

// TestCertificatesAndTokens has listeners with both.
func TestCertificatesAndTokens(t *testing.T) {
	root, stranger := testserver.NewAuthority(nil), testserver.NewAuthority(nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.CertPEM(), nil)
	tokens, _, err := load(t, "edge acme "+hashOf("acme's")+"\nother initech "+hashOf("initech's"), Uploader)
	require.NoError(t, err)
	listener := func(rules []ClientCertificate, required bool) *mutual {
		return newMutual(t, &Credentials{Tokens: tokens, Certificates: NewCertificates(a, UploadListener, rules, required)})
	}
	either, both := listener(certificateRules, false), listener(certificateRules, true)
	onlyTLS := listener(nil, true)
	known, nobody := root.Client("a.acme.example"), root.Client("b.example")
	for name, c := range map[string]struct {
		on    *mutual
		own   *testserver.Pair
		token string
		want  error
		who   string
	}{
		"a token is enough":                     {either, nil, "acme's", nil, "edge"},
		"a certificate is enough":               {either, known, "", nil, "a.acme.example"},
		"the token says who":                    {either, known, "acme's", nil, "edge"},
		"two tenants":                           {either, known, "initech's", ErrContradiction, ""},
		"a bad token beside a good certificate": {either, known, "x", ErrUnknown, ""},
		"a mesh's certificate beside a token":   {either, stranger.Client("x"), "acme's", nil, "edge"},
		"one that is granted nothing, a token":  {either, nobody, "acme's", nil, "edge"},
		"neither":                               {either, nil, "", ErrNoCredentials, ""},
		"both, and a token alone":               {both, nil, "acme's", ErrNoCertificate, ""},
		"both, and a bad certificate":           {both, stranger.Client("a.acme.example"), "acme's", ErrCertificate, ""},
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
	root := testserver.NewAuthority(nil)
	a, _, _ := authoritiesOf(t, slog.New(slog.DiscardHandler), root.CertPEM(), nil)
	tokens, _, err := load(t, "ann viewer "+hashOf("secret"), ConsoleUser)
	require.NoError(t, err)
	sessions, err := NewSessions(&Credentials{
		Tokens: tokens, Certificates: NewCertificates(a, ConsoleListener, nil, true),
	}, nil, "", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	cookie, err := sessions.Begin(nobody(), "secret", plainSite)
	require.NoError(t, err)
	_, err = visit(sessions, cookie)
	require.ErrorIs(t, err, ErrNoCertificate)
}

// TestAuthoritiesAreReadAgain has a connection that outlives its certificate's good name.
func TestAuthoritiesAreReadAgain(t *testing.T) {
	root, next := testserver.NewAuthority(nil), testserver.NewAuthority(nil)
	good, revoked := root.Client("good.acme.example"), root.Client("bad.acme.example")
	var said bytes.Buffer
	a, caFile, crlFile := authoritiesOf(
		t, slog.New(slog.NewTextHandler(&said, nil)), root.CertPEM(), root.Revoking(time.Now().Add(time.Hour)),
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

	change(crlFile, root.Revoking(time.Now().Add(time.Hour), revoked))
	require.True(t, works(keep))
	require.False(t, works(lose), "on the same connection")
	require.ErrorIs(t, m.err, ErrCertificate)

	for _, rubbish := range [][]byte{nil, []byte("x"), next.Revoking(time.Now().Add(time.Hour)), root.CertPEM()} {
		change(crlFile, rubbish)
		require.True(t, works(keep), "the last good list counts")
		require.False(t, works(lose))
	}
	require.Contains(t, said.String(), "were not read again")
	said.Reset()
	change(crlFile, root.Revoking(time.Now().Add(-time.Minute), revoked))
	require.False(t, works(lose), "a list that is out of date still revokes")
	require.Contains(t, said.String(), "is out of date")
	said.Reset()
	a.inForce.next = time.Now().Add(-time.Second)
	a.outdated = rate.Sometimes{First: 1, Interval: outdatedEvery}
	later()
	works(lose)
	require.Contains(t, said.String(), "is out of date", "also where it becomes so while docket runs")

	change(crlFile, append(root.Revoking(time.Now().Add(time.Hour)), next.Revoking(time.Now().Add(time.Hour))...))
	require.False(t, works(lose), "a list by nobody that is known")
	change(caFile, append(root.CertPEM(), next.CertPEM()...))
	require.True(t, works(lose), "it is not revoked any more, and both authorities count")
	require.True(t, works(m.client(next.Client("x.acme.example"))))
	change(caFile, next.CertPEM())
	require.True(t, works(keep), "its list is signed by nobody now: the last good files count")
	change(crlFile, next.Revoking(time.Now().Add(time.Hour)))
	require.False(t, works(keep), "its authority is gone")
	require.NoError(t, os.Remove(caFile))
	later()
	require.True(t, works(m.client(next.Client("y.acme.example"))))
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
