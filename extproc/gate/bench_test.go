package gate

import (
	"context"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	"sallyport/extproc/message"
	"sallyport/extproc/server"
	"sallyport/signer/client"
	"sallyport/signer/record"
	"sallyport/signer/token"
)

// quick records nothing and waits for nothing, so that what is measured is the gate.
type quick struct{ *recorder }

func (q quick) Begin(context.Context, *record.Intent) func(context.Context) error {
	return func(context.Context) error { return nil }
}
func (q quick) Complete(context.Context, *record.Intent, *record.Completion) error { return nil }
func (q quick) Trust() *client.Trust                                               { return q.recorder.Trust() }

// loop is a stream that puts every answer into one buffer.
type loop struct {
	answered chan error
	out      []byte
}

func (l *loop) Context() context.Context { return context.Background() }
func (l *loop) Abort(error)              {}
func (l *loop) Reply(r *message.Response, err error) {
	if err == nil {
		l.out = r.Append(l.out[:0])
	}
	l.answered <- err
}

// BenchmarkExchange is one call's four messages, from their bytes to the answers' bytes: everything that the gate itself
// does for a small chat completion of a job with a known token, and no waiting for signer or Redis.
func BenchmarkExchange(b *testing.B) {
	f := newFixture(b, func(c *Config) { c.Binding = []string{BindRunID} })
	f.gate.cfg.Signer = quick{f.recorder}
	tok := f.token(func(c *token.Claims) { c.MissionID = "job-1" })
	head := chat(tok, "accept", "application/json", "user-agent", "bench", "x-forwarded-proto", "http", "content-length", "35", runIDHeader, "run-1")
	answer := `{"id":"1","object":"chat.completion","model":"gpt-small","choices":[{"index":0,"message":{"role":"assistant","content":"` +
		string(make([]byte, 800)) + `"}}],"usage":{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350}}`
	var messages [][]byte
	for _, m := range []*extprocv3.ProcessingRequest{head, requestBody(goodBody), ok(), responseBody(answer, true)} {
		raw, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		messages = append(messages, raw)
	}
	l := &loop{answered: make(chan error, 1)}
	var x server.Exchange
	b.ReportAllocs()
	for b.Loop() {
		x = f.gate.Open(l)
		for _, raw := range messages {
			m, err := message.Parse(raw)
			if err != nil {
				b.Fatal(err)
			}
			x.Handle(m)
			if err := <-l.answered; err != nil {
				b.Fatal(err)
			}
		}
		if err := x.End(nil); err != nil {
			b.Fatal(err)
		}
	}
	if f.metric("sallyport_calls_settled_total", "completed") == 0 {
		b.Fatal("nothing was settled")
	}
}
