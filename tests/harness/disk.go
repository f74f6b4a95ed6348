package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// SmallDisk is a directory on a file system of its own with the given number of bytes. It needs root to mount; without,
// the test cannot be made and says so, and in CI that is a failure.
func SmallDisk(t testing.TB, size int) string {
	dir := shortTempDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("a small disk cannot be mounted: %v", err)
		}
		t.Skipf("a small disk cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// FillDisk takes all the room that is left; the returned function gives it back.
func FillDisk(t testing.TB, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	for block := 64 << 10; block > 0; {
		_, err := f.Write(make([]byte, block))
		switch {
		case err == nil:
		case errors.Is(err, syscall.ENOSPC):
			block /= 2
		default:
			t.Fatal(err)
		}
	}
	return func() { must(t, os.Remove(name)) }
}
