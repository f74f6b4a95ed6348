package run

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Addresses inside the namespace. Nothing else is bound there when the program starts, so they are always free.
const (
	insideProxy       = "127.0.0.1:15080"
	insideTransparent = 15001
	insideDNS         = 15053
	insideAddress     = "10.0.0.1/32" // of everything that leaves by the default route, which leads back to us
)

// controlFD is where the init process finds its socket to the owner.
const controlFD = 3

// setupCapabilities are what the init process needs to arrange the namespaces. The program gets none.
var setupCapabilities = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_DAC_OVERRIDE}

// initConfig is what the owner tells the init process. There is no secret in it: the program could read it.
type initConfig struct {
	Program    []string `json:"program"`
	Env        []string `json:"env"`
	Dir        string   `json:"dir"`
	Private    string   `json:"private"`     // directory of the certificate bundle and resolv.conf, to stay visible
	Hide       []string `json:"hide"`        // files, directories and sockets
	PrivateTmp bool     `json:"private_tmp"` //
}

// initReport is what the init process tells the owner: first the sockets, then how it ended.
type initReport struct {
	Listening bool   `json:"listening,omitempty"` // with four descriptors: proxy, transparent, DNS by UDP, DNS by TCP
	Error     string `json:"error,omitempty"`     // the namespaces could not be arranged
	Done      bool   `json:"done,omitempty"`
	Exit      int    `json:"exit,omitempty"`
}

// ownerWord is what the owner tells the init process later.
type ownerWord struct {
	Signal int `json:"signal"`
}

func canIsolate() error {
	if _, ok := auditArch[runtime.GOARCH]; !ok {
		return fmt.Errorf("programs cannot be isolated on linux/%s; --no-isolation runs one with the environment alone, which does not hold it back", runtime.GOARCH)
	}
	return nil
}

// startIsolated runs the program in namespaces of its own. The init process makes the listening sockets inside and hands
// them over, so that each connection of the program's ends in this process, and nothing else leads out.
func startIsolated(ctx context.Context, c *Config, o *owner, environ func(string) []string) (int, error) {
	env := environ(insideProxy)
	private, err := privateDir(env)
	if err != nil {
		return 0, err
	}
	dir := c.Dir
	if dir == "" {
		if dir, err = os.Getwd(); err != nil {
			return 0, fmt.Errorf("working directory: %w", err)
		}
	}
	hide, err := hostSockets()
	if err != nil {
		return 0, err
	}
	ours, theirs, err := controlPair()
	if err != nil {
		return 0, err
	}
	defer func() { _ = ours.Close() }()
	cmd, err := initCommand(c, theirs)
	if err != nil {
		theirs.Close()
		return 0, err
	}
	// The kernel ends the child with the thread that made it, so this goroutine keeps its thread until the end.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, fmt.Errorf("namespaces: %w%s", err, namespaceHint())
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	// The token is in this process's memory: no other process of the same user may read it. Not before the start, which
	// needs our own entry in /proc.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)

	code, err := converse(ours, initConfig{
		Program: c.Program, Env: env, Dir: dir, Private: private, Hide: append(hide, c.Hide...), PrivateTmp: c.PrivateTmp,
	}, o)
	if err != nil {
		_ = cmd.Process.Kill()
	}
	_ = cmd.Wait() // the init process's own status says nothing more than its report
	if ctx.Err() != nil {
		return 0, fmt.Errorf("the program was ended: %w", context.Cause(ctx))
	}
	return code, err
}

// privateDir is the directory of the bundle, with a resolv.conf in it.
func privateDir(env []string) (string, error) {
	for _, e := range env {
		if bundle, ok := strings.CutPrefix(e, "SSL_CERT_FILE="); ok {
			dir := filepath.Dir(bundle)
			return dir, os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o600)
		}
	}
	return "", errors.New("run: no certificate bundle in the environment (SSL_CERT_FILE cannot be kept under isolation)")
}

func controlPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "control")
	theirs = os.NewFile(uintptr(fds[1]), "control")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	return c.(*net.UnixConn), theirs, nil
}

func initCommand(c *Config, control *os.File) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("this program's own path: %w", err)
	}
	cmd := exec.Command(self, InitCommand)
	cmd.Env = []string{} // the program could read it in /proc/1
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.ExtraFiles = []*os.File{control}
	uid, gid := os.Getuid(), os.Getgid()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: setupCapabilities, // they survive the exec of a user who is not root
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd, nil
}

