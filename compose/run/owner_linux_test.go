package run

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// owned starts an owner as a process of its own, as a shell would, and waits until the program says "waiting".
func owned(t *testing.T, program ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(self(t), append([]string{"owner", newGateway(t).Listener.Addr().String()}, program...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal, whatever the tests have
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); err != nil || line != "waiting\n" {
		_ = cmd.Wait()
		needNamespaces(t, fmt.Errorf("%s", errs.String()))
		t.Fatalf("%q %v %s", line, err, errs.String())
	}
	return cmd, r
}

func TestSignalsReachTheProgram(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1} {
		t.Run(s.String(), func(t *testing.T) {
			cmd, out := owned(t, self(t), "attempt", "signal")
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			if line, err := out.ReadString('\n'); line != "reached: "+s.String()+"\n" {
				t.Errorf("%q %v", line, err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the owner ended with %v", err)
			}
		})
	}
}

func TestNothingOutlivesTheOwner(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "alive")
	// One that ignores everything, in a session of its own.
	script := `setsid sh -c 'trap "" HUP TERM INT; while :; do date +%s%N > ` + mark + `; sleep 0.05; done' & echo waiting; wait`
	cmd, _ := owned(t, "sh", "-c", script)
	eventually(t, "the daemon lives", func() bool { _, err := os.Stat(mark); return err == nil })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the daemon is gone", func() bool {
		before, _ := os.ReadFile(mark)
		time.Sleep(300 * time.Millisecond)
		after, _ := os.ReadFile(mark)
		return string(before) == string(after)
	})
}

func TestOwnerKeepsItsMemoryToItself(t *testing.T) {
	cmd, _ := owned(t, self(t), "attempt", "signal")
	// Root may read anything; that the files are root's is what keeps others of the same user out.
	info, err := os.Stat("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 {
		t.Errorf("the owner's memory belongs to user %d", st.Uid)
	}
}

// TestTerminal gives an owner a terminal, as an interactive shell does, and presses Ctrl-C.
func TestTerminal(t *testing.T) {
	ptm, pts := pty(t)
	cmd := exec.Command(self(t), "owner", newGateway(t).Listener.Addr().String(), "sh", "-c",
		`trap 'n=$((n+1))' INT; test -t 0 && stty size && echo waiting; sleep 5; echo "interrupted $n"; exit 3`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pts, pts, pts
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	pts.Close()
	lines := bufio.NewReader(ptm)
	seen := ""
	for !strings.Contains(seen, "waiting") {
		line, err := lines.ReadString('\n')
		if err != nil {
			needNamespaces(t, fmt.Errorf("%s", seen))
			t.Fatalf("%q %v", seen, err)
		}
		seen += line
	}
	if !strings.Contains(seen, "24 80") {
		t.Errorf("the window's size: %q", seen)
	}
	begin := time.Now()
	time.Sleep(200 * time.Millisecond) // for the shell to be in its sleep
	if _, err := ptm.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(seen, "interrupted") {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%q %v", seen, err)
		}
		seen += line
	}
	err := cmd.Wait()
	if !strings.Contains(seen, "interrupted 1\r\n") || cmd.ProcessState.ExitCode() != 3 || time.Since(begin) > 4*time.Second {
		t.Errorf("%q %v", seen, err)
	}
}

// pty is a pseudo-terminal of 24 lines with 80 columns.
func pty(t *testing.T) (ptm, pts *os.File) {
	t.Helper()
	ptm, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { ptm.Close() })
	fd := int(ptm.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	pts, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return ptm, pts
}

func TestTheDoorByTLS(t *testing.T) {
	g := newGateway(t)
	address, roots, seen := doorWithTLS(t, g)
	cert, thumbprint, err := ClientCertificate(time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	j := newJob(t, g, "sh", "-c", `curl -sS https://api.example.com/a; curl -sS http://api.example.com/b; curl -sS $OPENAI_BASE_URL/models`)
	j.ForwardAddress, j.TLS = address, clientTLS(roots, cert)
	r, out, errs := j.run(t)
	if r.ExitCode != 0 || r.Summary.Allowed != 3 || !strings.Contains(out, `"path":"/a"`) || !strings.Contains(out, "/openai/v1/models") {
		t.Errorf("%+v %s%s", r, out, errs)
	}
	if got := thumb(seen()); got != thumbprint {
		t.Errorf("the door saw the certificate %s, the token is bound to %s", got, thumbprint)
	}
	j = newJob(t, g, "curl", "-s", "https://api.example.com/a")
	j.ForwardAddress, j.TLS = address, clientTLS(roots, cert)
	j.TLS.ServerName = "elsewhere.test"
	if r, out, _ := j.run(t); r.ExitCode == 0 || out != "" || r.Summary.Failed != 1 {
		t.Errorf("a door of another name was taken: %+v %s", r, out)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after 10 s: %s", what)
		}
	}
}
