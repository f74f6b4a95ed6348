package envoy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"                     // so that the text below
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3" // can be read
	"google.golang.org/protobuf/encoding/protojson"
)

// logBuffer is a log that several goroutines write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// withListener puts a plain proxy to target in place of the control plane, and leaves the rest of our bootstrap.
func withListener(t *testing.T, b *bootstrapv3.Bootstrap, target string) {
	t.Helper()
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		t.Fatal(err)
	}
	b.DynamicResources = nil
	extra := &bootstrapv3.Bootstrap{}
	text := strings.NewReplacer("HOST", host, "PORT", port).Replace(`{"static_resources": {
	  "listeners": [{"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
	    "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
	      "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
	      "stat_prefix": "l",
	      "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]},
	      "http_filters": [{"name": "r", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
	    }}]}]}],
	  "clusters": [{"name": "up", "type": "STATIC", "load_assignment": {"cluster_name": "up", "endpoints": [
	    {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "HOST", "port_value": PORT}}}}]}]}}]
	}}`)
	if err := protojson.Unmarshal([]byte(text), extra); err != nil {
		t.Fatal(err)
	}
	b.StaticResources.Listeners = extra.GetStaticResources().GetListeners()
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, extra.GetStaticResources().GetClusters()...)
}

type run struct {
	s    *Supervisor
	stop func()
	done chan error
	log  *logBuffer
}

func supervise(t *testing.T, target string, drain time.Duration) *run {
	t.Helper()
	bin := binary(t)
	dir, err := os.MkdirTemp("", "spe") // t.TempDir is too long for a Unix socket
	if err != nil {
		t.Fatal(err)
	}
	admin := filepath.Join(dir, "a.sock")
	b, err := Bootstrap(Config{AdminSocket: admin, XDS: Endpoint{Socket: filepath.Join(dir, "x")}, ExtProc: []Endpoint{{Socket: filepath.Join(dir, "p")}}})
	if err != nil {
		t.Fatal(err)
	}
	withListener(t, b, target)
	data, err := JSON(b)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "b.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	s, err := NewSupervisor(SupervisorConfig{
		Binary: bin, ConfigPath: path, AdminSocket: admin, Concurrency: 1, Drain: drain, LogLevel: "info",
		Log: slog.New(slog.NewJSONHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{s: s, stop: cancel, done: make(chan error, 1), log: log}
	go func() { r.done <- s.Run(ctx); close(r.done) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.done; err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	r.ready(t)
	info, err := os.Stat(admin)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the admin socket: %v %v", info.Mode(), err)
	}
	return r
}

func (r *run) ready(t *testing.T) netip.AddrPort {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	ls, err := r.s.Admin().Listeners(ctx)
	if err != nil || len(ls) != 1 || ls[0].Port() == 0 {
		t.Fatalf("listeners %v, %v", ls, err)
	}
	return ls[0]
}

// An Envoy that dies is started again.
func TestRestart(t *testing.T) {
	up := httptest.NewServer(http.NotFoundHandler())
	defer up.Close()
	r := supervise(t, up.Listener.Addr().String(), time.Second)
	first := r.s.PID()
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for r.s.PID() == first || r.s.PID() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("not started again")
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.ready(t)
	if !strings.Contains(r.log.String(), `"reason":"signal: killed"`) || !strings.Contains(r.log.String(), `"component":"main"`) {
		t.Errorf("log: %s", r.log.String())
	}
}

// A call that is under way when the gate stops gets its answer; a new one is not taken; then the process is gone.
func TestStopLetsCallsFinish(t *testing.T) {
	arrived, release := make(chan bool), make(chan bool)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- true
		<-release
		_, _ = io.WriteString(w, "late answer")
	}))
	defer up.Close()
	r := supervise(t, up.Listener.Addr().String(), 20*time.Second)
	url := "http://" + r.ready(t).String()
	got := make(chan string, 1)
	go func() {
		resp, err := http.Get(url)
		if err != nil {
			got <- err.Error()
			return
		}
		b, err := io.ReadAll(resp.Body)
		got <- string(b) + resp.Status[:3]
		_, _ = err, resp.Body.Close()
	}()
	<-arrived
	pid := r.s.PID()
	r.stop()
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(deadline) {
			t.Fatal("it still listens")
		}
		time.Sleep(10 * time.Millisecond)
	}
	release <- true
	if g := <-got; g != "late answer200" {
		t.Errorf("the call under way got %q", g)
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
	if r.s.PID() != 0 {
		t.Errorf("PID = %d", r.s.PID())
	}
}

// A call that outlives the drain time is cut.
func TestStopIsBounded(t *testing.T) {
	arrived, release := make(chan bool), make(chan bool)
	up := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- true; <-release }))
	defer up.Close()
	defer close(release)
	r := supervise(t, up.Listener.Addr().String(), 200*time.Millisecond)
	addr := r.ready(t).String()
	go func() {
		if resp, err := http.Get("http://" + addr); err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-arrived
	r.stop()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	if !strings.Contains(r.log.String(), "calls are cut") {
		t.Errorf("log: %s", r.log.String())
	}
}

func TestSupervisorRefusesToStart(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if _, err := NewSupervisor(SupervisorConfig{Binary: "envoy", ConfigPath: "b.json", LogLevel: "loud", Drain: -1}); err == nil || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("want six joined problems, got %v", err)
	}
	s, err := NewSupervisor(SupervisorConfig{Binary: "/nothing/envoy", ConfigPath: "/b.json", AdminSocket: "/a.sock", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.WaitReady(ctx); !errors.Is(err, ErrNotReady) {
		t.Errorf("WaitReady: %v", err)
	}
}
