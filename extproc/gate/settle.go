package gate

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// codeDetails is the attribute in which Envoy says where an answer came from.
const codeDetails = "response.code_details"

// viaUpstream is Envoy's response code detail for an answer that really came from the upstream; any other is Envoy's own.
const viaUpstream = "via_upstream"

// responseHeaders starts the answer: from here on its raw bytes are hashed and measured as they pass.
func (x *exchange) responseHeaders(m *message.Request) (*message.Response, error) {
	x.phase = phaseAnswer
	x.sum = sha256.New()
	x.answer.Status, _ = strconv.Atoi(m.Header(":status"))
	x.answer.TTFBMS = x.elapsedMS()
	if details := m.Attribute(codeDetails); details != "" && details != viaUpstream {
		x.answer.Status = 0
		x.localReply = true
		return nil, errLater
	}
	if err := x.scrubHeaders(m); err != nil {
		return nil, err
	}
	if x.socket() && m.Header(":status") == statusSwitching {
		return x.switched(), nil
	}
	if !x.dest.egress() {
		x.meter = x.dest.dialect.NewMeter(m.Header("content-type"))
	}
	if x.dest.mcp() {
		if err := x.judgeAnswer(m); err != nil {
			return nil, err
		}
	}
	if m.EndOfStream {
		return nil, errLater
	}
	return x.beginAnswer(m), nil
}

// beginAnswer lets the upstream's headers pass.
func (x *exchange) beginAnswer(m *message.Request) *message.Response {
	r := x.answered()
	if x.handing = x.newHanding(m); x.handing != nil || x.tools != nil {
		r.Mutation.Remove = append(r.Mutation.Remove, "content-length")
	}
	return r
}

// answered lets the upstream's headers pass with the receipt's id, and without echoes.
func (x *exchange) answered() *message.Response {
	r := withHeader(receiptHeader, x.id)
	r.Mutation.Set = append(r.Mutation.Set, x.masked...)
	return r
}

// localAnswer is Envoy's own answer to an allowed call (no route, upstream unreachable, time out): recorded as cut with
// Envoy's reason, and passed on as it is.
func (x *exchange) localAnswer(m *message.Request) (*message.Response, error) {
	if err := x.record(x.completion(record.Cut, "envoy: "+clip(m.Attribute(codeDetails)))); err != nil {
		return nil, err
	}
	x.gate.metrics.cut.Inc()
	r := withHeader(receiptHeader, x.id)
	r.SkipResponseBody = true
	return r, nil
}

// withHeader lets the headers of an answer pass with one more.
func withHeader(name, value string) *message.Response {
	return &message.Response{Answer: message.ResponseHeaders, Mutation: &message.Mutation{Set: []message.Header{{Name: name, Value: value}}}}
}

// responseBody hashes and measures one chunk. The last one is held until the receipt is as durable as promised.
func (x *exchange) responseBody(m *message.Request) (*message.Response, error) {
	if d := x.stillTrusted(); d != nil {
		x.withdrawn = true
		// close records the cut; Envoy resets the client's connection, so nothing more is released.
		x.gate.cfg.Log.Warn("open answer cut", "receipt", x.id, "code", d.Code)
		return nil, fmt.Errorf("%w: %s", errWithheld, d.Code)
	}
	x.scrubBody(m)
	x.sum.Write(m.Body)
	if x.meter != nil {
		x.meter.Write(m.Body)
	}
	x.answer.ResponseBytes += int64(len(m.Body))
	if m.EndOfStream || x.sealer != nil {
		return nil, errLater
	}
	return x.passChunk(m)
}

// passChunk lets a chunk of the answer on, as far as it may go before the end is known.
func (x *exchange) passChunk(m *message.Request) (*message.Response, error) {
	switch {
	case x.tools != nil:
		return x.toolChunk(m, x.tools.Pass)
	case x.handing != nil:
		return &message.Response{Answer: m.Kind, Body: &message.Body{Bytes: x.handing.pass(m.Body)}}, nil
	}
	return x.onward(m), nil
}

