package auth

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// BenchmarkAuthenticate is what an upload costs for its credential, with the note of its use.
func BenchmarkAuthenticate(b *testing.B) {
	logger := slog.New(slog.DiscardHandler)
	dir := b.TempDir()
	write := func(name string, content []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(b, os.WriteFile(file, content, 0o600))
		return file
	}
	tokens, err := LoadTokens(write("tokens", []byte("edge acme "+hashOf("secret"))), Uploader, logger)
	require.NoError(b, err)
	issuer := Issuer{
		Issuer: "https://issuer.example", JWKSURL: "file://" + write("keys", testserver.KeySet(signRSA, signEC)),
		Audiences: []string{"docket"}, grants: grants{Upload: &UploadGrant{Tenant: "acme"}},
	}
	keys, err := LoadKeys(b.Context(), []Issuer{issuer}, nil, logger)
	require.NoError(b, err)
	from := testserver.Issuer{Server: &httptest.Server{URL: issuer.Issuer}}
	root := testserver.NewAuthority(nil)
	authorities, err := LoadAuthorities(write("ca", root.CertPEM()), "", logger)
	require.NoError(b, err)
	who := &Credentials{
		Listener: UploadListener, Uses: NewUses(logger),
		Tokens: tokens, Issuers: NewIssuers(UploadListener, []Issuer{issuer}, keys),
		Certificates: NewCertificates(authorities, UploadListener, certificateRules, false),
	}
	request := func(token string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/logs", nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		return r
	}
	certified := request("")
	own := root.Client("a.acme.example").Cert
	certified.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{own}}
	for name, r := range map[string]*http.Request{
		"token": request("secret"), "RS256": request(signRSA.Sign(from.ClaimsFor("opa", "docket"))),
		"ES256": request(signEC.Sign(from.ClaimsFor("opa", "docket"))), "certificate": certified,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := who.Authenticate(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
