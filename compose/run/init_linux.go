package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Init is the first process of a program's namespaces: it arranges them, starts the program without any privilege, reaps
// and waits. With its end, the kernel ends every process that is left in there. The result is its exit status.
func Init() int {
	control, err := net.FileConn(os.NewFile(controlFD, "control"))
	if err != nil || os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "sallyport: "+InitCommand+" is started by `sallyport run` only")
		return 2
	}
	c := control.(*net.UnixConn)
	words := json.NewDecoder(c)
	var ic initConfig
	if err := words.Decode(&ic); err != nil {
		return 1
	}
	drainSignals()
	sockets, err := arrange(ic)
	if err != nil {
		return report(c, initReport{Error: err.Error()}, nil)
	}
	if code := report(c, initReport{Listening: true}, sockets); code != 0 {
		return code
	}
	exit, err := supervise(ic, words)
	if err != nil {
		return report(c, initReport{Done: true, Error: err.Error()}, nil)
	}
	return report(c, initReport{Done: true, Exit: exit}, nil)
}

// drainSignals keeps a signal at the terminal, which the program gets as well, from ending this process. They are not
// ignored: the program would inherit that.
func drainSignals() {
	got := make(chan os.Signal, 1)
	signal.Notify(got, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		for range got { // to take them is all that is to be done
		}
	}()
}

func report(c *net.UnixConn, r initReport, fds []int) int {
	raw, err := json.Marshal(r)
	if err != nil {
		return 1
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(append(raw, '\n'), rights, nil); err != nil {
		return 1
	}
	for _, fd := range fds {
		_ = unix.Close(fd) // the owner has it now
	}
	return 0
}

// arrange makes the namespaces what the program is to see, and returns the sockets for the owner.
func arrange(ic initConfig) ([]int, error) {
	if err := mountProc(); err != nil {
		return nil, err
	}
	if err := arrangeNetwork(); err != nil {
		return nil, err
	}
	sockets, err := listenInside()
	if err != nil {
		return nil, err
	}
	if err := arrangeMounts(ic); err != nil {
		return nil, err
	}
	if err := os.Chdir(ic.Dir); err != nil {
		return nil, fmt.Errorf("working directory (is it hidden?): %w", err)
	}
	return sockets, nil
}

// supervise starts the program and waits for its end; the owner's end is the program's.
func supervise(ic initConfig, words *json.Decoder) (int, error) {
	path, code := lookUp(ic)
	if path == "" {
		fmt.Fprintf(os.Stderr, "sallyport: %s: %s\n", ic.Program[0], map[int]string{exitNotFound: "not found", exitNotExecutable: "not executable"}[code])
		return code, nil
	}
	var program atomic.Int64
	started := make(chan error, 1)
	go func() {
		// The thread gives up its privileges and is not used for anything else: it lives as long as this process.
		runtime.LockOSThread()
		pid, err := startProgram(path, ic)
		program.Store(int64(pid))
		started <- err
		select {}
	}()
	if err := <-started; err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) && (errno == unix.EACCES || errno == unix.ENOEXEC || errno == unix.ENOENT) {
			fmt.Fprintf(os.Stderr, "sallyport: %s: %v\n", ic.Program[0], errno)
			return exitNotExecutable, nil
		}
		return 0, err
	}
	go func() {
		for {
			var w ownerWord
			if err := words.Decode(&w); err != nil {
				os.Exit(1) // the owner is gone
			}
			_ = unix.Kill(int(program.Load()), syscall.Signal(w.Signal)) // it may have ended
		}
	}()
	return reap(int(program.Load()))
}

// lookUp finds the program as a shell would, in the program's own PATH.
func lookUp(ic initConfig) (path string, code int) {
	for _, e := range ic.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			_ = os.Setenv("PATH", v) // fails on names only
		}
	}
	path, err := exec.LookPath(ic.Program[0])
	switch {
	case err == nil:
		return path, 0
	case errors.Is(err, fs.ErrPermission):
		return "", exitNotExecutable
	default:
		return "", exitNotFound
	}
}

// startProgram gives up every privilege of the calling thread and starts the program from it.
func startProgram(path string, ic initConfig) (int, error) {
	// What the caller had open besides the standard streams is not for the program: it could be a way out.
	if err := unix.CloseRange(controlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, fmt.Errorf("close_range: %w", err)
	}
	// Not readable nor traceable for the program, which has the same user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("dumpable: %w", err)
	}
	if err := dropPrivileges(); err != nil {
		return 0, err
	}
	return syscall.ForkExec(path, ic.Program, &syscall.ProcAttr{Dir: ic.Dir, Env: ic.Env, Files: []uintptr{0, 1, 2}})
}

func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	for c := uintptr(0); c < 64; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("ambient capabilities: %w", err)
	}
	none := [2]unix.CapUserData{}
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	// The caller's keyring holds secrets too; a null name makes a new one. A kernel without keyrings says ENOSYS.
	if _, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0); errno != 0 && errno != unix.ENOSYS {
		return fmt.Errorf("keyring: %w", errno)
	}
	return installFilter()
}

// reap waits for every child, as the first process must, until the program has ended.
func reap(program int) (int, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid != program:
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		case status.Exited():
			return status.ExitStatus(), nil
		}
	}
}
