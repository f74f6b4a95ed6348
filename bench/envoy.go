package main

import (
	"context"
	_ "embed"
	"net"
	"os"
	"path/filepath"
	"text/template"
)

const envoyName = "envoy"

//go:embed envoy.yaml.tmpl
var envoyConfig string

// staticEnvoy is an Envoy with one route, and perhaps a processor.
type staticEnvoy struct {
	*process
	address string
	admin   string // Unix socket
}

// maxBuffered is what a listener may buffer of a request's body, in bytes: as much as Sallyport's does by default.
const maxBuffered = 32 << 20

// startEnvoy runs an Envoy; name tells its files apart, and processor is the processor's Unix socket or "".
func startEnvoy(ctx context.Context, e *environment, name, processor string) (*staticEnvoy, error) {
	return startAsking(ctx, e, name, processor, false)
}

// startAsking runs an Envoy whose processor is asked about everything, or about the request's headers only.
func startAsking(ctx context.Context, e *environment, name, processor string, headersOnly bool) (*staticEnvoy, error) {
	bin, err := e.envoyBinary(ctx)
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin := filepath.Join(e.dir, name+"-admin.sock")
	config := filepath.Join(e.dir, name+".yaml")
	if err := writeEnvoyConfig(config, admin, address, e.upstream.address, processor, headersOnly); err != nil {
		return nil, err
	}
	// Envoy's own default for the number of workers, as Sallyport leaves it too: one for each core.
	p, _, err := start(ctx, name, false, bin, "-c", config, "--disable-hot-restart", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	client := overSocket(admin)
	if err := p.await(ctx, func() error { _, err := get(ctx, client, "/ready"); return err }); err != nil {
		p.stop()
		return nil, err
	}
	return &staticEnvoy{process: p, address: address, admin: admin}, nil
}

func writeEnvoyConfig(file, admin, address, upstream, processor string, headersOnly bool) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	host, upstreamPort, err := net.SplitHostPort(upstream)
	if err != nil {
		return err
	}
	t, err := template.New("envoy").Option("missingkey=error").Parse(envoyConfig)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.Execute(f, map[string]any{
		"Admin": admin, "Port": port, "UpstreamHost": host, "UpstreamPort": upstreamPort, "Processor": processor,
		"HeadersOnly": headersOnly, "MaxBody": maxBuffered + 64<<10, // with room for what comes beside the body
	})
}

// envoyAlone is what carrying a call costs before anyone decides about it.
type envoyAlone struct {
	e     *environment
	envoy *staticEnvoy
}

func newEnvoyAlone(ctx context.Context, e *environment) (peer, error) {
	envoy, err := startEnvoy(ctx, e, envoyName, "")
	if err != nil {
		return nil, err
	}
	return &envoyAlone{e, envoy}, nil
}

func (p *envoyAlone) Name() string { return envoyName }

func (p *envoyAlone) Check(ctx context.Context) error {
	return p.e.expectForwarded(ctx, same(p.envoy.address, 1))
}

func (p *envoyAlone) Target(_ context.Context, n int) (target, error) {
	return same(p.envoy.address, n), nil
}

func (p *envoyAlone) Groups() map[string][]int { return map[string][]int{"envoy": {p.envoy.pid()}} }

func (p *envoyAlone) Verify(context.Context, int64) error { return nil }

func (p *envoyAlone) Stop() { p.envoy.stop() }
