// Package harness starts the whole system for tests: the real binary, real Envoy, and where asked real Redis. Tests
// talk to it as its users do: over the gateway's port, the control API, the ready file and the evidence directory.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Ready is the ready file that `sallyport up --ready-file` writes.
type Ready struct {
	GatewayURL        string           `json:"gateway_url"`
	ForwardURL        string           `json:"forward_url"`
	ControlURL        string           `json:"control_url"`
	AdminTokenFile    string           `json:"admin_token_file"`
	ContractHash      string           `json:"contract_hash"`
	ExampleToken      string           `json:"example_token"`
	GatewaySignerDID  string           `json:"gateway_signer_did"`
	ContractSignerDID string           `json:"contract_signer_did"`
	IssuerJWKSURL     string           `json:"issuer_jwks_url"`
	EvidenceDir       string           `json:"evidence_dir"`
	EnvoyVersion      string           `json:"envoy_version"`
	PIDs              map[string][]int `json:"-"`
	RawPIDs           json.RawMessage  `json:"pids"`
}

// Options chooses what to start. The zero value is the embedded default with the test's own upstream.
type Options struct {
	BuiltIn  bool   // the built-in model and the default upstreams instead of the test's own
	Bare     bool   // neither: Extra has the upstreams and secret classes
	Weaken   string // build with the weaken tag and take this defence away
	RedisURL string // "" for the embedded store
	Replicas int    // ext_proc processes; 0 means one
	Evidence string // evidence mode; "" for the default
	Dir      string // where everything lives; "" for a fresh one
	// EvidenceDir is where the log lives; "" for the default under Dir.
	EvidenceDir string
	AuditorKeys []string // files of public keys that bodies are sealed to
	Extra       string   // further YAML, at the top level
	Env         []string // further environment
}

// System is one running Sallyport.
type System struct {
	Ready
	Dir      string
	Upstream *Upstream
	Log      *Buffer // what `up` printed

	t   testing.TB
	cmd *exec.Cmd
	end chan error
}

const startTimeout = 90 * time.Second

// Start starts a system and waits for its ready file. The test's end stops it and shows its log if the test failed.
func Start(t testing.TB, o Options) *System {
	t.Helper()
	s := &System{t: t, Dir: o.Dir, Log: &Buffer{}, Upstream: NewUpstream(t)}
	if s.Dir == "" {
		s.Dir = shortTempDir(t)
	}
	s.start(o)
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("log of the system:\n%s", s.Log.Tail(200))
		}
	})
	return s
}

func (s *System) start(o Options) {
	s.t.Helper()
	conf := filepath.Join(s.Dir, "sallyport.yaml")
	must(s.t, os.WriteFile(conf, []byte(s.config(o)), 0o600))
	ready := filepath.Join(s.Dir, "ready.json")
	_ = os.Remove(ready)
	s.cmd = exec.Command(Binary(s.t, o.Weaken != ""), "up", "-c", conf, "--ready-file", ready)
	s.cmd.Env = append(os.Environ(), o.Env...)
	if o.Weaken != "" {
		s.cmd.Env = append(s.cmd.Env, "SALLYPORT_WEAKEN="+o.Weaken)
	}
	s.cmd.Stdout, s.cmd.Stderr = s.Log, s.Log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	must(s.t, s.cmd.Start())
	s.end = make(chan error, 1)
	go func() { s.end <- s.cmd.Wait() }()
	deadline := time.After(startTimeout)
	for {
		if raw, err := os.ReadFile(ready); err == nil && json.Unmarshal(raw, &s.Ready) == nil {
			return
		}
		select {
		case err := <-s.end:
			s.end <- err
			s.t.Fatalf("the system ended before it was ready: %v\n%s", err, s.Log.Tail(200))
		case <-deadline:
			s.t.Fatalf("the system was not ready in %v\n%s", startTimeout, s.Log.Tail(200))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *System) config(o Options) string {
	replicas, mode := max(1, o.Replicas), o.Evidence
	if mode == "" {
		mode = "sealed"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "listen: %s\ncontrol_listen: %s\nforward_listen: %s\ndata_dir: %s\n", FreeAddr(s.t), FreeAddr(s.t), FreeAddr(s.t), filepath.Join(s.Dir, "data"))
	dir := ""
	if o.EvidenceDir != "" {
		dir = ", dir: " + o.EvidenceDir
	}
	if o.AuditorKeys != nil {
		dir += ", auditor_keys: [" + strings.Join(o.AuditorKeys, ", ") + "]"
	}
	fmt.Fprintf(&b, "evidence: {mode: %s%s}\nextproc: {replicas: %d}\nenvoy: {dir: %q}\n", mode, dir, replicas, filepath.Join(Root(), ".tools"))
	if o.RedisURL != "" {
		fmt.Fprintf(&b, "redis_url: %s\n", o.RedisURL)
	}
	if o.BuiltIn {
		fmt.Fprintf(&b, "loopback_model: {listen: %q}\n", FreeAddr(s.t))
		b.WriteString(o.Extra)
		return b.String()
	}
	if o.Bare {
		b.WriteString(o.Extra)
		return b.String()
	}
	b.WriteString("loopback_model: {enabled: false}\nupstreams:\n")
	for _, u := range []struct{ name, provider, dialect, class string }{
		{"openai", "openai", "openai", "openai_key"}, {"anthropic", "anthropic", "anthropic", "anthropic_key"},
		{"gemini", "google", "gemini", "gemini_key"}, {"openrouter", "openrouter", "openai", "openrouter_key"},
	} {
		fmt.Fprintf(&b, "  - {name: %s, provider: %s, dialect: %s, url: %q, secret_class: %s}\n", u.name, u.provider, u.dialect, s.Upstream.URL(u.name), u.class)
	}
	b.WriteString("secret_classes:\n")
	for _, c := range []string{"openai_key", "anthropic_key", "gemini_key", "openrouter_key"} {
		file := filepath.Join(s.Dir, c)
		must(s.t, os.WriteFile(file, []byte(Credential(c)), 0o600))
		fmt.Fprintf(&b, "  - {name: %s, from: \"file:%s\", hosts: [%q, %q]}\n", c, file, s.Upstream.Hosts()[0], s.Upstream.Hosts()[1])
	}
	b.WriteString(o.Extra)
	return b.String()
}

// Credential is the value that the harness plants for a secret class. It is nobody's key; tests search for it.
func Credential(class string) string { return "planted-value-of-" + class }

// Stop ends the system as Ctrl-C would, and waits.
func (s *System) Stop() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-s.end:
		s.end <- err
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		s.t.Errorf("the system did not stop in 20 s after an interrupt")
	}
}

