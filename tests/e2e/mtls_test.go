package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"sallyport/tests/harness"
)

// TestMutualTLS runs the roles over TCP as they stand on several machines: each link needs a certificate on both ends,
// and a stranger without one gets nowhere.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteCertificates(t, dir)
	link := func(addr string) string {
		file := func(name string) string { return filepath.Join(dir, name) }
		return fmt.Sprintf("{listen: %q, address: %q, tls: {cert_file: %q, key_file: %q, ca_file: %q, server_name: localhost}}",
			addr, addr, file("cert.pem"), file("key.pem"), file("ca.pem"))
	}
	addrs := map[string]string{"signer": harness.FreeAddr(t), "registry": harness.FreeAddr(t), "xds": harness.FreeAddr(t)}
	extra := ""
	for role, addr := range addrs {
		extra += role + ": " + link(addr) + "\n"
	}
	s := harness.Start(t, harness.Options{Extra: extra})
	token := s.Issue(nil)
	if a := s.Do(harness.Call{Token: token}); a.Status != http.StatusOK || a.Receipt() == "" {
		t.Errorf("an allowed call: %d %s", a.Status, a.Body)
	}
	if a := s.Do(harness.Call{Token: token, Model: "gpt-5"}); a.Code != "POLICY_MODEL_NOT_ALLOWED" {
		t.Errorf("a forbidden call: %d %s", a.Status, a.Body)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for role, addr := range addrs {
		c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS13})
		if err == nil {
			// With TLS 1.3 the refusal of a missing certificate arrives with the first read.
			_, err = c.Read(make([]byte, 1))
			_ = c.Close()
		}
		if err == nil {
			t.Errorf("%s talks to a stranger without a certificate", role)
		}
	}
}
