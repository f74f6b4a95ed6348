package harness

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// Authority is the certificate authority that a program under the contract has to trust, as PEM.
func (s *System) Authority(contractHash string) []byte {
	s.t.Helper()
	a := s.Control(http.MethodGet, "/v1/ca.pem?policy_hash="+contractHash, nil)
	if a.Status != http.StatusOK {
		s.t.Fatalf("certificate authority: %d %s", a.Status, a.Body)
	}
	return a.Body
}

// Proxied is an HTTP client whose every request goes through the forward door with the token, as a program's does that
// has HTTPS_PROXY set.
func (s *System) Proxied(t testing.TB, token, contractHash string, change func(*http.Transport)) *http.Client {
	t.Helper()
	proxy, err := url.Parse(s.ForwardURL)
	must(t, err)
	if token != "" {
		proxy.User = url.UserPassword("job", token)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.Authority(contractHash)) {
		t.Fatal("the certificate authority is no PEM")
	}
	tr := &http.Transport{
		Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DisableCompression: true, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
	}
	if change != nil {
		change(tr)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 60 * time.Second, CheckRedirect: plain.CheckRedirect}
}

// Send makes a request with a client and reads the answer as Do does.
func Send(client *http.Client, req *http.Request) Answer { return do(client, req) }
