package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sort"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/clawverify"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// call is an event of the chain with its receipt.
type call struct {
	at      string // in the bundle, e.g. bundle.json payload.receipts[3]
	event   *chain.Event
	receipt *receipt.Payload
}

// calls audits the calls of one part. events are the payloads of the chain; nil where there are none.
func (a *auditor) calls(p *part, events *lines) {
	receipts := a.readReceipts(p)
	byEvent := map[string][]int{}
	for i, r := range receipts {
		if r != nil {
			byEvent[r.Binding.EventHash] = append(byEvent[r.Binding.EventHash], i)
		}
	}
	found := counts{}
	spans := map[string]bool{}
	root := ""
	for i := range p.Events {
		e := &p.Events[i]
		at := fmt.Sprintf("%s payload.event_chain[%d]", p.name, i)
		a.did(checkChain, 1)
		a.ordered(at, e)
		own := byEvent[e.Hash]
		delete(byEvent, e.Hash)
		var c *call
		switch {
		case len(own) == 0:
			a.fail(checkChain, EvidenceMissing, at, "event %s has no receipt: the call was not settled, or its receipt was taken out", e.ID)
		case len(own) > 1:
			a.fail(checkChain, EvidenceMismatch, at, "event %s has %d receipts", e.ID, len(own))
		case own[0] != i && len(receipts) == len(p.Events):
			a.fail(checkChain, EvidenceMismatch, at, "its receipt stands at receipts[%d]; receipts stand in the order of the events", own[0])
		}
		if len(own) > 0 {
			c = &call{at: fmt.Sprintf("%s payload.receipts[%d]", p.name, own[0]), event: e, receipt: receipts[own[0]]}
			if i == 0 {
				root = c.receipt.Binding.SpanID
			}
			a.span(c, i, root, spans)
			found.add(c.receipt)
			a.token(c)
			a.replay(c.at, c.receipt)
			a.named(p, c)
		}
		a.event(p, i, c, events)
	}
	for hash, own := range byEvent {
		a.fail(checkChain, EvidenceMismatch, fmt.Sprintf("%s payload.receipts[%d].payload.binding.event_hash_b64u", p.name, own[0]), "no event of the bundle has the hash %.43s", hash)
	}
	a.result.Calls += found.calls
	a.result.Completed += found.completed
	a.result.Cut += found.cut
	if p.meta != nil {
		a.totals, a.perPart = append(a.totals, p.meta), append(a.perPart, found)
	}
	if n := len(p.Receipts); n > 0 {
		if last, err := envelope.Parse(p.Receipts[n-1]); err == nil && p.meta != nil && last.IssuedAt != p.issuedAt {
			a.fail(checkBundles, EvidenceMismatch, p.name+" issued_at", "is not %s, when the bundle's last receipt was issued", last.IssuedAt)
		}
	}
}

func (c *counts) add(r *receipt.Payload) {
	c.calls++
	if r.Metadata.Sallyport.Outcome == record.Cut {
		c.cut++
	} else {
		c.completed++
	}
}

// readReceipts verifies a part's receipts. One that cannot be read is nil; one that does not verify is noted, and looked at.
func (a *auditor) readReceipts(p *part) []*receipt.Payload {
	out := make([]*receipt.Payload, len(p.Receipts))
	for i, raw := range p.Receipts {
		out[i] = a.readReceipt(checkReceipts, fmt.Sprintf("%s payload.receipts[%d]", p.name, i), raw)
	}
	return out
}

func (a *auditor) readReceipt(check, at string, raw []byte) *receipt.Payload {
	a.did(check, 1)
	if _, err := receipt.Verify(raw, a.cfg.GatewaySigners); err != nil {
		code, field := clawverify.SchemaValidationFailed, at
		var bad *envelope.Error
		if errors.As(err, &bad) {
			code, field = clawverify.Code(bad.Code), at+"."+bad.Field
			err = errors.New(bad.Message)
		}
		a.fail(check, code, field, "%v", err)
	}
	env, err := envelope.Parse(raw)
	if err != nil {
		return nil
	}
	r := new(receipt.Payload)
	if json.Unmarshal(env.Payload, r) != nil {
		return nil
	}
	if env.ExpiresAt != "" {
		a.fail(check, clawverify.SchemaValidationFailed, at+".expires_at", "is not signed; our receipts have none")
	}
	if a.ids[r.ReceiptID] {
		a.fail(check, EvidenceMismatch, at+".payload.receipt_id", "%s is the id of another receipt too", r.ReceiptID)
	}
	a.ids[r.ReceiptID] = true
	if r.Metadata.Sallyport.PrivacyMode == record.PrivacyEncrypted {
		a.encrypted = append(a.encrypted, r.ReceiptID)
	}
	a.receipts[env.PayloadHashB64u] = kindReceipt
	return r
}

