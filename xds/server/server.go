// Package server is the control plane that Envoy asks: it keeps the doors, the upstreams' clusters and each contract's
// routes, and pushes what changed over one delta ADS stream. The protocol is Envoy's xDS v3, carried by go-control-plane.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"sallyport/xds/compile"
)

const (
	keepaliveTime    = 10 * time.Second // finds an Envoy that vanished without closing
	keepaliveTimeout = 5 * time.Second
	stopGrace        = 2 * time.Second
)

// Config is what a Server needs.
type Config struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are kept but not published
	SystemCA   string                // PEM bundle that vouches for https upstreams without a CA file of their own; Envoy reads it
	TLS        *tls.Config           // nil: plain, for a Unix socket; otherwise it must ask for client certificates
	Minter     Minter                // makes the inner door's leaf certificates; nil: every host is refused
	MaxLeaves  int                   // that are kept; 0: DefaultMaxLeaves
}

// Validate reports everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	if c.Log == nil {
		errs = append(errs, errors.New("xds server: a logger is missing"))
	}
	if c.TLS != nil && c.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		errs = append(errs, errors.New("xds server: TLS must require and verify client certificates, because the resources name every upstream"))
	}
	if c.MaxLeaves < 0 {
		errs = append(errs, errors.New("xds server: the number of leaves is negative"))
	}
	return errors.Join(errs...)
}

// Server holds the resources in force and serves them. Its methods may be called at any time, before and while it serves.
type Server struct {
	cfg     Config
	metrics *metrics
	tracker *tracker
	secrets *secrets

	mu        sync.Mutex
	upstreams []compile.Upstream
	egress    *compile.EgressConfig
	contracts map[string]compile.Allow
	ready     bool // a listener was set
	caches    map[string]*typed
}

// servedTypes are the types that Envoy asks for, in the order in which a new resource must be there before another names it.
var servedTypes = []string{resourcev3.ClusterType, resourcev3.RouteType, resourcev3.ScopedRouteType, resourcev3.ListenerType}

// New makes a Server that holds nothing yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, metrics: m, tracker: newTracker(cfg.Log, m), secrets: newSecrets(cfg, m),
		contracts: map[string]compile.Allow{}, caches: map[string]*typed{},
	}
	for _, t := range servedTypes {
		s.caches[t] = newTyped(t, cfg.Log, m)
	}
	return s, nil
}

// SetListeners makes these doors the ones in force. With the forward door comes the scope of CONNECT.
func (s *Server) SetListeners(ls ...*listenerv3.Listener) error {
	next := make(map[string]types.Resource, len(ls))
	for _, l := range ls {
		if l == nil {
			return errors.New("xds server: the listener is missing")
		}
		next[l.GetName()] = l
	}
	if len(next) == 0 || len(next) != len(ls) {
		return errors.New("xds server: there must be at least one listener, each with a name of its own")
	}
	connect, err := compile.Connect()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if next[compile.ForwardDoor] != nil {
		if err := s.putScope(connect); err != nil {
			return err
		}
	}
	if err := s.caches[resourcev3.ListenerType].replace(next); err != nil {
		return err
	}
	s.ready = true
	return nil
}

// SetUpstreams puts the operator's upstreams in force and compiles every contract again. Nothing changes if anything of it fails.
func (s *Server) SetUpstreams(ups []compile.Upstream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recompile(append([]compile.Upstream(nil), ups...), s.egress)
}

// SetEgress says how hosts beside the upstreams are reached, and compiles every contract again; nil: they are not.
func (s *Server) SetEgress(e *compile.EgressConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recompile(s.upstreams, e)
}

func (s *Server) recompile(ups []compile.Upstream, egress *compile.EgressConfig) error {
	next, err := clusters(ups, egress, s.cfg.SystemCA)
	if err != nil {
		return err
	}
	routes := map[string]types.Resource{}
	for _, a := range s.contracts {
		r, err := compile.Scope(a, ups, egress)
		if err != nil {
			return err
		}
		routes[r.Routes.GetName()] = r.Routes
	}
	// Make before break: new clusters, then the routes that name them, then the old clusters go.
	if err := s.caches[resourcev3.ClusterType].put(next); err != nil {
		return err
	}
	if err := s.caches[resourcev3.RouteType].put(routes); err != nil {
		return err
	}
	s.upstreams, s.egress = ups, egress
	return s.caches[resourcev3.ClusterType].replace(next)
}

