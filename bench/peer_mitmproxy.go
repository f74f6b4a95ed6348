package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"sallyport/bench/workload"
)

const mitmproxyName = "mitmproxy"

var (
	//go:embed peer_mitmproxy.requirements.txt
	mitmproxyRequirements string
	//go:embed peer_mitmproxy_addon.py
	mitmproxyAddon string
)

// mitmproxyCounts is a path that the addon answers itself, with what it has let pass.
const mitmproxyCounts = "/.bench-counts"

// mitmproxy is mitmdump as a reverse proxy with an addon that does what many proxies for agents do: it checks a signed
// token and the model in the body, and swaps the token for the credential.
type mitmproxy struct {
	*process
	gate
	bin    string
	tokens *tokenMaker
	addon  string
	pids   []int
}

func newMitmproxy(ctx context.Context, e *environment) (peer, error) {
	return startMitmproxy(ctx, e, mitmproxyAddon)
}

// startMitmproxy lets a test give another addon.
func startMitmproxy(ctx context.Context, e *environment, addon string) (*mitmproxy, error) {
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
	p := &mitmproxy{bin: bin, tokens: maker, addon: addon}
	p.gate = gate{e: e, token: t.good, refused: []probe{
		{name: "a call without a token", statuses: []int{http.StatusUnauthorized}},
		{name: "a token that somebody else has signed", token: t.forged, statuses: []int{http.StatusUnauthorized}},
		{name: "a token for another role", token: t.other, statuses: []int{http.StatusForbidden}},
		{name: "another model", token: t.good, model: otherModel, statuses: []int{http.StatusForbidden}},
	}}
	if p.process, p.address, err = p.run(ctx, mitmproxyName, e.upstream.address); err != nil {
		return nil, err
	}
	err = p.warm(ctx, warmCalls)
	if err == nil {
		p.pids, err = p.settled(ctx)
	}
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

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
	script, err := p.writeAddon(name)
	if err != nil {
		return nil, "", err
	}
	child, err := bare(ctx, name, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.e.dir, "PYTHONDONTWRITEBYTECODE=1"},
		filepath.Join(p.bin, "mitmdump"), "--quiet", "--mode", "reverse:http://"+upstream, "--listen-host", host, "--listen-port", port,
		"--set", "confdir="+filepath.Join(p.e.dir, name+"-conf"), "--scripts", script)
	if err != nil {
		return nil, "", err
	}
	if err := child.await(ctx, func() error { _, err := mitmproxySwapped(ctx, address); return err }); err != nil {
		child.stop()
		return nil, "", err
	}
	return child, address, nil
}

func (p *mitmproxy) writeAddon(name string) (string, error) {
	config, err := json.Marshal(map[string]any{
		"public_key": segment(p.tokens.public), "issuer": tokenIssuer, "audience": tokenAudience, "role": tokenRole,
		"path": workload.ChatPath, "models": []string{allowedModel}, "credential": credential, "counts_path": mitmproxyCounts,
	})
	if err != nil {
		return "", err
	}
	base := filepath.Join(p.e.dir, name+"-addon")
	if err := os.WriteFile(base+".json", config, 0o600); err != nil {
		return "", err
	}
	return base + ".py", os.WriteFile(base+".py", []byte(p.addon), 0o600)
}

// mitmproxySwapped asks the addon how many calls it has let pass with the credential.
func mitmproxySwapped(ctx context.Context, address string) (int64, error) {
	client := &http.Client{Timeout: 5 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+mitmproxyCounts, nil)
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

func (p *mitmproxy) Name() string { return mitmproxyName }

// Check has the gate refuse and forward, and another mitmdump with the same addon show what leaves it.
func (p *mitmproxy) Check(ctx context.Context) error {
	if err := p.check(ctx); err != nil {
		return err
	}
	return p.witnessed(ctx, func(to string) (*process, string, error) {
		return p.run(ctx, mitmproxyName+"-twin", to)
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
