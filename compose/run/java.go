package run

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"software.sslmate.com/src/go-pkcs12"
)

// javaOptions is the variable that every JVM reads its options from, whatever program starts it.
const javaOptions = "JAVA_TOOL_OPTIONS"

// trustStoreName is the trust store's file, beside the bundle.
const trustStoreName = "ca.p12"

// writeTrustStore writes the authorities of a PEM bundle as a PKCS #12 trust store beside it, since JVMs read no PEM.
// Certificates that Go cannot read are left out: a connection to whom they alone vouch for fails.
func writeTrustStore(bundle string) error {
	rest, err := os.ReadFile(bundle)
	if err != nil {
		return fmt.Errorf("trust store: %w", err)
	}
	var entries []pkcs12.TrustStoreEntry
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			// JVMs keep one entry for each name, so that the subject would not do.
			entries = append(entries, pkcs12.TrustStoreEntry{Cert: cert, FriendlyName: strconv.Itoa(len(entries))})
		}
	}
	// The old algorithms, because every JVM reads them. Nothing in the store is secret, and so the password is the one that
	// JVMs try by themselves.
	raw, err := pkcs12.LegacyDES.EncodeTrustStoreEntries(entries, pkcs12.DefaultPassword)
	if err != nil {
		return fmt.Errorf("trust store: %w", err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(bundle), trustStoreName), raw, 0o600); err != nil {
		return fmt.Errorf("trust store: %w", err)
	}
	return nil
}

// javaVariable are the options of a JVM, behind those that the caller has: the last of two counts.
//
// Under isolation connections lead to the gate by themselves. Without, the proxy asks for the run's placeholder. JVMs take a
// proxy's password from no option, but the clients that ask for system properties do (Apache's, and so Maven), by these
// names, and may then use it (8u111 turned Basic off for tunnels).
func javaVariable(c *Config, proxyAddress, nonce, bundle string) string {
	options := []string{
		"-Djavax.net.ssl.trustStore=" + filepath.Join(filepath.Dir(bundle), trustStoreName),
		"-Djavax.net.ssl.trustStoreType=PKCS12", "-Djavax.net.ssl.trustStorePassword=" + pkcs12.DefaultPassword,
	}
	if host, port, err := net.SplitHostPort(proxyAddress); err == nil && c.NoIsolation {
		for _, scheme := range []string{"http", "https"} {
			options = append(options, "-D"+scheme+".proxyHost="+host, "-D"+scheme+".proxyPort="+port,
				"-D"+scheme+".proxyUser=job", "-D"+scheme+".proxyPassword="+Placeholder+"-"+nonce)
		}
		options = append(options, "-Dhttp.nonProxyHosts=localhost|127.*|[::1]", "-Djdk.http.auth.tunneling.disabledSchemes=")
	}
	for i, o := range options {
		if strings.ContainsAny(o, " \t") {
			options[i] = `"` + o + `"`
		}
	}
	for _, entry := range c.Environ {
		if own, ok := strings.CutPrefix(entry, javaOptions+"="); ok && own != "" && !isSecret(javaOptions, own) {
			options = append([]string{own}, options...)
		}
	}
	return strings.Join(options, " ")
}
