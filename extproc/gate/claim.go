package gate

import (
	"context"
	"strings"
	"sync"
	"time"

	"sallyport/extproc/replay"
	"sallyport/signer/code"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
	"sallyport/signer/token"
)

const (
	// idempotencyTTL is how long an X-Idempotency-Key is remembered (WIRE 4.4).
	idempotencyTTL = 5 * time.Minute
	// bindingTTL keeps a job's binding longer than any token of the job may live, renewed by each use.
	bindingTTL = 24 * time.Hour
)

// idempotency is a claimed X-Idempotency-Key that must be settled when the call is over.
type idempotency struct{ claim replay.Claim }

// claim uses up what the call may use once, for all replicas, in one round trip. A claim that is refused uses up nothing.
func (x *exchange) claim(ctx context.Context, claim replay.Claim) *code.Denial {
	if claim.Binder == "" && claim.Nonce == "" && claim.IdemKey == "" {
		return nil // nothing of this call is limited to one use, one job or one peer
	}
	res, err := x.gate.cfg.Replay.Claim(ctx, claim)
	if err != nil {
		x.gate.cfg.Log.Error("replay store; the call does not pass", "exchange", x.id, "store", x.gate.cfg.Replay.Name(), "error", err)
		return code.Deny(code.ReplayStoreDown, "")
	}
	switch res.Status {
	case replay.OK:
		if claim.IdemKey != "" {
			x.idem = &idempotency{claim}
		}
		return nil
	case replay.BindingMismatch:
		return code.Deny(code.JobBindingMismatch, "")
	case replay.NonceUsed:
		return code.Deny(code.TokenReplayed, "")
	case replay.IdemInFlight:
		return code.Deny(code.IdempotencyInUse, "")
	case replay.IdemMismatch:
		return code.Deny(code.IdempotencyMismatch, "")
	case replay.IdemDone:
		return code.Deny(code.IdempotencyNoReplay, "receipt %s", res.ReceiptID)
	}
	return code.Deny(code.GateInternal, "claim status %d", res.Status)
}

// maxBindings bounds what is remembered of jobs; an entry is some hundred bytes.
const maxBindings = 16384

// bindings remembers which jobs were found to be bound to whom. It decides nothing: the store is asked on every call.
type bindings struct {
	mu   sync.RWMutex
	good map[binding]struct{}
}

type binding struct{ mission, binder string }

func newBindings() *bindings { return &bindings{good: map[binding]struct{}{}} }

// seen is also true of a claim without a binding.
func (b *bindings) seen(c replay.Claim) bool {
	if c.Binder == "" {
		return true
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.good[binding{c.Mission, c.Binder}]
	return ok
}

func (b *bindings) add(c replay.Claim) {
	if c.Binder == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	evictOne(b.good, maxBindings)
	b.good[binding{c.Mission, c.Binder}] = struct{}{}
}

func (x *exchange) newClaim() replay.Claim {
	t := x.token
	life := time.Unix(t.Exp, 0).Add(token.Leeway).Sub(x.gate.cfg.Now())
	c := replay.Claim{RequestID: x.id, TokenHash: t.Hash, Nonce: t.Nonce, NonceTTL: life, IssuedAt: time.Unix(t.Iat, 0), Mission: t.MissionID}
	if t.MissionID != "" {
		c.Binder, c.BindTTL = x.binder(), max(life, bindingTTL)
	}
	if x.req.idempotencyKey != "" {
		c.IdemKey, c.IdemTTL, c.IdemFingerprint = x.req.idempotencyKey, idempotencyTTL, x.fingerprint()
	}
	return c
}

// binder is who holds the job's token, as the operator chose to tell one holder from another.
func (x *exchange) binder() string {
	if cnf := x.token.Cnf; cnf != nil && cnf.X5tS256 != "" {
		return "x5t#S256=" + cnf.X5tS256
	}
	var b strings.Builder
	for _, by := range x.gate.cfg.Binding {
		b.WriteString(by)
		b.WriteByte('=')
		switch by {
		case BindRunID:
			b.WriteString(x.req.runID)
		case BindPeerAddress:
			b.WriteString(x.req.peer)
		}
		b.WriteByte(';')
	}
	return b.String()
}

// fingerprint tells a repetition of a call from a different call under the same key.
func (x *exchange) fingerprint() string {
	i := x.intent
	return jcs.Hash([]byte(strings.Join([]string{x.dest.Name, i.Method, i.Host, i.Path, i.Model, i.RequestHash, i.RunID, i.EventHash, i.PolicyHash, i.TokenScopeHash}, "\n")))
}

// releaseClaim gives an idempotency key back after a call that did not leave. A single-use token stays used: giving it
// back would need a second trip that may itself be lost, and a token used twice is worse than one used up.
func (x *exchange) releaseClaim() {
	if x.idem == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), x.gate.cfg.AdmitTimeout)
	defer cancel()
	x.settleIdem(ctx, replay.Outcome{Released: true})
}

// settleIdempotency notes how the call under an X-Idempotency-Key ended.
func (x *exchange) settleIdempotency(ctx context.Context, c *record.Completion) {
	if x.idem == nil {
		return
	}
	x.settleIdem(ctx, replay.Outcome{Status: c.Status, ReceiptID: c.ID, Released: c.Outcome == record.Cut})
}

func (x *exchange) settleIdem(ctx context.Context, o replay.Outcome) {
	claim := x.idem.claim
	x.idem = nil
	if err := x.gate.cfg.Replay.Settle(ctx, claim, o); err != nil {
		// The key stays in flight until it ages out: a repetition is refused, which is the safe side.
		x.gate.cfg.Log.Warn("idempotency key not settled", "exchange", x.id, "error", err)
	}
}
