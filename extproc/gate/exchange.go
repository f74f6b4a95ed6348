package gate

import (
	"context"
	"fmt"
	"hash"
	"runtime/debug"

	"sallyport/extproc/dialect"
	"sallyport/extproc/mcp"
	"sallyport/extproc/message"
	"sallyport/extproc/scrub"
	"sallyport/extproc/server"
	"sallyport/signer/client"
	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/record"
	"sallyport/signer/token"
)

// phase is how far an exchange is. It only moves forward.
type phase int

const (
	phaseNew      phase = iota // nothing seen
	phaseBody                  // the token is good, the body is awaited
	phaseTunnel                // a tunnel is open; what goes through it comes back by the inner door
	phaseServed                // the gateway itself answered
	phaseRefused               // a refusal was given
	phaseUpstream              // the verdict is allow, the intent is recorded, the request leaves
	phaseAnswer                // the upstream's headers came
	phaseSettled               // the receipt is recorded
)

func (p phase) String() string {
	return [...]string{"new", "body", "tunnel", "served", "refused", "upstream", "answer", "settled"}[p]
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
	sealer *seal.Sealer // of the answer's body; nil where only its hash is kept
	answer record.Completion
	// handing puts the receipt into the answer; nil where only its id goes with it.
	handing *handing
	// message is what is asked of an MCP server; nil before the body is read, and where there is none.
	message *mcp.Message
	// tools keeps what a server of tools answers to what the contract allows.
	tools *mcp.Answer
	// lent: the call was given a credential. echo masks it in the answer (nil where it is too short to be looked for), masked
	// are the headers that echoed it, and replaced says of the chunk at hand that it is not as it came.
	lent     bool
	echo     *scrub.Scrubber
	masked   []message.Header
	replaced bool
	// receiptOf is the nonce of the call whose receipt is asked for.
	receiptOf string
	// unread is how a tunnel is inspected that passes unread (contract.InspectSNI, InspectNone), or webSocket; "" for
	// anything else.
	unread string
	// withdrawn: the token was, so that what was under way is cut.
	withdrawn bool
	// expired: the token did while the tunnel was open.
	expired bool
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
	if x.unread != "" {
		x.gate.watch.remove(x)
	}
	switch x.phase {
	case phaseUpstream, phaseAnswer:
		c := x.interrupted()
		if c.Outcome == record.Cut {
			x.gate.metrics.cut.Inc()
		}
		go x.recordEnd(c)
	case phaseNew, phaseBody:
		// The client went away before it was answered: nothing left, and nothing was refused.
		x.gate.metrics.abandoned.Inc()
	case phaseTunnel, phaseServed, phaseRefused, phaseSettled:
	}
}

// interrupted is how a call ended whose stream ended before its answer did. Tunnels end so all the time.
func (x *exchange) interrupted() *record.Completion {
	switch {
	case x.withdrawn:
		return x.completion(record.Cut, "the token was withdrawn while the answer came")
	case x.expired:
		return x.completion(record.Cut, errExpired.Error())
	case x.unread != "":
		return x.passed()
	}
	return x.completion(record.Cut, "the stream ended before the answer was complete")
}

func (x *exchange) recordCut(reason string) { x.recordEnd(x.completion(record.Cut, reason)) }

// recordEnd records a call that nobody waits for any more.
func (x *exchange) recordEnd(c *record.Completion) {
	ctx, cancel := context.WithTimeout(context.Background(), cutTimeout)
	defer cancel()
	// One call's fault must not end the process, and with it all other calls.
	defer func() {
		if p := recover(); p != nil {
			x.gate.metrics.panics.Inc()
			x.gate.cfg.Log.Error("recording the end of a call panicked", "receipt", x.intent.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	if err := x.sealEnd(ctx); err != nil {
		x.gate.cfg.Log.Error("the end of a cut answer could not be sealed", "receipt", x.intent.ID, "error", err)
	}
	if err := x.gate.cfg.Signer.Complete(ctx, x.intent, c); err != nil {
		// The intent is in the log: the signer itself will mark it as cut when it recovers.
		x.gate.cfg.Log.Error("the end of a call could not be recorded", "receipt", x.intent.ID, "error", err)
	} else if c.Outcome == record.Completed { // a tunnel that its client ended
		x.dest.observed.settled(c)
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
