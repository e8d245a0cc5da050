package testserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"time"
)

// Pair is a certificate with its key.
type Pair struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

var lastSerial atomic.Int64

// NewAuthority makes a certificate that signs others; by is nil for one that signs itself.
func NewAuthority(by *Pair) *Pair {
	return by.Sign(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		c.Subject.CommonName, c.ExtKeyUsage = "authority "+c.SerialNumber.String(), nil
	})
}

// Sign makes a certificate for an hour; nil signs itself.
func (a *Pair) Sign(change func(*x509.Certificate)) *Pair {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(lastSerial.Add(1)), Subject: pkix.Name{CommonName: "x"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	change(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	parent, parentKey := template, key
	if a != nil {
		parent, parentKey = a.Cert, a.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	return &Pair{cert, key}
}

// Client makes a client's certificate with a URI, a DNS name or an address.
func (a *Pair) Client(name string) *Pair {
	return a.Sign(func(c *x509.Certificate) { addName(c, name) })
}

// Server makes a server's certificate.
func (a *Pair) Server(name string) *Pair {
	return a.Sign(func(c *x509.Certificate) {
		addName(c, name)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

func addName(c *x509.Certificate, name string) {
	u, err := url.Parse(name)
	switch ip := net.ParseIP(name); {
	case ip != nil:
		c.IPAddresses = []net.IP{ip}
	case err == nil && u.Scheme != "":
		c.URIs = []*url.URL{u}
	default:
		c.DNSNames = []string{name}
	}
}

// CertPEM is the certificate, and KeyPEM its key.
func (a *Pair) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Cert.Raw})
}

// KeyPEM is the certificate's key.
func (a *Pair) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(a.Key)
	must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Revoking is a list of revoked certificates, of which the next one is promised for then.
func (a *Pair) Revoking(next time.Time, revoked ...*Pair) []byte {
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: r.Cert.SerialNumber, RevocationTime: time.Now(),
		})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.Cert, a.Key)
	must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}
