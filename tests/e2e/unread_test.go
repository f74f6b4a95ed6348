package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"sallyport/signer/record"
	"sallyport/tests/harness"
)

// Hosts of the sealed site. The first three lead to an address that counts as public, the others to loopback.
const (
	sniHost    = "sni.example.com"     // inspect: sni
	noneHost   = "none.example.com"    // inspect: none
	deadHost   = "dead.example.com"    // inspect: none, and nothing answers
	namedHost  = "named.example.com"   // inspect: none, its private address named by cidrs
	hiddenHost = "hidden.example.com"  // inspect: none, its private address not named
	hiddenSNI  = "hidden2.example.com" // the same with inspect: sni
	methodHost = "method.example.com"  // inspect: none, in a rule about methods
)

// publicAddress is no special-purpose address. It is given to the loopback device of a network namespace that nothing else
// is in; nobody else's machine is meant.
const publicAddress = "11.0.0.1"

const inNamespace = "SALLYPORT_TEST_NAMESPACE"

// ownNetwork runs the test again in a network namespace where publicAddress is this machine. It is true in there.
func ownNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	const script = `ip link set lo up && ip addr add ` + publicAddress + `/32 dev lo && exec "$@"`
	if out, err := exec.Command("unshare", "-rn", "sh", "-c", script, "sh", "true").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs a network namespace of its own (unshare, ip): %v %s", err, out)
		}
		t.Skipf("needs a network namespace of its own (unshare, ip): %v %s", err, out)
	}
	harness.Binary(t, false) // built out here, where Go may look for what it needs
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-rn", "sh", "-c", script, "sh", self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in the namespace: %v", err)
	}
	return false
}

// sealed is a system before a site that nobody can read: the gateway does not trust its authority, it asks its clients for
// a certificate, and they look for its very key.
type sealed struct {
	*harness.System
	dir      string // of the site's certificates
	ports    map[string]string
	conns    atomic.Int32 // that were made to the site
	open     atomic.Int32 // that still are
	contract string
}

func startSealed(t *testing.T) *sealed {
	t.Helper()
	s := &sealed{dir: t.TempDir(), ports: map[string]string{}}
	harness.WriteCertificates(t, s.dir, sniHost, noneHost, namedHost, hiddenHost, hiddenSNI)
	other := t.TempDir()
	harness.WriteCertificates(t, other)
	public, private := s.listen(t, publicAddress), s.listen(t, "127.0.0.1")
	addresses := map[string][]string{}
	for host, at := range map[string]string{sniHost: publicAddress, noneHost: publicAddress, deadHost: publicAddress, methodHost: publicAddress, namedHost: "127.0.0.1", hiddenHost: "127.0.0.1", hiddenSNI: "127.0.0.1"} {
		addresses[host], s.ports[host] = []string{at}, map[string]string{publicAddress: public, "127.0.0.1": private}[at]
	}
	s.ports[deadHost] = "1"
	hosts, err := json.Marshal(addresses)
	if err != nil {
		t.Fatal(err)
	}
	s.System = harness.Start(t, harness.Options{BuiltIn: true, Extra: fmt.Sprintf("egress: {ca_file: %q, hosts: %s}\n", filepath.Join(other, "ca.pem"), hosts)})
	var c map[string]any
	err = json.Unmarshal(fmt.Appendf(nil, `{"policy_kind":"wpc","policy_version":"v1","tools":{"allow":[],"deny":[]},"models":[],
		"egress":{"default":"deny","rules":[
			{"host":%[1]q,"ports":[%[8]s],"inspect":"sni"},{"host":%[2]q,"ports":[%[8]s],"inspect":"none"},{"host":%[3]q,"ports":[1],"inspect":"none"},
			{"host":%[4]q,"ports":[%[9]s],"inspect":"none","cidrs":["127.0.0.0/8"]},
			{"host":%[5]q,"ports":[%[9]s],"inspect":"none"},{"host":%[6]q,"ports":[%[9]s],"inspect":"sni"},
			{"host":%[7]q,"ports":[%[8]s],"inspect":"none","methods":["GET"]}]},
		"secrets":{"minting":"cst_required","allowed_secret_classes":[],"max_ttl_seconds":60},
		"auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`,
		sniHost, noneHost, deadHost, namedHost, hiddenHost, hiddenSNI, methodHost, public, private), &c)
	if err != nil {
		t.Fatal(err)
	}
	s.contract = s.Publish(c)
	return s
}

