package gate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync/atomic"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport/extproc/message"
	"sallyport/extproc/server"
	"sallyport/signer/code"
)

// talk is one stream of Envoy's, in memory. Its messages are of the generated types and cross to the gate as bytes, so
// that what the gate reads and writes by itself is held against those.
type talk struct {
	f      *fixture
	x      server.Exchange
	ctx    context.Context
	cancel context.CancelFunc
	out    chan *extprocv3.ProcessingResponse
	ended  chan error
	broken atomic.Bool // answers do not arrive
	gone   atomic.Bool // Envoy has hung up while the gate was at work
}

func (k *talk) Context() context.Context { return k.ctx }

var errGone = errors.New("the stream is gone")

// Reply does what the server does with an answer.
func (k *talk) Reply(answer *message.Response, err error) {
	switch {
	case err == nil && (k.broken.Load() || k.gone.Load()):
		err = errGone
	case err == nil:
		r := new(extprocv3.ProcessingResponse)
		if err := proto.Unmarshal(answer.Append(nil), r); err != nil {
			panic(err)
		}
		k.f.journal.add("answer " + kindOf(r))
		k.out <- r
		return
	}
	k.ended <- k.x.End(err)
}

// Abort does what the server does while no message is with the exchange.
func (k *talk) Abort(err error) { k.ended <- k.x.End(err) }

func kindOf(r *extprocv3.ProcessingResponse) string {
	switch r.GetResponse().(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		return "request headers"
	case *extprocv3.ProcessingResponse_RequestBody:
		return "request body"
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		return "response headers"
	case *extprocv3.ProcessingResponse_ResponseBody:
		return "response body"
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		return "response trailers"
	case *extprocv3.ProcessingResponse_ImmediateResponse:
		return "refusal"
	}
	return "nothing"
}

// open begins a stream.
func (f *fixture) open() *talk {
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	k := &talk{f: f, ctx: ctx, cancel: cancel, out: make(chan *extprocv3.ProcessingResponse, 1), ended: make(chan error, 1)}
	k.x = f.gate.Open(k)
	return k
}

// send hands over a message and waits for its answer or for the end of the stream.
func (k *talk) send(m *extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
	k.f.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		k.f.t.Fatal(err)
	}
	if r, err := message.Parse(b); err != nil {
		k.ended <- k.x.End(err)
	} else {
		k.x.Handle(r)
	}
	select {
	case r := <-k.out:
		return r, nil
	case err := <-k.ended:
		select {
		case r := <-k.out: // answered and then ended
			k.ended <- err
			return r, nil
		default:
			return nil, err
		}
	case <-time.After(patience):
		k.f.t.Fatal("the gate does not answer")
	}
	return nil, nil
}

// must is send where the stream must go on with that kind of answer.
func (k *talk) must(kind string, m *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	k.f.t.Helper()
	r, err := k.send(m)
	if err != nil || kindOf(r) != kind {
		k.f.t.Fatalf("answered %q, %v; want %q: %v", kindOf(r), err, kind, r)
	}
	return r
}

// mustEnd is send where the stream must end without an answer, and not cleanly.
func (k *talk) mustEnd(m *extprocv3.ProcessingRequest) error {
	k.f.t.Helper()
	r, err := k.send(m)
	if r != nil || err == nil {
		k.f.t.Fatalf("answered %q, %v; want the stream to fail", kindOf(r), err)
	}
	return err
}

// mustRefuse is send where the call must be refused with the code.
func (k *talk) mustRefuse(want code.Code, m *extprocv3.ProcessingRequest) *extprocv3.ImmediateResponse {
	k.f.t.Helper()
	im := k.must("refusal", m).GetImmediateResponse()
	var body struct{ Error struct{ Code code.Code } }
	if err := json.Unmarshal(im.GetBody(), &body); err != nil {
		k.f.t.Fatal(err)
	}
	if info := code.Lookup(want); body.Error.Code != want || int(im.GetStatus().GetCode()) != info.Status {
		k.f.t.Fatalf("refused with %d %s, want %d %s: %s", im.GetStatus().GetCode(), body.Error.Code, info.Status, want, im.GetBody())
	}
	return im
}

// end is Envoy's closing of the stream; it returns the stream's status.
func (k *talk) end() error {
	k.f.t.Helper()
	k.ended <- k.x.End(io.EOF)
	return k.result()
}

// hangUp is Envoy's giving up while nothing is asked.
func (k *talk) hangUp() error {
	k.f.t.Helper()
	k.cancel()
	k.ended <- k.x.End(errGone)
	return k.result()
}

// hangUpMeanwhile is the same while the gate is at work.
func (k *talk) hangUpMeanwhile() {
	k.gone.Store(true)
	k.cancel()
}

func (k *talk) result() error {
	k.f.t.Helper()
	select {
	case err := <-k.ended:
		return err
	case <-time.After(patience):
		k.f.t.Fatal("the exchange does not end")
		return nil
	}
}

// The messages of Envoy.

func requestHeaders(last bool, nameValue ...string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{
		Request:    &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: headersOf(nameValue...), EndOfStream: last}},
		Attributes: attributes("source.address", "192.0.2.7:4711"),
	}
}

func requestBody(body string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte(body), EndOfStream: true}}}
}

func responseHeaders(last bool, details string, nameValue ...string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{
		Request:    &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{Headers: headersOf(nameValue...), EndOfStream: last}},
		Attributes: attributes("response.code_details", details),
	}
}

func responseBody(chunk string, last bool) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: []byte(chunk), EndOfStream: last}}}
}

func responseTrailers() *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}}
}

func attributes(name, value string) map[string]*structpb.Struct {
	return map[string]*structpb.Struct{"envoy.filters.http.ext_proc": {Fields: map[string]*structpb.Value{name: structpb.NewStringValue(value)}}}
}

const goodBody = `{"model":"gpt-small","messages":[]}`

// chat is the headers of a chat call with a body to come.
func chat(tok string, more ...string) *extprocv3.ProcessingRequest {
	return requestHeaders(false, append([]string{
		":method", "POST", ":path", "/openai/v1/chat/completions?key=" + tok + "&trace=1", ":authority", "gate.example",
		"authorization", "Bearer " + tok, "content-type", "application/json",
	}, more...)...)
}

func ok() *extprocv3.ProcessingRequest {
	return responseHeaders(false, viaUpstream, ":status", "200", "content-type", "application/json")
}

// allowed opens a stream and brings it to the verdict allow.
func (f *fixture) allowed(more ...string) *talk {
	f.t.Helper()
	k := f.open()
	k.must("request headers", chat(f.token(), more...))
	k.must("request body", requestBody(goodBody))
	return k
}
