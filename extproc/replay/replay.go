// Package replay holds what may happen once: a single-use token, a job's binding to its first holder, an idempotency key.
// The rules come from the design ("The token") and from WIRE 4.4; one script of them runs in Redis for all replicas, and
// the same rules run in memory for a gateway that is alone.
//
// # What a claim promises
//
// One claim is one atomic step: binding, then nonce, then idempotency key are looked at, and only if all three pass are
// they taken. A refused claim takes nothing. Whatever goes wrong on the way is an error, and an error is never OK: the
// caller refuses the call.
//
// # Lost replies
//
// A claim may be carried out in Redis although its reply is lost. Two things follow. First, a claim is idempotent by its
// RequestID: what this request already holds, it may claim again. So the one repetition that the store makes after a
// broken connection can neither let two requests through (they have different ids) nor tell a request that its own
// nonce was used by somebody else. go-redis's own retries are off, so that there is no other. Second, when the store
// gives up and answers an error, the nonce may be used up all the same: the call was refused and a single-use token is
// spent. That is the safe side, and Result.Holder names the request that holds it, so that it can be found in the log.
//
// # Lost memory
//
// A store that was emptied (a Redis without persistence restarted, FLUSHALL, an in-memory gateway restarted) no longer
// knows which nonces were used. It does know since when it remembers, and a nonce of a token issued before that moment is
// refused as used; see Claim.IssuedAt. A Redis that may evict keys is refused altogether. What remains: an asynchronous
// replica that is promoted may miss the last writes of the old primary; use min-replicas-to-write where that matters.
// Bindings and idempotency keys that were lost are simply made again at the next use.
package replay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrUnavailable is wrapped by every error that means "the store cannot say": nothing may pass.
var ErrUnavailable = errors.New("replay store unavailable")

// ErrInvalidClaim is wrapped by errors that are faults of the caller.
var ErrInvalidClaim = errors.New("replay: invalid claim")

// Claim is everything of one call that may happen once. Empty parts are not claimed.
type Claim struct {
	// RequestID is unique to the exchange and made by the gateway, never taken from the client: two claims with the same
	// RequestID are one claim.
	RequestID string
	// TokenHash scopes IdemKey to its token.
	TokenHash string
	// Nonce is the token's nonce claim, good for one request within its mission; "" where the token has none.
	Nonce string
	// NonceTTL is how long the token can still be accepted by any replica's clock: its remaining life plus leeway.
	NonceTTL time.Duration
	// IssuedAt is the token's iat. A nonce older than the store's memory is refused as used. Zero: not looked at.
	IssuedAt time.Time
	// Mission is the job (claim mission_id) and Binder who holds its token; a mission belongs to its first binder.
	// An empty Binder means that nothing is bound.
	Mission, Binder string
	// BindTTL is how long the binding outlives its last use. It is never shortened by a claim.
	BindTTL time.Duration
	// IdemKey is X-Idempotency-Key, IdemFingerprint what tells a repetition from another call.
	IdemKey, IdemFingerprint string
	// IdemTTL is how long the key is remembered from its claim, and again from its settlement.
	IdemTTL time.Duration
}

// Status is the outcome of a claim. The zero value is no status, so that a forgotten one is not OK.
type Status int

// The outcomes. The numbers are also the script's.
const (
	OK              Status = iota + 1 // everything was free and is now this request's
	BindingMismatch                   // the mission is bound to another binder
	NonceUsed                         // the nonce was used, or may have been before the store lost its memory
	IdemInFlight                      // the key is held by a call that has not been settled
	IdemDone                          // the key belongs to the same call, which is complete
	IdemMismatch                      // the key was used for a different call
)

var statusNames = map[Status]string{
	OK: "ok", BindingMismatch: "binding_mismatch", NonceUsed: "nonce_used",
	IdemInFlight: "idem_in_flight", IdemDone: "idem_done", IdemMismatch: "idem_mismatch",
}

func (s Status) String() string {
	if n, ok := statusNames[s]; ok {
		return n
	}
	return fmt.Sprintf("status(%d)", int(s))
}

// Result says how a claim ended.
type Result struct {
	Status Status
	// Holder is the RequestID that used the nonce or holds the key. With NonceUsed it is empty where the store has
	// lost its memory and does not know.
	Holder string
	// ReceiptID and UpstreamStatus are those of the complete call; with IdemDone only.
	ReceiptID      string
	UpstreamStatus int
}

// Outcome is how the call under an idempotency key ended.
type Outcome struct {
	Status    int    // HTTP status of the upstream, 0 where none came
	ReceiptID string // receipt of the call
	Released  bool   // the call came to nothing, and the key may be used again
}

// Store is one memory of what was used, shared by every replica that uses the same one.
type Store interface {
	// Claim takes everything that c asks for, or nothing. An error means that nobody knows: refuse.
	Claim(ctx context.Context, c Claim) (Result, error)
	// Settle notes how the call that c claimed ended. It changes only what c's request still holds.
	Settle(ctx context.Context, c Claim, o Outcome) error
	// Ready says why no claim could pass now, or nil.
	Ready(ctx context.Context) error
	// Close frees connections; claims fail from then on.
	Close() error
	// Name says in one word which store this is, for logs.
	Name() string
}

// plainID is what request and receipt ids look like; the stored form relies on their having no spaces.
// plainID tells whether s is 1 to 128 characters of A-Z a-z 0-9 _ . : -
func plainID(s string) bool {
	if len(s) < 1 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == ':', c == '-':
		default:
			return false
		}
	}
	return true
}

// Validate names everything that is wrong with the claim, at once.
func (c *Claim) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %s", ErrInvalidClaim, what))
		}
	}
	need(plainID(c.RequestID), "the request id must be 1 to 128 characters of A-Z a-z 0-9 _ . : -")
	need(c.Nonce == "" || c.NonceTTL > 0, "a nonce needs a time to live")
	need(c.Binder == "" || c.Mission != "", "a binder without a mission binds nothing")
	need(c.Binder == "" || c.BindTTL > 0, "a binding needs a time to live")
	need(c.IdemKey == "" || c.TokenHash != "", "an idempotency key is scoped to a token hash")
	need(c.IdemKey == "" || c.IdemFingerprint != "", "an idempotency key needs a fingerprint")
	need(c.IdemKey == "" || c.IdemTTL > 0, "an idempotency key needs a time to live")
	return errors.Join(errs...)
}

func (c *Claim) validateSettle(o Outcome) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if c.IdemKey == "" {
		return fmt.Errorf("%w: there is no idempotency key to settle", ErrInvalidClaim)
	}
	if o.ReceiptID != "" && !plainID(o.ReceiptID) {
		return fmt.Errorf("%w: the receipt id must be 1 to 128 characters of A-Z a-z 0-9 _ . : -", ErrInvalidClaim)
	}
	return nil
}
