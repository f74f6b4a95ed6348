package run

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch is how the kernel names the architectures for which the filter's numbers hold.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// Offsets in struct seccomp_data (little-endian on both architectures).
const (
	offNumber  = 0
	offArch    = 4
	offArg0    = 16
	offArg1    = 24
	x32Bit     = 0x40000000
	tiocLinux  = 0x541c // selects and pastes on a virtual console
	allowCall  = unix.SECCOMP_RET_ALLOW
	refuseCall = unix.SECCOMP_RET_ERRNO
)

// families are the sockets that stay in the network namespace. AF_VSOCK does not: it reaches the machine's hypervisor.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// filterProgram refuses the few calls that lead out of the namespaces: sockets of other families, io_uring (which would
// open them unseen), and typing into the caller's terminal. Programs of another architecture, 32-bit ones too, get
// ENOSYS for everything: their numbers differ.
func filterProgram(arch uint32, amd64 bool) []unix.SockFilter {
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	equal := func(k uint32, yes, no uint8) unix.SockFilter { return jump(unix.BPF_JEQ, k, yes, no) }

	p := []unix.SockFilter{load(offArch), equal(arch, 1, 0), ret(refuseCall | uint32(unix.ENOSYS)), load(offNumber)}
	if amd64 {
		p = append(p, jump(unix.BPF_JGE, x32Bit, 0, 1), ret(refuseCall|uint32(unix.ENOSYS)))
	}
	p = append(p, equal(unix.SYS_IO_URING_SETUP, 0, 1), ret(refuseCall|uint32(unix.ENOSYS)))
	p = append(p, equal(unix.SYS_SOCKET, 0, uint8(len(families)+3)), load(offArg0))
	for i, f := range families {
		p = append(p, equal(f, uint8(len(families)-i), 0))
	}
	p = append(p, ret(refuseCall|uint32(unix.EAFNOSUPPORT)), ret(allowCall))
	return append(p,
		equal(unix.SYS_IOCTL, 0, 4), load(offArg1), equal(unix.TIOCSTI, 1, 0), equal(tiocLinux, 0, 1),
		ret(refuseCall|uint32(unix.EPERM)), ret(allowCall))
}

// installFilter puts the filter on the calling thread and on what it starts.
func installFilter() error {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("system call filter: no numbers for %s", runtime.GOARCH)
	}
	p := filterProgram(arch, runtime.GOARCH == "amd64")
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("system call filter: %w", errno)
	}
	return nil
}
