package gate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sallyport/extproc/decide"
	"sallyport/extproc/dialect"
	"sallyport/extproc/message"
	"sallyport/extproc/secret"
	"sallyport/signer/code"
	"sallyport/signer/contract"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
	"sallyport/signer/weaken"
)

// isRunID tells what a client may send as X-Run-Id and X-Idempotency-Key.
func isRunID(s string) bool { return len(s) >= 1 && len(s) <= 128 && isOf(s, "._:-") }

// isEventHash tells what a client that records for itself may send as X-Event-Hash (WIRE 6.1).
func isEventHash(s string) bool { return len(s) >= 8 && len(s) <= 128 && isOf(s, "_-") }

// isOf tells whether all of s is letters and digits of ASCII, or among others.
func isOf(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if (c < '0' || c > '9') && strings.IndexByte(others, c) < 0 {
				return false
			}
		}
	}
	return true
}

// requestHeaders is the first half of the way in: everything that can be refused without the body is refused before
// Envoy buffers one.
func (x *exchange) requestHeaders(m *message.Request) (*message.Response, error) {
	var d *code.Denial
	x.req, d = readHeaders(m.Headers)
	var unknown *code.Denial
	x.from, unknown = originOf(m)
	x.req.peer = x.from.peer
	x.refusal.Method, x.refusal.Path, x.refusal.Peer = x.req.method, clip(x.req.path), x.req.peer
	x.req.peer = withoutPort(x.req.peer)
	if d == nil {
		d = unknown
	}
	if d == nil {
		d = x.identify()
	}
	switch {
	case d != nil:
		return x.refuse(d), nil
	case x.shows():
		return x.shown(), nil
	case x.receiptOf != "", x.contract == nil:
		return nil, errLater
	case x.isConnect():
		return x.tunnel()
	case m.EndOfStream, x.socket():
		return nil, errLater
	}
	x.phase = phaseBody
	return goOn(m.Kind), nil
}

// decide answers a message of the request, having got what it takes: the contract, and the whole body.
func (x *exchange) decide(ctx context.Context, m *message.Request) *message.Response {
	ctx, cancel := context.WithTimeout(ctx, x.gate.cfg.AdmitTimeout)
	defer cancel()
	if x.receiptOf != "" {
		return x.serveReceipt(ctx)
	}
	if x.contract == nil {
		var d *code.Denial
		if x.contract, d = x.gate.contracts.get(ctx, x.token.PolicyHash); d != nil {
			return x.refuse(d)
		}
	}
	if x.isConnect() {
		return x.tunnelLater(ctx)
	}
	if m.Kind == message.RequestHeaders && !m.EndOfStream && !x.socket() {
		x.phase = phaseBody
		return goOn(m.Kind)
	}
	if !m.EndOfStream && !x.socket() {
		// A buffered body comes whole; it is without its end only where trailers follow (1.40.0), which nobody decides on.
		return x.refuse(code.Deny(code.InvalidRequest, "request trailers are not carried"))
	}
	body, d := x.redact(m.Body)
	if d != nil {
		return x.refuse(d)
	}
	rewritten, d := x.admit(ctx, body)
	if d != nil {
		return x.refuse(d)
	}
	replaced := replacing(m.Body, body)
	if replaced != nil {
		// Envoy ends the call where the length of a replaced body is not the one that the headers say (1.40.0, measured).
		rewritten.Set = append(rewritten.Set, message.Header{Name: "content-length", Value: strconv.Itoa(len(replaced.Bytes))})
	}
	return &message.Response{
		Answer: m.Kind, HalfWatched: x.socket(), Mutation: rewritten, Body: replaced, Namespace: metadataNamespace,
		Metadata: []message.Header{{Name: verdictKey, Value: verdictAllow}, {Name: receiptKey, Value: x.id}},
	}
}

