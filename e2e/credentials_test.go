package e2e

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/testserver"
)

// gateway is a docket behind TLS that knows callers by tokens of its files, by the tokens of an issuer, and by
// certificates.
type gateway struct {
	*docket
	dir       string
	authority *testserver.Pair
	issuer    *testserver.Issuer
	client    *http.Client
}

var (
	issuedRSA = testserver.NewSigner("rsa", jwt.SigningMethodRS256)
	issuedEC  = testserver.NewSigner("ec", jwt.SigningMethodES256)
)

// write writes a file of the gateway's in one step, as a renewal does.
func (g *gateway) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(g.dir, name)
	require.NoError(t, os.WriteFile(file+".new", content, 0o600))
	require.NoError(t, os.Rename(file+".new", file))
	return file
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{dir: t.TempDir(), authority: testserver.NewAuthority(nil), issuer: testserver.NewIssuer(issuedRSA)}
	t.Cleanup(g.issuer.Close)
	g.issuer.Claims = func(client string) jwt.MapClaims {
		claims := g.issuer.ClaimsFor(client, "docket")
		claims["team"] = "payments"
		return claims
	}
	server := g.authority.Server("127.0.0.1")
	authority := g.write(t, "ca.pem", g.authority.CertPEM())
	config := g.write(t, "docket.yaml", []byte(`
issuers:
  - issuer: `+g.issuer.URL+`
    ca_file: `+g.write(t, "issuer.pem", g.issuer.CA())+`
    audiences: [docket]
    upload: {tenant_claim: /team, tenants: {payments: by-jwt}}
client_certificates:
  - san: spiffe://example.org/ns/*/sa/opa
    upload: {tenant: by-certificate}
`))
	hash := func(token string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(token))) }
	g.docket = newDocket(
		t, filepath.Join(g.dir, "data"), "DOCKET_CONFIG="+config,
		"DOCKET_TLS_CERT_FILE="+g.write(t, "server.pem", server.CertPEM()),
		"DOCKET_TLS_KEY_FILE="+g.write(t, "server.key", server.KeyPEM()),
		"DOCKET_TLS_CLIENT_CA_FILE="+authority, "DOCKET_TLS_CLIENT_CRL_FILE="+
			g.write(t, "crl.pem", g.authority.Revoking(time.Now().Add(time.Hour))),
		"DOCKET_UPLOAD_TOKENS_FILE="+g.write(t, "upload-tokens", fmt.Appendf(
			nil, "edge by-token %s partitions=eu expires=%s\nedge by-token %s partitions=eu\n",
			hash("old"), time.Now().Add(25*time.Second).UTC().Format(time.RFC3339), hash("new"),
		)),
		"DOCKET_CONSOLE_TOKENS_FILE="+g.write(t, "console-tokens", []byte("ann viewer "+hash("ann's")+"\n")),
	)
	g.serve(t)
	pool := x509.NewCertPool()
	pool.AddCert(g.authority.Cert)
	g.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true,
	}}
	return g
}

// stored asks for the ids of a tenant's decisions.
func (g *gateway) stored(t *testing.T, tenant string) (ids []string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "https://"+g.console+"/api/v1/decisions?limit=1000&tenant="+tenant, nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer ann's")
	resp, err := g.client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", body)
	var page struct {
		Items []struct {
			ID string `json:"decision_id"`
		}
	}
	require.NoError(t, json.Unmarshal(body, &page))
	for _, item := range page.Items {
		ids = append(ids, item.ID)
	}
	return ids
}

// arrive waits until what an OPA answered is there, under the tenant of its credential, and nothing else.
func (g *gateway) arrive(t *testing.T, tenant string, answered ...map[string]bool) {
	t.Helper()
	want := 0
	for _, ids := range answered {
		want += len(ids)
	}
	eventually(t, time.Minute, func() error {
		if ids := g.stored(t, tenant); len(ids) != want {
			return fmt.Errorf("%s has %d of %d", tenant, len(ids), want)
		}
		return nil
	})
	for _, id := range g.stored(t, tenant) {
		known := false
		for _, ids := range answered {
			known = known || ids[id]
		}
		require.True(t, known, id)
	}
}

// opa runs an OPA with credentials, as services.docket.credentials has them in its configuration.
func (g *gateway) opa(t *testing.T, credentials string) *opa {
	t.Helper()
	shipped, err := os.ReadFile("../deploy/opa/config.yaml")
	require.NoError(t, err)
	const bearer = "      bearer:\n        token_path: /etc/docket/token\n"
	text := string(shipped)
	require.Contains(t, text, bearer)
	text = strings.Replace(text, bearer, credentials, 1)
	text = strings.Replace(text, "    url: http://docket.example:8080\n",
		"    url: https://"+g.upload+"\n    tls: {ca_cert: "+filepath.Join(g.dir, "all.pem")+"}\n", 1)
	text = strings.Replace(text, "decision_logs:\n", "decision_logs:\n  partition_name: eu\n", 1)
	text = strings.Replace(text, "max_delay_seconds: 5", "max_delay_seconds: 1", 1)
	g.write(t, "all.pem", append(g.authority.CertPEM(), g.issuer.CA()...))
	return runOPA(t, "1.22", text, "testdata/policy.rego")
}

