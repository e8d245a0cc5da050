package web

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/docket-project/docket/internal/domain"
)

// selfSigned is a certificate and its key, in PEM.
func selfSigned(t *testing.T, name string, until time.Time) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: until.Add(-time.Hour), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	spelled, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: spelled})
}

// TestCertificateIsRenewed replaces the pair file by file, as everything that renews certificates does.
func TestCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		write := func(file string, b []byte) { require.NoError(t, os.WriteFile(file, b, 0o600)) }
		cert, key := selfSigned(t, "old", start.Add(10*time.Hour))
		write(certFile, cert)
		write(keyFile, key)
		var said bytes.Buffer
		reg := prometheus.NewRegistry()
		c, err := LoadCertificate(certFile, keyFile, reg, slog.New(slog.NewTextHandler(&said, nil)))
		require.NoError(t, err)
		served := func() string {
			time.Sleep(certificateEvery)
			pair, err := c.Config().GetCertificate(nil)
			require.NoError(t, err)
			return pair.Leaf.Subject.CommonName
		}
		expiry := func() float64 {
			families, err := reg.Gather()
			require.NoError(t, err)
			return families[0].GetMetric()[0].GetGauge().GetValue()
		}
		require.Equal(t, "old", served())
		require.InDelta(t, time.Until(start.Add(10*time.Hour)).Seconds(), expiry(), 2)

		newCert, newKey := selfSigned(t, "new", start.Add(100*time.Hour))
		write(certFile, newCert)
		for range 3 {
			require.Equal(t, "old", served(), "half of the new pair fits to nothing")
		}
		require.Equal(t, 1, strings.Count(said.String(), "level=ERROR"), "said once: %s", said.String())
		write(keyFile, newKey)
		require.Equal(t, "new", served())
		require.InDelta(t, time.Until(start.Add(100*time.Hour)).Seconds(), expiry(), 2)

		require.NoError(t, os.Remove(certFile))
		require.Equal(t, "new", served(), "a file that is gone")
		expired, expiredKey := selfSigned(t, "expired", start.Add(-time.Hour))
		write(certFile, expired)
		write(keyFile, expiredKey)
		require.Equal(t, "new", served(), "one that has expired is no improvement")
		write(certFile, nil)
		require.Equal(t, "new", served(), "an empty file")
		write(certFile, cert)
		write(keyFile, key)
		require.Equal(t, "old", served(), "and back")
		require.NotContains(t, said.String(), "PRIVATE")
	})
	_, err := LoadCertificate(certFile, dir, nil, slog.New(slog.DiscardHandler))
	require.Equal(t, domain.Misconfigured, domain.ClassOf(err))
}
