package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// standInDoor is a forward door of a few lines, to leave things out of. Its tunnels lead to its own inside, which has a
// certificate of its own for the upstream's name.
type standInDoor struct {
	e                             *environment
	inner                         string // host:port
	anyone, anySignature, anyHost bool
	unopened                      bool // the tunnels lead to the upstream
	anyModel, anyJob              bool
	unswapped, unrecorded         bool
}

const standInToken = "eyJh.eyJz.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func (d *standInDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, pair, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	text, _ := base64.StdEncoding.DecodeString(pair) // nothing where it is none
	_, token, _ := strings.Cut(string(text), ":")
	switch {
	case !d.anyone && token == "":
		refuse(w, http.StatusProxyAuthRequired, "TOKEN_REQUIRED")
	case !d.anySignature && token != "" && token != standInToken:
		refuse(w, http.StatusProxyAuthRequired, "TOKEN_SIGNATURE_INVALID")
	case !d.anyHost && r.Host != d.e.upstream.authority():
		refuse(w, http.StatusForbidden, "POLICY_EGRESS_NOT_ALLOWED")
	case d.unopened:
		lead(w, d.e.upstream.secure)
	default:
		lead(w, d.inner)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	http.Error(w, fmt.Sprintf(`{"error":{"code":%q}}`, code), status)
}

// lead makes the connection a tunnel to an address.
func lead(w http.ResponseWriter, address string) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	fmt.Fprint(client, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(server, client) }() // ends with either connection
	_, _ = io.Copy(client, server)
}

// inside takes the calls of the tunnels.
func (d *standInDoor) inside(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a short one is no call
	switch {
	case !d.anyModel && !bytes.Contains(body, []byte(`"`+allowedModel+`"`)):
		refuse(w, http.StatusUnavailableForLegalReasons, "POLICY_MODEL_NOT_ALLOWED")
		return
	case !d.anyJob && r.Header.Get(runIDHeader) != "":
		refuse(w, http.StatusForbidden, "JOB_BINDING_MISMATCH")
		return
	}
	if !d.unrecorded {
		w.Header().Set(receiptHeader, "r")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if !d.unswapped {
		r.Header.Set("Authorization", "Bearer "+credential)
	}
	httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: d.e.upstream.address}).ServeHTTP(w, r)
}

// start puts the stand-in where the comparison expects a Sallyport.
func (d *standInDoor) start(t *testing.T) *forwardDoor {
	t.Helper()
	certs, err := newCertificates(t.TempDir(), "inside")
	if err != nil {
		t.Fatal(err)
	}
	inside := httptest.NewUnstartedServer(http.HandlerFunc(d.inside))
	if inside.TLS, err = certs.serverTLS(); err != nil {
		t.Fatal(err)
	}
	inside.StartTLS()
	t.Cleanup(inside.Close)
	d.inner = inside.Listener.Addr().String()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/ca.pem" {
			http.ServeFile(w, r, certs.ca)
			return
		}
		fmt.Fprintf(w, `{"token":%q}`, standInToken)
	}))
	t.Cleanup(api.Close)
	key := t.TempDir() + "/admin"
	if err := os.WriteFile(key, []byte("the-admin"), 0o600); err != nil {
		t.Fatal(err)
	}
	door := httptest.NewServer(d)
	t.Cleanup(door.Close)
	s := &sallyport{e: d.e, name: forwardName, ready: &readyFile{ForwardURL: door.URL, ContractHash: "the-contract"}}
	if s.tokens, err = newTokens(control{URL: api.URL, AdminTokenFile: key, ContractHash: "the-contract"}); err != nil {
		t.Fatal(err)
	}
	f, err := s.forwardDoor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestForwardDoorCheck: the check takes a door that does its job, and none that leaves a part of it out.