// identify finds out who asks, by which door, and under which contract if that is at hand. It consumes nothing.
func (x *exchange) identify() *code.Denial {
	var routeDenial *code.Denial
	r := x.req
	if x.isConnect() {
		if d := x.connect(); d != nil {
			return d
		}
	} else {
		// The door comes first only so that refusals look native to the client; it decides nothing.
		var d *code.Denial
		if routeDenial, d = x.find(); d != nil {
			return d
		}
		if d := x.authenticate(); d != nil {
			return d
		}
	}
	if x.shows() {
		return nil
	}
	if nonce, ok := x.asksForReceipt(); ok {
		x.receiptOf = nonce
		return nil
	}
	if routeDenial != nil {
		return routeDenial
	}
	if d := x.upgradable(); d != nil {
		return d
	}
	if r.contentEncoding != "" && !x.dest.egress() && !strings.EqualFold(r.contentEncoding, "identity") {
		return code.Deny(code.PayloadEncoded, "%.32s", r.contentEncoding)
	}
	c, d := x.gate.contracts.known(x.token.PolicyHash)
	x.contract = c
	return d
}

// find gets the way out of a request. What a client must not learn without a token comes back as later.
func (x *exchange) find() (later, now *code.Denial) {
	r := x.req
	var dest *destination
	switch {
	case x.from.door == doorReverse, x.from.door != doorInner && r.authority == GatewayName:
		if d := canonicalPath(r.path); d != nil {
			return nil, d
		}
		dest, later = x.gate.doors.route(r)
	case x.from.door == doorInner:
		if now = x.agree(); now == nil {
			dest, later = x.outward("https", portHTTPS)
		}
	default:
		if x.to, now = parsePlace(r.authority, portHTTP); now == nil {
			dest, later = x.outward("http", portHTTP)
		}
	}
	if x.dest = dest; dest != nil {
		x.refusal.Provider, x.refusal.Host = dest.Provider, dest.name
	}
	return later, now
}

// authenticate verifies the token against the key set and the revocations of one snapshot, which the exchange keeps.
func (x *exchange) authenticate() *code.Denial {
	r, now := x.req, x.gate.cfg.Now()
	raw, d := r.scopedToken(x.from.token, x.gate.tokens.known)
	if d != nil {
		return d
	}
	x.raw = raw
	r.stripCopies(raw)
	x.trust = x.gate.cfg.Signer.Trust()
	if x.trust == nil || x.trust.Age(now) > x.gate.cfg.Staleness {
		return code.Deny(code.TrustStateStale, "")
	}
	t, d := x.gate.tokens.verify(raw, x.trust, now)
	if d != nil {
		return d
	}
	x.token = t
	x.refusal.Subject, x.refusal.MissionID, x.refusal.TokenHash, x.refusal.PolicyHash = t.Sub, t.MissionID, t.Hash, t.PolicyHash
	switch {
	case x.trust.Revoked(t):
		return code.Deny(code.TokenRevoked, "")
	case !x.from.holds(t):
		return code.Deny(code.JobBindingMismatch, "the token is bound to a client certificate, which did not come with the call")
	case r.clientDID != "" && r.clientDID != t.Sub:
		return code.Deny(code.TokenSubMismatch, "")
	case t.PolicyHash == "":
		return code.Deny(code.PolicyRequired, "")
	case r.policyHash != "" && r.policyHash != t.PolicyHash:
		return code.Deny(code.PolicyHashMismatch, "")
	case r.runID != "" && !isRunID(r.runID):
		return code.Deny(code.InvalidRequest, "X-Run-Id must be 1 to 128 of A-Z a-z 0-9 . _ : -")
	case r.eventHash != "" && !isEventHash(r.eventHash):
		return code.Deny(code.InvalidRequest, "X-Event-Hash must be 8 to 128 of base64url")
	case r.idempotencyKey != "" && !isRunID(r.idempotencyKey):
		return code.Deny(code.InvalidRequest, "X-Idempotency-Key must be 1 to 128 of A-Z a-z 0-9 . _ : -")
	}
	x.refusal.RunID = x.run()
	return nil
}

