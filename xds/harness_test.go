package xds_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport/envoy"
	"sallyport/xds/compile"
	"sallyport/xds/server"
)

var verbose = flag.Bool("envoy-log", false, "print Envoy's own log")

// envoyBinary finds the Envoy under test. Without one the tests fail in CI and are skipped elsewhere.
func envoyBinary(t testing.TB) string {
	t.Helper()
	bin, err := envoy.Find(filepath.Join("..", ".tools", "envoy"))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("these tests need Envoy: %v", err)
		}
		t.Skipf("no Envoy here: %v", err)
	}
	return bin
}

// world is a gate around a real Envoy: our control plane, a processor that does as the request's x-test headers say, and an upstream.
type world struct {
	t        testing.TB
	dir      string
	url      string // of the door
	admin    *http.Client
	server   *server.Server
	upstream *upstream
	proc     *processor
	access   string
	envoyPID int
	stopXDS  func()
}

type option func(*compile.Door, *envoy.Config)

func hashOf(i int) string { return fmt.Sprintf("%043d", i) }

func newWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	bin := envoyBinary(t)
	dir, err := os.MkdirTemp("", "spx") // t.TempDir is too long for a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, access: filepath.Join(dir, "access.log")}
	w.upstream = newUpstream(t)
	w.proc = newProcessor(t, filepath.Join(dir, "p.sock"))
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelDebug
	}
	w.server, err = server.New(server.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), SystemCA: "/etc/ssl/certs/ca-certificates.crt"})
	if err != nil {
		t.Fatal(err)
	}
	door := compile.Door{Address: netip.MustParseAddrPort("127.0.0.1:0"), ExtProcCluster: envoy.ExtProcCluster, AccessLog: w.access}
	cfg := envoy.Config{
		AdminSocket: filepath.Join(dir, "a.sock"),
		XDS:         envoy.Endpoint{Socket: filepath.Join(dir, "x.sock")},
		ExtProc:     []envoy.Endpoint{{Socket: filepath.Join(dir, "p.sock")}},
	}
	for _, o := range opts {
		o(&door, &cfg)
	}
	l, err := compile.Listener(door)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.server.SetUpstreams(w.upstream.list()), w.server.SetListener(l)); err != nil {
		t.Fatal(err)
	}
	w.serveXDS()
	w.startEnvoy(bin, cfg)
	return w
}

func (w *world) serveXDS() {
	w.t.Helper()
	path := filepath.Join(w.dir, "x.sock")
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx, l) }()
	var once sync.Once
	w.stopXDS = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("xds server: %v", err)
			}
		})
	}
	w.t.Cleanup(w.stopXDS)
}

func (w *world) startEnvoy(bin string, cfg envoy.Config) {
	w.t.Helper()
	b, err := envoy.Bootstrap(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	data, err := envoy.JSON(b)
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.dir, "bootstrap.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", path, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &tail{}
	cmd.Stderr = out
	if *verbose {
		cmd.Stderr = io.MultiWriter(out, os.Stderr)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.envoyPID = cmd.Process.Pid
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if w.t.Failed() {
			w.t.Logf("envoy's log:\n%s", out)
		}
	})
	w.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", cfg.AdminSocket)
	}}}
	w.until("envoy ready", func() bool {
		select {
		case err := <-exited:
			exited <- err
			w.t.Fatalf("envoy ended: %v\n%s", err, out)
		default:
		}
		return strings.Contains(w.adminGet("/ready"), "LIVE")
	})
	w.until("the door", func() bool {
		var ls struct {
			Statuses []struct {
				Local struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		_ = json.Unmarshal([]byte(w.adminGet("/listeners?format=json")), &ls)
		if len(ls.Statuses) == 0 {
			return false
		}
		w.url = fmt.Sprintf("http://127.0.0.1:%d", ls.Statuses[0].Local.Socket.Port)
		return true
	})
}

func (w *world) adminGet(path string) string {
	resp, err := w.admin.Get("http://admin" + path)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			w.t.Fatalf("gave up waiting for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// put puts a contract in force and waits until Envoy has it.
func (w *world) put(hash string, providers ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := errors.Join(w.server.PutContract(compile.Allow{Hash: hash, Providers: providers}), w.server.WaitApplied(ctx)); err != nil {
		w.t.Fatal(err)
	}
}

// upstream records what reached it.
type upstream struct {
	srv  *httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{}
	u.srv = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		u.mu.Lock()
		u.seen = append(u.seen, r)
		u.mu.Unlock()
		rw.Header().Set("server", "upstream")
		_, _ = io.WriteString(rw, "from upstream")
	}))
	t.Cleanup(u.srv.Close)
	return u
}

func (u *upstream) list() []compile.Upstream {
	target, _ := url.Parse(u.srv.URL)
	target.Path = "/base"
	return []compile.Upstream{{Name: "main", Provider: "openai", URL: target, Endpoints: []compile.Endpoint{
		{Method: "POST", Path: "/v1/chat/completions"},
		{Method: "GET", Path: "/v1/models"},
		{Method: "POST", Regex: `/v1beta/models/[^/]+:generateContent`},
		{Method: "GET", Path: "/files", Prefix: true},
	}}}
}

