package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport/signer/ca"
)

func newCARig(t *testing.T, c ca.Config) *rig {
	return newRig(t, func(cfg *Config) {
		c.Dir = filepath.Join(cfg.Dir, "ca")
		a, _, err := ca.OpenOrCreate(c, cfg.Now())
		if err != nil {
			t.Fatal(err)
		}
		cfg.CA = a
	})
}

func pkix(t *testing.T, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func p256(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pkix(t, &k.PublicKey)
}

func object(v any) string {
	b, _ := json.Marshal(v) // strings and lists of them
	return string(b)
}

func parsed(t *testing.T, text any) *x509.Certificate {
	t.Helper()
	s, _ := text.(string)
	block, _ := pem.Decode([]byte(s))
	if block == nil {
		t.Fatalf("no PEM: %q", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLeafAndWhatTrustsIt(t *testing.T) {
	g := newCARig(t, ca.Config{})
	status, leaf := g.call("POST", "/v1/ca/leaf", object(reply{"host": "api.example.com", "public_key": p256(t)}))
	if status != 200 || leaf["not_after"] != g.at.Add(ca.DefaultLeafLife).UTC().Format(time.RFC3339) {
		t.Fatalf("%d %v", status, leaf)
	}
	if log := g.log.String(); !strings.Contains(log, "host=api.example.com") {
		t.Errorf("the log does not name the host: %s", log)
	}
	line, err := os.ReadFile(filepath.Join(g.dir, "issuer", "leaves.jsonl"))
	if err != nil || strings.Count(string(line), "\n") != 1 || !strings.Contains(string(line), `"host":"api.example.com"`) {
		t.Errorf("on record: %q, %v", line, err)
	}
	for name, x := range map[string]struct {
		body string
		good bool
	}{
		"its name":   {`{"dns":["api.example.com"],"cidrs":[]}`, true},
		"both":       {`{"dns":["api.example.com"],"cidrs":["10.0.0.0/8"]}`, true},
		"another":    {`{"dns":["example.org"]}`, false},
		"an address": {`{"cidrs":["10.0.0.0/8"]}`, false},
	} {
		status, root := g.call("POST", "/v1/ca/certificate", x.body)
		if status != 200 {
			t.Fatalf("%s: %d %v", name, status, root)
		}
		roots := x509.NewCertPool()
		roots.AddCert(parsed(t, root["pem"]))
		if _, err := parsed(t, leaf["chain_pem"]).Verify(x509.VerifyOptions{Roots: roots, CurrentTime: g.at}); (err == nil) != x.good {
			t.Errorf("%s: verified: %v", name, err)
		}
	}
}

func TestCertificateRequestsThatAreRefused(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := newCARig(t, ca.Config{Burst: 1, Rate: 0.001})
	good := p256(t)
	for _, x := range []struct {
		name, path, body string
		status           int
		code             string
	}{
		{"no JSON", "leaf", `{`, 400, "INVALID_JSON"},
		{"unknown member", "leaf", `{"host":"a.test","public_key":"` + good + `","ca":true}`, 400, "INVALID_REQUEST"},
		{"no host", "leaf", object(reply{"public_key": good}), 400, "INVALID_REQUEST"},
		{"wildcard", "leaf", object(reply{"host": "*.a.test", "public_key": good}), 400, "INVALID_REQUEST"},
		{"no key", "leaf", `{"host":"a.test"}`, 400, "INVALID_REQUEST"},
		{"key that is no base64", "leaf", `{"host":"a.test","public_key":"?"}`, 400, "INVALID_REQUEST"},
		{"key that is no DER", "leaf", `{"host":"a.test","public_key":"AAAA"}`, 400, "INVALID_REQUEST"},
		{"RSA key", "leaf", object(reply{"host": "a.test", "public_key": pkix(t, &weak.PublicKey)}), 400, "INVALID_REQUEST"},
		{"certificate for nothing", "certificate", `{}`, 400, "INVALID_REQUEST"},
		{"certificate for a wildcard", "certificate", `{"dns":["*"]}`, 400, "INVALID_REQUEST"},
		{"certificate for no CIDR", "certificate", `{"cidrs":["10.0.0.0"]}`, 400, "INVALID_REQUEST"},
		{"certificate for an empty CIDR", "certificate", `{"cidrs":[""]}`, 400, "INVALID_REQUEST"},
		{"the one leaf that the rate allows", "leaf", object(reply{"host": "a.test", "public_key": good}), 200, ""},
		{"one too many", "leaf", object(reply{"host": "a.test", "public_key": good}), 429, "RATE_LIMITED"},
	} {
		t.Run(x.name, func(t *testing.T) {
			status, a := g.call("POST", "/v1/ca/"+x.path, x.body)
			if code, _ := a["error"].(string); status != x.status || code != x.code {
				t.Errorf("%d %v, want %d %s", status, a, x.status, x.code)
			}
		})
	}
}

func TestCertificatesNeedTheAdministrator(t *testing.T) {
	g := newCARig(t, ca.Config{})
	for _, path := range []string{"/v1/ca/leaf", "/v1/ca/certificate"} {
		for _, who := range []string{"", "Bearer wrong-wrong-wrong-wrong-wrong"} {
			if status, a := g.callAs(who, "POST", path, object(reply{"host": "a.test", "public_key": p256(t), "dns": []string{"a.test"}})); status != 401 {
				t.Errorf("%s as %q: %d %v", path, who, status, a)
			}
		}
	}
}

func TestCertificatesWithoutAnAuthority(t *testing.T) {
	g := newRig(t, nil)
	if status, a := g.call("POST", "/v1/ca/leaf", `{}`); status != 503 || a["error"] != "CA_NOT_CONFIGURED" {
		t.Errorf("%d %v", status, a)
	}
	g = newCARig(t, ca.Config{})
	g.at = g.at.AddDate(20, 0, 0)
	if status, a := g.call("POST", "/v1/ca/certificate", `{"dns":["a.test"]}`); status != 503 || a["error"] != "CA_UNAVAILABLE" {
		t.Errorf("after its end: %d %v", status, a)
	}
}

// A leaf that cannot be put on record is not given out.
func TestLeafThatCannotBeRecorded(t *testing.T) {
	g := newCARig(t, ca.Config{})
	if err := g.leaves.close(); err != nil {
		t.Fatal(err)
	}
	status, a := g.call("POST", "/v1/ca/leaf", object(reply{"host": "a.test", "public_key": p256(t)}))
	if status != 503 || a["error"] != "CA_UNAVAILABLE" || a["chain_pem"] != nil {
		t.Errorf("%d %v", status, a)
	}
}