// ordered: time does not run backwards in a run.
func (a *auditor) ordered(at string, e *chain.Event) {
	t, err := time.Parse(time.RFC3339, e.Timestamp)
	if err != nil {
		a.fail(checkChain, clawverify.SchemaValidationFailed, at+".timestamp", "not an RFC 3339 time")
		return
	}
	if before, err := time.Parse(time.RFC3339, a.lastTime); err == nil && t.Before(before) {
		a.fail(checkChain, EvidenceMismatch, at+".timestamp", "is before that of the event before")
	}
	a.lastTime = e.Timestamp
}

// span: the first call of a bundle is the root of the others.
func (a *auditor) span(c *call, i int, root string, spans map[string]bool) {
	b := &c.receipt.Binding
	switch {
	case b.SpanID == "" || spans[b.SpanID]:
		a.fail(checkChain, EvidenceMismatch, c.at+".payload.binding.span_id", "is missing, or is that of another call")
	case i == 0 && b.ParentSpanID != "":
		a.fail(checkChain, EvidenceMismatch, c.at+".payload.binding.parent_span_id", "the bundle's first call has none")
	case i > 0 && b.ParentSpanID != root:
		a.fail(checkChain, EvidenceMismatch, c.at+".payload.binding.parent_span_id", "is not the bundle's first call")
	}
	spans[b.SpanID] = true
}

// tokenUse is what all calls with one token have in common.
type tokenUse struct{ Policy, Scope, Subject, Mission string }

// token: a token is pinned to one contract and has one scope, subject and job; a nonce is good once.
func (a *auditor) token(c *call) {
	d, b := &c.receipt.Metadata.Sallyport, &c.receipt.Binding
	a.did(checkTokens, 1)
	use := tokenUse{b.PolicyHash, b.TokenScopeHash, d.Subject, d.MissionID}
	at := c.at + ".payload.binding"
	if before := a.tokens[d.TokenHash]; before != nil && *before != use {
		a.fail(checkTokens, EvidenceMismatch, at, "another call with this token has another contract, scope, subject or job")
	} else {
		a.tokens[d.TokenHash] = &use
	}
	if b.Nonce == "" {
		return
	}
	key := d.TokenHash + "\n" + b.Nonce
	if id, used := a.nonces[key]; used {
		a.fail(checkTokens, EvidenceMismatch, at+".nonce", "was used by %s before, with the same token", id)
	}
	if d.Outcome != record.Cut { // a call that was cut gives its nonce back
		a.nonces[key] = c.receipt.ReceiptID
	}
}

// named: what the bundle's metadata says of contracts, subject and job.
func (a *auditor) named(p *part, c *call) {
	if p.number > 0 {
		a.did(checkIdentity, 1)
	}
	if p.meta == nil {
		return
	}
	d := &c.receipt.Metadata.Sallyport
	job := d.MissionID
	if job == "" {
		job = d.TokenHash
	}
	if job != p.meta.Job {
		a.fail(checkIdentity, EvidenceMismatch, c.at+".payload.metadata.sallyport.mission_id", "the call is of job %.100s, the bundle of %.100s", job, p.meta.Job)
	}
	if h := c.receipt.Binding.PolicyHash; !slices.Contains(p.meta.PolicyHashes, h) {
		a.fail(checkIdentity, EvidenceMismatch, c.at+".payload.binding.policy_hash", "is not among the bundle's policy_hashes")
	}
}

// recorded is an event's payload.
type recorded struct {
	Continues string        `json:"continues"`
	Intent    record.Intent `json:"intent"`
}