// TestCredentialsOfOPA has a real OPA of each of its kinds of credentials, which are renewed while it uploads.
func TestCredentialsOfOPA(t *testing.T) {
	t.Run("bearer", func(t *testing.T) {
		t.Parallel()
		g := newGateway(t)
		file := g.write(t, "token", []byte("old"))
		o := g.opa(t, "      bearer: {token_path: "+file+"}\n")
		first := askAll(t, o, 50)
		g.arrive(t, "by-token", first)
		eventually(t, 45*time.Second, func() error { // the old token is over
			resp := g.uploaded(t, "old", "/logs/eu")
			if resp != http.StatusUnauthorized {
				return fmt.Errorf("it is %d", resp)
			}
			return nil
		})
		require.Equal(t, http.StatusOK, g.uploaded(t, "new", "/logs/eu"))
		require.Equal(t, http.StatusForbidden, g.uploaded(t, "new", "/logs/us"))
		require.Equal(t, http.StatusForbidden, g.uploaded(t, "new", "/logs"))
		second := askAll(t, o, 50)
		g.write(t, "token", []byte("new"))
		g.arrive(t, "by-token", first, second)
	})
	t.Run("oauth2", func(t *testing.T) {
		t.Parallel()
		g := newGateway(t)
		o := g.opa(t, `      oauth2: {token_url: "`+g.issuer.URL+`/token", client_id: opa, client_secret: secret}`+"\n")
		first := askAll(t, o, 50)
		g.arrive(t, "by-jwt", first)

		g.issuer.Set(false, issuedRSA, issuedEC) // it signs with the new one
		eventually(t, 30*time.Second, func() error {
			if g.issuer.Signed("ec") == 0 {
				o.ask(t, "http/authz/nothing", "{}")
				return fmt.Errorf("OPA has its old token")
			}
			return nil
		})
		eventually(t, 30*time.Second, func() error { // docket asks for the new one
			if status := g.uploaded(t, issuedEC.Sign(g.issuer.Claims("opa")), "/logs/eu"); status != http.StatusOK {
				return fmt.Errorf("it is %d", status)
			}
			return nil
		})
		g.issuer.Set(true) // nobody gets its keys: those that are known are enough
		second := askAll(t, o, 50)
		eventually(t, time.Minute, func() error { return missing(g.stored(t, "by-jwt"), first, second) })

		g.terminate(t)
		g.serve(t) // and now none is known
		third := askAll(t, o, 50)
		eventually(t, 30*time.Second, func() error {
			if !strings.Contains(g.out.String(), "the keys of an issuer were not read") {
				return fmt.Errorf("docket says nothing of the issuer")
			}
			return nil
		})
		eventually(t, 30*time.Second, func() error {
			token := issuedEC.Sign(g.issuer.Claims("opa"))
			if status := g.uploaded(t, token, "/logs/eu"); status != http.StatusServiceUnavailable {
				return fmt.Errorf("it is %d", status)
			}
			return nil
		})
		g.issuer.Set(false)
		eventually(t, time.Minute, func() error { return missing(g.stored(t, "by-jwt"), first, second, third) })
	})
	t.Run("client_tls", func(t *testing.T) {
		t.Parallel()
		g := newGateway(t)
		own := g.authority.Client("spiffe://example.org/ns/payments/sa/opa")
		renew := func(p *testserver.Pair) (cert, key string) {
			return g.write(t, "opa.pem", p.CertPEM()), g.write(t, "opa.key", p.KeyPEM())
		}
		cert, key := renew(own)
		o := g.opa(t, "      client_tls: {cert: "+cert+", private_key: "+key+", cert_reread_interval_seconds: 1}\n")
		first := askAll(t, o, 50)
		g.arrive(t, "by-certificate", first)

		// OPA keeps its connection, and with it the certificate: docket has to end it once that is revoked.
		g.write(t, "crl.pem", g.authority.Revoking(time.Now().Add(time.Hour), own))
		second := askAll(t, o, 50)
		eventually(t, 30*time.Second, func() error {
			if !strings.Contains(g.out.String(), "it was revoked") {
				return fmt.Errorf("docket has not refused it")
			}
			return nil
		})
		require.Len(t, g.stored(t, "by-certificate"), len(first))
		renew(g.authority.Client("spiffe://example.org/ns/payments/sa/opa"))
		g.arrive(t, "by-certificate", first, second)
	})
}

// missing reports decisions that are not stored.
func missing(stored []string, answered ...map[string]bool) error {
	there := map[string]bool{}
	for _, id := range stored {
		there[id] = true
	}
	for _, ids := range answered {
		for id := range ids {
			if !there[id] {
				return fmt.Errorf("%s is not stored", id)
			}
		}
	}
	return nil
}

// uploaded uploads nothing with a token, and returns the status.
func (g *gateway) uploaded(t *testing.T, token, path string) int {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "https://"+g.upload+path, strings.NewReader("[]"))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := g.client.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}
