package mainlib

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	runner "sallyport/compose/run"
	"sallyport/signer/ca"
	"sallyport/signer/contract"
)

// TestMain is also the init process of a run.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == runner.InitCommand {
		os.Exit(runner.Init())
	}
	os.Exit(m.Run())
}

const runToken = "the.run.token"

// runGateway is a control API and a forward door, which knows base URLs only.
type runGateway struct {
	control, door *httptest.Server

	ca []byte // PEM

	mu    sync.Mutex
	asked []string
	down  bool
}

// certificate is that of the forward door, by an authority of its own.
func (g *runGateway) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	authority, _, err := ca.OpenOrCreate(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")}, time.Now())
	must(t, err)
	g.ca, err = authority.Certificate([]string{runner.ReverseHost}, nil, time.Now())
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	chain, _, err := authority.Sign(runner.ReverseHost, key.Public(), time.Now())
	must(t, err)
	block, _ := pem.Decode(chain)
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

func newRunGateway(t *testing.T) (*runGateway, []string) {
	t.Helper()
	g := &runGateway{}
	note := func(r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.asked = append(g.asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization")+" "+string(raw))
	}
	raw, err := os.ReadFile(exampleFile)
	must(t, err)
	parsed, err := contract.Parse(raw)
	must(t, err)
	g.control = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r)
		switch r.URL.Path {
		case "/ready":
			if g.down {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		case "/v1/wpc":
			_, _ = io.WriteString(w, `{"policy_hash_b64u":"`+parsed.Hash+`"}`)
		case "/v1/ca.pem":
			_, _ = w.Write(g.ca)
		case "/v1/tokens/issue":
			_, _ = io.WriteString(w, `{"token":"`+runToken+`"}`)
		case "/v1/tokens/revoke":
			_, _ = io.WriteString(w, `{}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(g.control.Close)
	g.door = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r)
		w.Header().Set("X-Sallyport-Receipt", "rcpt_7")
	}))
	g.door.TLS = &tls.Config{Certificates: []tls.Certificate{g.certificate(t)}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	g.door.StartTLS()
	t.Cleanup(g.door.Close)
	return g, []string{
		"--control-url", g.control.URL, "--admin-token-file", write(t, "admin", "admin-key\n"), "--data-dir", t.TempDir(),
		"run", "--forward", g.door.Listener.Addr().String(),
	}
}

func (g *runGateway) count(part string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.asked {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}

func TestRunIssuesAndWithdrawsTheToken(t *testing.T) {
	g, flags := newRunGateway(t)
	summary := filepath.Join(t.TempDir(), "summary.json")
	status, _, errs := run(t, append(flags, "--contract", exampleFile, "--mission", "m7", "--summary-file", summary,
		"--no-isolation", "--", "sh", "-c", `curl -s -H "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/models; exit 4`)...)
	if status != 4 {
		t.Fatalf("status %d: %s", status, errs)
	}
	for part, want := range map[string]int{
		"POST /v1/wpc Bearer admin-key ": 1, `"mission_id":"m7"`: 1, "GET /v1/ca.pem?policy_hash=": 1,
		"/openai/v1/models Bearer " + runToken: 1, `POST /v1/tokens/revoke Bearer admin-key {"reason":"the run has ended","token":"` + runToken: 1,
	} {
		if got := g.count(part); got != want {
			t.Errorf("%s: asked %d times", part, got)
		}
	}
	if strings.Contains(errs, runToken) || !strings.Contains(errs, "1 calls allowed, 0 refused") || !strings.Contains(errs, "rcpt_7") {
		t.Errorf("said: %s", errs)
	}
	raw, err := os.ReadFile(summary)
	must(t, err)
	var s runSummary
	must(t, json.Unmarshal(raw, &s))
	if s.Mission != "m7" || s.ExitStatus != 4 || s.Allowed != 1 || len(s.Receipts) != 1 {
		t.Errorf("%s", raw)
	}
}

func TestRunIsolated(t *testing.T) {
	g, flags := newRunGateway(t)
	status, _, errs := run(t, append(flags, "--contract", exampleFile, "--quiet", "--", "sh", "-c", `curl -sf $OPENAI_BASE_URL/models && exit 5`)...)
	if strings.Contains(errs, "namespaces:") && os.Getenv("CI") == "" {
		t.Skip(errs)
	}
	if status != 5 || errs != "" || g.count("/openai/v1/models Bearer "+runToken) != 1 || g.count("/v1/tokens/revoke") != 1 {
		t.Errorf("status %d: %s %q", status, errs, g.asked)
	}
}

func TestRunBindsTheTokenToItsCertificate(t *testing.T) {
	g, flags := newRunGateway(t)
	other := httptest.NewTLSServer(nil)
	defer other.Close()
	ca := write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw})))
	status, _, errs := run(t, append(flags, "--forward-ca", ca, "--contract", exampleFile, "--no-isolation", "--", "true")...)
	if status != 0 || g.count(`"cnf":{"x5t#S256":"`) != 1 {
		t.Errorf("status %d: %s %q", status, errs, g.asked)
	}
}

func TestRunRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		args   []string
		down   bool
		status int
		want   string
	}{
		"no contract":               {[]string{"--", "true"}, false, ExitUsage, "--contract is missing"},
		"no program":                {[]string{"--contract", exampleFile}, false, ExitUsage, "arg"},
		"a short life":              {[]string{"--contract", exampleFile, "--ttl", "5s", "--", "true"}, false, ExitUsage, "--ttl"},
		"no such file":              {[]string{"--contract", "/no/such", "--", "true"}, false, exitRun, "contract: "},
		"an unknown contract":       {[]string{"--contract", someHash, "--", "true"}, false, exitRun, "contract: "},
		"a gateway not ready":       {[]string{"--contract", exampleFile, "--", "true"}, true, exitRun, "not ready"},
		"an authority that is none": {[]string{"--contract", exampleFile, "--forward-ca", exampleFile, "--", "true"}, false, exitRun, "no certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			g, flags := newRunGateway(t)
			g.down = tc.down
			status, _, errs := run(t, append(flags, tc.args...)...)
			if status != tc.status || !strings.Contains(errs, tc.want) || g.count("/v1/tokens/issue") != 0 {
				t.Errorf("status %d: %s", status, errs)
			}
		})
	}
}

func TestRunWithoutAGatewaySaysHowToStartOne(t *testing.T) {
	status, _, errs := run(t, "--control-url", "http://127.0.0.1:1", "--admin-token-file", "x", "run", "--contract", exampleFile, "--", "true")
	if status != exitRun || !strings.Contains(errs, "sallyport up") {
		t.Errorf("%d %s", status, errs)
	}
}