// PID finds the process ids of a role among the children of `up`, as they are now: a role that was killed comes back
// under another id.
func (s *System) PID(role string) []int {
	var out []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil || ppid(stat) != s.cmd.Process.Pid {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		args := strings.Split(string(cmdline), "\x00")
		if len(args) > 1 && (args[1] == role || (role == "envoy" && strings.HasSuffix(args[0], "envoy"))) {
			out = append(out, pid)
		}
	}
	return out
}

func ppid(stat []byte) int {
	// The command in parentheses may hold anything; the fields behind the last one are numbers.
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	var state string
	var p int
	_, _ = fmt.Sscanf(string(rest), "%s %d", &state, &p)
	return p
}

// Signal sends a signal to every process of a role, and fails the test if there is none.
func (s *System) Signal(role string, sig syscall.Signal) {
	s.t.Helper()
	pids := s.PID(role)
	if len(pids) == 0 {
		s.t.Fatalf("no process of role %s", role)
	}
	for _, p := range pids {
		_ = syscall.Kill(p, sig)
	}
}

// Run runs the binary with arguments and returns what it printed.
func (s *System) Run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, Binary(s.t, false), args...).CombinedOutput()
	return string(out), err
}

// FreeAddr is a loopback address that nobody listened on a moment ago and that was not given out before: the system's
// choice of a free port may fall on the same one twice.
func FreeAddr(t testing.TB) string {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		addr := l.Addr().String()
		_ = l.Close()
		if _, given := givenOut.LoadOrStore(addr, true); !given {
			return addr
		}
	}
}

var givenOut sync.Map

// shortTempDir is a temporary directory whose path leaves room for Unix socket names (108 bytes in all).
func shortTempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "sp")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

var builds sync.Map // build tags → *build

type build struct {
	once sync.Once
	path string
	err  error
}

// Binary builds the program once per test process, and returns its path.
func Binary(t testing.TB, weak bool) string {
	t.Helper()
	tags := "none"
	if weak {
		tags = "weaken"
	}
	v, _ := builds.LoadOrStore(tags, &build{})
	b := v.(*build)
	b.once.Do(func() {
		dir, err := os.MkdirTemp("", "spbin")
		if err != nil {
			b.err = err
			return
		}
		b.path = filepath.Join(dir, "sallyport")
		cmd := exec.Command("go", "build", "-tags", tags, "-o", b.path, "sallyport/compose/sallyport")
		cmd.Dir = Root()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	must(t, b.err)
	return b.path
}

// Root is the checkout's top directory.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// SecretFile is a file of the owner's with a text.
func SecretFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Buffer is a log that can be read while it is written.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Tail is the last n lines.
func (b *Buffer) Tail(n int) string {
	lines := strings.Split(b.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
