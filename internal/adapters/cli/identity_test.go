package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pair writes a certificate of its own and its key.
func pair(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	}
	return certFile, keyFile
}

// TestIdentity has a docket whose certificate nobody but --ca-file knows, and that asks for a client's.
func TestIdentity(t *testing.T) {
	var shown int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if own := r.TLS.PeerCertificates; len(own) > 0 {
			shown = own[0].SerialNumber.Int64()
		}
		_, _ = w.Write([]byte(`{"items":[]}`))
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	ca, rubbish := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "rubbish")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(block), 0o600))
	require.NoError(t, os.WriteFile(rubbish, []byte("x"), 0o600))
	cert, key := pair(t)
	for name, c := range map[string]struct {
		who   Identity
		code  int
		says  string
		shown int64
	}{
		"the system's authorities": {Identity{}, ExitUnavailable, "give the signer's certificate with --ca-file", 0},
		"its own":                  {Identity{CAFile: ca}, ExitDone, "", 0},
		"and a client's":           {Identity{CAFile: ca, CertFile: cert, KeyFile: key}, ExitDone, "", 7},
		"no key":                   {Identity{CAFile: ca, CertFile: cert}, ExitUsage, "go together", 0},
		"a key that is none": {
			Identity{CAFile: ca, CertFile: cert, KeyFile: rubbish}, ExitMisconfigured, "client certificate", 0,
		},
		"no such file":         {Identity{CAFile: "/nowhere"}, ExitMisconfigured, "--ca-file", 0},
		"no certificate in it": {Identity{CAFile: rubbish}, ExitMisconfigured, "no certificate in", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := Find{
				Console: Console{Server: s.URL, Identity: c.who}, Form: Form{Output: "json"}, Wanted: Wanted{Since: "1h"}, Limit: 1,
			}
			for range 2 { // by the same client
				shown = 0
				_, err := screen(func(o Out) error { return f.Run(t.Context(), o) })
				require.Equal(t, c.code, ExitCode(err), "%v", err)
				if c.says != "" {
					require.ErrorContains(t, err, c.says)
				}
				require.Equal(t, c.shown, shown)
			}
		})
	}
}
