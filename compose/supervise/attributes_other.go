//go:build !linux

package supervise

import "syscall"

// attributes puts a child in its own process group, so that Ctrl-C at the terminal reaches us alone and we end the
// children in order. Only Linux can end a child with its parent.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
