// Package load makes calls over HTTP/1.1 at a given number of connections, as fast as answers come (closed loop) or at a
// given rate (open loop), and says how long they took. It writes prepared bytes and has no pool, so that less of a machine
// that client and target share goes into asking.
package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Body is what a call sends: Before, Fill bytes made of Block over and over, and After. Large bodies need no memory.
type Body struct {
	Before []byte
	Block  []byte // needed where Fill is not 0
	Fill   int64  // bytes
	After  []byte
}

// Size is the body's length in bytes.
func (b Body) Size() int64 { return int64(len(b.Before)) + b.Fill + int64(len(b.After)) }

// write sends the body. Small ones went out with the head.
func (b Body) write(w io.Writer) error {
	if _, err := w.Write(b.Before); err != nil {
		return err
	}
	for left := b.Fill; left > 0; left -= int64(len(b.Block)) {
		if _, err := w.Write(b.Block[:min(left, int64(len(b.Block)))]); err != nil {
			return err
		}
	}
	_, err := w.Write(b.After)
	return err
}

// AnySize is the Want.Size of answers of any length.
const AnySize = -1

// Want is what the answer to a call must be like.
type Want struct {
	Status int
	Size   int64  // bytes of the body, or AnySize
	Header string // header that must be there, "" for none
	Text   string // what the body must hold, "" for nothing; such bodies are kept, so they must be small
	Events int    // server-sent events of a stream, 0 for no stream, AnyEvents for a stream of any length
}

// AnyEvents is the Want.Events of streams of any length.
const AnyEvents = -1

// Call is one request, ready to be written, and what must come back.
type Call struct {
	Name string // what kind of call it is; counted apart
	Head []byte // request line and headers, with the empty line at the end
	Body Body
	Want Want
}

// small is how long a body may be to go out with the head in one write, in bytes.
const small = 64 << 10

// Prepare renders the request once: making its bytes is not what is measured. The body's length is added to h.
func Prepare(name, method, host, path string, h http.Header, body Body, want Want) *Call {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", method, path, host, body.Size())
	_ = h.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	if body.Size() <= small {
		_ = body.write(&b)
		body = Body{}
	}
	return &Call{Name: name, Head: b.Bytes(), Body: body, Want: want}
}

// write sends the whole request.
func (c *Call) write(w io.Writer) error {
	if _, err := w.Write(c.Head); err != nil {
		return err
	}
	if c.Body.Size() == 0 {
		return nil
	}
	return c.Body.write(w)
}

// receive reads the whole answer and holds it against what is wanted. The times of a stream go to seen, which may be nil.
func (c *Call) receive(in *bufio.Reader, seen func(now time.Time, events int)) (again bool, n int64, err error) {
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return false, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != c.Want.Status {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 500)) // only for the message
		return false, 0, fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	if c.Want.Header != "" && resp.Header.Get(c.Want.Header) == "" {
		return false, 0, fmt.Errorf("an answer without %s", c.Want.Header)
	}
	n, err = c.body(resp.Body, seen)
	return !resp.Close, n, err
}

func (c *Call) body(r io.Reader, seen func(time.Time, int)) (int64, error) {
	switch {
	case c.Want.Events != 0:
		return c.stream(r, seen)
	case c.Want.Text != "":
		return c.text(r)
	}
	n, err := io.Copy(io.Discard, r)
	if err == nil && c.Want.Size != AnySize && n != c.Want.Size {
		err = fmt.Errorf("an answer of %d bytes, want %d", n, c.Want.Size)
	}
	return n, err
}

func (c *Call) text(r io.Reader) (int64, error) {
	body, err := io.ReadAll(io.LimitReader(r, small))
	if err == nil && !bytes.Contains(body, []byte(c.Want.Text)) {
		err = fmt.Errorf("the answer does not say %s: %.300s", c.Want.Text, body)
	}
	return int64(len(body)), err
}

var errNoEvents = errors.New("a stream without events")

// stream reads server-sent events. Each ends in an empty line; several may come in one read.
func (c *Call) stream(r io.Reader, seen func(time.Time, int)) (int64, error) {
	var size int64
	buf, last, events := make([]byte, 16<<10), byte(0), 0
	for {
		n, err := r.Read(buf)
		size += int64(n)
		got := 0
		for _, b := range buf[:n] {
			if b == '\n' && last == '\n' {
				got++
			}
			last = b
		}
		events += got
		if n > 0 && seen != nil {
			seen(time.Now(), got)
		}
		switch {
		case errors.Is(err, io.EOF):
			return size, c.events(events)
		case err != nil:
			return size, err
		}
	}
}

func (c *Call) events(n int) error {
	if n == 0 {
		return errNoEvents
	}
	if c.Want.Events != AnyEvents && n != c.Want.Events {
		return fmt.Errorf("a stream of %d events, want %d", n, c.Want.Events)
	}
	return nil
}
