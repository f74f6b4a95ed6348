package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"sallyport/extproc/message"
)

// patience is when a test gives up on what must happen; nothing is asserted about how long it takes.
const patience = 20 * time.Second

// exchange is an Exchange made of functions; a nil one answers at once and ends cleanly.
type exchange struct {
	s      Stream
	handle func(x *exchange, m *message.Request)
	end    func(why error) error
	inside atomic.Int32
	ended  atomic.Int32
}

func (x *exchange) Handle(m *message.Request) {
	if x.inside.Add(1) != 1 || x.ended.Load() != 0 {
		panic("two messages at once, or one after the end")
	}
	handle := x.handle
	if handle == nil {
		handle = (*exchange).pass
	}
	handle(x, m)
}

// reply is Reply with the books kept.
func (x *exchange) reply(r *message.Response, err error) {
	x.inside.Add(-1)
	x.s.Reply(r, err)
}

func (x *exchange) pass(m *message.Request) { x.reply(&message.Response{Answer: m.Kind}, nil) }

func (x *exchange) End(why error) error {
	if x.ended.Add(1) != 1 || x.inside.Load() != 0 {
		panic("ended twice, or while a message is with the exchange")
	}
	if x.end != nil {
		return x.end(why)
	}
	if errors.Is(why, io.EOF) {
		return nil
	}
	return why
}

type fixture struct {
	t       *testing.T
	socket  string
	stop    context.CancelFunc
	stopped chan error
}

// serve starts a server whose exchanges are made by open.
func serve(t *testing.T, grace time.Duration, open func() *exchange) *fixture {
	t.Helper()
	f := &fixture{t: t, socket: filepath.Join(t.TempDir(), "s"), stopped: make(chan error, 1)}
	lis, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	srv := New(Config{
		Open: func(s Stream) Exchange {
			x := open()
			x.s = s
			return x
		},
		MaxMessage: 4 << 20, Grace: grace, Log: slog.New(slog.DiscardHandler),
	})
	go func() { f.stopped <- srv.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-f.stopped:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the server does not end")
		}
	})
	return f
}

func plain() *exchange { return &exchange{} }

// client is a stock gRPC client.
func (f *fixture) client(opts ...grpc.DialOption) *grpc.ClientConn {
	f.t.Helper()
	cc, err := grpc.NewClient("unix:"+f.socket, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func open(t *testing.T, cc *grpc.ClientConn) (extprocv3.ExternalProcessor_ProcessClient, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	s, err := extprocv3.NewExternalProcessorClient(cc).Process(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s, cancel
}

func headers() *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
		Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: ":path", RawValue: []byte("/")}}}}}}
}

func body(b []byte, last bool) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: b, EndOfStream: last}}}
}

// talk sends messages in turn, each after the answer to the last.
func talk(s extprocv3.ExternalProcessor_ProcessClient, ms ...*extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
	var last *extprocv3.ProcessingResponse
	for _, m := range ms {
		if err := s.Send(m); err != nil {
			_, err = s.Recv() // io.EOF of Send says only that the stream ended; here is why
			return nil, err
		}
		var err error
		if last, err = s.Recv(); err != nil {
			return nil, err
		}
	}
	return last, nil
}

func mustTalk(t *testing.T, s extprocv3.ExternalProcessor_ProcessClient, ms ...*extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	t.Helper()
	r, err := talk(s, ms...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestConversation(t *testing.T) {
	t.Parallel()
	f := serve(t, 0, plain)
	s, _ := open(t, f.client())
	mustTalk(t, s, headers(), body([]byte("x"), true))
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("ends with %v, want a clean end", err)
	}
}

// Bodies far above every window, in both directions, on many streams of few connections at once, answered now or later.
func TestMuchAtOnce(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", 60_000) // 960 kB
	f := serve(t, 0, func() *exchange {
		return &exchange{handle: func(x *exchange, m *message.Request) {
			answer := func() {
				if m.Kind != message.RequestBody {
					x.pass(m)
					return
				}
				x.reply(&message.Response{Immediate: &message.Immediate{Status: 451, Body: append([]byte("back:"), m.Body...)}}, nil)
			}
			if len(m.Body)%2 == 0 {
				answer()
				return
			}
			go answer()
		}}
	})
	small := []grpc.DialOption{grpc.WithInitialWindowSize(64 << 10), grpc.WithInitialConnWindowSize(64 << 10), grpc.WithStaticStreamWindowSize(64 << 10)}
	conns := []*grpc.ClientConn{f.client(), f.client(small...)}
	var wg sync.WaitGroup
	for i := range 120 {
		wg.Go(func() {
			s, _ := open(t, conns[i%len(conns)])
			want := big[:(i*i*977)%len(big)]
			r, err := talk(s, headers(), body([]byte(want), true))
			if err != nil {
				t.Error(err)
				return
			}
			if got := string(r.GetImmediateResponse().GetBody()); got != "back:"+want {
				t.Errorf("stream %d: %d bytes came back, want %d", i, len(got), len(want))
			}
			_ = s.CloseSend()
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("stream %d ends with %v", i, err)
			}
		})
	}
	wg.Wait()
}

