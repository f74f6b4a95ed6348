package harness

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// OIDC is a real OpenID provider, of which tests/oidc/server.mjs says what it can.
type OIDC struct {
	Issuer        string
	TokenURL      string
	RevocationURL string

	t    testing.TB
	cmd  *exec.Cmd
	said *Buffer
	// start is the command line, for starting it anew.
	start []string
}

// OIDCReader is a client that may introspect tokens; its secret is nobody's.
const OIDCReader, oidcReaderSecret = "reader", "not-a-real-key-of-the-reader"

// NewOIDC starts one with clients in the form of OpenID dynamic registration, and the keys that sign what is exchanged.
// The test's end stops it.
func NewOIDC(t testing.TB, clients []map[string]any, subjects any) *OIDC {
	t.Helper()
	node := PythonPackages(t, "programs/requirements.txt")
	packages := node.NodePackages(t, "oidc")
	address := FreeAddr(t)
	_, port, err := net.SplitHostPort(address)
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)
	o := &OIDC{t: t, Issuer: "http://" + address}
	o.TokenURL, o.RevocationURL = o.Issuer+"/token", o.Issuer+"/token/revocation"
	clients = append(clients, map[string]any{
		"client_id": OIDCReader, "client_secret": oidcReaderSecret, "grant_types": []string{}, "redirect_uris": []string{}, "response_types": []string{},
	})
	if subjects == nil {
		subjects = map[string]any{"keys": []any{}}
	}
	conf, err := json.Marshal(map[string]any{"issuer": o.Issuer, "port": n, "clients": clients, "subjects": subjects})
	must(t, err)
	o.start = []string{node.Bin("node"), filepath.Join(packages.Dir, "server.mjs"), string(conf)}
	o.Start()
	t.Cleanup(o.Stop)
	return o
}

// Start starts it; it knows no token that it gave before.
func (o *OIDC) Start() {
	o.t.Helper()
	o.said = &Buffer{}
	o.cmd = exec.Command(o.start[0], o.start[1:]...)
	o.cmd.Stdout, o.cmd.Stderr = o.said, o.said
	o.cmd.SysProcAttr, o.cmd.WaitDelay = &syscall.SysProcAttr{Setpgid: true}, time.Second
	must(o.t, o.cmd.Start())
	Eventually(o.t, "the OpenID provider listens", func() bool { return strings.Contains(o.said.String(), "ready") })
}

// Stop kills it.
func (o *OIDC) Stop() {
	if o.cmd == nil {
		return
	}
	_ = syscall.Kill(-o.cmd.Process.Pid, syscall.SIGKILL) // the wheel's node is a script with the real one as its child
	_ = o.cmd.Wait()
	o.cmd = nil
	if o.t.Failed() {
		o.t.Logf("the OpenID provider:\n%s", o.said.Tail(40))
	}
}

// Active says whether an opaque token counts, and what the server knows of it.
func (o *OIDC) Active(token string) (active bool, claims map[string]any) {
	o.t.Helper()
	req, err := http.NewRequest(http.MethodPost, o.TokenURL+"/introspection", strings.NewReader(url.Values{"token": {token}}.Encode()))
	must(o.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(OIDCReader, oidcReaderSecret)
	a := do(http.DefaultClient, req)
	if a.Status != http.StatusOK || json.Unmarshal(a.Body, &claims) != nil {
		o.t.Fatalf("introspection: %d %s", a.Status, a.Body)
	}
	active, _ = claims["active"].(bool)
	return active, claims
}
