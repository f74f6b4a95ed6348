package run

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// The trust store holds what the bundle holds, each authority once more even where two have one name.
func TestTrustStore(t *testing.T) {
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	var text bytes.Buffer
	var want [][]byte
	for range 2 {
		cert, _, err := ClientCertificate(time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, cert.Certificate[0])
		text.WriteString("# a comment\n")
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}); err != nil {
			t.Fatal(err)
		}
		text.WriteString("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") // of a kind that Go cannot read
	}
	if err := os.WriteFile(bundle, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeTrustStore(bundle); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(bundle), trustStoreName))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pkcs12.DecodeTrustStore(raw, pkcs12.DefaultPassword)
	if err != nil || len(certs) != len(want) {
		t.Fatalf("%d authorities, %v", len(certs), err)
	}
	for i, c := range certs {
		if !bytes.Equal(c.Raw, want[i]) {
			t.Errorf("authority %d is another", i)
		}
	}
}

func TestJavaOptions(t *testing.T) {
	options := func(c *Config) string {
		env, _ := environment(c, "127.0.0.1:15080", "nonce", "/b/ca.pem")
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, "JAVA_TOOL_OPTIONS=") })
		return strings.TrimPrefix(env[i], "JAVA_TOOL_OPTIONS=")
	}
	const store = "-Djavax.net.ssl.trustStore=/b/ca.p12 -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword=changeit"
	if got := options(&Config{}); got != store {
		t.Errorf("isolated: %s", got)
	}
	if got := options(&Config{Environ: []string{"JAVA_TOOL_OPTIONS=-Xmx1g -Djavax.net.ssl.trustStore=/other"}}); got != "-Xmx1g -Djavax.net.ssl.trustStore=/other "+store {
		t.Errorf("behind the caller's: %s", got)
	}
	open := options(&Config{NoIsolation: true})
	for _, want := range []string{store, "-Dhttps.proxyHost=127.0.0.1", "-Dhttps.proxyPort=15080", "-Dhttps.proxyPassword=sallyport-placeholder-nonce"} {
		if !strings.Contains(open, want) {
			t.Errorf("%s is not in %s", want, open)
		}
	}
}