// admit decides, gets the credential, claims and records the intent: what is refused consumes nothing, and nothing leaves
// that is not recorded.
func (x *exchange) admit(ctx context.Context, body []byte) (*message.Mutation, *code.Denial) {
	now := x.gate.cfg.Now()
	// A body may take its time to arrive; what was withdrawn meanwhile does not leave.
	if d := x.stillTrusted(); d != nil {
		return nil, d
	}
	if int64(len(body)) > x.gate.cfg.MaxBodyBytes {
		return nil, code.Deny(code.PayloadTooLarge, "%d bytes; the limit is %d", len(body), x.gate.cfg.MaxBodyBytes)
	}
	var seen dialect.Body
	ask := decide.Ask{}
	switch {
	case x.dest.mcp():
		if d := x.readTool(&ask, body); d != nil {
			return nil, d
		}
	case x.dest.egress():
		if d := x.addressed(); d != nil {
			return nil, d
		}
		ask.Request = x.arguments(body)
	default:
		var d *code.Denial
		if seen, d = x.dest.dialect.Inspect(x.dest.call, body); d != nil {
			return nil, d
		}
	}
	x.refusal.Model = clip(seen.Model)
	ask.Provider, ask.Model, ask.Method, ask.Host, ask.Path = x.dest.Provider, seen.Model, x.req.method, x.dest.name, x.dest.path
	ask.Egress, ask.SecretClass, ask.BodyBytes = x.dest.egress(), x.dest.SecretClass, int64(len(body))
	ask.WebSocket = x.socket()
	x.refusal.Resource = clip(ask.Resource())
	verdict := decide.Decide(x.contract, x.token, ask, now)
	if verdict.Tool != "" && ask.Egress {
		// Evidence says which tool a call was; host, method and path stand beside it.
		x.tool = verdict.Tool
		x.refusal.Resource = clip(x.tool)
	}
	if verdict.Denial != nil && !weaken.Off("decision") {
		return nil, verdict.Denial
	}
	if d := x.disguised(); d != nil {
		return nil, d
	}
	if ask.Egress {
		ask.SecretClass = verdict.SecretClass
	}
	cred, inject, d := x.credential(ctx, ask, verdict)
	if d != nil {
		return nil, d
	}
	x.listen(ask.SecretClass, cred, inject)
	x.intent = x.newIntent(ask, seen, body)
	if d := x.sealRequest(ctx, body); d != nil {
		return nil, d
	}
	rewritten := x.rewrite(ask.SecretClass, cred, inject)
	if d := x.claimAndRecord(ctx); d != nil {
		return nil, d
	}
	x.phase = phaseUpstream
	x.gate.metrics.allowed.Inc()
	return rewritten, nil
}

// claimAndRecord uses up what the call uses up, and records its intent. Where the claim can hardly fail (nothing is used up,
// and the job's binding was found to be this one before) both are under way at the same time, and an intent whose claim
// fails all the same is settled as cut.
func (x *exchange) claimAndRecord(ctx context.Context) *code.Denial {
	claim := x.newClaim()
	if claim.Nonce != "" || claim.IdemKey != "" || !x.gate.bindings.seen(claim) {
		if d := x.claim(ctx, claim); d != nil {
			return d
		}
		x.gate.bindings.add(claim)
		return x.recorded(x.gate.cfg.Signer.Begin(ctx, x.intent)(ctx))
	}
	wait := x.gate.cfg.Signer.Begin(ctx, x.intent)
	refused := x.claim(ctx, claim)
	unrecorded := x.recorded(wait(ctx))
	if refused != nil && unrecorded == nil {
		go x.recordCut("refused with " + string(refused.Code) + "; the call did not leave")
	}
	if refused != nil {
		return refused
	}
	return unrecorded
}

func (x *exchange) recorded(err error) *code.Denial {
	if err == nil {
		return nil
	}
	x.gate.cfg.Log.Error("intent not recorded; the call does not pass", "receipt", x.id, "error", err)
	x.releaseClaim()
	return code.Deny(code.EvidenceDown, "")
}

// credential gets what the upstream needs, if anything. A contract that demands brokered credentials never sends an
// upstream anything else, since whatever the client sent was refused or is stripped.
func (x *exchange) credential(ctx context.Context, ask decide.Ask, v decide.Verdict) (secret.Credential, secret.Inject, *code.Denial) {
	if ask.SecretClass == "" {
		return secret.Credential{}, secret.Inject{}, nil
	}
	return x.gate.cfg.Secrets.GetFor(ctx, x.secretJob, ask.SecretClass, secret.Target{Host: ask.Host, Method: ask.Method, Path: ask.Path, Tool: v.NamedBy}, v.SecretMaxTTL)
}