// listen has the site answer at an address, and returns its port.
func (s *sealed) listen(t *testing.T, address string) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if size := r.URL.Query().Get("size"); size != "" {
			_, _ = io.CopyN(w, zeros{}, 8<<20)
			return
		}
		fmt.Fprintf(w, "%s to %s", r.Host, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{s.pair(t)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.pool(t), MinVersion: tls.VersionTLS12}
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.conns.Add(1)
			s.open.Add(1)
		case http.StateClosed:
			s.open.Add(-1)
		case http.StateActive, http.StateIdle, http.StateHijacked:
		}
	}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (s *sealed) pair(t *testing.T) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func (s *sealed) pool(t *testing.T) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("the site's authority: %v", err)
	}
	return pool
}

// client shows its own certificate and accepts the site's one certificate only.
func (s *sealed) client(t *testing.T, token string, change func(*tls.Config)) *http.Client {
	t.Helper()
	pin := sha256.Sum256(s.pair(t).Certificate[0])
	return s.Proxied(t, token, s.contract, func(tr *http.Transport) {
		tr.TLSClientConfig = &tls.Config{RootCAs: s.pool(t), Certificates: []tls.Certificate{s.pair(t)}, MinVersion: tls.VersionTLS12}
		tr.TLSClientConfig.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
			if sha256.Sum256(raw[0]) != pin {
				return errors.New("another certificate than the pinned one")
			}
			return nil
		}
		if change != nil {
			change(tr.TLSClientConfig)
		}
	})
}

func (s *sealed) get(t *testing.T, c *http.Client, host, path string) harness.Answer {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "https://"+host+":"+s.ports[host]+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return harness.Send(c, req)
}

// TestUnreadTunnels: what cannot be read passes where the contract says so, to the host that it names and no other, and leaves
// one record for each tunnel that says what is known of it.
func TestUnreadTunnels(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	s := startSealed(t)
	token := s.Issue(harness.Claims{"policy_hash_b64u": s.contract})
	otherName := func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = noneHost, true }
	noName := func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = publicAddress, true }
	for _, c := range []struct {
		name, host string
		change     func(*tls.Config)
		passes     bool
		outcome    record.Outcome // of the receipt; "" where the tunnel is refused before there is an intent
		reason     string
	}{
		{"by the server name", sniHost, nil, true, record.Completed, "not read (inspect: sni)"},
		{"without a look", noneHost, nil, true, record.Completed, "not read (inspect: none)"},
		{"without a look, no server name", noneHost, noName, true, record.Completed, "not read (inspect: none)"},
		{"to a private address that is named", namedHost, nil, true, record.Completed, "not read (inspect: none)"},

		{"another server name", sniHost, otherName, false, record.Cut, "nothing came back"},
		{"no server name", sniHost, noName, false, record.Cut, "nothing came back"},
		{"a private address", hiddenHost, nil, false, record.Cut, "envoy: "},
		{"a private address by server name", hiddenSNI, nil, false, record.Cut, "nothing came back"},
		{"nobody answers", deadHost, nil, false, record.Cut, "envoy: "},
		{"a rule about methods", methodHost, nil, false, "", ""},
		{"another host", otherHost, nil, false, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, conns := s.Evidence(), s.conns.Load()
			client := s.client(t, token, c.change)
			a := s.get(t, client, c.host, "/")
			if passed := a.Err == nil && a.Status == http.StatusOK; passed != c.passes {
				t.Fatalf("%d %v %s", a.Status, a.Err, a.Body)
			}
			if c.passes && !strings.HasSuffix(string(a.Body), "to localhost") {
				t.Errorf("the site answered %q", a.Body)
			}
			if n := s.conns.Load() - conns; (n > 0) != c.passes {
				t.Errorf("%d connections reached the site", n)
			}
			client.CloseIdleConnections()
			s.recorded(t, before, c.host, c.outcome, c.reason)
		})
	}
}

