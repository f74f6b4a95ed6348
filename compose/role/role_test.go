package role

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/compose/config"
	"sallyport/compose/control"
	"sallyport/extproc/gate"
	"sallyport/extproc/secret"
	"sallyport/signer/envelope"
	"sallyport/signer/keyring"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// shortDir leaves room for the names of Unix sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// authority makes certificates for one test.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, pub, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	a := &authority{cert, key, filepath.Join(t.TempDir(), "ca.pem")}
	must(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

// issue makes the TLS section of a link's end.
func (a *authority) issue(t *testing.T, name string) *config.TLS {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, pub, a.key)
	must(t, err)
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	out := &config.TLS{CertFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem"), CAFile: a.file, ServerName: "signer.test"}
	must(t, os.WriteFile(out.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(out.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600))
	return out
}

// A link over TCP lets in only who has a certificate of its authorities, and believes only a server of that name.
func TestLinkOverTCPIsMutual(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	link := config.Link{Listen: "127.0.0.1:0", TLS: ca.issue(t, "signer.test")}
	l, err := listenTLS(link)
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = c.Write([]byte("x")) // the handshake runs here; a failure shows at the client
				_ = c.Close()
			}()
		}
	}()
	strangerTrustingUs := other.issue(t, "extproc.test")
	strangerTrustingUs.CAFile = ca.file
	wrongName := ca.issue(t, "extproc.test")
	wrongName.ServerName = "other.test"
	for _, c := range []struct {
		name string
		tls  *config.TLS
		ok   bool
	}{
		{"a certificate of the link", ca.issue(t, "extproc.test"), true},
		{"a stranger's certificate", strangerTrustingUs, false},
		{"another server name", wrongName, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf, err := clientTLS(config.Link{Address: l.Addr().String(), TLS: c.tls})
			must(t, err)
			conn, err := tls.Dial("tcp", l.Addr().String(), conf)
			if err == nil {
				_, err = io.ReadFull(conn, make([]byte, 1))
				_ = conn.Close()
			}
			if (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestServerNameComesFromTheAddress(t *testing.T) {
	ca := newAuthority(t)
	end := ca.issue(t, "x")
	end.ServerName = ""
	link := config.Link{Address: "signer.internal:7443", TLS: end}
	conf, err := clientTLS(link)
	must(t, err)
	if conf.ServerName != "signer.internal" {
		t.Errorf("name %q", conf.ServerName)
	}
	if e := EnvoyEndpoint(link); e.TLS == nil || e.TLS.ServerName != "signer.internal" || e.Address != link.Address {
		t.Errorf("envoy's end %+v", e)
	}
	if e := EnvoyEndpoint(config.Link{Address: "unix:/run/x.sock"}); e.Socket != "/run/x.sock" || e.TLS != nil {
		t.Errorf("envoy's end %+v", e)
	}
}

func TestSocketsAreForThisUserOnly(t *testing.T) {
	path := filepath.Join(shortDir(t), "a.sock")
	must(t, os.WriteFile(path, nil, 0o644)) // left by an earlier process
	l, err := listenUnix(path)
	must(t, err)
	defer l.Close()
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestPrepare(t *testing.T) {
	c, err := config.InDir(filepath.Join(shortDir(t), "data"))
	must(t, err)
	must(t, Prepare(c))
	must(t, Prepare(c))
	info, err := os.Stat(c.RunDir())
	must(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
}

// Below the temporary directory others may have made the run directory first; it must not be used then.
func TestPrepareDoesNotShare(t *testing.T) {
	tmp := shortDir(t)
	t.Setenv("TMPDIR", tmp)
	c, err := config.InDir(filepath.Join(tmp, strings.Repeat("d", 90)))
	must(t, err)
	must(t, Prepare(c))
	if filepath.Dir(c.RunDir()) != tmp {
		t.Fatalf("run directory %s", c.RunDir())
	}
	must(t, os.Chmod(c.RunDir(), 0o755))
	if err := Prepare(c); err == nil {
		t.Error("a directory that is open to others was used")
	}
	must(t, os.Remove(c.RunDir()))
	must(t, os.Symlink(t.TempDir(), c.RunDir()))
	if err := Prepare(c); err == nil {
		t.Error("a link to another place was followed")
	}
}

func TestTrustFollowsTheKeys(t *testing.T) {
	c, err := config.InDir(shortDir(t))
	must(t, err)
	if _, err := trustedContractSigners(c); err == nil {
		t.Error("self was resolved before there was a key")
	}
	keys, err := openKeys(c, quiet())
	must(t, err)
	must(t, writeTrust(c.TrustFile(), keys.trust()))
	first := keys.Contract.Active().DID()
	got, err := trustedContractSigners(c)
	must(t, err)
	if len(got) != 1 || got[0] != first {
		t.Errorf("trusted %v, want %s", got, first)
	}
	must(t, keys.Contract.Rotate(rand.Reader, time.Now().Add(time.Hour)))
	must(t, writeTrust(c.TrustFile(), keys.trust()))
	trust, err := ReadTrust(c.TrustFile())
	must(t, err)
	if len(trust.ContractSigners) != 2 || trust.ContractSigners[0] == first || trust.ContractSigners[1] != first {
		t.Errorf("after a rotation the signers are %v", trust.ContractSigners)
	}
	again, err := openKeys(c, quiet())
	must(t, err)
	if again.Gateway.Active().DID() != keys.Gateway.Active().DID() {
		t.Error("a second start made other keys")
	}
}

func TestEmptyTrustIsNobody(t *testing.T) {
	got, err := trustedContractSigners(&config.Config{TrustedContractSigners: []string{}})
	if err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
}

func TestFetcher(t *testing.T) {
	dir := shortDir(t)
	key, err := keyring.Generate(rand.Reader)
	must(t, err)
	env, err := envelope.Seal("work_policy_contract", map[string]string{"a": "b"}, key, time.Now())
	must(t, err)
	raw, err := env.Encode()
	must(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/wpc/good", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"ok":true,"policy_hash_b64u":"x","envelope":` + string(raw) + `}`))
	})
	mux.HandleFunc("/v1/wpc/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	l, err := listenUnix(filepath.Join(dir, "registry.sock"))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = control.Serve(ctx, l, mux, quiet()) }()
	f, err := newFetcher(&config.Config{Registry: config.Link{Address: "unix:" + filepath.Join(dir, "registry.sock")}})
	must(t, err)
	got, err := f.Fetch(t.Context(), "good")
	if err != nil || got.PayloadHashB64u != env.PayloadHashB64u {
		t.Errorf("good: %+v %v", got, err)
	}
	if _, err := f.Fetch(t.Context(), "missing"); !errors.Is(err, gate.ErrNoContract) {
		t.Errorf("missing: %v", err)
	}
	if _, err := f.Fetch(t.Context(), "broken"); err == nil || errors.Is(err, gate.ErrNoContract) {
		t.Errorf("a fault of the registry is not a missing contract: %v", err)
	}
}

func TestBrokerOfTheDefaults(t *testing.T) {
	c, err := config.Defaults(t.TempDir())
	must(t, err)
	b, err := newBroker(c, quiet())
	must(t, err)
	here := secret.Target{Host: config.DefaultLoopback, Method: "POST", Path: "/v1/chat/completions"}
	cred, _, denial := b.Get(t.Context(), "openai_key", here, 0)
	if denial != nil || !strings.Contains(cred.Value.Reveal(), "not-a-real-key") {
		t.Errorf("%v", denial)
	}
	there := here
	there.Host = "api.openai.com"
	if denial := b.Allowed("openai_key", there); denial == nil {
		t.Error("the development credential may leave this machine")
	}
}

func TestCheckOfTheDefaultsAndTheExample(t *testing.T) {
	c, err := config.Defaults(t.TempDir())
	must(t, err)
	must(t, Check(c))
	ex, err := config.Load("../config/example.yaml")
	must(t, err)
	must(t, Check(ex))
}

func TestInstanceNamesDiffer(t *testing.T) {
	a, err := instanceName(0)
	must(t, err)
	b, err := instanceName(0)
	must(t, err)
	if a == b || !strings.Contains(a, "extproc-0") {
		t.Errorf("%s %s", a, b)
	}
}

func TestListenLinkSaysWhatIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	if _, err := listenLink(config.Link{Listen: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v", err)
	}
}
