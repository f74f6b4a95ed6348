package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/ca"
)

var now = time.Now().Truncate(time.Second) // clients outside look at the clock

func open(t *testing.T, c ca.Config) *ca.Authority {
	t.Helper()
	if c.Dir == "" {
		c.Dir = filepath.Join(t.TempDir(), "ca")
	}
	a, _, err := ca.OpenOrCreate(c, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, a *ca.Authority, host string) *x509.Certificate {
	t.Helper()
	chain, notAfter, err := a.Sign(host, &key(t).PublicKey, now)
	if err != nil {
		t.Fatal(err)
	}
	c := one(t, chain)
	if !c.NotAfter.Equal(notAfter) {
		t.Errorf("the leaf ends at %v, and Sign says %v", c.NotAfter, notAfter)
	}
	return c
}

// one reads PEM that holds one certificate.
func one(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(text)
	if block == nil || len(rest) > 0 {
		t.Fatalf("not one block: %q", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestLeaf(t *testing.T) {
	a := open(t, ca.Config{})
	c := sign(t, a, "api.example.com")
	if len(c.DNSNames) != 1 || c.DNSNames[0] != "api.example.com" || len(c.IPAddresses) > 0 {
		t.Errorf("names %v %v", c.DNSNames, c.IPAddresses)
	}
	if got := c.NotAfter.Sub(now); got != ca.DefaultLeafLife {
		t.Errorf("good for %v", got)
	}
	if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("more than a server's: CA %v, usage %v %v", c.IsCA, c.KeyUsage, c.ExtKeyUsage)
	}
	if other := sign(t, a, "api.example.com"); other.SerialNumber.Cmp(c.SerialNumber) == 0 {
		t.Error("two leaves have one serial number")
	}
	for _, ip := range []string{"10.1.2.3", "2001:db8::1"} {
		if c := sign(t, a, ip); len(c.IPAddresses) != 1 || c.IPAddresses[0].String() != ip || len(c.DNSNames) > 0 {
			t.Errorf("%s: names %v %v", ip, c.DNSNames, c.IPAddresses)
		}
	}
}

func TestLeafIsBackdatedButNotBeforeItsIssuer(t *testing.T) {
	a := open(t, ca.Config{LeafLife: time.Hour})
	at := now.Add(time.Hour)
	chain, _, err := a.Sign("example.com", &key(t).PublicKey, at)
	if err != nil {
		t.Fatal(err)
	}
	if c := one(t, chain); at.Sub(c.NotBefore) != 5*time.Minute || c.NotAfter.Sub(at) != time.Hour {
		t.Errorf("good from %v to %v, asked for at %v", c.NotBefore, c.NotAfter, at)
	}
	for _, wrong := range []time.Time{now.Add(-time.Hour), now.AddDate(11, 0, 0)} {
		if _, _, err := a.Sign("example.com", &key(t).PublicKey, wrong); !errors.Is(err, ca.ErrExpired) {
			t.Errorf("at %v: %v", wrong, err)
		}
		if _, err := a.Certificate([]string{"example.com"}, nil, wrong); !errors.Is(err, ca.ErrExpired) {
			t.Errorf("certificate at %v: %v", wrong, err)
		}
	}
	last := now.Add(10*365*24*time.Hour - time.Minute) // the issuer ends before a leaf of an hour would
	chain, _, err = a.Sign("example.com", &key(t).PublicKey, last)
	if err != nil {
		t.Fatal(err)
	}
	if c := one(t, chain); c.NotAfter.Sub(last) != time.Minute {
		t.Errorf("the leaf outlives its issuer: %v", c.NotAfter)
	}
}

func TestHostsThatNoLeafNames(t *testing.T) {
	a := open(t, ca.Config{})
	long := strings.Repeat("a", 63)
	for name, host := range map[string]string{
		"empty": "", "wildcard": "*.example.com", "wildcard alone": "*", "capitals": "Example.com", "last dot": "example.com.",
		"first dot": ".example.com", "two dots": "a..b", "space": "a b.com", "new line": "a\nb.com", "NUL": "a\x00.com",
		"port": "example.com:443", "not ASCII": "exämple.com", "hyphen first": "-a.com", "hyphen last": "a-.com",
		"label too long": long + "a.com", "name too long": strings.Repeat(long+".", 4) + "com", "number at the end": "1.2.3",
		"hexadecimal number": "1.0x7f", "IPv4 with a padded part": "10.0.0.01", "IPv6 in brackets": "[::1]", "IPv6 not in its plain form": "2001:DB8::1",
		"mapped": "::ffff:10.0.0.1", "zone": "fe80::1%eth0", "slash": "a/b.com", "at": "a@b.com",
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := a.Sign(host, &key(t).PublicKey, now); !errors.Is(err, ca.ErrHost) {
				t.Errorf("Sign(%q): %v", host, err)
			}
		})
	}
	for _, host := range []string{"a", "xn--exmple-cua.com", "a_b.example.com", "_dmarc.example.com", "1.example.com", long + ".com"} {
		if _, _, err := a.Sign(host, &key(t).PublicKey, now); err != nil {
			t.Errorf("Sign(%q): %v", host, err)
		}
	}
}

func TestKeysThatNoLeafHas(t *testing.T) {
	a := open(t, ca.Config{})
	big, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, pub := range map[string]crypto.PublicKey{"P-384": &big.PublicKey, "Ed25519": ed, "nil": nil} {
		if _, _, err := a.Sign("example.com", pub, now); !errors.Is(err, ca.ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRate(t *testing.T) {
	a := open(t, ca.Config{Rate: 2, Burst: 3})
	count := func(at time.Time) (n int) {
		for {
			_, _, err := a.Sign("example.com", &key(t).PublicKey, at)
			if errors.Is(err, ca.ErrBusy) {
				return n
			}
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	for _, x := range []struct {
		name string
		at   time.Time
		want int
	}{
		{"burst", now, 3},
		{"the clock goes back", now.Add(-time.Minute), 0},
		{"half a second", now.Add(500 * time.Millisecond), 1},
		{"a second more", now.Add(1500 * time.Millisecond), 2},
		{"an hour", now.Add(time.Hour), 3},
	} {
		if got := count(x.at); got != x.want {
			t.Errorf("%s: %d leaves, want %d", x.name, got, x.want)
		}
	}
}

// What a program trusts is good for its contract's hosts, and for nothing else that this authority signs.
func TestConstraints(t *testing.T) {
	a := open(t, ca.Config{})
	for _, x := range []struct {
		name  string
		names []string
		ips   []string
		host  string
		good  bool
	}{
		{"the name", []string{"api.example.com"}, nil, "api.example.com", true},
		{"one of several", []string{"a.test", "api.example.com"}, nil, "api.example.com", true},
		{"another name", []string{"api.example.com"}, nil, "evil.test", false},
		{"the name above", []string{"api.example.com"}, nil, "example.com", false},
		{"a name that ends alike", []string{"example.com"}, nil, "notexample.com", false},
		{"below a name: X.509 cannot keep it out", []string{"example.com"}, nil, "a.example.com", true},
		{"below only: one below", []string{".example.com"}, nil, "a.example.com", true},
		{"below only: two below", []string{".example.com"}, nil, "b.a.example.com", true},
		{"below only: the name itself", []string{".example.com"}, nil, "example.com", false},
		{"an address under names only", []string{"example.com"}, nil, "10.0.0.1", false},
		{"an IPv6 address under names only", []string{"example.com"}, nil, "2001:db8::1", false},
		{"the address", nil, []string{"10.0.0.0/24"}, "10.0.0.7", true},
		{"another address", nil, []string{"10.0.0.0/24"}, "10.0.1.7", false},
		{"an IPv6 address under IPv4 only", nil, []string{"10.0.0.0/24"}, "2001:db8::1", false},
		{"IPv6", nil, []string{"2001:db8::/32"}, "2001:db8::1", true},
		{"a name under addresses only", nil, []string{"10.0.0.0/24"}, "example.com", false},
		{"both: name", []string{"example.com"}, []string{"10.0.0.0/24"}, "example.com", true},
		{"both: address", []string{"example.com"}, []string{"10.0.0.0/24"}, "10.0.0.1", true},
		{"both: another name", []string{"example.com"}, []string{"10.0.0.0/24"}, "example.org", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			text, err := a.Certificate(x.names, prefixes(x.ips...), now)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(one(t, text))
			_, err = sign(t, a, x.host).Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: x.host})
			if (err == nil) != x.good {
				t.Errorf("verified: %v", err)
			}
		})
	}
}

func TestCertificate(t *testing.T) {
	a := open(t, ca.Config{})
	text, err := a.Certificate([]string{"example.com"}, prefixes("10.1.2.3/8"), now)
	if err != nil {
		t.Fatal(err)
	}
	c := one(t, text)
	if !c.IsCA || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign || !c.PermittedDNSDomainsCritical {
		t.Errorf("CA %v, path %d, usage %v, critical %v", c.IsCA, c.MaxPathLen, c.KeyUsage, c.PermittedDNSDomainsCritical)
	}
	if got := c.PermittedIPRanges[0].String(); got != "10.0.0.0/8" {
		t.Errorf("permits %s", got)
	}
	if c.NotAfter.Sub(now) != 30*24*time.Hour {
		t.Errorf("good until %v", c.NotAfter)
	}
	again, err := a.Certificate([]string{"example.com"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if one(t, again).SerialNumber.Cmp(c.SerialNumber) == 0 {
		t.Error("two certificates have one serial number")
	}
	other := open(t, ca.Config{})
	text, err = other.Certificate([]string{"example.com"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if one(t, text).Subject.String() == c.Subject.String() {
		t.Errorf("two authorities are both called %s", c.Subject)
	}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	a := open(t, ca.Config{})
	for _, x := range []struct {
		name  string
		names []string
		ips   []netip.Prefix
		want  error
	}{
		{"nothing", nil, nil, ca.ErrUnconstrained},
		{"empty lists", []string{}, []netip.Prefix{}, ca.ErrUnconstrained},
		{"the empty name, which is all names", []string{""}, nil, ca.ErrHost},
		{"a dot, which is all names", []string{"."}, nil, ca.ErrHost},
		{"a wildcard", []string{"*.example.com"}, nil, ca.ErrHost},
		{"one bad among good", []string{"a.test", "B.test"}, nil, ca.ErrHost},
		{"an address among names", []string{"10.0.0.1"}, nil, ca.ErrHost},
		{"no range", nil, []netip.Prefix{{}}, ca.ErrHost},
		{"mapped range", nil, []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}, ca.ErrHost},
		{"too many", make([]string, 5000), nil, ca.ErrHost},
	} {
		t.Run(x.name, func(t *testing.T) {
			if text, err := a.Certificate(x.names, x.ips, now); !errors.Is(err, x.want) || text != nil {
				t.Errorf("got %q, %v", text, err)
			}
		})
	}
}

func TestOpenAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys", "ca")
	first, created, err := ca.OpenOrCreate(ca.Config{Dir: dir}, now)
	if err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	second, created, err := ca.OpenOrCreate(ca.Config{Dir: dir}, now.Add(time.Hour))
	if err != nil || created {
		t.Fatalf("created again %v, %v", created, err)
	}
	text, err := first.Certificate([]string{"example.com"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(one(t, text))
	if _, err := sign(t, second, "example.com").Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now}); err != nil {
		t.Errorf("what the first one's program trusts does not know the second one's leaf: %v", err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ca.pem"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("something was left behind: %v", list)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	good := func(t *testing.T) (dir string, data []byte) {
		dir = filepath.Join(t.TempDir(), "ca")
		open(t, ca.Config{Dir: dir})
		data, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return dir, data
	}
	for _, x := range []struct {
		name string
		harm func(t *testing.T, dir string, data []byte) []byte
	}{
		{"empty", func(*testing.T, string, []byte) []byte { return []byte{} }},
		{"no key", func(_ *testing.T, _ string, data []byte) []byte {
			return data[:strings.Index(string(data), "-----BEGIN EC")]
		}},
		{"another's key", func(t *testing.T, _ string, data []byte) []byte {
			_, other := good(t)
			cut := func(b []byte) int { return strings.Index(string(b), "-----BEGIN EC") }
			return append(data[:cut(data):cut(data)], other[cut(other):]...)
		}},
		{"something after it", func(_ *testing.T, _ string, data []byte) []byte { return append(data, "x"...) }},
		{"torn", func(_ *testing.T, _ string, data []byte) []byte { return data[:len(data)-9] }},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir, data := good(t)
			if err := os.WriteFile(filepath.Join(dir, "ca.pem"), x.harm(t, dir, data), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ca.OpenOrCreate(ca.Config{Dir: dir}, now); err == nil || !strings.Contains(err.Error(), "ca.pem") {
				t.Errorf("got %v", err)
			}
		})
	}
	dir, _ := good(t)
	for _, path := range []string{filepath.Join(dir, "ca.pem"), dir} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ca.OpenOrCreate(ca.Config{Dir: dir}, now); !errors.Is(err, ca.ErrMode) {
			t.Errorf("%s open to all: %v", path, err)
		}
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	for name, c := range map[string]ca.Config{
		"no directory": {}, "leaves too long": {Dir: "x", LeafLife: 25 * time.Hour}, "negative life": {Dir: "x", LeafLife: -1},
		"negative rate": {Dir: "x", Rate: -1}, "negative burst": {Dir: "x", Burst: -1},
	} {
		if _, _, err := ca.OpenOrCreate(c, now); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
