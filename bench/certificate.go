package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// upstreamHost is the name of the upstream over TLS. No resolver knows it: each gate is told the address.
const upstreamHost = "models.example.com"

// certificates are a certificate authority of this run and what it has issued for upstreamHost, in files.
type certificates struct{ ca, chain, key string }

// newCertificates makes them in a directory, in files that begin with a name; the authority's own key is forgotten.
func newCertificates(dir, name string) (*certificates, error) {
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Sallyport bench"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 7),
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: upstreamHost}, DNSNames: []string{upstreamHost},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
	}
	above, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, above.Public(), above)
	if err != nil {
		return nil, err
	}
	chain, err := x509.CreateCertificate(rand.Reader, leaf, authority, own.Public(), above)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		return nil, err
	}
	file := func(what string) string { return filepath.Join(dir, name+"-"+what+".pem") }
	c := &certificates{ca: file("ca"), chain: file("chain"), key: file("key")}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{c.ca, "CERTIFICATE", root}, {c.chain, "CERTIFICATE", chain}, {c.key, "PRIVATE KEY", key}} {
		if err := os.WriteFile(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// serverTLS is what a server for upstreamHost needs.
func (c *certificates) serverTLS() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.chain, c.key)
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, err
}

var errNoAuthority = errors.New("what the gate calls its certificate authority is no certificate in PEM")

// trusting is a client's TLS for upstreamHost that takes the word of the authorities in a PEM text and of nobody else.
func trusting(authorities []byte) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		return nil, errNoAuthority
	}
	return &tls.Config{RootCAs: roots, ServerName: upstreamHost, MinVersion: tls.VersionTLS12}, nil
}