func TestForwardDoorCheck(t *testing.T) {
	e := testEnvironment(t)
	for name, c := range map[string]struct {
		door standInDoor
		want string // of the error, "" for none
	}{
		"all of it":           {standInDoor{}, ""},
		"opens for everyone":  {standInDoor{anyone: true}, "a tunnel without a token: is answered with 200"},
		"checks no signature": {standInDoor{anySignature: true}, "that was changed: is answered with 200"},
		"opens to any host":   {standInDoor{anyHost: true}, "to another host: is answered with 200"},
		"checks no model":     {standInDoor{anyModel: true}, "another model: is answered with 200"},
		"opens nothing":       {standInDoor{unopened: true}, "certificate"},
		"passes the token on": {standInDoor{unswapped: true}, `"credential" went up by 0`},
		"leaves no receipt":   {standInDoor{unrecorded: true}, "has no " + receiptHeader},
		"carries every job":   {standInDoor{anyJob: true}, "the token of another job: is answered with 200"},
	} {
		t.Run(name, func(t *testing.T) {
			c.door.e = e
			err := c.door.start(t).Check(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Check: %v, want %q", err, c.want)
			}
		})
	}
}

// TestForwardDoorKnowsItsLimits: a tunnel's token is of one job and does not last for ever.
func TestForwardDoorKnowsItsLimits(t *testing.T) {
	f := &forwardDoor{s: &sallyport{name: forwardName}}
	long := settingOf("chat", 1)
	long.part.Soak = tokenTTL
	for what, s := range map[string]setting{
		"garbage":       settingOf("refused-garbage", 1),
		"single use":    settingOf("single-use", 1),
		"tenants":       settingOf("tenants", 1),
		"a large body":  settingOf("upload-1GiB", 1),
		"too long soak": long,
	} {
		if carries(f, s) == nil {
			t.Errorf("%s is carried", what)
		}
	}
	if err := carries(f, settingOf("chat", 1)); err != nil {
		t.Errorf("a chat call is not carried: %v", err)
	}
}

// needNamespaces skips where a program cannot have a network of its own, except in CI, where nothing is skipped.
func needNamespaces(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("unshare", "-Urn", "true").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no user namespaces: %v %s", err, out)
		}
		t.Skipf("no user namespaces here: %v %s", err, out)
	}
}

// TestStartsAreWhatTheySay: none that does something else is measured.
func TestStartsAreWhatTheySay(t *testing.T) {
	needNamespaces(t)
	e := testEnvironment(t)
	for name, c := range map[string]struct {
		command command
		want    string
	}{
		"alone":                        {command{}, ""},
		"isolated":                     {command{prefix: []string{"unshare", "-Urn"}, isolated: true}, ""},
		"not isolated, but says so":    {command{isolated: true}, "isolated should be true"},
		"isolated, but denies it":      {command{prefix: []string{"unshare", "-Urn"}}, "isolated should be false"},
		"swallows the program's end":   {command{prefix: []string{"sh", "-c", `"$@"; true`, "sh"}}, "should end with status 1"},
		"leads its calls past no gate": {command{prefix: []string{"env", "HTTPS_PROXY=http://127.0.0.1:1"}, gated: true}, "proxyconnect"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.command.check(t.Context(), e)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("check: %v, want %q", err, c.want)
			}
		})
	}
	if _, _, _, err := (command{name: "one that fails"}).start(t.Context(), e, "false"); err == nil || !strings.Contains(err.Error(), "one that fails") {
		t.Errorf("a start that failed: %v", err)
	}
}

// TestForward measures both doors of real systems before the upstream over TLS, and real starts.
func TestForward(t *testing.T) {
	needEnvoy(t)
	needNamespaces(t)
	r, table := measured(t, "--workloads", "chat,stream-5,refused-garbage", "--rounds", "1", "--seconds", "0.3", "--connections", "3",
		"--peers", "noop-bodies,sallyport-forward,sallyport-reverse-tls", "--startups", "2")
	cells := map[string]int{}
	for _, c := range r.Cells {
		cells[c.Peer]++
		if c.Requests == 0 || c.Errors != 0 {
			t.Errorf("no figures: %+v", c)
		}
	}
	if cells[forwardName] != 2 || cells[reverseTLSName] != 3 {
		t.Errorf("cells: %v", cells)
	}
	for _, want := range []string{forwardName + " does not carry refused-garbage: a tunnel has the token", "Start-up of `true`"} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in the table:\n%s", want, table)
		}
	}
	if len(r.Startups) != 4 {
		t.Fatalf("starts of %d commands", len(r.Startups))
	}
	for i, s := range r.Startups {
		if len(s.Wall) != 2 || len(s.CPU) != 2 || s.Median <= 0 || (s.Added == nil) != (i == 0) {
			t.Errorf("%+v", s)
		}
	}
}