// A client may send on before it is answered; the exchange still sees one message at a time, in order.
func TestMessagesWaitTheirTurn(t *testing.T) {
	t.Parallel()
	const n = 200
	var got []string
	f := serve(t, 0, func() *exchange {
		return &exchange{handle: func(x *exchange, m *message.Request) {
			got = append(got, string(m.Body)) // never at the same time, so the race detector has nothing to say
			if len(got)%3 == 0 {
				x.pass(m)
				return
			}
			go x.pass(m)
		}}
	})
	s, _ := open(t, f.client())
	for i := range n {
		if err := s.Send(body(fmt.Append(nil, i), false)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	answers := 0
	for {
		if _, err := s.Recv(); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		answers++
	}
	if answers != n || len(got) != n {
		t.Fatalf("%d messages seen and %d answered of %d", len(got), answers, n)
	}
	for i, b := range got {
		if b != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, b)
		}
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		open func() *exchange
		do   func(t *testing.T, s extprocv3.ExternalProcessor_ProcessClient) error
		want codes.Code
		text string
	}{
		"a reply with an error": {
			func() *exchange {
				return &exchange{handle: func(x *exchange, _ *message.Request) { x.reply(nil, errors.New("withheld: 100 %\n")) }}
			},
			func(_ *testing.T, s extprocv3.ExternalProcessor_ProcessClient) error {
				_, err := talk(s, headers())
				return err
			},
			codes.Aborted, "withheld: 100 %\n",
		},
		"an error that comes later, after an answer": {
			func() *exchange {
				return &exchange{handle: func(x *exchange, m *message.Request) {
					if m.Kind == message.RequestHeaders {
						x.pass(m)
						return
					}
					go x.reply(nil, status.Error(codes.Internal, "fault"))
				}}
			},
			func(_ *testing.T, s extprocv3.ExternalProcessor_ProcessClient) error {
				_, err := talk(s, headers(), body(nil, true))
				return err
			},
			codes.Internal, "fault",
		},
		"an end that must not be clean": {
			func() *exchange {
				return &exchange{end: func(error) error { return status.Error(codes.Aborted, "before a verdict") }}
			},
			func(_ *testing.T, s extprocv3.ExternalProcessor_ProcessClient) error {
				_ = s.CloseSend()
				_, err := s.Recv()
				return err
			},
			codes.Aborted, "before a verdict",
		},
		"a message that is none": {
			plain,
			func(_ *testing.T, s extprocv3.ExternalProcessor_ProcessClient) error {
				_, err := talk(s, &extprocv3.ProcessingRequest{})
				return err
			},
			codes.Aborted, "there is no message",
		},
		"a message that is too large": {
			plain,
			func(_ *testing.T, s extprocv3.ExternalProcessor_ProcessClient) error {
				_, err := talk(s, body(make([]byte, 5<<20), true))
				return err
			},
			codes.ResourceExhausted, "the limit is 4194304",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, 0, tc.open)
			s, _ := open(t, f.client())
			err := tc.do(t, s)
			if status.Code(err) != tc.want || !strings.Contains(status.Convert(err).Message(), tc.text) {
				t.Errorf("ends with %v, want %v %q", err, tc.want, tc.text)
			}
			// The connection is as good as before.
			again, _ := open(t, f.client())
			_ = again.CloseSend()
		})
	}
}

