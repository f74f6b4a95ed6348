package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/extproc/message"
)

const (
	grpcHead = 5 // a message begins with a compression flag and its length
	// grow is up to which length a message's memory is taken as announced; beyond, as it arrives.
	grow = 64 << 10
	// bulk is the memory of a larger message, to begin with: Envoy sends what its buffer of 1 MiB holds, or a little more.
	// Such pieces of memory are used again by all streams, or a download would leave one behind for each message.
	bulk = 2 << 20
	// maxWaiting is how many bytes of whole messages may wait unread before the stream's window stays shut.
	maxWaiting = 256 << 10
)

// stream is one call of the method. The connection's reader feeds it; whoever calls Reply goes on with what came since.
type stream struct {
	conn     *conn
	id       uint32
	exchange Exchange

	mu      sync.Mutex
	whole   [][]byte // messages not handed over yet
	waiting int      // their bytes
	current []byte   // the message that is with the exchange
	spare   []byte   // memory of one that was answered
	owed    int      // bytes taken for which the window was not opened again
	ended   bool     // Envoy has no more to say
	err     error    // why the stream is broken
	busy    bool     // a message is with the exchange
	inside  bool     // and Handle has not returned
	replied bool     // while it was inside
	over    bool     // End was called
	ctx     context.Context
	cancel  context.CancelFunc

	// The connection's reader's own: a message that is still arriving.
	head    []byte
	partial []byte
	missing int

	enc []byte // of whoever replies

	// Of the connection's mu.
	window  int64  // what we may still send
	began   bool   // headers are sent
	unsent  []byte // what waits for a window
	ending  []byte // the last frames, which wait for what is unsent
	removed bool
}

func newStream(c *conn, id uint32) *stream {
	return &stream{conn: c, id: id, window: c.initial}
}

// Context is made when it is first asked for: most messages are answered at once.
func (s *stream) Context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancel(context.Background())
		if s.over || s.err != nil {
			s.cancel()
		}
	}
	return s.ctx
}

// take gets bytes from the connection's reader; n is what they count in the window.
func (s *stream) take(b []byte, n int) {
	var whole [][]byte
	for len(b) > 0 {
		if len(s.head) < grpcHead {
			k := min(grpcHead-len(s.head), len(b))
			s.head, b = append(s.head, b[:k]...), b[k:]
			if len(s.head) < grpcHead {
				break
			}
			if err := s.begin(); err != nil {
				s.fail(err)
				return
			}
		}
		k := min(s.missing, len(b))
		s.makeRoom(k)
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
	s.mu.Unlock()
	s.open(open)
	s.advance()
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
	s.mu.Lock()
	s.partial, s.spare = s.spare, nil
	s.mu.Unlock()
	if want := min(s.missing, grow); cap(s.partial) < want {
		s.partial = make([]byte, 0, want)
	}
	return nil
}

var pieces = sync.Pool{New: func() any { return new([bulk]byte) }}

// makeRoom sees to it that n bytes more have room in the message that is arriving.
func (s *stream) makeRoom(n int) {
	old, need := s.partial, len(s.partial)+n
	switch {
	case need <= cap(old):
		return
	case need <= bulk:
		s.partial = append(pieces.Get().(*[bulk]byte)[:0], old...)
	default:
		s.partial = append(make([]byte, 0, max(2*cap(old), need)), old...)
	}
	s.mu.Lock()
	s.keep(old)
	s.mu.Unlock()
}

// keep has a message's memory used again; the caller holds mu.
func (s *stream) keep(b []byte) {
	switch {
	case cap(b) == bulk:
		pieces.Put((*[bulk]byte)(b[:bulk]))
	case cap(b) <= 2*grow:
		s.spare = b[:0]
	}
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
}

// end says that Envoy has no more to say. What it said before is still handed over.
func (s *stream) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.advance()
}

// fail ends the stream from below: what was not handed over is dropped, and who waits on its behalf may stop.
func (s *stream) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.whole = nil
	if s.cancel != nil {
		s.cancel()
	}
	s.mu.Unlock()
	s.advance()
	c := s.conn
	c.mu.Lock()
	if s.ending != nil && !s.removed { // it had ended, and its last words will not be read
		s.drop()
	}
	c.mu.Unlock()
}

// advance hands over what may be handed over now, message by message, as long as each is answered at once; then it
// leaves the rest to Reply.
func (s *stream) advance() {
	s.mu.Lock()
	for !s.busy && !s.over {
		switch {
		case s.err != nil:
			s.finish(s.err)
		case len(s.whole) > 0:
			s.next()
		case s.ended:
			s.finish(io.EOF)
		default:
			s.mu.Unlock()
			return
		}
	}
	s.mu.Unlock()
}

