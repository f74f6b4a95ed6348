package xds_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sallyport/signer/code"
	"sallyport/xds/compile"
)

// secure starts a TLS server with a certificate for name and writes the certificate, its own authority, to a file.
func (w *world) secure(name string) (addr, ca string) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(name); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.upstream.mu.Lock()
		w.upstream.seen = append(w.upstream.seen, r)
		w.upstream.mu.Unlock()
		_, _ = io.WriteString(rw, r.Proto)
	}))
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // refused handshakes are the point
	srv.StartTLS()
	w.t.Cleanup(srv.Close)
	ca = filepath.Join(w.dir, tmpl.SerialNumber.String()+".pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return srv.Listener.Addr().String(), ca
}

// An upstream is spoken to only if its certificate is for its own name and comes from an authority that counts.
func TestUpstreamCertificate(t *testing.T) {
	w := newWorld(t)
	good, goodCA := w.secure("localhost")
	other, otherCA := w.secure("other.example")
	byIP, ipCA := w.secure("127.0.0.1")
	local := func(addr string) string {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		return "https://localhost:" + port
	}
	cases := []struct {
		name, url, ca string
		ok            bool
	}{
		{"right", local(good), goodCA, true},
		{"address", "https://" + byIP, ipCA, true},
		{"wrong-name", local(other), otherCA, false},
		{"wrong-address", "https://" + good, goodCA, false},
	}
	second, _ := w.secure("localhost")
	cases = append(cases, struct {
		name, url, ca string
		ok            bool
	}{"unknown-authority", local(second), systemCA, false})
	var ups []compile.Upstream
	for _, c := range cases {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		ups = append(ups, compile.Upstream{Name: c.name, Provider: "openai", URL: u, CAFile: c.ca, Endpoints: []compile.Endpoint{{Method: "POST", Path: "/v1/x"}}})
	}
	if err := w.server.SetUpstreams(ups); err != nil {
		t.Fatal(err)
	}
	w.put(hashOf(1), "openai")
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := w.call(call{scope: hashOf(1), authority: ups[i].Authority(), to: "/v1/x"})
			if !c.ok {
				a.refused(t, code.UpstreamUnreachable)
				return
			}
			a.passed(t, "/v1/x")
			if a.body != "HTTP/2.0" {
				t.Errorf("spoken in %s", a.body)
			}
		})
	}
}
