package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"

	"sallyport/extproc/message"
)

const (
	// streamWindow is how many bytes of a stream Envoy may send ahead of us.
	streamWindow = 1 << 20
	// connWindow is the same for a connection. It is refilled as bytes arrive: each stream is held back by its own.
	connWindow = 64 << 20
	// refill is how many bytes are taken before a window is opened again; more would stall, fewer costs frames.
	refill = 256 << 10

	defaultWindow   = 65_535 // RFC 9113, before any SETTINGS
	maxWindow       = 1<<31 - 1
	defaultMaxFrame = 16 << 10
	maxHeaderBytes  = 64 << 10 // of a stream's own headers, which Envoy makes
	helloTimeout    = 10 * time.Second
	writeTimeout    = 30 * time.Second
)

const processMethod = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

// conn is one connection of Envoy's. One goroutine reads it; whoever has something to say writes.
type conn struct {
	srv    *Server
	nc     net.Conn
	in     *bufio.Reader
	framer *http2.Framer // reads only, from in

	mu      sync.Mutex
	changed *sync.Cond // the last stream's end, the end of writing, the connection's end
	streams map[uint32]*stream
	last    uint32 // highest stream that was opened
	out     []byte // to be written
	spare   []byte // the last buffer that was written
	writing bool   // somebody writes, and will look again
	err     error  // why it ended

	window   int64 // what we may still send
	initial  int64 // the same for a new stream
	held     int   // streams that wait for a window
	maxFrame int

	taken int // bytes received since the connection's window was refilled
}

// errGone is wrapped where Envoy has given up a stream, by itself or with the connection.
var errGone = errors.New("the stream is gone")

var errLost = fmt.Errorf("%w: the connection was lost", errGone)

// errDrained is how a connection ends when the server does.
var errDrained = errors.New("the server is ending")

var errProtocol = errors.New("HTTP/2 protocol error")

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{
		srv: s, nc: nc, in: bufio.NewReaderSize(nc, 64<<10), streams: map[uint32]*stream{},
		window: defaultWindow, initial: defaultWindow, maxFrame: defaultMaxFrame,
	}
	c.changed = sync.NewCond(&c.mu)
	c.framer = http2.NewFramer(io.Discard, c.in)
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(defaultMaxFrame)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.MaxHeaderListSize = maxHeaderBytes
	return c
}

// serve carries the connection to its end; its error is why it ended.
func (c *conn) serve() error {
	err := c.hello()
	for err == nil {
		// Answers to all that was read at once leave at once.
		if !c.frameAtHand() {
			c.write()
		}
		var f http2.Frame
		f, err = c.framer.ReadFrame()
		var bad http2.StreamError
		switch {
		case errors.As(err, &bad):
			c.reset(bad.StreamID, bad.Code)
			err = nil
		case err == nil:
			err = c.frame(f)
		}
	}
	c.fail(err)
	c.wait()
	return err
}

// frameAtHand tells whether the next frame is here already, so that reading it will not wait.
func (c *conn) frameAtHand() bool {
	const head = 9
	n := c.in.Buffered()
	if n < head {
		return false
	}
	h, _ := c.in.Peek(head) // it is buffered
	return n >= head+(int(h[0])<<16|int(h[1])<<8|int(h[2]))
}

// hello reads the client's preface and sends our settings.
func (c *conn) hello() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.in, preface); err != nil {
		return err
	}
	if string(preface) != http2.ClientPreface {
		return fmt.Errorf("%w: no preface", errProtocol)
	}
	c.mu.Lock()
	c.out = appendSettings(c.out, http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderBytes})
	c.out = appendWindowUpdate(c.out, 0, connWindow-defaultWindow)
	c.mu.Unlock()
	return c.nc.SetReadDeadline(time.Time{})
}

// frame takes one frame. Its error ends the connection.
func (c *conn) frame(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.RSTStreamFrame:
		c.mu.Lock()
		s := c.streams[f.StreamID]
		c.mu.Unlock()
		if s != nil {
			s.fail(fmt.Errorf("%w: Envoy reset it: %v", errGone, f.ErrCode))
		}
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.mu.Lock()
			c.out = appendPingAck(c.out, f.Data)
			c.mu.Unlock()
		}
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.GoAwayFrame, *http2.PriorityFrame: // Envoy ends the connection itself when its streams have ended
	case *http2.PushPromiseFrame:
		return fmt.Errorf("%w: a push from the client", errProtocol)
	}
	return nil
}

func (c *conn) headers(f *http2.MetaHeadersFrame) error {
	c.mu.Lock()
	s := c.streams[f.StreamID]
	if s == nil && f.StreamID <= c.last {
		c.mu.Unlock()
		return nil // the end of a stream that we have ended
	}
	if s == nil && f.StreamID%2 == 0 {
		c.mu.Unlock()
		return fmt.Errorf("%w: stream %d is not the client's", errProtocol, f.StreamID)
	}
	if s != nil { // trailers
		c.mu.Unlock()
		s.end()
		return nil
	}
	c.mu.Unlock()
	s = newStream(c, f.StreamID)
	var unknown error
	switch path := f.PseudoValue("path"); path {
	case processMethod:
		s.exchange = c.srv.cfg.Open(s)
	case healthMethod:
		s.exchange = &health{s}
	default:
		s.exchange, unknown = &health{s}, statusError(codes.Unimplemented, "there is no method "+path)
	}
	c.mu.Lock()
	err := c.err
	c.last, c.streams[f.StreamID] = f.StreamID, s
	c.mu.Unlock()
	switch {
	case err != nil: // the writer noticed first
		s.fail(errLost)
	case unknown != nil:
		s.fail(unknown)
	case f.StreamEnded():
		s.end()
	}
	return nil
}

