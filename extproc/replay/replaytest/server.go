// Package replaytest starts real Redis servers for tests and holds the one suite of rules that every replay store must
// pass. The servers come from the machine's redis-server; what the rules are stands in package replay.
package replaytest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience bounds every wait for a server. It only ends a test that would fail anyway.
const patience = 20 * time.Second

// Server is one redis-server without persistence, so that a restart forgets everything.
type Server struct {
	URL  string // for replay.RedisConfig
	t    testing.TB
	args []string
	cmd  *exec.Cmd
	opt  redis.Options
}

// Start runs a server on a Unix socket until the test ends; extra are further command line settings.
// Without redis-server the test is skipped with the reason, except in CI (CI=true), where it fails.
func Start(t testing.TB, extra ...string) *Server {
	t.Helper()
	dir := tempDir(t)
	socket := filepath.Join(dir, "redis.sock")
	s := &Server{
		URL: "unix://" + socket, t: t, opt: redis.Options{Network: "unix", Addr: socket},
		args: append([]string{"--dir", dir, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"}, extra...),
	}
	s.launch()
	return s
}

// StartCluster runs a Redis Cluster of one node that owns all slots.
func StartCluster(t testing.TB) *Server {
	t.Helper()
	port, bus := freePort(t), freePort(t)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s := &Server{
		URL: "redis-cluster://" + addr, t: t, opt: redis.Options{Network: "tcp", Addr: addr},
		args: []string{
			"--dir", tempDir(t), "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--cluster-port", strconv.Itoa(bus),
			"--cluster-enabled", "yes", "--save", "", "--appendonly", "no",
		},
	}
	s.launch()
	c := s.Client()
	if err := c.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", 0, 16383).Err(); err != nil {
		t.Fatalf("give the node its slots: %v", err)
	}
	s.await("the cluster to be ok", func(ctx context.Context) error {
		info, err := c.ClusterInfo(ctx).Result()
		if err != nil {
			return err
		}
		var state string
		if _, err := fmt.Sscanf(info, "cluster_state:%s", &state); err != nil || state != "ok" {
			return fmt.Errorf("state %q", state)
		}
		return nil
	})
	return s
}

// Client is a plain client for a test's own questions; it is closed when the test ends.
func (s *Server) Client() *redis.Client {
	o := s.opt
	c := redis.NewClient(&o)
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// Kill ends the server at once (SIGKILL) and waits until it is gone.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // says "killed", which is what was asked for
	s.cmd = nil
	if s.opt.Network == "unix" {
		_ = os.Remove(s.opt.Addr)
	}
}

// Restart kills the server and starts it again, empty.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	s.launch()
}

// Hang stops the process without ending it (SIGSTOP): connections stay open and nothing answers. Resume undoes it.
func (s *Server) Hang() { s.signal(syscall.SIGSTOP) }

// Resume lets a hung server go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signal redis-server: %v", err)
	}
}

func (s *Server) launch() {
	s.t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("CI") == "true" {
			s.t.Fatal("redis-server is missing, and in CI nothing is skipped")
		}
		s.t.Skip("redis-server is not installed; install it to run the tests on a real Redis")
	}
	s.cmd = exec.Command(bin, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = nil, os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	s.t.Cleanup(s.Kill)
	c := s.Client()
	s.await("redis-server to answer", func(ctx context.Context) error { return c.Ping(ctx).Err() })
}

func (s *Server) await(what string, ready func(context.Context) error) {
	s.t.Helper()
	Await(s.t, what, ready)
}

// Await asks until the answer is nil, and fails the test when it never is.
func Await(t testing.TB, what string, ready func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("gave up waiting for %s: %v", what, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tempDir is short: a Unix socket's path may have 107 bytes only, and t.TempDir contains the test's name.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp-redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	addr, _ := l.Addr().(*net.TCPAddr)
	return addr.Port
}
