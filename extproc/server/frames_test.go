package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"sallyport/extproc/message"
)

// raw is a client that speaks in frames, to say what no client library would.
type raw struct {
	t   *testing.T
	nc  net.Conn
	fr  *http2.Framer
	hp  *hpack.Encoder
	buf bytes.Buffer
}

func (f *fixture) raw() *raw {
	f.t.Helper()
	nc, err := net.Dial("unix", f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		f.t.Fatal(err)
	}
	r := &raw{t: f.t, nc: nc, fr: http2.NewFramer(nc, nc)}
	r.fr.AllowIllegalWrites = true
	r.hp = hpack.NewEncoder(&r.buf)
	return r
}

func (r *raw) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) hello(settings ...http2.Setting) *raw {
	r.t.Helper()
	_, err := io.WriteString(r.nc, http2.ClientPreface)
	r.must(err)
	r.must(r.fr.WriteSettings(settings...))
	return r
}

// block is the header block of a call of the method.
func (r *raw) block(path string) []byte {
	r.buf.Reset()
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "x"}, {"te", "trailers"}, {"content-type", "application/grpc"}} {
		r.must(r.hp.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	return bytes.Clone(r.buf.Bytes())
}

func (r *raw) call(id uint32) {
	r.t.Helper()
	r.must(r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.block(processMethod), EndHeaders: true}))
}

// packed is a message with its head.
func packed(t *testing.T, m *extprocv3.ProcessingRequest) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// next returns the next frame of a type, answering nothing in between.
func (r *raw) next(want http2.FrameType) http2.Frame {
	r.t.Helper()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.t.Fatalf("no %v came: %v", want, err)
		}
		if f.Header().Type == want {
			return f
		}
	}
}

// lost reads until the connection has ended.
func (r *raw) lost() {
	r.t.Helper()
	for {
		if _, err := r.fr.ReadFrame(); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				r.t.Error("the connection is still open")
			}
			return
		}
	}
}

// However the bytes are cut, the message is the same.
func TestFramesInPieces(t *testing.T) {
	t.Parallel()
	f := serve(t, 0, plain)
	r := f.raw().hello()
	block := r.block(processMethod)
	r.must(r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:3]}))
	r.must(r.fr.WriteContinuation(1, false, block[3:5]))
	r.must(r.fr.WriteContinuation(1, true, block[5:]))
	m := packed(t, headers())
	for i := range m {
		r.must(r.fr.WriteDataPadded(1, false, m[i:i+1], make([]byte, i%7)))
	}
	r.next(http2.FrameData)
	two := append(packed(t, body([]byte("a"), false)), packed(t, body([]byte("b"), true))...)
	r.must(r.fr.WriteData(1, true, two))
	r.next(http2.FrameData)
	r.next(http2.FrameData)
	if h := r.next(http2.FrameHeaders).(*http2.HeadersFrame); !h.StreamEnded() {
		t.Error("the stream does not end with its trailers")
	}
}

// An answer waits for the windows without holding up anything else, and goes out as they open.
func TestWindows(t *testing.T) {
	t.Parallel()
	f := serve(t, 0, plain)
	r := f.raw().hello(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3})
	r.call(1)
	r.must(r.fr.WriteData(1, true, packed(t, headers())))
	if d := r.next(http2.FrameData).(*http2.DataFrame); len(d.Data()) != 3 {
		t.Fatalf("%d bytes in a window of 3", len(d.Data()))
	}
	r.must(r.fr.WritePing(false, [8]byte{1})) // the connection goes on
	if p := r.next(http2.FramePing).(*http2.PingFrame); !p.IsAck() || p.Data != [8]byte{1} {
		t.Fatal("no answer to a ping")
	}
	r.must(r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 4}))
	if d := r.next(http2.FrameData).(*http2.DataFrame); len(d.Data()) != 1 {
		t.Fatalf("%d bytes, want one more", len(d.Data()))
	}
	r.must(r.fr.WriteWindowUpdate(1, 100))
	r.next(http2.FrameData)
	if h := r.next(http2.FrameHeaders).(*http2.HeadersFrame); !h.StreamEnded() {
		t.Error("no end behind what had waited")
	}
}

// A stream that is reset while its answer waits for a window leaves nothing behind.
func TestResetWhileWaiting(t *testing.T) {
	t.Parallel()
	f := serve(t, 0, plain)
	r := f.raw().hello(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for id := uint32(1); id < 100; id += 2 {
		r.call(id)
		r.must(r.fr.WriteData(id, true, packed(t, headers())))
		r.must(r.fr.WriteRSTStream(id, http2.ErrCodeCancel))
	}
	r.must(r.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}))
	r.call(101)
	r.must(r.fr.WriteData(101, true, packed(t, headers())))
	if d := r.next(http2.FrameData).(*http2.DataFrame); d.StreamID != 101 {
		t.Errorf("stream %d is answered", d.StreamID)
	}
}

// What breaks the protocol ends the stream or the connection, and never goes to an exchange.
func TestBrokenFrames(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(r *raw){
		"no preface":               func(r *raw) { _, _ = io.WriteString(r.nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
		"data before its stream":   func(r *raw) { r.hello(); r.must(r.fr.WriteData(1, false, []byte("x"))) },
		"a stream of the server's": func(r *raw) { r.hello(); r.call(2) },
		"a window over the limit":  func(r *raw) { r.hello(); r.must(r.fr.WriteWindowUpdate(0, 1<<31-1)) },
		"a push": func(r *raw) {
			r.hello()
			r.must(r.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2}))
		},
		"settings that are not": func(r *raw) { r.hello(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) },
		"a frame that is too large": func(r *raw) {
			r.hello()
			r.call(1)
			r.must(r.fr.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 17<<10)))
		},
		"headers cut by other frame": func(r *raw) {
			r.hello()
			r.must(r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block("/")}))
			r.must(r.fr.WritePing(false, [8]byte{}))
		},
		"rubbish for headers": func(r *raw) {
			r.hello()
			r.must(r.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, 0, func() *exchange {
				return &exchange{handle: func(*exchange, *message.Request) { t.Error("a message arrived") }}
			})
			r := f.raw()
			do(r)
			r.lost()
		})
	}
}

func TestCompressedMessage(t *testing.T) {
	t.Parallel()
	f := serve(t, 0, plain)
	r := f.raw().hello()
	r.call(1)
	m := packed(t, headers())
	m[0] = 1
	r.must(r.fr.WriteData(1, false, m))
	h := r.next(http2.FrameHeaders).(*http2.HeadersFrame)
	if !h.StreamEnded() || !bytes.Contains(h.HeaderBlockFragment(), []byte("12")) { // UNIMPLEMENTED
		t.Errorf("%q", h.HeaderBlockFragment())
	}
	r.next(http2.FrameRSTStream)
}
