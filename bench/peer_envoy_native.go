package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"sallyport/bench/workload"
)

const envoyNativeName = "envoy-native"

//go:embed peer_envoy_native.yaml.tmpl
var envoyNativeConfig string

// envoyNative is how far Envoy gets without any processor: it checks a signed token, decides by a claim and the path, and
// swaps the token for the credential. It reads no body.
type envoyNative struct {
	*process
	gate
	admin  *http.Client
	tokens *tokenMaker
	config string // the template
}

func newEnvoyNative(ctx context.Context, e *environment) (peer, error) {
	return startEnvoyNative(ctx, e, envoyNativeConfig)
}

// startEnvoyNative lets a test give another configuration.
func startEnvoyNative(ctx context.Context, e *environment, config string) (*envoyNative, error) {
	maker, err := newTokenMaker()
	if err != nil {
		return nil, err
	}
	t, err := maker.roleTokens()
	if err != nil {
		return nil, err
	}
	p := &envoyNative{tokens: maker, config: config}
	p.gate = gate{e: e, token: t.good, refused: []probe{
		{name: "a call without a token", statuses: []int{http.StatusUnauthorized}},
		{name: "a token that somebody else has signed", token: t.forged, statuses: []int{http.StatusUnauthorized}},
		{name: "a token for another role", token: t.other, statuses: []int{http.StatusForbidden}},
	}}
	if p.process, p.address, p.admin, err = p.run(ctx, envoyNativeName, e.upstream.address); err != nil {
		return nil, err
	}
	return p, nil
}

// run starts an Envoy before an upstream; name tells its files apart.
func (p *envoyNative) run(ctx context.Context, name, upstream string) (*process, string, *http.Client, error) {
	bin, err := p.e.envoyBinary(ctx)
	if err != nil {
		return nil, "", nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, "", nil, err
	}
	admin, config := filepath.Join(p.e.dir, name+"-admin.sock"), filepath.Join(p.e.dir, name+".yaml")
	if err := p.write(config, admin, address, upstream); err != nil {
		return nil, "", nil, err
	}
	child, _, err := start(ctx, name, false, bin, "-c", config, "--disable-hot-restart", "--log-level", "error")
	if err != nil {
		return nil, "", nil, err
	}
	client := overSocket(admin)
	if err := child.await(ctx, func() error { _, err := get(ctx, client, "/ready"); return err }); err != nil {
		child.stop()
		return nil, "", nil, err
	}
	return child, address, client, nil
}

func (p *envoyNative) write(file, admin, address, upstream string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	host, upstreamPort, err := net.SplitHostPort(upstream)
	if err != nil {
		return err
	}
	jwks, err := p.tokens.jwks()
	if err != nil {
		return err
	}
	quote := func(s string) (string, error) { raw, err := json.Marshal(s); return string(raw), err } // JSON is YAML too
	t, err := template.New("envoy-native").Option("missingkey=error").Funcs(template.FuncMap{"json": quote}).Parse(p.config)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = t.Execute(f, map[string]string{
		"Admin": admin, "Port": port, "UpstreamHost": host, "UpstreamPort": upstreamPort, "Credential": "Bearer " + credential,
		"Issuer": tokenIssuer, "Audience": tokenAudience, "Role": tokenRole, "Path": workload.ChatPath, "JWKS": jwks,
	})
	return errors.Join(err, f.Close())
}

func (p *envoyNative) Name() string { return envoyNativeName }

// Check has the gate refuse and forward, and another Envoy of the same configuration show what leaves it.
func (p *envoyNative) Check(ctx context.Context) error {
	if err := p.check(ctx); err != nil {
		return err
	}
	return p.witnessed(ctx, func(to string) (*process, string, error) {
		twin, address, _, err := p.run(ctx, envoyNativeName+"-twin", to)
		return twin, address, err
	})
}

func (p *envoyNative) Groups() map[string][]int { return map[string][]int{"envoy": {p.pid()}} }

// Verify wants Envoy's own counters to say that each filter has let all answered calls pass and has swapped them.
func (p *envoyNative) Verify(ctx context.Context, answered int64) error {
	raw, err := get(ctx, p.admin, "/stats?filter=jwt_authn|rbac|credential_injector")
	if err != nil {
		return err
	}
	stats := map[string]int64{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			stats[name] = n
		}
	}
	for _, name := range []string{"http.door.jwt_authn.allowed", "http.door.rbac.allowed", "http.door.credential_injector.injected"} {
		if stats[name] < answered {
			return fmt.Errorf("%d calls were answered, but %s is %d", answered, name, stats[name])
		}
	}
	return p.gate.Verify(ctx, answered)
}

func (p *envoyNative) Stop() { p.stop() }
