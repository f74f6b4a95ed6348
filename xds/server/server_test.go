package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport/xds/compile"
)

func hashOf(i int) string { return fmt.Sprintf("%043d", i) }

func upstreams(t testing.TB, names ...string) []compile.Upstream {
	t.Helper()
	var out []compile.Upstream
	for _, n := range names {
		u, err := url.Parse("http://" + n + ".example:8000")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, compile.Upstream{Name: n, Provider: n, URL: u, Endpoints: []compile.Endpoint{{Method: "POST", Path: "/v1/x"}}})
	}
	return out
}

func testServer(t testing.TB, log *slog.Logger) *Server {
	t.Helper()
	s, err := New(Config{Log: log, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SetUpstreams(upstreams(t, "a", "b")), s.SetListeners(&listenerv3.Listener{Name: "door"})); err != nil {
		t.Fatal(err)
	}
	return s
}

// client plays Envoy on one ADS stream.
type client struct {
	t      testing.TB
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	got    chan *discoveryv3.DeltaDiscoveryResponse
}

func connect(t testing.TB, s *Server) *client {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, conn.Close()); err != nil {
			t.Error(err)
		}
	})
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, stream: stream, got: make(chan *discoveryv3.DeltaDiscoveryResponse, 64)}
	go func() {
		defer close(c.got)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			c.got <- r
		}
	}()
	return c
}

func (c *client) send(r *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.Node = &corev3.Node{Id: "test"}
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) subscribe(typeURL string, names ...string) {
	c.t.Helper()
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: names})
}

func (c *client) next() *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	select {
	case r, ok := <-c.got:
		if !ok {
			c.t.Fatal("the stream ended")
		}
		return r
	case <-time.After(20 * time.Second):
		c.t.Fatal("nothing was sent")
	}
	return nil
}

func (c *client) ack(r *discoveryv3.DeltaDiscoveryResponse, refusal string) {
	c.t.Helper()
	q := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	if refusal != "" {
		q.ErrorDetail = &status.Status{Message: refusal}
	}
	c.send(q)
}

func names(r *discoveryv3.DeltaDiscoveryResponse) []string {
	var out []string
	for _, e := range r.GetResources() {
		out = append(out, e.GetName())
	}
	slices.Sort(out)
	return out
}

func count(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// With a thousand contracts in force, changing one sends that one's routes and nothing else; adding one sends its scope.
func TestOnlyWhatChangedIsSent(t *testing.T) {
	s := testServer(t, slog.New(slog.DiscardHandler))
	const n = 1000
	for i := range n {
		if err := s.PutContract(compile.Allow{Hash: hashOf(i), Providers: []string{"a"}}); err != nil {
			t.Fatal(err)
		}
	}
	c := connect(t, s)
	c.subscribe(resourcev3.ScopedRouteType)
	first := c.next()
	if len(first.GetResources()) != n {
		t.Fatalf("%d scopes at first", len(first.GetResources()))
	}
	c.ack(first, "")
	for _, i := range []int{7, 8} { // on demand: only what was asked for
		c.subscribe(resourcev3.RouteType, compile.RoutesName(hashOf(i)))
		r := c.next()
		if got := names(r); !slices.Equal(got, []string{compile.RoutesName(hashOf(i))}) {
			t.Fatalf("asked for routes %d, got %v", i, got)
		}
		c.ack(r, "")
	}

	put := func(i int, provider string) {
		t.Helper()
		if err := s.PutContract(compile.Allow{Hash: hashOf(i), Providers: []string{provider}}); err != nil {
			t.Fatal(err)
		}
	}
	put(9, "b") // nobody asked for its routes
	put(8, "a") // not changed
	put(7, "b")
	r := c.next()
	if got := names(r); r.GetTypeUrl() != resourcev3.RouteType || !slices.Equal(got, []string{compile.RoutesName(hashOf(7))}) {
		t.Fatalf("after a change of 7: %s %v", r.GetTypeUrl(), got)
	}
	c.ack(r, "")
	put(n, "a")
	r = c.next()
	if got := names(r); r.GetTypeUrl() != resourcev3.ScopedRouteType || !slices.Equal(got, []string{hashOf(n)}) {
		t.Fatalf("after a new contract: %s %v", r.GetTypeUrl(), got)
	}
	c.ack(r, "")
	if err := s.RemoveContract(hashOf(7)); err != nil {
		t.Fatal(err)
	}
	removed := map[string][]string{}
	for range 2 {
		r = c.next()
		removed[r.GetTypeUrl()] = r.GetRemovedResources()
		c.ack(r, "")
	}
	if !slices.Equal(removed[resourcev3.ScopedRouteType], []string{hashOf(7)}) || !slices.Equal(removed[resourcev3.RouteType], []string{compile.RoutesName(hashOf(7))}) {
		t.Errorf("after a removal: %v", removed)
	}
	if got := count(t, s.metrics.sent.WithLabelValues("ScopedRouteConfiguration")); got != n+1 {
		t.Errorf("%v scopes sent in all", got)
	}
}

// A client that comes back says what it knows and gets only the rest.
func TestReconnectSendsOnlyTheRest(t *testing.T) {
	s := testServer(t, slog.New(slog.DiscardHandler))
	for i := range 3 {
		if err := s.PutContract(compile.Allow{Hash: hashOf(i), Providers: []string{"a"}}); err != nil {
			t.Fatal(err)
		}
	}
	c := connect(t, s)
	c.subscribe(resourcev3.ScopedRouteType)
	first := c.next()
	known := map[string]string{}
	for _, r := range first.GetResources() {
		known[r.GetName()] = r.GetVersion()
	}
	delete(known, hashOf(1))
	known[hashOf(9)] = "gone meanwhile"
	again := connect(t, s)
	again.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ScopedRouteType, InitialResourceVersions: known})
	r := again.next()
	if got := names(r); !slices.Equal(got, []string{hashOf(1)}) {
		t.Errorf("sent %v", got)
	}
	if got := r.GetRemovedResources(); !slices.Equal(got, []string{hashOf(9)}) {
		t.Errorf("removed %v", got)
	}
}

