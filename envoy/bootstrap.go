// Package envoy finds, checks, configures and supervises the Envoy process that carries every call. It knows nothing of
// contracts; its rules come from the Envoy v3 API and from what Envoy 1.40.0 was seen to do.
package envoy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// ExtProcCluster is the bootstrap's cluster of processors; the listener that the control plane sends names it.
	ExtProcCluster = "sallyport_ext_proc"
	xdsCluster     = "sallyport_xds"

	// DefaultNodeID names this Envoy to the control plane where the operator gives no name.
	DefaultNodeID = "sallyport"
	// DefaultMaxConnections bounds client connections; each may buffer a whole request body.
	DefaultMaxConnections = 10_000

	initialFetch = 15 * time.Second // then Envoy goes on without, and its /ready stays LIVE because the door is missing
)

// Config says what a bootstrap must contain.
type Config struct {
	NodeID         string     // empty: DefaultNodeID
	AdminSocket    string     // path of Envoy's admin interface, made with mode 0600
	XDS            Endpoint   // the control plane
	ExtProc        []Endpoint // the processors, at least one
	MaxConnections uint64     // 0: DefaultMaxConnections
}

// Endpoint is where a gRPC service of ours listens: a Unix socket, or TCP with mutual TLS.
type Endpoint struct {
	Socket  string     // path of a Unix socket; or
	Address string     // host:port, the host being an address or a name
	TLS     *ClientTLS // required with Address unless that is a loopback address
}

// ClientTLS names the files that Envoy uses to speak mutual TLS. All paths are absolute.
type ClientTLS struct {
	CertFile, KeyFile, CAFile string
	ServerName                string // the name that the other side's certificate must carry
}

// maxSocketPath is what sockaddr_un holds on Linux, without the closing zero.
const maxSocketPath = 107

// Validate reports everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	errs = append(errs, checkSocket("admin socket", c.AdminSocket), c.XDS.validate("control plane"))
	if len(c.ExtProc) == 0 {
		errs = append(errs, errors.New("envoy: no processor is named"))
	}
	for i, e := range c.ExtProc {
		errs = append(errs, e.validate(fmt.Sprintf("processor %d", i)))
		if (e.TLS == nil) != (c.ExtProc[0].TLS == nil) || e.TLS != nil && *e.TLS != *c.ExtProc[0].TLS {
			errs = append(errs, fmt.Errorf("envoy: processor %d: all processors must use the same TLS settings", i))
		}
	}
	return errors.Join(errs...)
}

func checkSocket(what, path string) error {
	switch {
	case path == "":
		return fmt.Errorf("envoy: the %s is missing", what)
	case !filepath.IsAbs(path):
		return fmt.Errorf("envoy: the %s %q must be an absolute path", what, path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("envoy: the %s %q is longer than the %d bytes a Unix socket may have; use a shorter directory", what, path, maxSocketPath)
	}
	return nil
}

func (e Endpoint) validate(what string) error {
	if (e.Socket == "") == (e.Address == "") {
		return fmt.Errorf("envoy: the %s needs either a socket or an address", what)
	}
	if e.Socket != "" {
		return checkSocket(what+"'s socket", e.Socket)
	}
	host, _, err := net.SplitHostPort(e.Address)
	if err != nil {
		return fmt.Errorf("envoy: the %s's address: %w", what, err)
	}
	if e.TLS == nil {
		if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
			return nil
		}
		return fmt.Errorf("envoy: the %s at %s is not on this machine, so it needs TLS files", what, e.Address)
	}
	return e.TLS.validate(what)
}

func (t *ClientTLS) validate(what string) error {
	var errs []error
	for name, f := range map[string]string{"certificate": t.CertFile, "key": t.KeyFile, "authority": t.CAFile} {
		if !filepath.IsAbs(f) {
			errs = append(errs, fmt.Errorf("envoy: the %s's %s file %q must be an absolute path", what, name, f))
		}
	}
	if t.ServerName == "" {
		errs = append(errs, fmt.Errorf("envoy: the %s's server name is missing", what))
	}
	return errors.Join(errs...)
}

// Bootstrap builds what Envoy is started with: the admin interface, the two clusters of ours, and the instruction to
// ask the control plane for everything else.
func Bootstrap(c Config) (*bootstrapv3.Bootstrap, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.NodeID == "" {
		c.NodeID = DefaultNodeID
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = DefaultMaxConnections
	}
	clusters, err := staticClusters(c)
	if err != nil {
		return nil, err
	}
	overload, err := overloadManager(c.MaxConnections)
	if err != nil {
		return nil, err
	}
	internal, err := pack(&internalv3.InternalListener{})
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: c.NodeID, Cluster: "sallyport"},
		Admin: &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_Pipe{
			Pipe: &corev3.Pipe{Path: c.AdminSocket, Mode: 0o600},
		}}},
		StaticResources:  &bootstrapv3.Bootstrap_StaticResources{Clusters: clusters},
		DynamicResources: dynamicResources(),
		LayeredRuntime:   runtimeLayers(),
		OverloadManager:  overload,
		// Without it Envoy refuses the inner door, which is reached from within the process only.
		BootstrapExtensions: []*corev3.TypedExtensionConfig{{Name: "envoy.bootstrap.internal_listener", TypedConfig: internal}},
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	return b, nil
}

// JSON writes b as Envoy reads it from a file that ends in .json.
func JSON(b *bootstrapv3.Bootstrap) ([]byte, error) {
	out, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	return append(out, '\n'), nil
}

func dynamicResources() *bootstrapv3.Bootstrap_DynamicResources {
	ads := func() *corev3.ConfigSource {
		return &corev3.ConfigSource{
			ResourceApiVersion:    corev3.ApiVersion_V3,
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			InitialFetchTimeout:   durationpb.New(initialFetch),
		}
	}
	return &bootstrapv3.Bootstrap_DynamicResources{
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: xdsCluster},
			}}},
			SetNodeOnFirstMessageOnly: true,
		},
		LdsConfig: ads(),
		CdsConfig: ads(),
	}
}

// runtimeLayers pins the behaviours that the gate's safety leans on, so that neither a default that changes nor an
// environment layer can move them.
func runtimeLayers() *bootstrapv3.LayeredRuntime {
	flags := map[string]*structpb.Value{
		// A scope that is loaded on demand must go on with the request it has. Recreating the stream would run the
		// processor a second time on its own rewritten headers.
		"envoy.reloadable_features.on_demand_vhds_no_recreate_stream": structpb.NewBoolValue(true),
		// An answer of the processor that fits no phase ends the call instead of being passed over.
		"envoy.reloadable_features.ext_proc_fail_close_spurious_resp": structpb.NewBoolValue(true),
	}
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name:           "sallyport",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: flags}},
	}}}
}

// overloadManager bounds client connections, so that a flood cannot take the file descriptors that calls need.
func overloadManager(maxConnections uint64) (*overloadv3.OverloadManager, error) {
	cfg, err := pack(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: int64(maxConnections)})
	if err != nil {
		return nil, err
	}
	return &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(250 * time.Millisecond),
		ResourceMonitors: []*overloadv3.ResourceMonitor{{
			Name:       "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: cfg},
		}},
	}, nil
}
