package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// lines reads a .jsonl file line by line. An absent file has no lines.
type lines struct {
	name string
	n    int // of the line read last, from 1
	in   *bufio.Reader
	long []byte // a line longer than the reader's buffer
	end  io.Closer
}

func (b *bag) lines(name string) (*lines, error) {
	l := &lines{name: name}
	f := b.files[name]
	if f == nil {
		return l, nil
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errArchive, name, err)
	}
	l.in, l.end = bufio.NewReaderSize(r, 64<<10), r
	return l, nil
}

func (l *lines) close() {
	if l.end != nil {
		l.end.Close()
	}
}

// next returns the next line without its end, valid until the call after; io.EOF after the last. Each line, the last too, ends with \n.
func (l *lines) next() ([]byte, error) {
	if l.in == nil {
		return nil, io.EOF
	}
	line, err := l.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = append(l.long[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) && len(l.long) <= maxLine {
			line, err = l.in.ReadSlice('\n')
			l.long = append(l.long, line...)
		}
		line = l.long
	}
	switch {
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: the last line of %s is cut short", errArchive, l.name)
	case errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLine:
		return nil, fmt.Errorf("%w: line %d of %s is longer than %d bytes", errArchive, l.n+1, l.name, maxLine)
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", errArchive, l.name, err)
	}
	l.n++
	return line[:len(line)-1], nil
}

// at names the line read last.
func (l *lines) at() string { return fmt.Sprintf("%s line %d", l.name, l.n) }
