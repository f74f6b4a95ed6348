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

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"sallyport/envoy"
	"sallyport/xds/compile"
	"sallyport/xds/server"
)

// systemCA is where Debian keeps the bundle.
const systemCA = "/etc/ssl/certs/ca-certificates.crt"

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
	door     *listenerv3.Listener
	cas      *authority
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
	w.cas = newAuthority(t, dir)
	level := slog.LevelError
	if *verbose {
		level = slog.LevelDebug
	}
	w.server, err = server.New(server.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), SystemCA: systemCA, Minter: w.cas, MaxLeaves: testLeaves})
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
	w.door = l
	if err := errors.Join(w.server.SetUpstreams(w.upstream.list()), w.server.SetListeners(l)); err != nil {
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
	cmd := exec.Command(bin, "-c", path, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning",
		"--file-flush-interval-msec", "20") // Envoy keeps access log lines back for 10 s by default
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
		if err := <-exited; err == nil {
			w.t.Error("envoy ended before it was killed")
		}
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
	w.url = "http://" + w.listening("door/reverse")
}

// listening waits for a listener and gives its address.
func (w *world) listening(name string) (addr string) {
	w.t.Helper()
	w.until(name, func() bool {
		var ls struct {
			Statuses []struct {
				Name  string `json:"name"`
				Local struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		_ = json.Unmarshal([]byte(w.adminGet("/listeners?format=json")), &ls)
		for _, l := range ls.Statuses {
			if l.Name == name {
				addr = fmt.Sprintf("127.0.0.1:%d", l.Local.Socket.Port)
			}
		}
		return addr != ""
	})
	return addr
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
		echo(rw, r)
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
