package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/extproc/message"
)

const (
	grpcHead = 5 // a message begins with a compression flag and its length
	// grow is up to which length a message's memory is taken as announced; beyond, as it arrives.
	grow = 64 << 10
	// maxWaiting is how many bytes of whole messages may wait unread before the stream's window stays shut.
	maxWaiting = 256 << 10
)

// stream is one call of the method. The connection's reader feeds it, the handler's goroutine reads and answers.
type stream struct {
	conn *conn
	id   uint32

	// ctx is the stream's own.
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	arrived *sync.Cond
	whole   [][]byte // messages not read yet
	waiting int      // their bytes
	owed    int      // bytes taken for which the window was not opened again
	ended   bool     // Envoy has no more to say
	err     error

	// The connection's reader's own: a message that is still arriving.
	head    []byte
	partial []byte
	missing int

	// Of the connection's mu.
	window int64 // what we may still send

	// The handler's own.
	began bool // headers are sent
	enc   []byte
}

func newStream(c *conn, id uint32) *stream {
	s := &stream{conn: c, id: id, window: c.initial}
	s.arrived = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// run is the stream's goroutine.
func (s *stream) run(h Handler) {
	err := h(s)
	s.finish(err)
	s.cancel()
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Recv() (*message.Request, error) {
	b, err := s.next()
	if err != nil {
		return nil, err
	}
	return message.Parse(b)
}

// next waits for a whole message. What came before the end is still handed out; what came before a failure is not.
func (s *stream) next() ([]byte, error) {
	s.mu.Lock()
	for len(s.whole) == 0 && !s.ended && s.err == nil {
		s.arrived.Wait()
	}
	if s.err != nil {
		s.mu.Unlock()
		return nil, s.err
	}
	if len(s.whole) == 0 {
		s.mu.Unlock()
		return nil, io.EOF
	}
	b := s.whole[0]
	s.whole = s.whole[1:]
	s.waiting -= len(b)
	open := s.credit()
	s.mu.Unlock()
	s.open(open)
	return b, nil
}

// take gets bytes from the connection's reader; n is what they count in the window. Its error ends the connection.
func (s *stream) take(b []byte, n int) error {
	var whole [][]byte
	for len(b) > 0 {
		if s.missing == 0 && len(s.head) < grpcHead {
			k := min(grpcHead-len(s.head), len(b))
			s.head, b = append(s.head, b[:k]...), b[k:]
			if len(s.head) < grpcHead {
				break
			}
			if err := s.begin(); err != nil {
				s.fail(err)
				return nil
			}
		}
		k := min(s.missing, len(b))
		s.partial, b = append(s.partial, b[:k]...), b[k:]
		if s.missing -= k; s.missing == 0 {
			whole = append(whole, s.partial)
			s.head, s.partial = s.head[:0], nil
		}
	}
	s.mu.Lock()
	for _, m := range whole {
		s.whole = append(s.whole, m)
		s.waiting += len(m)
	}
	s.owed += n
	open := s.credit()
	if len(whole) > 0 {
		s.arrived.Signal()
	}
	s.mu.Unlock()
	s.open(open)
	return nil
}

// begin reads a message's head.
func (s *stream) begin() error {
	n := binary.BigEndian.Uint32(s.head[1:])
	switch {
	case s.head[0] != 0:
		return statusError(codes.Unimplemented, "compressed messages are not read")
	case int64(n) > int64(s.conn.srv.cfg.MaxMessage):
		return statusError(codes.ResourceExhausted, fmt.Sprintf("a message of %d bytes; the limit is %d", n, s.conn.srv.cfg.MaxMessage))
	}
	s.missing = int(n)
	s.partial = make([]byte, 0, min(s.missing, grow))
	return nil
}

// credit is by how much the stream's window may be opened now; the caller holds mu.
func (s *stream) credit() int {
	if s.owed < refill || s.waiting > maxWaiting || s.ended {
		return 0
	}
	n := s.owed
	s.owed = 0
	return n
}

func (s *stream) open(n int) {
	if n == 0 {
		return
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = appendWindowUpdate(c.out, s.id, uint32(n)) //nolint:gosec // at most the window
	c.flush()
}

// end says that Envoy has no more to say.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.arrived.Signal()
}

// fail ends the stream from below: what was not read is dropped.
func (s *stream) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.arrived.Signal()
	s.mu.Unlock()
	s.cancel()
	c := s.conn
	c.mu.Lock() // one who waits for a window looks at the error too
	c.changed.Broadcast()
	c.mu.Unlock()
}

func (s *stream) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *stream) Send(r *message.Response) error {
	s.enc = r.Append(s.enc[:0])
	return s.sendRaw(s.enc)
}

// sendRaw sends one message.
func (s *stream) sendRaw(m []byte) error {
	if err := s.failure(); err != nil {
		return err
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.began {
		s.began = true
		c.out = appendFrame(c.out, frameHeaders, flagEndHeaders, s.id, responseHeaders)
	}
	if c.err != nil {
		return errLost
	}
	total := grpcHead + len(m)
	var head [grpcHead]byte
	binary.BigEndian.PutUint32(head[1:], uint32(len(m))) //nolint:gosec // our own answers
	if total <= c.maxFrame && int64(total) <= min(c.window, s.window) && len(c.out) < maxQueuedWrites {
		c.out = appendFrameHead(c.out, frameData, 0, s.id, total)
		c.out = append(append(c.out, head[:]...), m...)
		c.window -= int64(total)
		s.window -= int64(total)
		c.flush()
		return nil
	}
	return s.sendParts(append(head[:], m...))
}

// sendParts sends what does not fit one frame or the windows, waiting for room; the caller holds the connection's mu.
func (s *stream) sendParts(b []byte) error {
	c := s.conn
	for len(b) > 0 {
		if c.err != nil {
			return errLost
		}
		if err := s.failure(); err != nil {
			return err
		}
		room := min(int64(c.maxFrame), c.window, s.window, int64(len(b)))
		if room <= 0 || len(c.out) >= maxQueuedWrites {
			c.changed.Wait()
			continue
		}
		c.out = appendFrame(c.out, frameData, 0, s.id, b[:room])
		c.window -= room
		s.window -= room
		b = b[room:]
		c.flush()
	}
	return nil
}

// finish ends the stream with the handler's result, unless Envoy has ended it already.
func (s *stream) finish(err error) {
	code, text := grpcStatus(err)
	s.mu.Lock()
	failed, ended := s.err, s.ended
	s.mu.Unlock()
	if st, ok := status.FromError(failed); failed != nil && ok {
		code, text, failed = st.Code(), st.Message(), nil // our own reason: it is said
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if failed == nil && c.err == nil {
		c.out = appendTrailers(c.out, s.id, !s.began, code, text)
		if !ended {
			c.out = appendReset(c.out, s.id, 0) // nothing more is read
		}
		c.flush()
	}
	delete(c.streams, s.id)
	if len(c.streams) == 0 {
		c.changed.Broadcast()
	}
}

func statusError(c codes.Code, text string) error { return status.Error(c, text) }
