package supervise

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is its own child: with this variable set it behaves as one.
const childEnv = "SUPERVISE_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childEnv); mode != "" {
		os.Exit(childMain(mode))
	}
	os.Exit(m.Run())
}

// childMain notes its start and end in the file named by the first argument.
func childMain(mode string) int {
	file, name := os.Args[1], os.Args[2]
	note := func(what string) {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		fmt.Fprintf(f, "%s %s %d\n", name, what, os.Getpid())
	}
	switch mode {
	case "fails":
		fmt.Fprintln(os.Stderr, "cannot open the thing")
		return 3
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		note("up")
		time.Sleep(time.Hour)
	case "parent":
		s := New(Config{Log: slog.New(slog.DiscardHandler), Output: os.Stderr})
		if err := s.Start(context.Background(), spec("grandchild", "serves", file)); err != nil {
			panic(err)
		}
		note("up")
		time.Sleep(time.Hour)
	case "serves":
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		note("up")
		<-ended
		note("down")
	}
	return 0
}

func spec(role, mode, file string) Spec {
	env := []string{childEnv + "=" + mode, "PATH=" + os.Getenv("PATH")}
	return Spec{
		Role: role, Path: os.Args[0], Args: []string{file, role}, Env: env,
		Ready: func(context.Context) error {
			if len(lines(file, role+" up")) == 0 {
				return errors.New("no note yet")
			}
			return nil
		},
	}
}

func lines(file, prefix string) []string {
	raw, _ := os.ReadFile(file)
	var out []string
	sc := bufio.NewScanner(bytes.NewReader(raw))
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), prefix) {
			out = append(out, sc.Text())
		}
	}
	return out
}

func newSupervisor(t *testing.T) (*Supervisor, *output) {
	out := &output{}
	s := New(Config{Log: slog.New(slog.NewTextHandler(out, nil)), Output: out})
	t.Cleanup(s.StopAll)
	return s, out
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// eventually fails the test only after far longer than the condition can take.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func alive(pid int) bool {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

func TestStopsInReverseOrder(t *testing.T) {
	s, _ := newSupervisor(t)
	file := filepath.Join(t.TempDir(), "notes")
	for _, role := range []string{"signer", "xds", "extproc"} {
		if err := s.Start(t.Context(), spec(role, "serves", file)); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.PIDs(); len(got) != 3 || len(got["xds"]) != 1 || !alive(got["xds"][0]) {
		t.Fatalf("pids %v", got)
	}
	s.StopAll()
	var order []string
	for _, l := range lines(file, "") {
		f := strings.Fields(l)
		order = append(order, f[0]+" "+f[1])
	}
	want := "signer up,xds up,extproc up,extproc down,xds down,signer down"
	if got := strings.Join(order, ","); got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	if len(s.PIDs()) != 0 {
		t.Errorf("left: %v", s.PIDs())
	}
	s.StopAll() // again is no fault
	if err := s.Start(t.Context(), spec("late", "serves", file)); err == nil {
		t.Error("a stopped supervisor started something")
	}
}

func TestStopRole(t *testing.T) {
	s, _ := newSupervisor(t)
	file := filepath.Join(t.TempDir(), "notes")
	for _, role := range []string{"a", "b"} {
		if err := s.Start(t.Context(), spec(role, "serves", file)); err != nil {
			t.Fatal(err)
		}
	}
	s.StopRole("a")
	if got := s.PIDs(); len(got["a"]) != 0 || len(got["b"]) != 1 {
		t.Errorf("pids %v", got)
	}
}

func TestStartsAgainAfterKill(t *testing.T) {
	s, out := newSupervisor(t)
	file := filepath.Join(t.TempDir(), "notes")
	if err := s.Start(t.Context(), spec("signer", "serves", file)); err != nil {
		t.Fatal(err)
	}
	for want := 2; want <= 3; want++ {
		pids := s.PIDs()["signer"]
		if len(pids) != 1 {
			t.Fatalf("pids %v", pids)
		}
		if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a successor", func() bool { return len(lines(file, "signer up")) == want && len(s.PIDs()["signer"]) == 1 })
		if s.PIDs()["signer"][0] == pids[0] {
			t.Error("the same process id")
		}
	}
	if !strings.Contains(out.String(), "signal: killed") {
		t.Errorf("the log does not say how it ended: %s", out)
	}
}

func TestStartFails(t *testing.T) {
	s, out := newSupervisor(t)
	file := filepath.Join(t.TempDir(), "notes")
	t.Run("ends before ready", func(t *testing.T) {
		err := s.Start(t.Context(), spec("signer", "fails", file))
		if err == nil || !strings.Contains(err.Error(), "ended before it was ready: exit status 3") {
			t.Fatalf("error %v", err)
		}
		if !strings.Contains(out.String(), "cannot open the thing") {
			t.Error("what the child said is lost")
		}
	})
	t.Run("no such program", func(t *testing.T) {
		err := s.Start(t.Context(), Spec{Role: "x", Path: filepath.Join(t.TempDir(), "none")})
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("never ready", func(t *testing.T) {
		sp := spec("slow", "serves", file)
		sp.StartTimeout = 300 * time.Millisecond
		sp.Ready = func(context.Context) error { return errors.New("socket missing") }
		err := s.Start(t.Context(), sp)
		if err == nil || !strings.Contains(err.Error(), "socket missing") {
			t.Fatalf("error %v", err)
		}
	})
	if len(s.PIDs()) != 0 {
		t.Errorf("left: %v", s.PIDs())
	}
}

func TestKillsWhatDoesNotEnd(t *testing.T) {
	s, out := newSupervisor(t)
	file := filepath.Join(t.TempDir(), "notes")
	sp := spec("deaf", "deaf", file)
	sp.StopTimeout = 100 * time.Millisecond
	if err := s.Start(t.Context(), sp); err != nil {
		t.Fatal(err)
	}
	pid := s.PIDs()["deaf"][0]
	s.StopAll()
	if alive(pid) {
		t.Error("still there")
	}
	if !strings.Contains(out.String(), "killing it") {
		t.Error("the log does not say so")
	}
}

// When the supervisor's own process is killed, its children go with it.
func TestChildrenEndWithTheirParent(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("only Linux ends a child with its parent")
	}
	file := filepath.Join(t.TempDir(), "notes")
	cmd := exec.Command(os.Args[0], file, "parent")
	cmd.Env = append(os.Environ(), childEnv+"=parent")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the parent is up", func() bool { return len(lines(file, "parent up")) == 1 })
	pid, err := strconv.Atoi(strings.Fields(lines(file, "grandchild up")[0])[2])
	if err != nil || !alive(pid) {
		t.Fatalf("grandchild %d: %v", pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the grandchild is gone", func() bool { return !alive(pid) })
}
