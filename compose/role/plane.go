package role

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"sallyport/envoy"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/xds/compile"
	"sallyport/xds/server"
)

// plane is the control plane: what Envoy is told, and what the forward door needs besides.
type plane struct {
	srv       *server.Server
	upstreams []compile.Upstream
	doors     compile.Forward // what all doors share, and where the forward door listens
	reverse   netip.AddrPort
	forward   *forward // nil without a forward door
}

// newPlane holds the listeners and the clusters; contracts come later.
func (p *Process) newPlane(ctx context.Context) (*plane, error) {
	c := p.Config
	conf, err := serverTLS(c.XDS)
	if err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	ups, err := compileUpstreams(c)
	if err != nil {
		return nil, err
	}
	out := &plane{upstreams: ups, doors: compile.Forward{Door: compile.Door{ExtProcCluster: envoy.ExtProcCluster, MaxBody: c.MaxBodyBytes, AccessLog: AccessLog(c)}}}
	if out.reverse, err = listenAddress("listen", c.Listen); err != nil {
		return nil, err
	}
	serverConfig := server.Config{Log: p.Log, Registerer: p.Status.Registry, SystemCA: systemCA(), TLS: conf}
	if c.Forward() {
		if out.doors.Address, err = listenAddress("forward_listen", c.ForwardListen); err != nil {
			return nil, err
		}
		if out.forward, err = p.newForward(ups); err != nil {
			return nil, err
		}
		if out.doors.Egress, err = out.forward.egress(c); err != nil {
			return nil, err
		}
		serverConfig.Minter = out.forward
	}
	if out.srv, err = server.New(serverConfig); err != nil {
		return nil, err
	}
	return out, errors.Join(out.srv.SetUpstreams(ups), out.srv.SetEgress(out.doors.Egress), out.listen(ctx))
}

// listen puts the doors in force.
func (p *plane) listen(ctx context.Context) error {
	door := p.doors.Door
	door.Address = p.reverse
	reverse, err := compile.Listener(door)
	if err != nil {
		return err
	}
	listeners := []*listenerv3.Listener{reverse}
	if p.forward != nil {
		if p.doors.Certificate, err = p.forward.certificateOfDoor(ctx); err != nil {
			return err
		}
		more, err := compile.ForwardListeners(p.doors)
		if err != nil {
			return err
		}
		listeners = append(listeners, more...)
	}
	return p.srv.SetListeners(listeners...)
}

// put has a contract in force.
func (p *plane) put(env *envelope.Envelope) error {
	c, err := contract.Parse(env.Payload)
	if err != nil {
		return err
	}
	allow := compile.Allow{Hash: c.Hash, Providers: providers(c, p.upstreams)}
	if p.forward != nil {
		allow.Egress = ways(c)
		p.forward.put(c)
	}
	return p.srv.PutContract(allow)
}

func listenAddress(field, text string) (netip.AddrPort, error) {
	tcp, err := net.ResolveTCPAddr("tcp", text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: %w", field, err)
	}
	// Go writes IPv4 addresses as mapped into IPv6, which Envoy cannot bind.
	return netip.AddrPortFrom(tcp.AddrPort().Addr().Unmap(), tcp.AddrPort().Port()), nil
}