// next hands over one message; mu is held at the beginning and at the end, not in between.
func (s *stream) next() {
	b := s.whole[0]
	s.whole = s.whole[1:]
	s.waiting -= len(b)
	open := s.credit()
	s.busy, s.inside, s.replied, s.current = true, true, false, b
	s.mu.Unlock()
	s.open(open)
	m, err := message.Parse(b)
	if err == nil {
		s.exchange.Handle(m)
	}
	s.mu.Lock()
	if err != nil && s.err == nil {
		s.err = err
	}
	s.inside = false
	if s.replied || err != nil {
		s.done()
	}
}

// done takes the message back; the caller holds mu.
func (s *stream) done() {
	s.busy = false
	s.keep(s.current)
	s.current = nil
}

// Reply is the exchange's answer.
func (s *stream) Reply(r *message.Response, err error) {
	if err == nil {
		s.enc = r.Append(s.enc[:0])
		s.send(s.enc)
	}
	s.mu.Lock()
	if err != nil && s.err == nil {
		s.err = err
	}
	if s.inside { // whoever is in next goes on
		s.replied = true
		s.mu.Unlock()
		return
	}
	s.done()
	s.mu.Unlock()
	s.advance()
	// Others may be about to answer too, on what arrived together; then one of us writes for all.
	runtime.Gosched()
	s.conn.write()
}

// Abort is the exchange's wish to end. An answer that is under way is still given.
func (s *stream) Abort(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	if s.cancel != nil {
		s.cancel()
	}
	s.mu.Unlock()
	s.advance()
	s.conn.write()
}

// finish ends exchange and stream; mu is held at the beginning and at the end, not in between.
func (s *stream) finish(why error) {
	s.over = true
	if s.cancel != nil {
		s.cancel()
	}
	s.mu.Unlock()
	s.close(s.exchange.End(why))
	s.mu.Lock()
}

// send queues one message. What the windows do not let through waits without holding anybody up.
func (s *stream) send(m []byte) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || s.removed {
		return
	}
	if !s.began {
		s.began = true
		c.out = appendFrame(c.out, frameHeaders, flagEndHeaders, s.id, responseHeaders)
	}
	var head [grpcHead]byte
	binary.BigEndian.PutUint32(head[1:], uint32(len(m))) //nolint:gosec // our own answers
	total := grpcHead + len(m)
	if len(s.unsent) == 0 && total <= c.maxFrame && int64(total) <= min(c.window, s.window) {
		c.out = appendFrameHead(c.out, frameData, 0, s.id, total)
		c.out = append(append(c.out, head[:]...), m...)
		c.window -= int64(total)
		s.window -= int64(total)
		return
	}
	if len(s.unsent) == 0 {
		c.held++
	}
	s.unsent = append(append(s.unsent, head[:]...), m...)
	s.sendHeld()
}

// sendHeld sends what waited, as far as the windows allow; the caller holds the connection's mu.
func (s *stream) sendHeld() {
	if len(s.unsent) == 0 {
		return
	}
	c := s.conn
	for len(s.unsent) > 0 {
		room := min(int64(c.maxFrame), c.window, s.window, int64(len(s.unsent)))
		if room <= 0 {
			break
		}
		c.out = appendFrame(c.out, frameData, 0, s.id, s.unsent[:room])
		c.window -= room
		s.window -= room
		s.unsent = s.unsent[room:]
	}
	if len(s.unsent) > 0 {
		return
	}
	s.unsent = nil
	c.held--
	if s.ending != nil {
		c.out = append(c.out, s.ending...)
		s.remove()
	}
}

// close ends the stream with a status, behind whatever is still to be sent.
func (s *stream) close(err error) {
	code, text := grpcStatus(err)
	s.mu.Lock()
	// What Envoy has reset needs no last word. What we found wrong ourselves is said.
	silent := errors.Is(s.err, errGone)
	ended := s.ended
	s.mu.Unlock()
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if silent || c.err != nil {
		s.drop()
		return
	}
	last := appendTrailers(nil, s.id, !s.began, code, text)
	if !ended {
		last = appendReset(last, s.id, 0) // nothing more is read
	}
	if len(s.unsent) > 0 {
		s.ending = last
		return
	}
	c.out = append(c.out, last...)
	s.remove()
}

// drop gives up what is unsent; the caller holds the connection's mu.
func (s *stream) drop() {
	if len(s.unsent) > 0 {
		s.unsent = nil
		s.conn.held--
	}
	s.remove()
}

func (s *stream) remove() {
	c := s.conn
	s.removed = true
	delete(c.streams, s.id)
	if len(c.streams) == 0 {
		c.changed.Broadcast()
	}
}

// grpcStatus is what an error of the exchange's looks like on the wire.
func grpcStatus(err error) (codes.Code, string) {
	if err == nil {
		return codes.OK, ""
	}
	if st, ok := status.FromError(err); ok {
		return st.Code(), st.Message()
	}
	return codes.Aborted, err.Error()
}

func statusError(c codes.Code, text string) error { return status.Error(c, text) }
