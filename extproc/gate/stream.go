package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport/signer/code"
)

// errWithheld ends a stream whose answer must not be released in full. Envoy resets the client's connection on it.
var errWithheld = errors.New("answer withheld")

// Process carries one exchange. It only translates: what a message means is the exchange's business.
//
// It never returns nil before a verdict: Envoy takes a clean close as "go on unchanged", even with failure_mode_allow
// false (1.40.0, measured). The guard filter behind ext_proc would still stop the request.
func (g *Gate) Process(stream extprocv3.ExternalProcessor_ProcessServer) (err error) {
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
	return err
}

// panicked refuses where a refusal can still be said, and withholds the answer where not.
func (x *exchange) panicked(stream extprocv3.ExternalProcessor_ProcessServer) (err error) {
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
func (x *exchange) handle(ctx context.Context, req *extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
	switch m := req.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		if x.phase != phaseNew {
			return nil, x.outOfTurn("request headers")
		}
		return x.requestHeaders(ctx, req, m.RequestHeaders), nil
	case *extprocv3.ProcessingRequest_RequestBody:
		if x.phase != phaseBody {
			return nil, x.outOfTurn("request body")
		}
		return x.requestBody(ctx, m.RequestBody), nil
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		if !x.phase.verdictGiven() {
			return x.refusedByEnvoy(req, m.ResponseHeaders)
		}
		if x.phase != phaseUpstream {
			return nil, x.outOfTurn("response headers")
		}
		return x.responseHeaders(ctx, req, m.ResponseHeaders)
	case *extprocv3.ProcessingRequest_ResponseBody:
		if x.localReply {
			return passResponseBody(), nil
		}
		if x.phase != phaseAnswer {
			return nil, x.outOfTurn("response body")
		}
		return x.responseBody(ctx, m.ResponseBody)
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		if x.localReply {
			return passResponseTrailers(), nil
		}
		if x.phase != phaseAnswer {
			return nil, x.outOfTurn("response trailers")
		}
		return x.responseTrailers(ctx)
	default:
		return nil, x.outOfTurn(fmt.Sprintf("%T", m))
	}
}

// outOfTurn is a message that the configured processing mode does not send; answering it as if it were another would
// be a guess about what Envoy lets through.
func (x *exchange) outOfTurn(what string) error {
	x.gate.cfg.Log.Error("message out of turn; the call does not pass", "exchange", x.id, "message", what, "phase", x.phase)
	return fmt.Errorf("%s in phase %s", what, x.phase)
}
