package gate

import (
	"context"
	"fmt"
	"hash"
	"runtime/debug"

	"sallyport/extproc/dialect"
	"sallyport/extproc/server"
	"sallyport/signer/client"
	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/record"
	"sallyport/signer/token"
)

// phase is how far an exchange is. It only moves forward.
type phase int

const (
	phaseNew      phase = iota // nothing seen
	phaseBody                  // the token is good, the body is awaited
	phaseTunnel                // a tunnel is open; what goes through it comes back by the inner door
	phaseRefused               // a refusal was given
	phaseUpstream              // the verdict is allow, the intent is recorded, the request leaves
	phaseAnswer                // the upstream's headers came
	phaseSettled               // the receipt is recorded
)

func (p phase) String() string {
	return [...]string{"new", "body", "tunnel", "refused", "upstream", "answer", "settled"}[p]
}

// verdictGiven tells whether Envoy was told what to do with the request.
func (p phase) verdictGiven() bool { return p >= phaseTunnel }

// exchange is one request and its answer. One goroutine at a time owns it; what it shares with others is immutable.
type exchange struct {
	gate   *Gate
	stream server.Stream
	id     string
	phase  phase

	from     origin
	req      *request
	to       place // that it is for, at the forward doors
	dest     *destination
	raw      string        // the token as it came
	trust    *client.Trust // the snapshot the exchange began with
	token    *token.Token
	contract *contract.Contract

	intent *record.Intent
	idem   *idempotency // nil without an X-Idempotency-Key
	sum    hash.Hash    // over the answer's raw bytes
	meter  dialect.Meter
	answer record.Completion
	// localReply: the answer is Envoy's own and already recorded; its body passes unmeasured.
	localReply bool
	refusal    record.Refusal // filled as far as the call was understood
}

func newExchange(g *Gate) *exchange {
	return &exchange{gate: g, id: newID("rcpt_")}
}

// close settles an exchange whose stream has ended. A call that left and was not completed is recorded as cut; the
// recording goes on in the background, since nobody waits for it and the goroutine belongs to the connection.
func (x *exchange) close() {
	switch x.phase {
	case phaseUpstream, phaseAnswer:
		x.gate.metrics.cut.Inc()
		go x.recordCut("the stream ended before the answer was complete")
	case phaseNew, phaseBody:
		// The client went away before it was answered: nothing left, and nothing was refused.
		x.gate.metrics.abandoned.Inc()
	case phaseTunnel, phaseRefused, phaseSettled:
	}
}

func (x *exchange) recordCut(reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), cutTimeout)
	defer cancel()
	// One call's fault must not end the process, and with it all other calls.
	defer func() {
		if p := recover(); p != nil {
			x.gate.metrics.panics.Inc()
			x.gate.cfg.Log.Error("recording a cut call panicked", "receipt", x.intent.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	c := x.completion(record.Cut, reason)
	if err := x.gate.cfg.Signer.Complete(ctx, x.intent, c); err != nil {
		// The intent is in the log: the signer itself will mark it as cut when it recovers.
		x.gate.cfg.Log.Error("a cut call could not be recorded", "receipt", x.intent.ID, "error", err)
	}
	x.settleIdempotency(ctx, c)
}

// deny notes the code for the log, the metric and the evidence. It does not answer.
func (x *exchange) deny(d *code.Denial) {
	info := code.Lookup(d.Code)
	x.phase = phaseRefused
	x.gate.metrics.decisions.WithLabelValues("deny", string(d.Code)).Inc()
	r := x.refusal
	r.ID, r.TimeMS = newID("dec_"), x.gate.cfg.Now().UnixMilli()
	r.Code, r.Status, r.Detail = string(d.Code), info.Status, d.Detail
	x.id = r.ID
	x.gate.cfg.Signer.Refuse(&r)
	ok, left := x.gate.lines.write(x.gate.cfg.Now())
	if left > 0 {
		x.gate.cfg.Log.Warn("more was refused than is shown here one by one; all of it is in the evidence", "left_out", left)
	}
	if ok {
		x.gate.cfg.Log.Info("refused", "decision", r.ID, "code", r.Code, "status", r.Status, "detail", r.Detail,
			"method", r.Method, "path", r.Path, "provider", r.Provider, "model", r.Model, "policy_hash", r.PolicyHash, "peer", r.Peer)
	}
}
