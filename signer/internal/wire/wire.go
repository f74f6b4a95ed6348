// Package wire is the framing between ext_proc and the signer: length, type, number and payload, many frames in one
// write. Both ends of it are ours, so it is as small as the records' durability allows.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"
)

// Type tells frames apart.
type Type uint8

// Version of what travels. Both ends are of one build, so another version is refused and not translated.
const Version = 4

// The frames. N numbers what is to be acknowledged, beginning with 1. Records are in package record's binary form, the
// other payloads are JSON.
const (
	Hello      Type = 1  // client: Greeting
	Intent     Type = 2  // client: record.Intent, acknowledged
	Completion Type = 3  // client: record.Completion, acknowledged, or answered by Unknown
	Refusal    Type = 4  // client: record.Refusal in JSON, not acknowledged
	Ack        Type = 5  // server: empty, or the reason why N was not recorded; with N 0, why the connection ends
	Trust      Type = 6  // server: trust.State
	Heartbeat  Type = 7  // both
	Settlement Type = 8  // client: record.Settlement, acknowledged
	Unknown    Type = 9  // server: the intent that N settles is not known here; its settlement is wanted whole
	Delivery   Type = 10 // client: record.Completion; if it is recorded by this, answered by Receipt instead of Ack
	Receipt    Type = 11 // server: Delivered
	Lookup     Type = 12 // client: Wanted; answered by Receipt, or by Ack with a reason
	Sealed     Type = 13 // client: seal.Chunk in binary form, acknowledged
)

const (
	// MaxPayload bounds a frame, in bytes. The largest is a trust state with very many withdrawals.
	MaxPayload = 64 << 20
	head       = 4 + 1 + 8
	// maxQueued is how many bytes may wait for a slow reader before senders wait too.
	maxQueued = 16 << 20
	// maxKept is how large a write's buffer may be to be used again, in bytes.
	maxKept = 1 << 20
	// readBuffer is how much one read may bring, in bytes: many records.
	readBuffer = 64 << 10
	// Beat is how often each end lets the other know that it lives.
	Beat = 500 * time.Millisecond
	// Silence is how long an end may say nothing before the other gives the connection up.
	Silence = 4 * Beat
)

// Greeting is the client's first frame.
type Greeting struct {
	Version  int      `json:"version"`
	Instance string   `json:"instance"` // of the ext_proc process
	Open     []string `json:"open"`     // receipt ids of the calls it still carries
}

// Delivered is a receipt in the forms that clients are given.
type Delivered struct {
	Legacy   json.RawMessage `json:"receipt,omitempty"`
	Envelope json.RawMessage `json:"receipt_envelope,omitempty"`
	InFlight bool            `json:"in_flight,omitempty"` // of a Lookup: the call is not settled yet
}

// Wanted names the call whose receipt is asked for: the job's, under that nonce.
type Wanted struct {
	Job   string `json:"job"` // mission id, or the token's hash where it has none
	Nonce string `json:"nonce"`
}

// ErrFrame is wrapped by errors about bytes that are no frame.
var ErrFrame = errors.New("not a frame")

// ErrClosed is returned for a send on a connection that has ended.
var ErrClosed = errors.New("connection closed")

// ErrVersion is wrapped where the other end is of another build.
var ErrVersion = errors.New("the other end speaks another version")

// Check refuses a greeting of another build.
func (g *Greeting) Check() error {
	if g.Version != Version {
		return fmt.Errorf("%w: %d, and this signer speaks %d; both must be of one build", ErrVersion, g.Version, Version)
	}
	return nil
}

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
	nc    net.Conn
	r     *bufio.Reader
	heard time.Time // when bytes last came
	taken int       // length of the frame that the last Receive returned, still in r

	mu      sync.Mutex
	more    *sync.Cond // there is something to write
	room    *sync.Cond // there is room in the queue
	queue   []byte
	writing bool
	err     error
	writer  sync.WaitGroup
}

