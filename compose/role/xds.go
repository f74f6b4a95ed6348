package role

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/compose/config"
	"sallyport/compose/control"
	"sallyport/extproc/dialect"
	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/issuer"
	"sallyport/xds/compile"
	"sallyport/xds/registry"
	"sallyport/xds/server"
)

// EnvoyAdminSocket is where Envoy's admin interface listens.
func EnvoyAdminSocket(c *config.Config) string { return c.Socket("envoy") }

// AccessLog is the file that Envoy writes a line to for each request.
func AccessLog(c *config.Config) string { return filepath.Join(c.DataDir, "access.log") }

// XDS runs the control plane: the contract registry, the Envoy configuration made from it, and the control API.
func (p *Process) XDS(ctx context.Context) error {
	c := p.Config
	if err := Prepare(c); err != nil {
		return err
	}
	plane, err := p.newPlane(ctx)
	if err != nil {
		return err
	}
	reg, err := p.registry()
	if err != nil {
		return err
	}
	if err := p.putContracts(plane, reg); err != nil {
		return err
	}
	public, private, err := p.registryHandlers(reg, plane)
	if err != nil {
		return err
	}
	p.addChecks(plane.srv)
	conf := control.Config{Registry: public, IssuerSocket: IssuerSocket(c), Status: p.Status, Peers: p.peers(), Log: p.Log}
	if plane.forward != nil {
		conf.Authority = plane.forward.authority(reg, p.Log)
	}
	api, err := control.New(conf)
	if err != nil {
		return err
	}
	return p.serveXDS(ctx, plane, api, private)
}

func (p *Process) serveXDS(ctx context.Context, plane *plane, api, private http.Handler) error {
	ads, err := listenLink(p.Config.XDS)
	if err != nil {
		return fmt.Errorf("xds: %w", err)
	}
	reg, err := listenTLS(p.Config.Registry)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	ctl, err := net.Listen("tcp", p.Config.ControlListen)
	if err != nil {
		return fmt.Errorf("control_listen: %w", err)
	}
	s := newServices(ctx)
	if err := p.status(s); err != nil {
		return err
	}
	s.run("xds", func(ctx context.Context) error { return plane.srv.Serve(ctx, ads) })
	if plane.forward != nil {
		s.run("resolver", plane.forward.resolver.Serve)
		s.run("certificates", func(ctx context.Context) error { return plane.keepCertificate(ctx, p.Log) })
	}
	s.http(reg, private, p.Log)
	s.http(ctl, api, p.Log)
	return s.wait()
}

func compileUpstreams(c *config.Config) ([]compile.Upstream, error) {
	var out []compile.Upstream
	addresses := c.Egress.Addresses()
	for _, u := range c.Upstreams {
		to, err := u.ParsedURL()
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		d, ok := dialect.ByName(u.Dialect)
		if !ok {
			return nil, fmt.Errorf("upstream %s: unknown dialect %q", u.Name, u.Dialect)
		}
		if u.Dialect == dialect.MCP {
			out = append(out, toolServer(u, to, addresses))
			continue
		}
		up := compile.Upstream{Name: u.Name, Provider: u.Provider, URL: to, CAFile: u.CAFile, Addresses: addresses[strings.ToLower(to.Hostname())]}
		for _, e := range d.Endpoints() {
			e = e.Under(to.Path)
			up.Endpoints = append(up.Endpoints, compile.Endpoint{Method: e.Method, Path: e.Path, Regex: e.Regex})
		}
		out = append(out, up)
	}
	return out, compile.ValidateAll(out)
}

// toolServer is an MCP server, which is one URL and nothing below it.
func toolServer(u config.Upstream, to *url.URL, addresses map[string][]netip.Addr) compile.Upstream {
	at := *to
	at.Path = ""
	up := compile.Upstream{Name: u.Name, Provider: providerOf(u), URL: &at, CAFile: u.CAFile, Addresses: addresses[strings.ToLower(to.Hostname())]}
	d, _ := dialect.ByName(dialect.MCP)
	for _, e := range d.Endpoints() {
		up.Endpoints = append(up.Endpoints, compile.Endpoint{Method: e.Method, Path: cmp.Or(to.Path, "/")})
	}
	return up
}

// providerOf is what contracts call an upstream: MCP servers have a prefix, so that none passes for a model provider.
func providerOf(u config.Upstream) string {
	if u.Dialect == dialect.MCP {
		return contract.MCPPrefix + u.Provider
	}
	return u.Provider
}

