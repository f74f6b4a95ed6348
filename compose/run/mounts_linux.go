package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const noExtras = unix.MS_NOSUID | unix.MS_NODEV

// keptInRun is what programs need of /run; the rest is services' sockets. NixOS keeps its programs there.
var keptInRun = []string{"current-system", "booted-system", "wrappers", "opengl-driver"}

// mountProc shows the program's own processes only.
func mountProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", noExtras|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	return nil
}

// arrangeMounts hides what leads round the gate. The program has no capability to undo it, not even in a user namespace
// of its own, in which the kernel locks these mounts.
func arrangeMounts(ic initConfig) error {
	resolv, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("/etc/resolv.conf: %w", err)
	}
	private, err := unix.Open(ic.Private, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", ic.Private, err)
	}
	defer func() { _ = unix.Close(private) }()
	if err := emptyRun(); err != nil {
		return err
	}
	if err := ownShared(); err != nil {
		return err
	}
	if ic.PrivateTmp {
		if err := emptyTmp(ic.Private, private); err != nil {
			return err
		}
	}
	for _, p := range ic.Hide {
		if err := hidePath(p, ic.Dir); err != nil {
			return err
		}
	}
	if resolv != "" {
		if err := cover(filepath.Join(ic.Private, "resolv.conf"), resolv); err != nil {
			return err
		}
	}
	// Root's programs could change the whole system's settings by these files: nothing but their owner is asked.
	for _, p := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/sys"} {
		if err := readOnly(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// emptyRun puts an empty file system in the place of /run, where the sockets of services are.
func emptyRun() error {
	for _, dir := range []string{"/run", "/var/run"} {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			continue // not there, or a link to the other
		}
		kept := map[string]int{}
		for _, name := range keptInRun {
			if fd, err := unix.Open(filepath.Join(dir, name), unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
				kept[name] = fd
			}
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", noExtras, "mode=0755,size=16m"); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		for name, fd := range kept {
			to := filepath.Join(dir, name)
			err := os.Mkdir(to, 0o755)
			if err == nil {
				err = unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), to, "", unix.MS_BIND|unix.MS_REC, "")
			}
			_ = unix.Close(fd)
			if err != nil {
				return fmt.Errorf("%s: %w", to, err)
			}
		}
		for name, mode := range map[string]fs.FileMode{"lock": 0o777 | fs.ModeSticky, "user/" + strconv.Itoa(os.Getuid()): 0o700} {
			if err := os.MkdirAll(filepath.Join(dir, name), mode); err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
		}
	}
	return nil
}

// ownShared gives the program shared memory and message queues of its own.
func ownShared() error {
	for _, m := range []struct{ dir, data string }{{"/dev/shm", "mode=1777"}, {"/dev/mqueue", "mode=1777,size=64k"}} {
		if info, err := os.Stat(m.dir); err != nil || !info.IsDir() {
			continue
		}
		if err := unix.Mount("tmpfs", m.dir, "tmpfs", noExtras, m.data); err != nil {
			return fmt.Errorf("%s: %w", m.dir, err)
		}
	}
	return nil
}

// emptyTmp puts an empty /tmp over the caller's, with the run's own directory in it where that was there.
func emptyTmp(private string, fd int) error {
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", noExtras, "mode=1777"); err != nil {
		return fmt.Errorf("/tmp: %w", err)
	}
	if !within(private, "/tmp") {
		return nil
	}
	if err := os.MkdirAll(private, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), private, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("%s: %w", private, err)
	}
	return nil
}

// hidePath puts nothing in the place of a file, a socket or a directory. What is not there, or out of reach for this
// user, needs no hiding.
func hidePath(path, cwd string) error {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return fmt.Errorf("hide %s: %w", path, err)
	case within(cwd, real):
		return fmt.Errorf("hide %s: the working directory %s is in it; start the program elsewhere", path, cwd)
	case !info.IsDir():
		return cover(os.DevNull, real)
	}
	if err := unix.Mount("tmpfs", real, "tmpfs", noExtras|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=0555,size=4k"); err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

// cover shows one file in the place of another, which is made where it is not there.
func cover(with, path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount(with, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("%s over %s: %w", with, path, err)
	}
	return nil
}

func readOnly(path string) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := unix.MountSetattr(-1, path, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("%s: read-only: %w", path, err)
	}
	return nil
}

// within says whether a path is below a directory, or the same.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