// converse drives the init process from its start to its end.
func converse(control *net.UnixConn, ic initConfig, o *owner) (int, error) {
	if err := json.NewEncoder(control).Encode(ic); err != nil {
		return 0, fmt.Errorf("init process: %w%s", err, namespaceHint())
	}
	report, fds, err := firstReport(control)
	if err != nil {
		return 0, err
	}
	if report.Error != "" {
		hint := ""
		if strings.Contains(report.Error, unix.EPERM.Error()) || strings.Contains(report.Error, unix.EACCES.Error()) {
			hint = namespaceHint()
		}
		return 0, fmt.Errorf("isolation: %s%s", report.Error, hint)
	}
	if err := o.takeSockets(fds); err != nil {
		return 0, err
	}
	defer relaySignals(control)()
	last := initReport{}
	err = json.NewDecoder(control).Decode(&last)
	switch {
	case errors.Is(err, io.EOF), err == nil && !last.Done:
		return 0, errors.New("isolation: the init process was killed, and the program with it")
	case err != nil:
		return 0, fmt.Errorf("isolation: %w", err)
	case last.Error != "":
		return 0, fmt.Errorf("isolation: %s", last.Error)
	default:
		return last.Exit, nil
	}
}

// firstReport is one message, with the descriptors that came along. It ends with a line's end.
func firstReport(control *net.UnixConn) (initReport, []int, error) {
	var report initReport
	buf, oob := make([]byte, 8<<10), make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := control.ReadMsgUnix(buf, oob)
	if err != nil || n == 0 {
		return report, nil, fmt.Errorf("isolation: the init process ended at once%s", namespaceHint())
	}
	var fds []int
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for i := range messages {
			if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	if err := json.Unmarshal(buf[:n], &report); err != nil {
		return report, nil, fmt.Errorf("isolation: %w", err)
	}
	if report.Error == "" && len(fds) != 4 {
		return report, nil, fmt.Errorf("isolation: %d sockets came, 4 are expected", len(fds))
	}
	return report, fds, nil
}

// takeSockets starts to answer the sockets that were made inside.
func (o *owner) takeSockets(fds []int) error {
	var listeners []net.Listener
	var packets net.PacketConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "inside")
		var err error
		if i == 2 {
			packets, err = net.FilePacketConn(f)
		} else {
			var l net.Listener
			l, err = net.FileListener(f)
			listeners = append(listeners, l)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("isolation: socket %d: %w", i, err)
		}
	}
	go o.serveProxy(listeners[0])
	go o.serveTransparent(listeners[1], originalDestination)
	go o.serveDNS(packets)
	go o.serveDNSStream(listeners[2])
	return nil
}

// relaySignals passes signals on to the program until the returned function is called. What the terminal sends, the
// program gets by itself: it is in the same foreground process group.
func relaySignals(control io.Writer) (stop func()) {
	got := make(chan os.Signal, 16)
	for _, s := range []os.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2} {
		if !signal.Ignored(s) {
			signal.Notify(got, s)
		}
	}
	enc := json.NewEncoder(control)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-got:
				n, _ := s.(syscall.Signal)
				if (n == unix.SIGINT || n == unix.SIGQUIT) && inForeground() {
					continue
				}
				_ = enc.Encode(ownerWord{Signal: int(n)}) // fails when the program has ended
			}
		}
	}()
	return func() {
		signal.Stop(got)
		close(done)
	}
}

// inForeground says whether this process belongs to its terminal's foreground group.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// hostSockets are the paths of all Unix sockets that are bound now. They are left out of the program's view, since a
// path leads to a socket in any network namespace.
func hostSockets() ([]string, error) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("the host's sockets: %w", err)
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), " /", 2) // the path is last and may hold spaces
		if len(fields) == 2 {
			out = append(out, "/"+fields[1])
		}
	}
	return out, lines.Err()
}

// namespaceHint names the setting that forbids user namespaces here, if one does.
func namespaceHint() string {
	for _, s := range []struct {
		file    string
		forbids func(int) bool
		remedy  string
	}{
		{"/proc/sys/kernel/unprivileged_userns_clone", func(n int) bool { return n == 0 }, "sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", func(n int) bool { return n == 0 }, "sysctl user.max_user_namespaces=10000"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", func(n int) bool { return n != 0 }, "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for this program that has `userns,`"},
	} {
		raw, err := os.ReadFile(s.file)
		if n, bad := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && bad == nil && s.forbids(n) {
			return " (this system forbids user namespaces: " + s.remedy + "; or --no-isolation)"
		}
	}
	return cmp.Or(containerHint(), " (--no-isolation runs the program with the environment alone, which does not hold it back)")
}

// containerHint is for a container whose runtime forbids what is needed.
func containerHint() string {
	for _, file := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(file); err == nil {
			return " (a container: it must allow user namespaces and an unmasked /proc, as `docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined` does; or --no-isolation)"
		}
	}
	return ""
}
