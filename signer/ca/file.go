package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const (
	organization     = "Sallyport"
	blockCertificate = "CERTIFICATE"
	blockKey         = "EC PRIVATE KEY"
	maxFile          = 16 << 10 // bytes, far more than the file takes
)

// ErrMode is returned for a key directory or file that others than its owner can get at.
var ErrMode = errors.New("must be accessible to its owner only")

func path(dir string) string { return filepath.Join(dir, "ca.pem") }

// authorityTemplate is what every CA certificate of ours says.
func authorityTemplate(subject pkix.Name, notBefore time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: subject, NotBefore: notBefore, KeyUsage: x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
}

// generate makes a key and its self-signed certificate, as the file holds them. The subject names the key, so that the
// authorities of two installations are not taken for each other.
func generate(random io.Reader, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	id := sha256.Sum256(public)
	subject := pkix.Name{Organization: []string{organization}, CommonName: organization + " CA " + hex.EncodeToString(id[:6])}
	t := authorityTemplate(subject, now.Add(-backdate))
	t.NotAfter = now.Add(caLife)
	t.SubjectKeyId = id[:20] // RFC 7093, method 1 over the key as PKIX writes it
	if t.SerialNumber, err = newSerial(random); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(random, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign own certificate: %w", err)
	}
	return append(
		pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: secret})...), nil
}

// parse reads the file's content: one certificate, then its key. Errors never show any of it.
func parse(data []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	first, rest := pem.Decode(data)
	second, rest := pem.Decode(rest)
	if first == nil || second == nil || first.Type != blockCertificate || second.Type != blockKey || len(rest) > 0 {
		return nil, nil, fmt.Errorf("holds something else than one %s and its %s", blockCertificate, blockKey)
	}
	cert, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	key, err := x509.ParseECPrivateKey(second.Bytes)
	if err != nil {
		return nil, nil, errors.New("the key cannot be read")
	}
	switch {
	case key.Curve != elliptic.P256():
		return nil, nil, errors.New("the key is not of the curve P-256")
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, nil, errors.New("the certificate is of another key")
	case !cert.IsCA || len(cert.SubjectKeyId) == 0:
		return nil, nil, errors.New("the certificate is no certificate authority's, or has no key identifier")
	}
	return cert, key, nil
}

// readOrWrite reads the file, or writes what content makes to a new one. Of two processes that come at the same time one
// makes the file and both read it.
func readOrWrite(dir string, content func() ([]byte, error)) (data []byte, created bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, false, err
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, false, fmt.Errorf("%s: mode is %04o: %w; run chmod 0700 on it", dir, perm, ErrMode)
	}
	data, err = readFile(path(dir))
	if !errors.Is(err, os.ErrNotExist) {
		return data, false, err
	}
	if data, err = content(); err != nil {
		return nil, false, err
	}
	err = writeNew(path(dir), data)
	if errors.Is(err, os.ErrExist) {
		data, err = readFile(path(dir))
		return data, false, err
	}
	return data, err == nil, err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if perm := info.Mode().Perm(); !info.Mode().IsRegular() || perm&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode is %v: %w; run chmod 0600 on it", path, info.Mode(), ErrMode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return data, nil
}

// writeNew puts the file on disk as a whole or not at all, and never over another: beside it, synced, then linked.
func writeNew(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("sync key directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync key directory: %w", err)
	}
	return nil
}
