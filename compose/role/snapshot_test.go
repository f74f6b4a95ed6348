package role

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"sallyport/compose/config"
	"sallyport/envoy"
	"sallyport/signer/contract"
	"sallyport/xds/compile"
)

// TestSnapshotsAreValidForEnvoy lets Envoy itself validate, without starting it, what is generated for each contract of
// the examples over the default and the example configuration: the door, the clusters, and the contract's routes.
func TestSnapshotsAreValidForEnvoy(t *testing.T) {
	bin, err := envoy.Find(filepath.Join("..", "..", ".tools", "envoy"))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this test needs Envoy: %v", err)
		}
		t.Skipf("no Envoy here: %v", err)
	}
	t.Setenv("OPENAI_API_KEY", "nobodys-value")
	examples, err := filepath.Glob(filepath.Join("..", "..", "signer", "contract", "examples", "*.json"))
	if err != nil || len(examples) < 4 {
		t.Fatalf("%d examples: %v", len(examples), err)
	}
	examples = append(examples, filepath.Join("..", "up", "example-contract.json"))
	for _, file := range []string{"", filepath.Join("..", "config", "example.yaml")} {
		c, err := config.Load(file)
		must(t, err)
		ups, err := compileUpstreams(c)
		must(t, err)
		for _, example := range examples {
			t.Run(filepath.Base(file)+" "+filepath.Base(example), func(t *testing.T) {
				payload, err := os.ReadFile(example)
				must(t, err)
				parsed, err := contract.Parse(payload)
				must(t, err)
				snapshot, err := compile.Scope(compile.Allow{Hash: parsed.Hash, Providers: parsed.Providers()}, ups, nil)
				must(t, err)
				dir := shortDir(t)
				path := filepath.Join(dir, "envoy.json")
				must(t, os.WriteFile(path, static(t, dir, ups, snapshot.Routes), 0o600))
				must(t, envoy.Validate(t.Context(), bin, path))
			})
		}
	}
}

// static is a bootstrap that holds everything a control plane would push; the routes stand in a listener of their own,
// since the door asks for them by scope.
func static(t *testing.T, dir string, ups []compile.Upstream, routes *routev3.RouteConfiguration) []byte {
	t.Helper()
	b, err := envoy.Bootstrap(envoy.Config{
		AdminSocket: filepath.Join(dir, "admin"), XDS: envoy.Endpoint{Socket: filepath.Join(dir, "xds")},
		ExtProc: []envoy.Endpoint{{Socket: filepath.Join(dir, "extproc")}},
	})
	must(t, err)
	door, err := compile.Listener(compile.Door{
		Address: netip.MustParseAddrPort("127.0.0.1:1"), ExtProcCluster: envoy.ExtProcCluster, AccessLog: filepath.Join(dir, "access.log"),
	})
	must(t, err)
	clusters, err := compile.Clusters(ups, systemCA())
	must(t, err)
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, clusters...)
	b.StaticResources.Listeners = []*listenerv3.Listener{door, plain(t, routes)}
	raw, err := envoy.JSON(b)
	must(t, err)
	return raw
}

func plain(t *testing.T, routes *routev3.RouteConfiguration) *listenerv3.Listener {
	t.Helper()
	hcm := &hcmv3.HttpConnectionManager{
		StatPrefix:     "routes",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, &routerv3.Router{})}}},
	}
	return &listenerv3.Listener{
		Name: "routes",
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 2},
		}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "envoy.filters.network.http_connection_manager", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(t, hcm)},
		}}}},
	}
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	must(t, err)
	return a
}
