package role

import (
	"bytes"
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
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/compose/config"
	"sallyport/compose/control"
	"sallyport/envoy"
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
	srv, err := p.xdsServer()
	if err != nil {
		return err
	}
	reg, err := p.registry()
	if err != nil {
		return err
	}
	if err := p.putContracts(srv, reg); err != nil {
		return err
	}
	public, private, err := p.registryHandlers(reg, srv)
	if err != nil {
		return err
	}
	p.addChecks(srv)
	api, err := control.New(control.Config{Registry: public, IssuerSocket: IssuerSocket(c), Status: p.Status, Peers: p.peers(), Log: p.Log})
	if err != nil {
		return err
	}
	return p.serveXDS(ctx, srv, api, private)
}

func (p *Process) serveXDS(ctx context.Context, srv *server.Server, api, private http.Handler) error {
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
	s.run("xds", func(ctx context.Context) error { return srv.Serve(ctx, ads) })
	s.http(reg, private, p.Log)
	s.http(ctl, api, p.Log)
	return s.wait()
}

// xdsServer holds the listener and the clusters; contracts come later.
func (p *Process) xdsServer() (*server.Server, error) {
	c := p.Config
	conf, err := serverTLS(c.XDS)
	if err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	srv, err := server.New(server.Config{Log: p.Log, Registerer: p.Status.Registry, SystemCA: systemCA(), TLS: conf})
	if err != nil {
		return nil, err
	}
	tcp, err := net.ResolveTCPAddr("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	// Go writes IPv4 addresses as mapped into IPv6, which Envoy cannot bind.
	addr := netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), tcp.AddrPort().Port())
	door, err := compile.Listener(compile.Door{
		Address: addr, ExtProcCluster: envoy.ExtProcCluster, MaxBody: c.MaxBodyBytes, AccessLog: AccessLog(c),
	})
	if err != nil {
		return nil, err
	}
	ups, err := compileUpstreams(c)
	if err != nil {
		return nil, err
	}
	return srv, errors.Join(srv.SetUpstreams(ups), srv.SetListeners(door))
}

func compileUpstreams(c *config.Config) ([]compile.Upstream, error) {
	var out []compile.Upstream
	for _, u := range c.Upstreams {
		to, err := u.ParsedURL()
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		d, ok := dialect.ByName(u.Dialect)
		if !ok {
			return nil, fmt.Errorf("upstream %s: unknown dialect %q", u.Name, u.Dialect)
		}
		up := compile.Upstream{Name: u.Name, Provider: u.Provider, URL: to, CAFile: u.CAFile}
		for _, e := range d.Endpoints() {
			e = e.Under(to.Path)
			up.Endpoints = append(up.Endpoints, compile.Endpoint{Method: e.Method, Path: e.Path, Regex: e.Regex})
		}
		out = append(out, up)
	}
	return out, compile.ValidateAll(out)
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
func (p *Process) putContracts(srv *server.Server, reg *registry.Registry) error {
	hashes, err := reg.Hashes()
	if err != nil {
		return err
	}
	if err := reg.Each(func(_ string, e *envelope.Envelope) error { return put(srv, e) }); err != nil {
		p.Log.Error("some contracts are not in force", slog.Any("error", err))
	}
	p.Log.Info("contracts are in force", slog.Int("count", srv.Contracts()), slog.Int("in_registry", len(hashes)))
	return nil
}

func put(srv *server.Server, env *envelope.Envelope) error {
	c, err := contract.Parse(env.Payload)
	if err != nil {
		return err
	}
	return srv.PutContract(compile.Allow{Hash: c.Hash, Providers: c.Providers()})
}

// registryHandlers are the registry for administrators and, on a socket of their own, for the ext_proc processes.
func (p *Process) registryHandlers(reg *registry.Registry, srv *server.Server) (public, private http.Handler, err error) {
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
		if err := put(srv, e); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, applyTimeout)
		defer cancel()
		return srv.WaitApplied(ctx)
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
