package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sallyport/bench/workload"
)

const (
	mitmproxyName        = "mitmproxy"
	mitmproxyForwardName = "mitmproxy-forward"
)

var (
	//go:embed peer_mitmproxy.requirements.txt
	mitmproxyRequirements string
	//go:embed peer_mitmproxy_addon.py
	mitmproxyAddon string
)

// mitmproxyCounts is a path that the addon answers itself, with what it has let pass.
const mitmproxyCounts = "/.bench-counts"

// mitmproxy is mitmdump with an addon that does what many proxies for agents do: it checks a signed token and the model in
// the body, and swaps the token for the credential. It is a reverse proxy, or one that clients are told to use, and whose
// tunnels it opens.
type mitmproxy struct {
	*process
	gate
	name   string
	bin    string
	tokens *tokenMaker
	addon  string
	pids   []int
}

func newMitmproxy(ctx context.Context, e *environment) (peer, error) {
	return startMitmproxy(ctx, e, mitmproxyName, mitmproxyAddon)
}

func newMitmproxyForward(ctx context.Context, e *environment) (peer, error) {
	return startMitmproxy(ctx, e, mitmproxyForwardName, mitmproxyAddon)
}

// startMitmproxy lets a test give another addon.
func startMitmproxy(ctx context.Context, e *environment, name, addon string) (*mitmproxy, error) {
	bin, err := e.pythonEnvironment(ctx, mitmproxyName, mitmproxyRequirements)
	if err != nil {
		return nil, err
	}
	e.facts[mitmproxyName] = pinned(mitmproxyRequirements, "mitmproxy")
	maker, err := newTokenMaker()
	if err != nil {
		return nil, err
	}
	t, err := maker.roleTokens()
	if err != nil {
		return nil, err
	}
	p := &mitmproxy{name: name, bin: bin, tokens: maker, addon: addon}
	p.gate = gate{e: e, token: t.good}
	upstream, stranger := e.upstream.address, http.StatusUnauthorized
	if p.forward() {
		upstream, stranger = e.upstream.secure, http.StatusProxyAuthRequired
		p.refused = []probe{{name: "another host", token: t.good, host: otherHost, statuses: []int{http.StatusForbidden}}}
	}
	p.refused = append(p.refused,
		probe{name: "a call without a token", statuses: []int{stranger}},
		probe{name: "a token that somebody else has signed", token: t.forged, statuses: []int{stranger}},
		probe{name: "a token for another role", token: t.other, statuses: []int{http.StatusForbidden}},
		probe{name: "another model", token: t.good, model: otherModel, statuses: []int{http.StatusForbidden}},
	)
	if p.process, p.address, err = p.run(ctx, name, upstream); err != nil {
		return nil, err
	}
	if err := p.prepare(ctx); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *mitmproxy) forward() bool { return p.name == mitmproxyForwardName }

// prepare gets it ready to be measured.
func (p *mitmproxy) prepare(ctx context.Context) error {
	if p.forward() {
		authority, err := os.ReadFile(filepath.Join(p.configuration(), "mitmproxy-ca-cert.pem"))
		if err != nil {
			return err
		}
		conf, err := trusting(authority)
		if err != nil {
			return err
		}
		p.inside = &site{authority: p.e.upstream.authority(), tls: conf}
	}
	if err := p.warm(ctx, warmCalls); err != nil {
		return err
	}
	var err error
	p.pids, err = p.settled(ctx)
	return err
}

// configuration is its directory, which its twin shares: they have one certificate authority.
func (p *mitmproxy) configuration() string { return filepath.Join(p.e.dir, p.name+"-conf") }

// run starts a mitmdump before an upstream; name tells its files apart.
func (p *mitmproxy) run(ctx context.Context, name, upstream string) (*process, string, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, "", err
	}
	script, err := p.writeAddon(name, upstream)
	if err != nil {
		return nil, "", err
	}
	mode := "reverse:http://" + upstream
	if p.forward() {
		mode = "regular"
	}
	child, err := bare(ctx, name, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.e.dir, "PYTHONDONTWRITEBYTECODE=1"},
		filepath.Join(p.bin, "mitmdump"), "--quiet", "--mode", mode, "--listen-host", host, "--listen-port", port,
		"--set", "confdir="+p.configuration(), "--set", "ssl_verify_upstream_trusted_ca="+p.e.upstream.certs.ca, "--scripts", script)
	if err != nil {
		return nil, "", err
	}
	if err := child.await(ctx, func() error { _, err := mitmproxySwapped(ctx, address); return err }); err != nil {
		child.stop()
		return nil, "", err
	}
	return child, address, nil
}

func (p *mitmproxy) writeAddon(name, upstream string) (string, error) {
	wanted := map[string]any{
		"public_key": segment(p.tokens.public), "issuer": tokenIssuer, "audience": tokenAudience, "role": tokenRole,
		"path": workload.ChatPath, "models": []string{allowedModel}, "credential": credential, "counts_path": mitmproxyCounts,
	}
	if p.forward() {
		host, text, err := net.SplitHostPort(upstream)
		if err != nil {
			return "", err
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			return "", err
		}
		wanted["authority"], wanted["host"], wanted["port"] = p.e.upstream.authority(), host, port
	}
	config, err := json.Marshal(wanted)
	if err != nil {
		return "", err
	}
	base := filepath.Join(p.e.dir, name+"-addon")
	if err := os.WriteFile(base+".json", config, 0o600); err != nil {
		return "", err
	}
	return base + ".py", os.WriteFile(base+".py", []byte(p.addon), 0o600)
}

// mitmproxySwapped asks the addon how many calls it has let pass with the credential. It is asked as a proxy: so a reverse
// proxy answers too.
func mitmproxySwapped(ctx context.Context, address string) (int64, error) {
	proxy := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: address}), DisableKeepAlives: true}
	client := &http.Client{Timeout: 5 * time.Second, Transport: proxy}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+upstreamHost+mitmproxyCounts, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var c struct{ Swapped *int64 }
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil || c.Swapped == nil {
		return 0, fmt.Errorf("the addon does not answer: %d: %w", resp.StatusCode, err)
	}
	return *c.Swapped, nil
}

func (p *mitmproxy) Name() string { return p.name }

// Check has the gate refuse and forward, and another mitmdump with the same addon show what leaves it.
func (p *mitmproxy) Check(ctx context.Context) error {
	if err := p.check(ctx); err != nil {
		return err
	}
	return p.witnessed(ctx, func(to string) (*process, string, error) {
		return p.run(ctx, p.name+"-twin", to)
	})
}

func (p *mitmproxy) Groups() map[string][]int { return map[string][]int{"mitmdump": p.pids} }

// Verify wants the addon to have swapped the token of every call that was answered.
func (p *mitmproxy) Verify(ctx context.Context, answered int64) error {
	n, err := mitmproxySwapped(ctx, p.address)
	if err != nil {
		return err
	}
	if n < answered {
		return fmt.Errorf("%d calls were answered, but the addon has let %d pass", answered, n)
	}
	return p.gate.Verify(ctx, answered)
}

func (p *mitmproxy) Stop() { p.stop() }