// secretJob is the call's job as the secret classes know it: over when the newest token that was shown of it has expired
// or was withdrawn.
func (x *exchange) secretJob() secret.Job {
	t, trust := x.token, x.gate.cfg.Signer.Trust
	return secret.Job{ID: x.job(), Over: func(now time.Time) bool {
		known := trust()
		return t.Expired(now) || (known != nil && known.Revoked(t))
	}}
}

func (x *exchange) newIntent(ask decide.Ask, seen dialect.Body, body []byte) *record.Intent {
	t := x.token
	nonce := x.req.idempotencyKey
	if nonce == "" {
		nonce = t.Nonce
	}
	action, resource := ask.Action(), ask.Resource()
	if x.tool != "" {
		action, resource = contract.ToolExecute, x.tool
	}
	return &record.Intent{
		ID: x.id, TimeMS: x.gate.cfg.Now().UnixMilli(), RunID: x.run(), EventHash: x.req.eventHash, Nonce: nonce,
		MissionID: t.MissionID, Subject: t.Sub, TokenHash: t.Hash, TokenScopeHash: t.TokenScopeHash, PolicyHash: t.PolicyHash,
		Provider: ask.Provider, Model: seen.Model, Action: action, Resource: resource,
		Method: ask.Method, Host: ask.Host, Path: ask.Path, SecretClass: ask.SecretClass,
		RequestHash: jcs.Hash(body), RequestBytes: int64(len(body)), Stream: seen.Stream || x.dest.call.StreamByPath,
		TrustVersion: x.trust.Version, Peer: x.req.peer,
	}
}

// run names the run: as the client says, else by the job, else by the token.
func (x *exchange) run() string {
	if x.req.runID != "" {
		return x.req.runID
	}
	name := x.token.MissionID
	if name == "" {
		name = x.token.Hash
	}
	sum := sha256.Sum256([]byte(name))
	return "run_" + hex.EncodeToString(sum[:16])
}

// refuse answers in the client's own language. The exchange is over.
func (x *exchange) refuse(d *code.Denial) *message.Response {
	x.deny(d)
	answer := x.speaker().Denial(d, x.id)
	if x.dest != nil && x.dest.door != nil && x.dest.mcp() {
		answer = x.toolDenial(d)
	}
	if d.Code == code.TokenRequired && x.from.proxy() {
		// git and others send their proxy's credentials only when they are asked for, in HTTP's own words.
		answer.Status = http.StatusProxyAuthRequired
		answer.Headers = append(answer.Headers, [2]string{"proxy-authenticate", `Basic realm="sallyport"`})
	}
	im := &message.Immediate{
		Status: answer.Status,
		Body:   answer.Body,
		// The prefix tells Envoy's own replies apart: their bodies are replaced by ours, this one is not.
		Details: "sallyport_" + strings.ToLower(string(d.Code)),
	}
	for _, h := range append(answer.Headers, [2]string{decisionHeader, x.id}) {
		im.Headers = append(im.Headers, message.Header{Name: h[0], Value: h[1]})
	}
	return &message.Response{Immediate: im}
}

// speaker is the dialect of the door, or the most widely understood one where no door was found.
func (x *exchange) speaker() dialect.Dialect {
	if x.dest != nil && x.dest.door != nil {
		return x.dest.dialect
	}
	d, _ := dialect.ByName("openai")
	return d
}

func clip(s string) string {
	const most = 256
	if len(s) > most {
		return s[:most]
	}
	return s
}

// withoutPort takes the port off an address as Envoy writes it: 1.2.3.4:5 or [::1]:5; a Unix socket's is kept as it is.
func withoutPort(addr string) string {
	if i := strings.LastIndexByte(addr, ':'); i > 0 && !strings.HasPrefix(addr, "/") && !strings.HasPrefix(addr, "@") {
		return addr[:i]
	}
	return addr
}