// providers are those that a contract could allow something of: model providers, and the MCP servers among the upstreams.
func providers(c *contract.Contract, ups []compile.Upstream) []string {
	out := c.Providers()
	for _, server := range c.MCPServers() {
		for _, u := range ups {
			if name, ok := strings.CutPrefix(u.Provider, contract.MCPPrefix); ok && (server == name || server == "*") {
				out = append(out, u.Provider)
			}
		}
	}
	return out
}

// systemCA is the bundle that Envoy is to trust for https upstreams without a CA file, the first that there is.
func systemCA() string {
	for _, path := range []string{os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// registry opens the store of contracts; only those of trusted signers get in or out.
func (p *Process) registry() (*registry.Registry, error) {
	trusted, err := trustedContractSigners(p.Config)
	if err != nil {
		return nil, err
	}
	return registry.Open(registry.Config{
		Dir: p.Config.ContractsDir, Log: p.Log,
		Verify: func(e *envelope.Envelope, wantHash string) *code.Denial {
			_, denial := contract.Verify(e, wantHash, trusted)
			return denial
		},
	})
}

// putContracts puts every contract of the registry in force. One that cannot be read or compiled is said and left out;
// calls pinned to it are refused, and no other contract suffers.
func (p *Process) putContracts(plane *plane, reg *registry.Registry) error {
	hashes, err := reg.Hashes()
	if err != nil {
		return err
	}
	if err := reg.Each(func(_ string, e *envelope.Envelope) error { return plane.put(e) }); err != nil {
		p.Log.Error("some contracts are not in force", slog.Any("error", err))
	}
	p.Log.Info("contracts are in force", slog.Int("count", plane.srv.Contracts()), slog.Int("in_registry", len(hashes)))
	return nil
}

// registryHandlers are the registry for administrators and, on a socket of their own, for the ext_proc processes.
func (p *Process) registryHandlers(reg *registry.Registry, plane *plane) (public, private http.Handler, err error) {
	conf := registry.HandlerConfig{
		Check: func(payload []byte) error {
			_, err := contract.Parse(payload)
			return err
		},
	}
	if private, err = reg.Handler(conf); err != nil {
		return nil, nil, err
	}
	conf.Sign = func(ctx context.Context, payload []byte) (*envelope.Envelope, error) {
		return sign(ctx, p.Config, payload)
	}
	conf.Published = func(ctx context.Context, _ string, e *envelope.Envelope) error {
		if err := plane.put(e); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		defer cancel()
		return plane.srv.WaitApplied(ctx)
	}
	admin, err := issuer.LoadAdminKey(p.Config.AdminTokenFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.Log.Warn("there is no administrator key, so contracts cannot be published here", slog.String("file", p.Config.AdminTokenFile))
	case err != nil:
		return nil, nil, err
	default:
		conf.Admin = admin
	}
	public, err = reg.Handler(conf)
	return public, private, err
}

func (p *Process) addChecks(srv *server.Server) {
	c := p.Config
	p.Status.Add("xds", func(context.Context) error { return srv.Ready() })
	p.Status.Add("signer", control.PeerReady(StatusSocket(c, "signer"), "/ready"))
	p.Status.Add("envoy", control.PeerReady(EnvoyAdminSocket(c), "/ready"))
	for i := range c.ExtProc.Replicas {
		p.Status.Add(ExtProcName(i), control.PeerReady(StatusSocket(c, ExtProcName(i)), "/ready"))
	}
}

func (p *Process) peers() map[string]string {
	c := p.Config
	out := map[string]string{"signer": StatusSocket(c, "signer"), "envoy": EnvoyAdminSocket(c)}
	for i := range c.ExtProc.Replicas {
		out[ExtProcName(i)] = StatusSocket(c, ExtProcName(i))
	}
	return out
}

const (
	signTimeout = 10 * time.Second
	// applyTimeout bounds how long a publisher waits for Envoy; the contract is kept in any case.
	applyTimeout = 3 * time.Second
)

// sign asks the signer process to seal a contract; the keys are there alone.
func sign(ctx context.Context, c *config.Config, payload []byte) (*envelope.Envelope, error) {
	token, err := os.ReadFile(c.AdminTokenFile)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	body, err := json.Marshal(map[string]json.RawMessage{"wpc": payload})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://issuer/v1/contracts/sign", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := control.UnixClient(IssuerSocket(c), signTimeout).Do(req)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxContractAnswer))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	var answer struct {
		Envelope json.RawMessage `json:"envelope"`
		Message  string          `json:"message"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("sign: status %d: %w", resp.StatusCode, err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("sign: %s", answer.Message)
	}
	return envelope.Parse(answer.Envelope)
}