// event holds an event against its payload, and the receipt against the intent in it.
func (a *auditor) event(p *part, i int, c *call, events *lines) {
	if events == nil {
		return
	}
	e := &p.Events[i]
	line, err := events.next()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file has fewer lines than the bundles have events")
		}
		a.fail(checkEvents, EvidenceMissing, "events.jsonl", "event %s has no payload: %v", e.ID, err)
		return
	}
	a.did(checkEvents, 1)
	at := events.at()
	if jcs.Hash(line) != e.PayloadHash {
		a.fail(checkEvents, clawverify.HashMismatch, at, "hashes to %s, not to the payload_hash_b64u of event %s", jcs.Hash(line), e.ID)
	}
	var r recorded
	if err := jcs.Unmarshal(line, &r); err != nil {
		a.fail(checkEvents, clawverify.SchemaValidationFailed, at, "%v", err)
		return
	}
	if string(chain.Payload(nil, r.Intent.AppendJSON(nil), r.Continues)) != string(line) {
		a.fail(checkEvents, clawverify.SchemaValidationFailed, at, "is not in the one form that an intent has")
	}
	continues := ""
	if i == 0 && p.number > 1 {
		continues = a.lastHash
	}
	if i == len(p.Events)-1 {
		a.lastHash = e.Hash
	}
	typ := chain.ToolCall
	if r.Intent.Action == contract.ModelInvoke {
		typ = chain.ModelCall
	}
	switch {
	case r.Continues != continues:
		a.fail(checkEvents, EvidenceMismatch, at+" continues", "is not %q", continues)
	case r.Intent.EventHash != "":
		a.fail(checkEvents, EvidenceMismatch, at+" intent.event_hash_b64u", "the client recorded this call itself; it does not belong in the gateway's chain")
	case e.Type != typ:
		a.fail(checkEvents, EvidenceMismatch, fmt.Sprintf("%s payload.event_chain[%d].event_type", p.name, i), "is not %s, as the intent has it", typ)
	case r.Intent.RunID != e.RunID:
		a.fail(checkEvents, EvidenceMismatch, at+" intent.run_id", "is not the event's run")
	}
	if c != nil {
		a.agrees(c, &r.Intent)
	}
}

// agrees makes the receipt anew from the intent and what only the receipt knows, the outcome, and names what differs.
func (a *auditor) agrees(c *call, i *record.Intent) {
	got := c.receipt
	d := &got.Metadata.Sallyport
	want, err := receipt.Build(&record.Logged{Intent: *i, Chain: &chain.Link{Event: *c.event, Span: got.Binding.SpanID, Parent: got.Binding.ParentSpanID}}, &record.Completion{
		ID: i.ID, Outcome: d.Outcome, Reason: d.Reason, Status: d.Status, ResponseHash: got.ResponseHash, ResponseBytes: d.ResponseBytes,
		TokensInput: got.TokensInput, TokensOutput: got.TokensOutput, UsageReported: d.UsageReported, LatencyMS: got.LatencyMS,
	}, got.GatewayID)
	if err != nil {
		a.fail(checkReceipts, EvidenceMismatch, c.at, "no receipt can be made of the intent: %v", err)
		return
	}
	if reflect.DeepEqual(want, got) {
		return
	}
	for _, field := range differing(want, got) {
		a.fail(checkReceipts, EvidenceMismatch, c.at+".payload"+field, "is not what was recorded before the call left")
	}
}

// differing are the paths of the members of want that got has otherwise.
func differing(want, got *receipt.Payload) []string {
	var out []string
	var walk func(path string, w, g any)
	walk = func(path string, w, g any) {
		wm, ok1 := w.(map[string]any)
		gm, ok2 := g.(map[string]any)
		if !ok1 || !ok2 {
			if !reflect.DeepEqual(w, g) {
				out = append(out, path)
			}
			return
		}
		for name := range wm {
			walk(path+"."+name, wm[name], gm[name])
		}
		for name := range gm {
			if _, ok := wm[name]; !ok {
				out = append(out, path+"."+name)
			}
		}
	}
	walk("", tree(want), tree(got))
	sort.Strings(out)
	return out
}

func tree(p *receipt.Payload) any {
	raw, err := jcs.Marshal(p)
	if err != nil {
		return err.Error()
	}
	v, err := jcs.Parse(raw)
	if err != nil {
		return err.Error()
	}
	return v
}