func (u *upstream) take() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := u.seen
	u.seen = nil
	return out
}

// processor is an ext_proc server that obeys the request's x-test-* headers.
type processor struct {
	extprocv3.UnimplementedExternalProcessorServer
	path string
	grpc *grpc.Server

	mu       sync.Mutex
	requests []*corev3.HeaderMap
	bodies   []int
	replies  []string // "status details" of each response phase
}

func newProcessor(t testing.TB, path string) *processor {
	p := &processor{path: path}
	p.start(t)
	t.Cleanup(func() { p.grpc.Stop() })
	return p
}

func (p *processor) start(t testing.TB) {
	t.Helper()
	_ = os.Remove(p.path)
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	p.grpc = grpc.NewServer(grpc.MaxRecvMsgSize(128 << 20))
	extprocv3.RegisterExternalProcessorServer(p.grpc, p)
	go func() { _ = p.grpc.Serve(l) }()
}

func value(h *corev3.HeaderMap, name string) string {
	for _, e := range h.GetHeaders() {
		if e.GetKey() == name {
			return string(e.GetRawValue())
		}
	}
	return ""
}

// Process answers one exchange.
func (p *processor) Process(str extprocv3.ExternalProcessor_ProcessServer) error {
	var h *corev3.HeaderMap
	for {
		req, err := str.Recv()
		if err != nil {
			return nil
		}
		resp := &extprocv3.ProcessingResponse{}
		switch m := req.GetRequest().(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			h = m.RequestHeaders.GetHeaders()
			p.mu.Lock()
			p.requests = append(p.requests, h)
			p.mu.Unlock()
			switch value(h, "x-test-do") {
			case "close":
				return nil
			case "fail":
				return errors.New("told to fail")
			case "hang":
				<-str.Context().Done()
				return nil
			case "immediate":
				resp.Response = immediate(typev3.StatusCode_PayloadTooLarge, "from processor")
				return str.Send(resp)
			}
			common := &extprocv3.CommonResponse{}
			if m.RequestHeaders.GetEndOfStream() {
				common = verdict(h, resp)
			}
			resp.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}
		case *extprocv3.ProcessingRequest_RequestBody:
			p.mu.Lock()
			p.bodies = append(p.bodies, len(m.RequestBody.GetBody()))
			p.mu.Unlock()
			if value(h, "x-test-do") == "close-at-body" {
				return nil
			}
			resp.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: verdict(h, resp)}}
		case *extprocv3.ProcessingRequest_ResponseHeaders:
			details := ""
			for _, a := range req.GetAttributes() {
				details = a.GetFields()["response.code_details"].GetStringValue()
			}
			p.mu.Lock()
			p.replies = append(p.replies, value(m.ResponseHeaders.GetHeaders(), ":status")+" "+details)
			p.mu.Unlock()
			if value(h, "x-test-do") == "close-at-response" {
				return nil
			}
			resp.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}
		case *extprocv3.ProcessingRequest_ResponseBody:
			resp.Response = &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{}}
		case *extprocv3.ProcessingRequest_ResponseTrailers:
			resp.Response = &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}
		default:
			return fmt.Errorf("unexpected %T", m)
		}
		if err := str.Send(resp); err != nil {
			return err
		}
	}
}

func immediate(status typev3.StatusCode, body string) *extprocv3.ProcessingResponse_ImmediateResponse {
	return &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
		Status: &typev3.HttpStatus{Code: status}, Body: []byte(body),
		Headers: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{set("content-type", "text/x-own"), set("x-own", "1")}},
	}}
}

func set(k, v string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: k, RawValue: []byte(v)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// verdict rewrites the request as the gate does: authority, path and scope in one mutation, the verdict as metadata.
func verdict(h *corev3.HeaderMap, resp *extprocv3.ProcessingResponse) *extprocv3.CommonResponse {
	m := &extprocv3.HeaderMutation{RemoveHeaders: []string{"x-test-authority", "x-test-path", "x-test-scope", "authorization"}}
	for from, to := range map[string]string{"x-test-authority": ":authority", "x-test-path": ":path", "x-test-scope": compile.ScopeHeader} {
		if v := value(h, from); v != "" {
			m.SetHeaders = append(m.SetHeaders, set(to, v))
		}
	}
	m.SetHeaders = append(m.SetHeaders, set("authorization", "swapped"))
	if value(h, "x-test-do") != "no-verdict" {
		resp.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{
			compile.MetadataNamespace: structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
				compile.VerdictKey: structpb.NewStringValue(compile.VerdictAllow),
				compile.ReceiptKey: structpb.NewStringValue("rcpt_test"),
			}}),
		}}
	}
	return &extprocv3.CommonResponse{HeaderMutation: m, ClearRouteCache: true}
}

func (p *processor) seen() []*corev3.HeaderMap {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.requests
	p.requests = nil
	return out
}

func (p *processor) answers() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.replies
	p.replies = nil
	return out
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (o *tail) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, b...)
	if n := len(o.buf) - 1<<16; n > 0 {
		o.buf = o.buf[n:]
	}
	return len(b), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.buf)
}
