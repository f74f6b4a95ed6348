package issuer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// maxLine bounds one line of a journal, in bytes; records are some hundred bytes.
const maxLine = 64 << 10

// ErrJournal is wrapped by errors of the files that the issuer keeps.
var ErrJournal = errors.New("issuer journal")

// journal is a file of lines that only grows. A line is there when append returned nil: it is synced to the disk first.
type journal struct {
	mu     sync.Mutex
	path   string
	file   *os.File
	size   int64 // bytes that are known to be whole lines on disk
	broken bool  // the last write failed, so what lies after size is not known
}

// openJournal reads every line and takes the file for this process alone. A last line without its end was never
// acknowledged (the writer died in it) and is cut off; torn is how many bytes went. Any other fault is an error that
// names the line: what a withdrawal said must not be guessed.
func openJournal(path string, visit func(line []byte) error) (j *journal, torn int, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := takeFor(f); err != nil {
		return nil, 0, fmt.Errorf("%w %s: %w", ErrJournal, path, err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	whole, err := eachLine(data, visit)
	if err != nil {
		return nil, 0, fmt.Errorf("%w %s: %w", ErrJournal, path, err)
	}
	j = &journal{path: path, file: f, size: int64(whole), broken: true}
	if err := errors.Join(j.repair(), syncDir(filepath.Dir(path))); err != nil {
		return nil, 0, err
	}
	return j, len(data) - whole, nil
}

// takeFor makes sure that the file is its owner's and that no other issuer writes it.
func takeFor(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("mode is %04o: others may read or change it; use 0600", info.Mode().Perm())
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another issuer has it open: %w", err)
	}
	return nil
}

// eachLine visits the whole lines and returns how many bytes they take.
func eachLine(data []byte, visit func(line []byte) error) (whole int, err error) {
	for n := 1; ; n++ {
		line, _, ended := bytes.Cut(data[whole:], []byte{'\n'})
		if !ended {
			return whole, nil
		}
		if err := visit(line); err != nil {
			return 0, fmt.Errorf("line %d: %w", n, err)
		}
		whole += len(line) + 1
	}
}

// append writes one line and syncs it. After an error nobody may rely on the line: it is cut off before the next one is
// written, though it may be found again if the process dies before that.
func (j *journal) append(line []byte) error {
	if len(line) > maxLine || bytes.IndexByte(line, '\n') >= 0 {
		return fmt.Errorf("%w: a record of %d bytes is no line", ErrJournal, len(line))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return fmt.Errorf("%w: closed", ErrJournal)
	}
	if j.broken {
		if err := j.repair(); err != nil {
			return err
		}
	}
	j.broken = true
	if _, err := j.file.WriteAt(append(line, '\n'), j.size); err != nil {
		return fmt.Errorf("%w: write: %w", ErrJournal, err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("%w: sync: %w", ErrJournal, err)
	}
	j.size += int64(len(line)) + 1
	j.broken = false
	return nil
}

// repair cuts off what a failed or cut-off write left.
func (j *journal) repair() error {
	if err := errors.Join(j.file.Truncate(j.size), j.file.Sync()); err != nil {
		return fmt.Errorf("%w: repair: %w", ErrJournal, err)
	}
	j.broken = false
	return nil
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	return nil
}

// syncDir makes the file's name durable too.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrJournal, err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("%w: sync the directory: %w", ErrJournal, err)
	}
	return nil
}
