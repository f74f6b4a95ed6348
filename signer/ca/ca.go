// Package ca is the certificate authority that programs under a contract trust: it signs the short-lived leaves with which
// Envoy ends TLS inside a CONNECT tunnel, and hands each program a CA certificate that is good for its contract's hosts
// only. It runs in the signer process, which alone holds the key. The profile is RFC 5280's.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"sync"
	"time"
)

// The lives of certificates.
const (
	// DefaultLeafLife is how long a leaf is good for: a working day, so that what a lost leaf key is worth ends by itself.
	DefaultLeafLife = 12 * time.Hour
	// MaxLeafLife bounds Config.LeafLife.
	MaxLeafLife = 24 * time.Hour
	// backdate is for clients whose clock is behind.
	backdate = 5 * time.Minute
	// caLife is how long the key is used. Nobody outside trusts it but through certificates of constrainedLife, so a
	// shorter one would bring an outage on some day and keep nobody out.
	caLife = 10 * 365 * 24 * time.Hour
	// constrainedLife is how long the certificate that a program is given is good for: above what any run takes.
	constrainedLife = 30 * 24 * time.Hour
)

// The rate of leaves. Envoy asks once for each host in eight hours; the burst is for a gateway that starts anew.
const (
	DefaultRate  = 50  // leaves a second
	DefaultBurst = 500 // leaves at once
)

// Errors that callers tell apart.
var (
	ErrHost          = errors.New("no host that a certificate can name")
	ErrKey           = errors.New("no key that a leaf can have")
	ErrBusy          = errors.New("too many leaves are asked for; wait a second, or raise the rate of the certificate authority")
	ErrUnconstrained = errors.New("a CA certificate must name the hosts that it is good for; it names none")
	ErrExpired       = errors.New("the certificate authority's own certificate is not good at this time")
)

// Config says where an authority keeps its key and how much it signs.
type Config struct {
	Dir      string        // of the key; made with mode 0700 where it is not there
	LeafLife time.Duration // zero means DefaultLeafLife
	Rate     float64       // leaves a second; zero means DefaultRate
	Burst    int           // leaves at once; zero means DefaultBurst
	Rand     io.Reader     // nil means crypto/rand; makes the key and the serial numbers
}

// Validate names everything that is wrong, at once.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("certificate authority: no directory for its key"))
	}
	if c.LeafLife < 0 || c.LeafLife > MaxLeafLife {
		errs = append(errs, fmt.Errorf("certificate authority: leaves of %v; choose above 0 and at most %v", c.LeafLife, MaxLeafLife))
	}
	if c.Rate < 0 || c.Burst < 0 {
		errs = append(errs, errors.New("certificate authority: rate and burst of leaves must not be negative"))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if c.LeafLife == 0 {
		c.LeafLife = DefaultLeafLife
	}
	if c.Rate == 0 {
		c.Rate = DefaultRate
	}
	if c.Burst == 0 {
		c.Burst = DefaultBurst
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c
}

// Authority signs. It is safe for concurrent use.
//
// It has one key. To replace it, one will write a second file beside the first, have Certificate return the certificates
// of both (callers take the PEM as a list already), and sign with the new key once the programs that know only the old one
// have ended.
type Authority struct {
	cfg  Config
	cert *x509.Certificate // self-signed and unconstrained; it is never given out
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	bucket bucket
}

// OpenOrCreate opens the authority in c.Dir, or makes one that is good from now on; created says which.
func OpenOrCreate(c Config, now time.Time) (a *Authority, created bool, err error) {
	if err := c.Validate(); err != nil {
		return nil, false, err
	}
	c = c.withDefaults()
	made := func() ([]byte, error) { return generate(c.Rand, now) }
	data, created, err := readOrWrite(c.Dir, made)
	if err != nil {
		return nil, false, fmt.Errorf("certificate authority: %w", err)
	}
	cert, key, err := parse(data)
	if err != nil {
		return nil, false, fmt.Errorf("certificate authority: %s: %w", path(c.Dir), err)
	}
	return &Authority{cfg: c, cert: cert, key: key, bucket: bucket{left: float64(c.Burst), at: now}}, created, nil
}

// Sign makes a leaf for one host, a DNS name in lower case or an IP address, and the P-256 public key of whoever will end
// TLS for it. The chain is in PEM, the leaf alone: its issuer is what the program trusts. It is good from five minutes
// before now until notAfter.
func (a *Authority) Sign(host string, pub crypto.PublicKey, now time.Time) (chainPEM []byte, notAfter time.Time, err error) {
	template, err := a.leaf(host, now)
	if err != nil {
		return nil, time.Time{}, err
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, time.Time{}, fmt.Errorf("%w: %T; use ECDSA P-256", ErrKey, pub)
	}
	if !a.take(now) {
		return nil, time.Time{}, ErrBusy
	}
	chainPEM, err = a.sign(template, key)
	return chainPEM, template.NotAfter, err
}

// leaf is what a leaf says. Its subject holds no name of the host: clients read the alternative names, and some would
// otherwise take the subject for one more name that constraints apply to.
func (a *Authority) leaf(host string, now time.Time) (*x509.Certificate, error) {
	t := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organization}},
		NotBefore:             later(now.Add(-backdate), a.cert.NotBefore),
		NotAfter:              earlier(now.Add(a.cfg.LeafLife), a.cert.NotAfter).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if !now.Before(t.NotAfter) || now.Before(t.NotBefore) {
		return nil, ErrExpired
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" || ip.Is4In6() || ip.String() != host {
			return nil, fmt.Errorf("%w: %q is not the plain form of an IP address", ErrHost, clip(host))
		}
		t.IPAddresses = append(t.IPAddresses, ip.AsSlice())
		return t, nil
	}
	if err := checkName(host); err != nil {
		return nil, err
	}
	t.DNSNames = []string{host}
	return t, nil
}

// sign gives the template a serial number and signs it.
func (a *Authority) sign(template *x509.Certificate, pub *ecdsa.PublicKey) ([]byte, error) {
	serial, err := newSerial(a.cfg.Rand)
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(a.cfg.Rand, template, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: sign: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der}), nil
}

// newSerial is 128 random bits, positive and never zero (RFC 5280 allows 20 bytes).
func newSerial(random io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(random, b); err != nil {
		return nil, fmt.Errorf("certificate authority: serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // always of the same length
	return new(big.Int).SetBytes(b), nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