// passLast settles the call, and lets the last chunk of its answer on.
func (x *exchange) passLast(m *message.Request) (*message.Response, error) {
	if x.tools != nil {
		// Read to its end before it counts as answered.
		r, err := x.toolChunk(m, x.tools.End)
		if err != nil {
			return nil, err
		}
		return r, x.settle()
	}
	if err := x.settle(); err != nil || x.handing == nil {
		return x.onward(m), err
	}
	return &message.Response{Answer: m.Kind, Body: &message.Body{Bytes: x.handing.end(m.Body)}}, nil
}

// refusedByEnvoy is an answer that Envoy made before there was a verdict: a body over the limit, an encoded slash. Envoy
// shows it to the processor as a response (1.40.0, measured), at times without ever having shown the request. It is
// recorded as the refusal that it is; an upstream's answer in this place would be a hole, and ends the stream.
func (x *exchange) refusedByEnvoy(m *message.Request) (*message.Response, error) {
	details := m.Attribute(codeDetails)
	if details == "" || details == viaUpstream {
		return nil, x.outOfTurn("response headers of an upstream")
	}
	status, _ := strconv.Atoi(m.Header(":status"))
	c := code.InvalidRequest
	switch {
	case status == code.Lookup(code.PayloadTooLarge).Status:
		c = code.PayloadTooLarge
	case strings.Contains(details, "path"):
		c = code.PathNotCanonical
	case status >= 500:
		c = code.GateUnavailable
	}
	x.localReply = true
	x.deny(code.Deny(c, "envoy: %s", clip(details)))
	return withHeader(decisionHeader, x.id), nil
}

// stillTrusted looks at the newest revocations, not at the snapshot that the exchange began with: a withdrawal cuts
// answers that are still streaming.
func (x *exchange) stillTrusted() *code.Denial {
	if t := x.gate.cfg.Signer.Trust(); t != nil && t != x.trust && t.Revoked(x.token) {
		return code.Deny(code.TokenRevoked, "")
	}
	return nil
}

// settle records the completed call. Its error means that the last byte must not be released.
func (x *exchange) settle() error {
	if x.unread == "" {
		return x.record(x.completion(record.Completed, ""))
	}
	c := x.passed()
	if c.Outcome == record.Cut {
		x.gate.metrics.cut.Inc()
	}
	return x.record(c)
}

func (x *exchange) record(c *record.Completion) error {
	// The client may be gone: what happened is recorded all the same.
	ctx := x.gate.settling.context()
	if err := x.sealEnd(ctx); err != nil {
		x.gate.cfg.Log.Error("answer not sealed; it is withheld", "receipt", x.id, "error", err)
		return fmt.Errorf("%w: %s", errWithheld, code.EvidenceDown)
	}
	var err error
	if x.handing != nil {
		x.handing.receipt, err = x.gate.cfg.Signer.Deliver(ctx, x.intent, c)
	} else {
		err = x.gate.cfg.Signer.Complete(ctx, x.intent, c)
	}
	if err != nil {
		x.gate.cfg.Log.Error("receipt not recorded; the answer is withheld", "receipt", x.id, "error", err)
		return fmt.Errorf("%w: %s", errWithheld, code.EvidenceDown)
	}
	x.phase = phaseSettled
	x.dest.observed.settled(c)
	x.settleIdempotency(ctx, c)
	return nil
}

// completion is what is known of the answer now.
func (x *exchange) completion(o record.Outcome, reason string) *record.Completion {
	c := x.answer
	c.ID, c.TimeMS, c.Outcome, c.Reason = x.intent.ID, x.gate.cfg.Now().UnixMilli(), o, x.echoed(reason)
	c.LatencyMS = x.elapsedMS()
	c.ResponseHash = record.EmptyHash
	if x.sum != nil {
		c.ResponseHash = jcs.EncodeB64u(x.sum.Sum(nil))
	}
	if x.meter != nil {
		u := x.meter.Usage()
		c.TokensInput, c.TokensOutput, c.UsageReported = u.Input, u.Output, u.Reported
	}
	return &c
}

func (x *exchange) elapsedMS() int64 {
	return max(0, x.gate.cfg.Now().UnixMilli()-x.intent.TimeMS)
}
