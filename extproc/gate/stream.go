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

// errLater says that a message's answer has to wait for something: the signer, Redis, the registry, a source of secrets.
var errLater = errors.New("answered later")

// Open begins an exchange. What a message means is the exchange's business; here it is only carried: what can be
// answered at once is, and what has to wait goes on in a goroutine of its own.
func (g *Gate) Open(s server.Stream) server.Exchange {
	x := newExchange(g)
	x.stream = s
	return x
}

// Handle answers a message, now or later.
func (x *exchange) Handle(m *message.Request) {
	x.reply(m, x.handle)
}

// Later answers a message that had to wait.
func (x *exchange) later(m *message.Request) {
	x.reply(m, func(m *message.Request) (*message.Response, error) { return x.wait(x.stream.Context(), m) })
}

func (x *exchange) reply(m *message.Request, answer func(*message.Request) (*message.Response, error)) {
	r, err := x.guarded(m, answer)
	switch {
	case errors.Is(err, errLater):
		x.gate.workers.run(x, m)
		return
	case err != nil && status.Code(err) == codes.Unknown:
		err = status.Error(codes.Aborted, err.Error())
	}
	x.stream.Reply(r, err)
}

// guarded refuses where an internal fault still lets a refusal be said, and withholds the answer where not.
func (x *exchange) guarded(m *message.Request, answer func(*message.Request) (*message.Response, error)) (r *message.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			x.gate.metrics.panics.Inc()
			x.gate.cfg.Log.Error("exchange panicked; the call does not pass", "exchange", x.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			r, err = x.panicked()
		}
	}()
	return answer(m)
}

func (x *exchange) panicked() (r *message.Response, err error) {
	fault := status.Error(codes.Internal, "internal fault")
	defer func() {
		if recover() != nil { // the refusal panics too
			r, err = nil, fault
		}
	}()
	if x.phase.verdictGiven() {
		return nil, fault
	}
	return x.refuse(code.Deny(code.GateInternal, "")), nil
}

// End settles the exchange. It never lets a stream end cleanly before a verdict: Envoy takes a clean close as "go on
// unchanged", even with failure_mode_allow false (1.40.0, measured). The guard filter behind ext_proc would still stop
// the request.
func (x *exchange) End(why error) error {
	before := !x.phase.verdictGiven()
	x.withdrawn = x.withdrawn || errors.Is(why, errWithdrawn)
	x.expired = errors.Is(why, errExpired)
	x.close()
	switch {
	case errors.Is(why, io.EOF) && before:
		return status.Error(codes.Aborted, "stream ended before a verdict")
	case errors.Is(why, io.EOF):
		// Neither this nor a reset tells success from abort; the exchange has settled by its own phase.
		return nil
	case errors.Is(why, message.ErrMalformed):
		return status.Error(codes.Aborted, x.outOfTurn(why.Error()).Error())
	}
	return why
}

// handle is the exchange's one entry: a message of Envoy's, in the phase that the exchange is in. It does not wait.
func (x *exchange) handle(m *message.Request) (*message.Response, error) {
	switch {
	case m.Kind == message.RequestHeaders && x.phase == phaseNew:
		return x.requestHeaders(m)
	case m.Kind == message.RequestBody && x.phase == phaseBody:
		return nil, errLater
	case m.Kind == message.ResponseHeaders && !x.phase.verdictGiven():
		return x.refusedByEnvoy(m)
	case m.Kind == message.ResponseHeaders && x.phase == phaseUpstream:
		return x.responseHeaders(m)
	case x.phase == phaseTunnel:
		return goOn(m.Kind), nil // Envoy was told to show nothing more; nothing of it is decided here
	case m.Kind == message.ResponseBody && x.localReply, m.Kind == message.ResponseTrailers && x.localReply:
		return goOn(m.Kind), nil
	case m.Kind == message.ResponseBody && x.phase == phaseAnswer:
		return x.responseBody(m)
	case m.Kind == message.ResponseTrailers && x.phase == phaseAnswer:
		return nil, errLater
	}
	return nil, x.outOfTurn(m.Kind.String())
}

// wait is the rest of handle, for what has to wait.
func (x *exchange) wait(ctx context.Context, m *message.Request) (*message.Response, error) {
	switch m.Kind {
	case message.RequestHeaders, message.RequestBody:
		return x.decide(ctx, m), nil
	case message.ResponseHeaders:
		if x.localReply {
			return x.localAnswer(m)
		}
		return x.answered(), x.settle()
	case message.ResponseBody:
		if err := x.sealAnswer(ctx, m.Body); err != nil {
			return nil, err
		}
		if !m.EndOfStream {
			return x.passChunk(m)
		}
		return x.passLast(m)
	case message.ResponseTrailers:
		if err := x.scrubTrailers(m); err != nil {
			return nil, err
		}
		if x.tools != nil || x.handing != nil && len(x.handing.held) > 0 {
			return nil, fmt.Errorf("%w: trailers follow an answer whose end is held back", errWithheld)
		}
		return goOn(m.Kind), x.settle()
	case message.RequestTrailers: // never asked for
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