// What Envoy gives up ends for the exchange too, once, and only when it is done with the message that it has.
func TestReset(t *testing.T) {
	t.Parallel()
	atWork, why := make(chan struct{}), make(chan error, 1)
	f := serve(t, 0, func() *exchange {
		return &exchange{
			handle: func(x *exchange, m *message.Request) {
				go func() {
					close(atWork)
					<-x.s.Context().Done()
					x.pass(m)
				}()
			},
			end: func(err error) error { why <- err; return err },
		}
	})
	s, cancel := open(t, f.client())
	if err := s.Send(headers()); err != nil {
		t.Fatal(err)
	}
	<-atWork
	cancel()
	select {
	case err := <-why:
		if errors.Is(err, io.EOF) || !errors.Is(err, errGone) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("never ended")
	}
}

func TestConnectionLost(t *testing.T) {
	t.Parallel()
	const n = 50
	var waiting sync.WaitGroup
	waiting.Add(n)
	ends := make(chan error, n)
	f := serve(t, 0, func() *exchange {
		return &exchange{
			handle: func(x *exchange, m *message.Request) {
				x.pass(m)
				waiting.Done()
			},
			end: func(err error) error { ends <- err; return err },
		}
	})
	cc := f.client()
	for range n {
		s, _ := open(t, cc)
		if err := s.Send(headers()); err != nil {
			t.Fatal(err)
		}
	}
	waiting.Wait()
	_ = cc.Close()
	for range n {
		select {
		case err := <-ends:
			if errors.Is(err, io.EOF) {
				t.Error("a lost connection looks like a clean end")
			}
		case <-time.After(patience):
			t.Fatal("a stream never ended")
		}
	}
}

// A server that is to end lets the open streams finish, within its grace.
func TestDrain(t *testing.T) {
	t.Parallel()
	f := serve(t, patience, plain)
	s, _ := open(t, f.client())
	mustTalk(t, s, headers())
	f.stop()
	mustTalk(t, s, body([]byte("still here"), true))
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("ends with %v", err)
	}
	if _, err := net.Dial("unix", f.socket); err == nil {
		t.Error("still listening")
	}
}

func TestDrainEnds(t *testing.T) {
	t.Parallel()
	f := serve(t, 50*time.Millisecond, plain)
	s, _ := open(t, f.client())
	mustTalk(t, s, headers())
	f.stop()
	if _, err := s.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a stream that was cut off ends with %v", err)
	}
}

func TestOtherMethods(t *testing.T) {
	t.Parallel()
	f := serve(t, 0, plain)
	cc := f.client()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h, err := healthv1.NewHealthClient(cc).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	if h, err = healthv1.NewHealthClient(cc).Check(ctx, &healthv1.HealthCheckRequest{Service: "x"}); err != nil {
		t.Errorf("health of a service: %v, %v", h, err)
	}
	err = cc.Invoke(ctx, "/x.Y/Z", &healthv1.HealthCheckRequest{}, &healthv1.HealthCheckResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("another method: %v", err)
	}
}

func TestGrpcMessageIsEncoded(t *testing.T) {
	t.Parallel()
	if got := percent("a%b\nß"); got != "a%25b%0A%C3%9F" {
		t.Errorf("%q", got)
	}
	long := trailers(codes.Aborted, strings.Repeat("x", 5000))
	if len(long) > 3*maxText+64 {
		t.Errorf("%d bytes of trailers", len(long))
	}
	if !bytes.Contains(literal(strings.Repeat("y", 300)), []byte{127, 0xad, 0x01, 'y'}) { // RFC 7541, 5.1: 127 + 173
		t.Error("a long literal's length is wrong")
	}
}

// An exchange may end its stream while nothing is asked, or while it is at work; then its answer is still given.
func TestAbort(t *testing.T) {
	t.Parallel()
	for name, atWork := range map[string]bool{"idle": false, "at work": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			why := make(chan error, 1)
			wish := errors.New("the exchange's own wish")
			f := serve(t, 0, func() *exchange {
				return &exchange{
					handle: func(x *exchange, m *message.Request) {
						go func() {
							if atWork {
								x.s.Abort(wish)
							}
							x.pass(m)
							if !atWork {
								x.s.Abort(wish)
							}
							x.s.Abort(errors.New("again"))
						}()
					},
					end: func(err error) error { why <- err; return err },
				}
			})
			s, _ := open(t, f.client())
			if err := s.Send(headers()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); err != nil {
				t.Fatalf("not answered: %v", err)
			}
			if _, err := s.Recv(); status.Code(err) != codes.Aborted || !strings.Contains(err.Error(), "own wish") {
				t.Errorf("ended with %v", err)
			}
			if err := <-why; !errors.Is(err, wish) {
				t.Errorf("the exchange was told %v", err)
			}
		})
	}
}
