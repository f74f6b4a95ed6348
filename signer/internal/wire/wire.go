// Package wire is the framing between ext_proc and the signer: length, type, number and payload, many frames in one
// write. Both ends of it are ours, so it is as small as the records' durability allows.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Type tells frames apart.
type Type uint8

// The frames. Payloads are JSON; N numbers what is to be acknowledged.
const (
	Hello      Type = 1 // client: Greeting
	Intent     Type = 2 // client: record.Intent, acknowledged
	Completion Type = 3 // client: Settlement, acknowledged
	Refusal    Type = 4 // client: record.Refusal, not acknowledged
	Ack        Type = 5 // server: empty, or the reason why N was not recorded
	Trust      Type = 6 // server: trust.State
	Heartbeat  Type = 7 // both
)

const (
	// MaxPayload bounds a frame, in bytes. The largest is a trust state with very many withdrawals.
	MaxPayload = 64 << 20
	head       = 4 + 1 + 8
	// maxQueued is how many bytes may wait for a slow reader before senders wait too.
	maxQueued = 16 << 20
	// Beat is how often each end lets the other know that it lives.
	Beat = 500 * time.Millisecond
	// Silence is how long an end may say nothing before the other gives the connection up.
	Silence = 4 * Beat
)

// Greeting is the client's first frame.
type Greeting struct {
	Instance string   `json:"instance"` // of the ext_proc process
	Open     []string `json:"open"`     // receipt ids of the calls it still carries
}

// ErrFrame is wrapped by errors about bytes that are no frame.
var ErrFrame = errors.New("not a frame")

// ErrClosed is returned for a send on a connection that has ended.
var ErrClosed = errors.New("connection closed")

// Frame is one message.
type Frame struct {
	Type    Type
	N       uint64
	Payload []byte
}

// Append writes a frame behind dst.
func Append(dst []byte, f Frame) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.Payload))) //nolint:gosec // bounded by MaxPayload
	dst = append(dst, byte(f.Type))
	dst = binary.BigEndian.AppendUint64(dst, f.N)
	return append(dst, f.Payload...)
}

// Conn is one connection. Send is for any goroutine, Receive for one.
type Conn struct {
	nc net.Conn
	r  *bufio.Reader

	mu     sync.Mutex
	cond   *sync.Cond
	queue  []byte
	err    error
	writer sync.WaitGroup
}

// NewConn starts the connection's writer; Close ends it.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, r: bufio.NewReaderSize(nc, 64<<10)}
	c.cond = sync.NewCond(&c.mu)
	c.writer.Go(c.write)
	return c
}

// Send queues a frame; everything that is queued while a write is under way leaves with the next one.
func (c *Conn) Send(f Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > maxQueued && c.err == nil {
		c.cond.Wait()
	}
	if c.err != nil {
		return c.err
	}
	c.queue = Append(c.queue, f)
	c.cond.Broadcast()
	return nil
}

func (c *Conn) write() {
	var out []byte
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && c.err == nil {
			c.cond.Wait()
		}
		if c.err != nil {
			c.mu.Unlock()
			return
		}
		out, c.queue = c.queue, out[:0]
		c.cond.Broadcast()
		c.mu.Unlock()
		// An end that reads nothing must not hold up those who have something to tell the others.
		_ = c.nc.SetWriteDeadline(time.Now().Add(Silence))
		if _, err := c.nc.Write(out); err != nil {
			c.fail(err)
			return
		}
	}
}

// Receive reads the next frame. It fails when the other end has said nothing for Silence.
func (c *Conn) Receive() (Frame, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(Silence)); err != nil {
		return Frame{}, err
	}
	return Read(c.r)
}

// Read reads one frame.
func Read(r io.Reader) (Frame, error) {
	var h [head]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > MaxPayload {
		return Frame{}, fmt.Errorf("%w: %d bytes of payload", ErrFrame, n)
	}
	f := Frame{Type: Type(h[4]), N: binary.BigEndian.Uint64(h[5:])}
	if f.Type < Hello || f.Type > Heartbeat {
		return Frame{}, fmt.Errorf("%w: type %d", ErrFrame, h[4])
	}
	// Grow with what arrives rather than with what was announced.
	if n <= 64<<10 {
		f.Payload = make([]byte, n)
		_, err := io.ReadFull(r, f.Payload)
		return f, err
	}
	var err error
	f.Payload, err = io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(f.Payload) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	return f, err
}

// Flush waits until everything queued has been handed over, or the time is up.
func (c *Conn) Flush(most time.Duration) {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		idle := len(c.queue) == 0 || c.err != nil
		c.mu.Unlock()
		if idle {
			return
		}
	}
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.cond.Broadcast()
	c.mu.Unlock()
	_ = c.nc.Close()
}

// Close ends the connection; what was queued and not yet written is lost.
func (c *Conn) Close() {
	c.fail(ErrClosed)
	c.writer.Wait()
}
