package role

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"sallyport/compose/config"
	"sallyport/extproc/gate"
	"sallyport/signer/address"
	"sallyport/signer/contract"
	"sallyport/xds/compile"
	"sallyport/xds/leaf"
	"sallyport/xds/reach"
	"sallyport/xds/registry"
	"sallyport/xds/resolver"
	"sallyport/xds/server"
)

// GatewayName is the name of the forward door itself: of its certificate, and of the base URLs that are reached by it.
const GatewayName = gate.GatewayName

// forward is what the forward door needs of the control plane: which hosts contracts name, certificates for them, and
// their addresses.
type forward struct {
	hosts     *reach.Index
	upstreams []compile.Upstream
	signer    *leaf.Signer
	leaves    *leaf.Cache
	resolver  *resolver.Server
}

func (p *Process) newForward(ups []compile.Upstream) (*forward, error) {
	c := p.Config
	admin, err := os.ReadFile(c.AdminTokenFile)
	if err != nil {
		return nil, fmt.Errorf("the forward door asks the signer for certificates with the administrator's key: %w", err)
	}
	f := &forward{hosts: reach.New(), upstreams: ups, signer: leaf.NewSigner(IssuerSocket(c), strings.TrimSpace(string(admin)))}
	f.leaves, err = leaf.New(leaf.Config{Allowed: f.open, Sign: f.signer.Sign})
	if err != nil {
		return nil, err
	}
	f.resolver, err = resolver.New(resolver.Config{
		Listen: "127.0.0.1:0", Hosts: c.Egress.Addresses(), Permitted: f.hosts.Private, Metrics: p.Status.Registry, Log: p.Log,
	})
	return f, err
}

// Leaf makes certificates for the inner door.
func (f *forward) Leaf(ctx context.Context, host string) (*server.Leaf, error) {
	l, err := f.leaves.Leaf(ctx, host)
	switch {
	case errors.Is(err, leaf.ErrNotAllowed):
		return nil, fmt.Errorf("%w: %w", server.ErrLeafRefused, err)
	case err != nil:
		return nil, err
	}
	return &server.Leaf{ChainPEM: l.ChainPEM, KeyPEM: l.KeyPEM, NotAfter: l.NotAfter}, nil
}

const (
	// certificateTimeout bounds the wait for the signer, without which there is no forward door.
	certificateTimeout = 30 * time.Second
	certificateRetry   = time.Second
	// certificateCheck is how often the door's own certificate is looked at; the leaves keep themselves fresh.
	certificateCheck = 10 * time.Minute
)

// certificateOfDoor is the forward door's own certificate. The signer may still be starting.
func (f *forward) certificateOfDoor(ctx context.Context) (*compile.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateTimeout)
	defer cancel()
	for {
		l, err := f.leaves.Leaf(ctx, GatewayName)
		if err == nil {
			return &compile.Certificate{ChainPEM: l.ChainPEM, KeyPEM: l.KeyPEM}, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the forward door has no certificate: %w", err)
		case <-time.After(certificateRetry):
		}
	}
}

// keepCertificate gives the forward door a new certificate of its own before the old one ends.
func (p *plane) keepCertificate(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(certificateCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		l, err := p.forward.leaves.Leaf(ctx, GatewayName)
		switch {
		case err != nil:
			log.Error("the forward door's certificate cannot be renewed now", slog.Any("error", err))
		case bytes.Equal(l.ChainPEM, p.doors.Certificate.ChainPEM): // still fresh
		default:
			if err := p.listen(ctx); err != nil {
				log.Error("the forward door's new certificate is not in force", slog.Any("error", err))
			}
		}
	}
}

// egress is how hosts beside the upstreams are reached.
func (f *forward) egress(c *config.Config) (*compile.EgressConfig, error) {
	ca := c.Egress.CAFile
	if ca == "" {
		ca = systemCA()
	}
	e := &compile.EgressConfig{Resolver: f.resolver.Addr(), CAFile: ca, Refused: address.Prefixes()}
	return e, e.Validate()
}