// A refusal is logged with its reason, counted, and reported to whoever waits; an acknowledgement ends the wait.
func TestRefusalIsHeard(t *testing.T) {
	var log bytes.Buffer
	s := testServer(t, slog.New(slog.NewJSONHandler(&syncWriter{w: &log}, nil)))
	c := connect(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c.subscribe(resourcev3.ClusterType)
	c.ack(c.next(), "")
	c.subscribe(resourcev3.ListenerType)
	c.ack(c.next(), "no such filter")
	err := s.WaitApplied(ctx)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no such filter") {
		t.Fatalf("WaitApplied: %v", err)
	}
	if got := count(t, s.metrics.nacks.WithLabelValues("Listener")); got != 1 {
		t.Errorf("nacks = %v", got)
	}
	if err := s.SetListeners(&listenerv3.Listener{Name: "better"}); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- s.WaitApplied(ctx) }()
	c.ack(c.next(), "")
	if err := <-waited; err != nil {
		t.Errorf("WaitApplied: %v", err)
	}
	if !strings.Contains(log.String(), `"reason":"no such filter"`) {
		t.Errorf("the log does not say why: %s", log.String())
	}
}

// What does not compile is refused as a whole and leaves everything in force.
func TestBadInputDisturbsNothing(t *testing.T) {
	s := testServer(t, slog.New(slog.DiscardHandler))
	if err := s.PutContract(compile.Allow{Hash: hashOf(1), Providers: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	before := map[string]uint64{}
	for t, c := range s.caches {
		before[t] = c.version
	}
	if err := s.PutContract(compile.Allow{Hash: "short"}); !errors.Is(err, compile.ErrHash) {
		t.Errorf("a bad hash: %v", err)
	}
	if err := s.SetUpstreams(append(upstreams(t, "c"), upstreams(t, "c")...)); err == nil {
		t.Error("the same name twice was accepted")
	}
	https := upstreams(t, "c")
	https[0].URL.Scheme = "https"
	if err := s.SetUpstreams(https); !errors.Is(err, compile.ErrNoCA) {
		t.Errorf("https without authorities: %v", err)
	}
	if err := s.SetListeners(nil); err == nil {
		t.Error("no listener was accepted")
	}
	for typeURL, c := range s.caches {
		if c.version != before[typeURL] {
			t.Errorf("%s changed", typeURL)
		}
	}
	if s.Contracts() != 1 || s.Ready() != nil {
		t.Errorf("contracts %d, ready %v", s.Contracts(), s.Ready())
	}
}

func TestConfigAndReadiness(t *testing.T) {
	if _, err := New(Config{TLS: &tls.Config{}}); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("want two joined problems, got %v", err)
	}
	s, err := New(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if s.Ready() == nil {
		t.Error("ready without a listener")
	}
	if err := s.WaitApplied(context.Background()); err != nil {
		t.Errorf("with nobody connected there is nothing to wait for: %v", err)
	}
}