// recorded makes sure that since before there is one intent and one receipt for the host, or a refusal.
func (s *sealed) recorded(t *testing.T, before *harness.Evidence, host string, outcome record.Outcome, reason string) {
	t.Helper()
	if outcome == "" {
		harness.Eventually(t, "the refusal is recorded", func() bool { return len(s.Evidence().Refusals) == len(before.Refusals)+1 })
		if n := len(s.Evidence().Intents) - len(before.Intents); n != 0 {
			t.Errorf("%d intents", n)
		}
		return
	}
	harness.Eventually(t, "the tunnel is settled", func() bool { return len(s.Evidence().Receipts) == len(before.Receipts)+1 })
	after := s.Evidence()
	for id, i := range after.Intents {
		if _, old := before.Intents[id]; old {
			continue
		}
		r := after.Receipts[id]
		d := r.Payload().Metadata.Sallyport
		if err := r.Verify(s.GatewaySignerDID); err != nil || d.Outcome != outcome || !strings.Contains(d.Reason, reason) {
			t.Errorf("receipt %s: %v, %s %q; want %s %q", id, err, d.Outcome, d.Reason, outcome, reason)
		}
		if i.Method != http.MethodConnect || i.Host != host+":"+s.ports[host] || i.RequestHash != record.EmptyHash || (d.ResponseBytes > 0) != (outcome == record.Completed) {
			t.Errorf("intent %+v, %d bytes came back", i, d.ResponseBytes)
		}
	}
	if n := len(after.Intents) - len(before.Intents); n != 1 {
		t.Errorf("%d intents", n)
	}
}

// TestUnreadTunnelWithdrawn: a withdrawn token ends its open tunnels at once. Before that large answers pass.
func TestUnreadTunnelWithdrawn(t *testing.T) {
	if !ownNetwork(t) {
		return
	}
	s := startSealed(t)
	for _, host := range []string{sniHost, noneHost} {
		t.Run(host, func(t *testing.T) {
			token := s.Issue(harness.Claims{"policy_hash_b64u": s.contract})
			client := s.client(t, token, nil)
			conns := s.conns.Load()
			if a := s.get(t, client, host, "/?size=1"); a.Err != nil || len(a.Body) != 8<<20 {
				t.Fatalf("%d bytes, %v", len(a.Body), a.Err)
			}
			if a := s.Control("POST", "/v1/tokens/revoke", map[string]any{"token": token, "reason": "test"}); a.Status != http.StatusOK {
				t.Fatalf("revoke: %d %s", a.Status, a.Body)
			}
			harness.Eventually(t, "the tunnel is cut, though nothing moves in it", func() bool { return s.open.Load() == 0 })
			if a := s.get(t, client, host, "/"); a.Err == nil {
				t.Errorf("a new tunnel: %d", a.Status)
			}
			if n := s.conns.Load() - conns; n != 1 {
				t.Errorf("%d connections were made", n)
			}
			harness.Eventually(t, "the tunnel is settled", func() bool { return len(s.Evidence().Open()) == 0 })
			found := false
			for _, r := range s.Evidence().Receipts {
				d := r.Payload().Metadata.Sallyport
				found = found || d.Outcome == record.Cut && strings.Contains(d.Reason, "withdrawn") && d.ResponseBytes > 8<<20
			}
			if !found {
				t.Error("no receipt says that the token was withdrawn")
			}
		})
	}
}
