package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"sallyport/tests/harness"
)

// TestStatementsReachTheNetwork: a contract of the ecosystem's second version, which knows no hosts but only patterns over
// "METHOD host/path", opens just those ways at the forward door.
func TestStatementsReachTheNetwork(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	const host, below, other = "api.example.com", "eu.cdn.example.com", "other.example.com"
	dir := t.TempDir()
	harness.WriteCertificates(t, dir, host, below, other)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s%s", r.Method, r.Host, r.URL.Path) }))
	l, err := net.Listen("tcp", publicAddress+":443")
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Listener.Close()
	srv.Listener = l
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	s := harness.Start(t, harness.Options{BuiltIn: true, Extra: fmt.Sprintf("egress: {ca_file: %q, hosts: {%q: [%q], %q: [%q], %q: [%q]}}\n",
		filepath.Join(dir, "ca.pem"), host, publicAddress, below, publicAddress, other, publicAddress)})
	var c map[string]any
	if err := json.Unmarshal(fmt.Appendf(nil, `{"policy_version":"2","policy_id":"net","issuer_did":"did:web:policy.example.com","statements":[
		{"sid":"Items","effect":"Allow","actions":["side_effect:network_egress"],"resources":["GET %s/v1/items/**","POST *.cdn.example.com/up"]},
		{"sid":"NoSecret","effect":"Deny","actions":["side_effect:network_egress"],"resources":["* %s/v1/items/secret"]}]}`, host, host), &c); err != nil {
		t.Fatal(err)
	}
	hash := s.Publish(c)
	client := s.Proxied(t, s.Issue(harness.Claims{"policy_hash_b64u": hash}), hash, nil)
	for _, x := range []struct {
		method, host, path string
		status             int
		code               string
	}{
		{"GET", host, "/v1/items/7", 200, ""},
		{"POST", host, "/v1/items/7", 451, "POLICY_EGRESS_NOT_ALLOWED"},
		{"GET", host, "/v1/others", 451, "POLICY_EGRESS_NOT_ALLOWED"},
		{"GET", host, "/v1/items/secret", 451, "POLICY_STATEMENT_DENIED"},
		{"POST", below, "/up", 200, ""},
		{"POST", below, "/up/and/away", 451, "POLICY_EGRESS_NOT_ALLOWED"},
	} {
		req, err := http.NewRequest(x.method, "https://"+x.host+x.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		a := harness.Send(client, req)
		if a.Err != nil || a.Status != x.status || a.Code != x.code {
			t.Errorf("%s %s%s: %d %s %s %v", x.method, x.host, x.path, a.Status, a.Code, a.Body, a.Err)
		}
	}
	req, err := http.NewRequest("GET", "https://"+other+"/v1/items/7", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a := harness.Send(client, req); a.Err == nil {
		t.Errorf("a host that no statement names: %d %s", a.Status, a.Body)
	}
}
