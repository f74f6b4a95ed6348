package gate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// viaUpstream is Envoy's response code detail for an answer that really came from the upstream; any other is Envoy's own.
const viaUpstream = "via_upstream"

// responseHeaders starts the answer: from here on its raw bytes are hashed and measured as they pass.
func (x *exchange) responseHeaders(ctx context.Context, req *extprocv3.ProcessingRequest, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
	x.phase = phaseAnswer
	x.sum = sha256.New()
	x.answer.Status, _ = strconv.Atoi(responseHeader(h.GetHeaders(), ":status"))
	x.answer.TTFBMS = x.elapsedMS()
	if details := codeDetails(req); details != "" && details != viaUpstream {
		x.answer.Status = 0
		return x.localAnswer(ctx, details)
	}
	x.meter = x.dest.dialect.NewMeter(responseHeader(h.GetHeaders(), "content-type"))
	if h.GetEndOfStream() {
		if err := x.settle(ctx); err != nil {
			return nil, err
		}
	}
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{Response: headerMutation(receiptHeader, x.id)},
	}}, nil
}

// localAnswer is Envoy's own answer to an allowed call (no route, upstream unreachable, time out): recorded as cut with
// Envoy's reason, and passed on as it is.
func (x *exchange) localAnswer(ctx context.Context, details string) (*extprocv3.ProcessingResponse, error) {
	if err := x.record(ctx, x.completion(record.Cut, "envoy: "+clip(details))); err != nil {
		return nil, err
	}
	x.gate.metrics.cut.Inc()
	x.localReply = true
	return &extprocv3.ProcessingResponse{
		Response:     &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{Response: headerMutation(receiptHeader, x.id)}},
		ModeOverride: skipBody(),
	}, nil
}

func headerMutation(name, value string) *extprocv3.CommonResponse {
	return &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{
		SetHeaders: []*corev3.HeaderValueOption{setHeader(name, value)},
	}}
}

// responseBody hashes and measures one chunk. The last one is held until the receipt is as durable as promised.
func (x *exchange) responseBody(ctx context.Context, b *extprocv3.HttpBody) (*extprocv3.ProcessingResponse, error) {
	if d := x.stillTrusted(); d != nil {
		// close records the cut; Envoy resets the client's connection, so nothing more is released.
		x.gate.cfg.Log.Warn("open answer cut", "receipt", x.id, "code", d.Code)
		return nil, fmt.Errorf("%w: %s", errWithheld, d.Code)
	}
	chunk := b.GetBody()
	x.sum.Write(chunk)
	x.meter.Write(chunk)
	x.answer.ResponseBytes += int64(len(chunk))
	if b.GetEndOfStream() {
		if err := x.settle(ctx); err != nil {
			return nil, err
		}
	}
	return passResponseBody(), nil
}

func passResponseBody() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{}}}
}

func (x *exchange) responseTrailers(ctx context.Context) (*extprocv3.ProcessingResponse, error) {
	if err := x.settle(ctx); err != nil {
		return nil, err
	}
	return passResponseTrailers(), nil
}

func passResponseTrailers() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}}
}

// refusedByEnvoy is an answer that Envoy made before there was a verdict: a body over the limit, an encoded slash. Envoy
// shows it to the processor as a response (1.40.0, measured), at times without ever having shown the request. It is
// recorded as the refusal that it is; an upstream's answer in this place would be a hole, and ends the stream.
func (x *exchange) refusedByEnvoy(req *extprocv3.ProcessingRequest, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
	details := codeDetails(req)
	if details == "" || details == viaUpstream {
		return nil, x.outOfTurn("response headers of an upstream")
	}
	status, _ := strconv.Atoi(responseHeader(h.GetHeaders(), ":status"))
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
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{Response: headerMutation(decisionHeader, x.id)},
	}}, nil
}

func codeDetails(req *extprocv3.ProcessingRequest) string {
	return req.GetAttributes()[attributesNamespace].GetFields()["response.code_details"].GetStringValue()
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
func (x *exchange) settle(ctx context.Context) error {
	return x.record(ctx, x.completion(record.Completed, ""))
}

func (x *exchange) record(ctx context.Context, c *record.Completion) error {
	// The client may be gone: what happened is recorded all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.gate.cfg.SettleTimeout)
	defer cancel()
	if err := x.gate.cfg.Signer.Complete(ctx, x.intent, c); err != nil {
		x.gate.cfg.Log.Error("receipt not recorded; the answer is withheld", "receipt", x.id, "error", err)
		return fmt.Errorf("%w: %s", errWithheld, code.EvidenceDown)
	}
	x.phase = phaseSettled
	x.gate.metrics.observe(x, c)
	x.settleIdempotency(ctx, c)
	return nil
}

// completion is what is known of the answer now.
func (x *exchange) completion(o record.Outcome, reason string) *record.Completion {
	c := x.answer
	c.ID, c.TimeMS, c.Outcome, c.Reason = x.intent.ID, x.gate.cfg.Now().UnixMilli(), o, reason
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