// clusters are the upstreams', the egress ones, and those that lead into tunnels.
func clusters(ups []compile.Upstream, egress *compile.EgressConfig, systemCA string) (map[string]types.Resource, error) {
	all, err := compile.Clusters(ups, systemCA)
	if err != nil {
		return nil, err
	}
	if egress != nil {
		more, err := compile.EgressClusters(*egress)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	inner, err := compile.Inner()
	if err != nil {
		return nil, err
	}
	sni, err := compile.SNI()
	if err != nil {
		return nil, err
	}
	out := map[string]types.Resource{}
	for _, c := range append(all, inner, sni) {
		out[c.GetName()] = c
	}
	return out, nil
}

// putScope puts routes in force before the scope that names them.
func (s *Server) putScope(r *compile.Resources) error {
	if err := s.caches[resourcev3.RouteType].put(map[string]types.Resource{r.Routes.GetName(): r.Routes}); err != nil {
		return err
	}
	return s.caches[resourcev3.ScopedRouteType].put(map[string]types.Resource{r.Scope.GetName(): r.Scope})
}

// PutContract puts the routes of one contract in force, or replaces them. A contract that does not compile is an error
// and disturbs no other.
func (s *Server) PutContract(a compile.Allow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := compile.Scope(a, s.upstreams, s.egress)
	if err != nil {
		s.metrics.rejected.Inc()
		s.cfg.Log.Error("contract does not compile; those in force stay", slog.String("policy_hash", a.Hash), slog.String("error", err.Error()))
		return err
	}
	if err := s.putScope(r); err != nil {
		return err
	}
	s.contracts[a.Hash] = a
	return nil
}

// RemoveContract takes a contract's routes out of force. A hash that is not there is no error.
func (s *Server) RemoveContract(hash string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.contracts, hash)
	if err := s.caches[resourcev3.ScopedRouteType].remove(hash); err != nil {
		return err
	}
	return s.caches[resourcev3.RouteType].remove(compile.RoutesName(hash))
}

// Contracts is how many contracts are in force.
func (s *Server) Contracts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.contracts)
}

// Connected is how many Envoys hold a stream open.
func (s *Server) Connected() int { return s.tracker.connected() }

// Ready says why the control plane could not configure an Envoy now, or nil.
func (s *Server) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready {
		return errors.New("xds server: no listener is set")
	}
	if len(s.upstreams) == 0 {
		return errors.New("xds server: no upstream is set")
	}
	return nil
}

// WaitApplied returns when every connected Envoy has accepted the clusters, scopes and listener in force now. It is an
// error if one refuses them. With no Envoy connected it returns at once: whoever connects gets all.
func (s *Server) WaitApplied(ctx context.Context) error {
	s.mu.Lock()
	want := map[string]uint64{}
	for _, t := range []string{resourcev3.ClusterType, resourcev3.ScopedRouteType, resourcev3.ListenerType} {
		want[t] = s.caches[t].version
	}
	s.mu.Unlock()
	return s.tracker.wait(ctx, want)
}

// Serve answers Envoys on l until ctx ends, then closes their streams.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	opts := []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		// Envoy's own keepalive pings would otherwise be answered with a GOAWAY for too many of them.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
	if s.cfg.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(s.cfg.TLS)))
	}
	g := grpc.NewServer(opts...)
	streams, cancel := context.WithCancel(ctx)
	defer cancel()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s.handler(streams))
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("xds server: %w", err)
	case <-ctx.Done():
	}
	cancel()
	stop := time.AfterFunc(stopGrace, g.Stop)
	defer stop.Stop()
	g.GracefulStop()
	if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("xds server: %w", err)
	}
	return nil
}

func (s *Server) handler(ctx context.Context) discoveryv3.AggregatedDiscoveryServiceServer {
	caches := make(map[string]cachev3.Cache, len(s.caches)+1)
	for t, c := range s.caches {
		caches[t] = c.cache
	}
	caches[resourcev3.SecretType] = s.secrets
	mux := &cachev3.MuxCache{
		Classify:      func(r *cachev3.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cachev3.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        caches,
	}
	// A first request without names means "all" only for the types that Envoy asks for that way. For routes it would send
	// every contract's, which on-demand loading is there to avoid.
	return ads{delta: delta.NewServer(ctx, mux, s.tracker, delta.DeactivateLegacyWildcardForTypes([]string{resourcev3.RouteType, resourcev3.SecretType}))}
}

// ads serves the delta half of the aggregated protocol; the state-of-the-world half answers Unimplemented.
type ads struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	delta delta.Server
}

// DeltaAggregatedResources runs one Envoy's stream to its end.
func (a ads) DeltaAggregatedResources(str discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.delta.DeltaStreamHandler(str, resourcev3.AnyType)
}