// ways are a contract's ways out beside the providers, as routes are made from them.
func ways(c *contract.Contract) []compile.Egress {
	var out []compile.Egress
	for _, r := range c.Ways() {
		e := compile.Egress{
			Host: r.Host, Subdomains: r.Subdomains, OnlySubdomains: r.OnlySubdomains, Methods: r.Methods,
			PathPrefixes: r.PathPrefixes, CIDRs: r.Prefixes(), Inspect: r.Inspect, WebSocket: r.WebSocket,
		}
		for _, port := range r.Ports {
			e.Ports = append(e.Ports, uint16(port)) //nolint:gosec // the schema bounds it
		}
		out = append(out, e)
	}
	bindings := c.Bindings()
	for _, name := range slices.Sorted(maps.Keys(bindings)) {
		if b := bindings[name]; b.Host != "" {
			out = append(out, compile.Egress{Host: b.Host, Methods: b.Methods, PathPattern: b.Path})
		}
	}
	return out
}

// open says whether TLS may be ended under a name.
func (f *forward) open(host string) bool { return host == GatewayName || f.hosts.Open(host) }

// put has a contract's hosts in force.
func (f *forward) put(c *contract.Contract) { f.hosts.Put(c.Hash, Places(c, f.upstreams)) }

// Places are the hosts of a contract: the upstreams' whose provider it allows, its tools' and its egress rules'.
func Places(c *contract.Contract, ups []compile.Upstream) []reach.Place {
	var out []reach.Place
	known := providers(c, ups)
	for _, u := range ups {
		if u.URL.Scheme == "https" && allowsProvider(known, u.Provider) {
			out = append(out, reach.Place{Host: strings.ToLower(u.URL.Hostname()), Open: true})
		}
	}
	for _, b := range c.Bindings() {
		if b.Host != "" {
			out = append(out, reach.Place{Host: b.Host, Open: true})
		}
	}
	for _, r := range c.Ways() {
		out = append(out, reach.Place{
			Host: r.Host, Below: r.Subdomains, OnlyBelow: r.OnlySubdomains, Open: r.Inspect == "" || r.Inspect == "full", CIDRs: r.Prefixes(),
		})
	}
	return out
}

func allowsProvider(known []string, provider string) bool {
	return slices.Contains(known, provider) || slices.Contains(known, "*")
}

// authority answers GET /v1/ca.pem?policy_hash=HASH with the certificate authority that programs under this contract have to
// trust. It is good for the hosts of that contract, and for the gateway, only.
func (f *forward) authority(reg *registry.Registry, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pem, err := f.certificate(r.Context(), reg, r.URL.Query().Get("policy_hash"))
		switch {
		case errors.Is(err, errNoContract):
			answerError(w, http.StatusNotFound, "WPC_NOT_FOUND", err.Error())
		case err != nil:
			log.Error("no certificate authority for a contract", slog.Any("error", err))
			answerError(w, http.StatusServiceUnavailable, "CA_UNAVAILABLE", "the signer gives no certificate authority now; the log of this gateway says why")
		default:
			w.Header().Set("Content-Type", "application/x-pem-file")
			w.Header().Set("Cache-Control", "no-store")
			_, _ = w.Write(pem) // the reader left; nothing to do about it
		}
	})
}

var errNoContract = errors.New("policy_hash names no contract of this registry")

func (f *forward) certificate(ctx context.Context, reg *registry.Registry, hash string) ([]byte, error) {
	env, err := reg.Get(hash)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoContract, err)
	}
	c, err := contract.Parse(env.Payload)
	if err != nil {
		return nil, err
	}
	names, addresses := []string{GatewayName}, []netip.Prefix{}
	for _, p := range Places(c, f.upstreams) {
		ip, err := netip.ParseAddr(p.Host)
		switch {
		case !p.Open:
		case err == nil:
			addresses = append(addresses, netip.PrefixFrom(ip, ip.BitLen()))
		case p.OnlyBelow:
			names = append(names, "."+p.Host)
		default:
			names = append(names, p.Host)
		}
	}
	slices.Sort(names)
	return f.signer.Certificate(ctx, slices.Compact(names), addresses)
}

func answerError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "message": message}) // the reader left; nothing to do about it
}
