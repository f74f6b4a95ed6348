package run

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"os"
	"strings"
	"time"
)

// systemBundles are where the systems keep the public authorities.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// writeBundle writes the public authorities and the gate's into a file. The public ones are needed where the gate passes
// a connection through unread; without any, such a connection fails and nothing else.
func writeBundle(file string, ca []byte, environ []string) error {
	candidates := systemBundles
	for _, entry := range environ {
		if own, ok := strings.CutPrefix(entry, "SSL_CERT_FILE="); ok && own != "" {
			candidates = append([]string{own}, systemBundles...)
		}
	}
	var out bytes.Buffer
	for _, f := range candidates {
		if raw, err := os.ReadFile(f); err == nil {
			out.Write(append(raw, '\n'))
			break
		}
	}
	out.Write(ca)
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		return fmt.Errorf("certificate bundle: %w", err)
	}
	return nil
}

// ClientCertificate makes the key pair that a job's token is bound to (RFC 8705). The thumbprint is the claim x5t#S256:
// base64url of the SHA-256 of the certificate's DER.
func ClientCertificate(now time.Time, life time.Duration) (cert tls.Certificate, thumbprint string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, "", fmt.Errorf("client key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "sallyport job"},
		NotBefore:    now.Add(-5 * time.Minute), // clocks differ
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return cert, "", fmt.Errorf("client certificate: %w", err)
	}
	sum := sha256.Sum256(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
