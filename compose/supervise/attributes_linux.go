package supervise

import "syscall"

// attributes puts a child in its own process group, so that Ctrl-C at the terminal reaches us alone and we end the
// children in order, and has the kernel kill it should we be killed. Killing is safe: what a role has acknowledged
// is written by then.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
