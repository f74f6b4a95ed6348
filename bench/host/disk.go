package host

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// InMemory says whether a directory is on no disk, where syncing costs nothing.
func InMemory(dir string) bool {
	const tmpfs, ramfs = 0x01021994, 0x858458f6 // statfs(2)
	var s syscall.Statfs_t
	return syscall.Statfs(dir, &s) == nil && (s.Type == tmpfs || s.Type == ramfs)
}

const (
	commitSize  = 4 << 10 // bytes
	commitTimes = 32
)

// GroupCommit is the median time of one group commit in a directory: 4 KiB appended and fdatasync. A gate that waits for
// its records to be on the disk cannot answer faster.
func GroupCommit(dir string) (median time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".commit-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, commitSize)
	took := make([]time.Duration, commitTimes)
	for i := range took {
		begin := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took[commitTimes/2], nil
}