// NewConn starts the connection's writer; Close ends it.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc}
	c.r = bufio.NewReaderSize(patient{c}, readBuffer)
	c.more, c.room = sync.NewCond(&c.mu), sync.NewCond(&c.mu)
	c.writer.Go(c.write)
	return c
}

// Send queues a frame; everything that is queued while a write is under way leaves with the next one.
func (c *Conn) Send(f Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > maxQueued && c.err == nil {
		c.room.Wait()
	}
	if c.err != nil {
		return c.err
	}
	c.queue = Append(c.queue, f)
	if !c.writing {
		c.writing = true
		c.more.Signal()
	}
	return nil
}

func (c *Conn) write() {
	var out []byte
	for {
		c.mu.Lock()
		for c.writing = len(c.queue) > 0; !c.writing && c.err == nil; {
			c.more.Wait()
		}
		c.mu.Unlock()
		// Those that are about to send run first, so that what they have leaves in the same write.
		runtime.Gosched()
		c.mu.Lock()
		if c.err != nil {
			c.mu.Unlock()
			return
		}
		if len(c.queue) > maxQueued {
			c.room.Broadcast()
		}
		if cap(out) > maxKept {
			out = nil
		}
		out, c.queue = c.queue, out[:0]
		c.mu.Unlock()
		// An end that reads nothing must not hold up those who have something to tell the others.
		_ = c.nc.SetWriteDeadline(time.Now().Add(Silence))
		if _, err := c.nc.Write(out); err != nil {
			c.fail(err)
			return
		}
	}
}

// patient reads with a deadline that is set anew for each read.
type patient struct{ c *Conn }

func (p patient) Read(b []byte) (int, error) {
	if err := p.c.nc.SetReadDeadline(time.Now().Add(Silence)); err != nil {
		return 0, err
	}
	n, err := p.c.nc.Read(b)
	p.c.heard = time.Now()
	return n, err
}

// Receive reads the next frame; its payload is valid until the next Receive. It fails when the other end has said
// nothing for Silence.
func (c *Conn) Receive() (Frame, error) {
	_, _ = c.r.Discard(c.taken) // it is in the buffer
	var f Frame
	var err error
	f, c.taken, err = read(c.r)
	return f, err
}

// Heard is when bytes last came. It is for the goroutine that receives.
func (c *Conn) Heard() time.Time { return c.heard }

// read reads one frame. Where it fits the buffer of r it stays there, and the caller must discard so many bytes of r
// before the next read.
func read(r *bufio.Reader) (f Frame, taken int, err error) {
	h, err := r.Peek(head)
	if err != nil {
		if len(h) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, 0, err
	}
	n := int(binary.BigEndian.Uint32(h))
	if n > MaxPayload {
		return Frame{}, 0, fmt.Errorf("%w: %d bytes of payload", ErrFrame, n)
	}
	f = Frame{Type: Type(h[4]), N: binary.BigEndian.Uint64(h[5:])}
	if f.Type < Hello || f.Type > Sealed {
		return Frame{}, 0, fmt.Errorf("%w: type %d", ErrFrame, f.Type)
	}
	if head+n <= r.Size() {
		whole, err := r.Peek(head + n)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Frame{}, 0, err
		}
		f.Payload = whole[head:]
		return f, head + n, nil
	}
	_, _ = r.Discard(head) // it was peeked at
	// Grow with what arrives rather than with what was announced.
	f.Payload, err = io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(f.Payload) < n {
		err = io.ErrUnexpectedEOF
	}
	return f, 0, err
}

// Flush waits until everything queued has been written, or the time is up.
func (c *Conn) Flush(most time.Duration) {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		idle := !c.writing || c.err != nil
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
	c.more.Broadcast()
	c.room.Broadcast()
	c.mu.Unlock()
	_ = c.nc.Close()
}

// Close ends the connection; what was queued and not yet written is lost.
func (c *Conn) Close() {
	c.fail(ErrClosed)
	c.writer.Wait()
}