func (c *conn) data(f *http2.DataFrame) error {
	n := int(f.Length) // padding counts too
	c.mu.Lock()
	s := c.streams[f.StreamID]
	if s == nil && f.StreamID > c.last {
		c.mu.Unlock()
		return fmt.Errorf("%w: data on stream %d, which was not opened", errProtocol, f.StreamID)
	}
	if c.taken += n; c.taken >= refill {
		c.out = appendWindowUpdate(c.out, 0, uint32(c.taken)) //nolint:gosec // below refill and one frame
		c.taken = 0
	}
	c.mu.Unlock()
	if s == nil {
		return nil // the rest of a stream that we have ended
	}
	s.take(f.Data(), n)
	if f.StreamEnded() {
		s.end()
	}
	return nil
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID { //nolint:exhaustive // the others are about what we never do: push, compress headers
		case http2.SettingInitialWindowSize:
			change := int64(s.Val) - c.initial
			c.initial = int64(s.Val)
			for _, st := range c.streams {
				st.window += change
			}
		case http2.SettingMaxFrameSize:
			c.maxFrame = int(s.Val)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.out = appendSettingsAck(c.out)
	c.resume(0)
	return nil
}

func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	window := &c.window
	if f.StreamID != 0 {
		s := c.streams[f.StreamID]
		if s == nil {
			return nil
		}
		window = &s.window
	}
	if *window += int64(f.Increment); *window > maxWindow {
		return fmt.Errorf("%w: window of stream %d over 2^31-1", errProtocol, f.StreamID)
	}
	c.resume(f.StreamID)
	return nil
}

// resume sends what waited for a window, of one stream or, with 0, of all; the caller holds mu.
func (c *conn) resume(id uint32) {
	if c.held == 0 {
		return
	}
	if id != 0 {
		c.streams[id].sendHeld()
		return
	}
	for _, s := range c.streams {
		s.sendHeld()
	}
}

// reset ends a stream that broke the protocol.
func (c *conn) reset(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	s := c.streams[id]
	c.out = appendReset(c.out, id, code)
	c.mu.Unlock()
	if s != nil {
		s.fail(fmt.Errorf("%w: %v", errProtocol, code))
	}
}

// write sends what is queued, unless somebody is at it already, who then sends this too.
func (c *conn) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		return
	}
	c.writing = true
	for len(c.out) > 0 && c.err == nil {
		out := c.out
		c.out = c.spare[:0]
		c.mu.Unlock()
		_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails only on a closed connection, as the write does
		_, err := c.nc.Write(out)
		if err != nil {
			c.fail(err)
		}
		c.mu.Lock()
		if c.spare = out; cap(out) > 1<<20 {
			c.spare = nil // after a burst, memory is given back
		}
	}
	c.writing = false
	c.changed.Broadcast()
}

// fail ends the connection and with it all its streams.
func (c *conn) fail(err error) {
	if err == nil {
		err = io.EOF
	}
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	open := make([]*stream, 0, len(c.streams))
	for _, s := range c.streams {
		open = append(open, s)
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	_ = c.nc.Close() // so that the reader notices
	for _, s := range open {
		s.fail(errLost)
	}
}

// wait returns when every stream's exchange has ended.
func (c *conn) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.streams) > 0 {
		c.changed.Wait()
	}
}

// drain tells Envoy to open no more streams here, waits until the deadline for those that are open, and ends.
func (c *conn) drain(deadline time.Time) {
	timer := time.AfterFunc(time.Until(deadline), func() { c.fail(errDrained) })
	defer timer.Stop()
	c.mu.Lock()
	// No stream that is on its way is refused: it could only fail.
	c.out = appendGoAway(c.out, maxWindow, http2.ErrCodeNo)
	c.mu.Unlock()
	c.write()
	c.mu.Lock()
	for (len(c.streams) > 0 || c.writing || len(c.out) > 0) && c.err == nil {
		c.changed.Wait()
	}
	c.mu.Unlock()
	c.fail(errDrained)
}

// health answers the health protocol, grpc.health.v1, with one constant: a process that serves can refuse, so it is always
// serving. What it lacks it says itself, with a code, where Envoy could only say 503.
type health struct{ s *stream }

const healthMethod = "/grpc.health.v1.Health/Check"

var serving = []byte{1 << 3, 1} // HealthCheckResponse{status: SERVING}

func (h *health) Handle(*message.Request) {
	h.s.Reply(nil, statusError(codes.Internal, "no processing here"))
}

func (h *health) End(why error) error {
	if errors.Is(why, io.EOF) || errors.Is(why, message.ErrMalformed) { // its request is no message of the processing protocol
		h.s.send(serving)
		return nil
	}
	return why
}
