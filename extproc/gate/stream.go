package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/extproc/message"
	"sallyport/extproc/server"
	"sallyport/signer/code"
)

// errWithheld ends a stream whose answer must not be released in full. Envoy resets the client's connection on it.
var errWithheld = errors.New("answer withheld")

// Process carries one exchange. It only translates: what a message means is the exchange's business.
//
// It never returns nil before a verdict: Envoy takes a clean close as "go on unchanged", even with failure_mode_allow
// false (1.40.0, measured). The guard filter behind ext_proc would still stop the request.
func (g *Gate) Process(stream server.Stream) (err error) {
	x := newExchange(g)
	defer func() {
		if p := recover(); p != nil {
			g.metrics.panics.Inc()
			g.cfg.Log.Error("exchange panicked; the call does not pass", "exchange", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = x.panicked(stream)
		}
		x.close()
	}()
	for {
		req, err := stream.Recv()
		if err != nil {
			return streamEnd(x, err)
		}
		resp, err := x.handle(stream.Context(), req)
		if err != nil {
			return status.Error(codes.Aborted, err.Error())
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// streamEnd is what to return when Envoy has no more to say. Neither EOF nor cancellation tells success from abort, so
// the exchange settles by its own phase, in close.
func streamEnd(x *exchange, err error) error {
	if errors.Is(err, io.EOF) && x.phase.verdictGiven() {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Aborted, "stream ended before a verdict")
	}
	if errors.Is(err, message.ErrMalformed) {
		return status.Error(codes.Aborted, x.outOfTurn(err.Error()).Error())
	}
	return err
}

// panicked refuses where a refusal can still be said, and withholds the answer where not.
func (x *exchange) panicked(stream server.Stream) (err error) {
	defer func() {
		if recover() != nil { // the refusal panics too
			err = status.Error(codes.Internal, "internal fault")
		}
	}()
	if !x.phase.verdictGiven() {
		if err := stream.Send(x.refuse(code.Deny(code.GateInternal, ""))); err == nil {
			return nil
		}
	}
	return status.Error(codes.Internal, "internal fault")
}

// handle is the exchange's one entry: a message of Envoy's, in the phase that the exchange is in.
func (x *exchange) handle(ctx context.Context, m *message.Request) (*message.Response, error) {
	switch {
	case m.Kind == message.RequestHeaders && x.phase == phaseNew:
		return x.requestHeaders(ctx, m), nil
	case m.Kind == message.RequestBody && x.phase == phaseBody:
		return x.requestBody(ctx, m), nil
	case m.Kind == message.ResponseHeaders && !x.phase.verdictGiven():
		return x.refusedByEnvoy(m)
	case m.Kind == message.ResponseHeaders && x.phase == phaseUpstream:
		return x.responseHeaders(ctx, m)
	case m.Kind == message.ResponseBody && x.localReply, m.Kind == message.ResponseTrailers && x.localReply:
		return goOn(m.Kind), nil
	case m.Kind == message.ResponseBody && x.phase == phaseAnswer:
		return x.responseBody(ctx, m)
	case m.Kind == message.ResponseTrailers && x.phase == phaseAnswer:
		return x.responseTrailers(ctx)
	}
	return nil, x.outOfTurn(m.Kind.String())
}

// goOn lets a message pass unchanged.
func goOn(k message.Kind) *message.Response { return &message.Response{Answer: k} }

// outOfTurn is a message that the configured processing mode does not send; answering it as if it were another would
// be a guess about what Envoy lets through.
func (x *exchange) outOfTurn(what string) error {
	x.gate.cfg.Log.Error("message out of turn; the call does not pass", "exchange", x.id, "message", what, "phase", x.phase)
	return fmt.Errorf("%s in phase %s", what, x.phase)
}
