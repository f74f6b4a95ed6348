// Package code is the one closed list of what Sallyport can answer when it does not let a call pass.
// The same code stands in the response, the log, the metric, the evidence and the documentation.
//
// Where the public Claw ecosystem has a code for a case (CST, WPC, idempotency), that code is used;
// the others are ours.
package code

import (
	"fmt"
	"net/http"
)

// Code names one reason for which a call did not pass. Codes are upper case with underscores.
type Code string

// Class groups codes by what the client should do about them.
type Class string

// The classes, and with them the HTTP status that model clients handle best: measured on real SDKs,
// 451 shows the text and is not retried, while 401 and 403 put some agents' whole provider in a cooldown.
const (
	ClassToken    Class = "token"    // 401: the scoped token is missing, wrong, spent or revoked
	ClassPolicy   Class = "policy"   // 451: the contract does not allow this call
	ClassRequest  Class = "request"  // 4xx: the request itself is malformed
	ClassLimit    Class = "limit"    // 429: a limit of the contract is reached
	ClassConflict Class = "conflict" // 409: an idempotency key is in use or was used for something else
	ClassGate     Class = "gate"     // 503: the gate cannot decide or cannot record, so it refuses
	ClassUpstream Class = "upstream" // 502/504: the call was allowed, the upstream failed
)

// Info is what is known about a code beforehand.
type Info struct {
	Code   Code
	Class  Class
	Status int    // HTTP status on routes that are not MCP
	Help   string // one sentence for the person who reads it; must avoid words that agents classify as auth, billing or rate limits
}

// The codes. Every code that is answered anywhere is in this block and in the table below.
const (
	// Token.
	TokenRequired          Code = "TOKEN_REQUIRED"
	TokenConflict          Code = "TOKEN_CONFLICT"
	TokenNotCST            Code = "CREDENTIAL_NOT_BROKERED"
	TokenMalformed         Code = "TOKEN_MALFORMED"
	TokenTooLarge          Code = "TOKEN_TOO_LARGE"
	TokenUnsupportedAlg    Code = "TOKEN_UNSUPPORTED_ALG"
	TokenUnknownKID        Code = "TOKEN_UNKNOWN_KID"
	TokenKIDExpired        Code = "TOKEN_KID_EXPIRED"
	TokenSignatureInvalid  Code = "TOKEN_SIGNATURE_INVALID"
	TokenUnknownVersion    Code = "TOKEN_UNKNOWN_VERSION"
	TokenInvalidClaims     Code = "TOKEN_INVALID_CLAIMS"
	TokenExpired           Code = "TOKEN_EXPIRED"
	TokenNotYetValid       Code = "TOKEN_NOT_YET_VALID"
	TokenBadAudience       Code = "TOKEN_BAD_AUDIENCE"
	TokenInsufficientScope Code = "TOKEN_INSUFFICIENT_SCOPE"
	TokenScopeHashRequired Code = "TOKEN_SCOPE_HASH_REQUIRED"
	TokenScopeHashInvalid  Code = "TOKEN_SCOPE_HASH_INVALID"
	TokenScopeHashMismatch Code = "TOKEN_SCOPE_HASH_MISMATCH"
	TokenRevoked           Code = "TOKEN_REVOKED"
	TokenReplayed          Code = "TOKEN_REPLAYED"
	TokenSubMismatch       Code = "TOKEN_SUB_MISMATCH"
	JobBindingMismatch     Code = "JOB_BINDING_MISMATCH"

	// Contract.
	PolicyRequired            Code = "POLICY_REQUIRED"
	PolicyHashInvalid         Code = "POLICY_HASH_INVALID"
	PolicyHashMismatch        Code = "POLICY_HASH_MISMATCH"
	WPCNotFound               Code = "WPC_NOT_FOUND"
	WPCHashMismatch           Code = "WPC_HASH_MISMATCH"
	WPCEnvelopeInvalid        Code = "WPC_ENVELOPE_INVALID"
	WPCSignerNotAllowed       Code = "WPC_SIGNER_NOT_ALLOWED"
	WPCSignatureInvalid       Code = "WPC_SIGNATURE_INVALID"
	PolicyScopeHashMismatch   Code = "POLICY_SCOPE_HASH_MISMATCH"
	PolicyProviderNotAllowed  Code = "POLICY_PROVIDER_NOT_ALLOWED"
	PolicyModelRequired       Code = "POLICY_MODEL_REQUIRED"
	PolicyModelNotAllowed     Code = "POLICY_MODEL_NOT_ALLOWED"
	PolicyModelTierTooLow     Code = "POLICY_MODEL_IDENTITY_TIER_TOO_LOW"
	PolicyActionNotAllowed    Code = "POLICY_ACTION_NOT_ALLOWED"
	PolicyStatementDenied     Code = "POLICY_STATEMENT_DENIED"
	PolicyEgressNotAllowed    Code = "POLICY_EGRESS_NOT_ALLOWED"
	PolicySecretNotAllowed    Code = "POLICY_SECRET_CLASS_NOT_ALLOWED"
	PolicyConditionUnknown    Code = "POLICY_CONDITION_UNDECIDABLE"
	RouteNotAllowed           Code = "ROUTE_NOT_ALLOWED"
	EndpointNotAllowed        Code = "ENDPOINT_NOT_ALLOWED"
	SecretClassHostNotAllowed Code = "SECRET_CLASS_HOST_NOT_ALLOWED"
	AuthorityMismatch         Code = "AUTHORITY_MISMATCH"
	AddressNotAllowed         Code = "ADDRESS_NOT_ALLOWED"
	RedactionImpossible       Code = "REDACTION_NOT_POSSIBLE"

	// Request.
	InvalidRequest      Code = "INVALID_REQUEST"
	UnknownProvider     Code = "UNKNOWN_PROVIDER"
	PathNotCanonical    Code = "PATH_NOT_CANONICAL"
	HeaderReserved      Code = "HEADER_RESERVED"
	HeaderDuplicate     Code = "HEADER_DUPLICATE"
	PayloadTooLarge     Code = "PAYLOAD_TOO_LARGE"
	PayloadEncoded      Code = "PAYLOAD_ENCODED"
	PayloadEmpty        Code = "PAYLOAD_EMPTY"
	UpgradeNotSupported Code = "UPGRADE_NOT_SUPPORTED"
	MCPNoSession        Code = "MCP_NO_SESSION"
	IdempotencyInUse    Code = "IDEMPOTENCY_KEY_IN_USE"
	IdempotencyMismatch Code = "IDEMPOTENCY_FINGERPRINT_MISMATCH"
	IdempotencyNoReplay Code = "IDEMPOTENCY_REPLAY_UNAVAILABLE"
	InvalidNonce        Code = "INVALID_NONCE"
	ReceiptNotFound     Code = "RECEIPT_NOT_FOUND"
	ReceiptInFlight     Code = "RECEIPT_INFLIGHT"
	ReceiptMismatch     Code = "RECEIPT_BINDING_MISMATCH"

	// Limits, the gate itself, the upstream.
	LimitReached        Code = "LIMIT_REACHED"
	ReplayStoreDown     Code = "REPLAY_STORE_UNAVAILABLE"
	EvidenceDown        Code = "EVIDENCE_UNAVAILABLE"
	TrustStateStale     Code = "TRUST_STATE_STALE"
	RegistryDown        Code = "WPC_REGISTRY_FETCH_FAILED"
	SecretUnavailable   Code = "SECRET_UNAVAILABLE"
	RedactionKeyMissing Code = "REDACTION_KEY_MISSING"
	AuditorKeyMissing   Code = "AUDITOR_KEY_MISSING"
	GateUnavailable     Code = "GATE_UNAVAILABLE"
	GateInternal        Code = "GATE_INTERNAL_ERROR"
	UpstreamUnreachable Code = "UPSTREAM_UNREACHABLE"
	UpstreamTimeout     Code = "UPSTREAM_TIMEOUT"
)

var table = []Info{
	{TokenRequired, ClassToken, 401, "No scoped token came with the call; send the job's CST where the API key normally goes."},
	{TokenConflict, ClassToken, 401, "Two different tokens came in one call; send one CST only."},
	{TokenNotCST, ClassToken, 401, "The call carries a credential that the broker did not give; send the job's CST instead of a provider key."},
	{TokenMalformed, ClassToken, 401, "The scoped token is not a compact JWS with a JSON header and claims."},
	{TokenTooLarge, ClassToken, 401, "The scoped token is larger than 8192 bytes."},
	{TokenUnsupportedAlg, ClassToken, 401, "The scoped token's alg is not EdDSA."},
	{TokenUnknownKID, ClassToken, 401, "The scoped token's kid is not in the issuer's key set."},
	{TokenKIDExpired, ClassToken, 401, "The key that signed the scoped token has left its rotation window; obtain a fresh token."},
	{TokenSignatureInvalid, ClassToken, 401, "The scoped token's signature does not verify."},
	{TokenUnknownVersion, ClassToken, 401, "The scoped token's token_version is not \"1\"."},
	{TokenInvalidClaims, ClassToken, 401, "A claim of the scoped token is missing or has the wrong type."},
	{TokenExpired, ClassToken, 401, "The scoped token's exp has passed; obtain a fresh token for the job."},
	{TokenNotYetValid, ClassToken, 401, "The scoped token's iat lies in the future; check the clocks."},
	{TokenBadAudience, ClassToken, 401, "The scoped token was issued for another audience than this gateway."},
	{TokenInsufficientScope, ClassToken, 401, "The scoped token's scope does not include proxy:call for this provider."},
	{TokenScopeHashRequired, ClassToken, 401, "The scoped token has no token_scope_hash_b64u."},
	{TokenScopeHashInvalid, ClassToken, 401, "The scoped token's token_scope_hash_b64u is not a base64url SHA-256."},
	{TokenScopeHashMismatch, ClassToken, 401, "The scoped token's token_scope_hash_b64u is not the hash of its claims."},
	{TokenRevoked, ClassToken, 401, "The scoped token, its job or its contract was withdrawn."},
	{TokenReplayed, ClassToken, 401, "The scoped token is good for one call and was used before."},
	{TokenSubMismatch, ClassToken, 401, "X-Client-DID is not the subject of the scoped token."},
	{JobBindingMismatch, ClassToken, 401, "The scoped token belongs to another job: it is bound to another run or peer."},

	{PolicyRequired, ClassPolicy, 451, "The scoped token is pinned to no contract (policy_hash_b64u), so nothing is allowed."},
	{PolicyHashInvalid, ClassRequest, 400, "The contract hash is not a base64url SHA-256 (43 characters)."},
	{PolicyHashMismatch, ClassPolicy, 451, "X-Policy-Hash names another contract than the one the scoped token is pinned to."},
	{WPCNotFound, ClassPolicy, 451, "The contract that the scoped token is pinned to is not in the registry."},
	{WPCHashMismatch, ClassPolicy, 451, "The registry's contract does not hash to the address it was asked for."},
	{WPCEnvelopeInvalid, ClassPolicy, 451, "The registry's contract is not a valid signed envelope."},
	{WPCSignerNotAllowed, ClassPolicy, 451, "The contract is signed by a key that this gateway does not trust for contracts."},
	{WPCSignatureInvalid, ClassPolicy, 451, "The contract's signature does not verify."},
	{PolicyScopeHashMismatch, ClassPolicy, 451, "The scoped token's scope is not the one that the contract names in auth.cst_scope_hash."},
	{PolicyProviderNotAllowed, ClassPolicy, 451, "The contract does not allow this provider."},
	{PolicyModelRequired, ClassPolicy, 451, "The contract allows named models only, and the call names none."},
	{PolicyModelNotAllowed, ClassPolicy, 451, "The contract does not allow this model."},
	{PolicyModelTierTooLow, ClassPolicy, 451, "The contract asks for a stronger model identity than closed_opaque."},
	{PolicyActionNotAllowed, ClassPolicy, 451, "No statement of the contract allows this action."},
	{PolicyStatementDenied, ClassPolicy, 451, "A statement of the contract denies this action."},
	{PolicyEgressNotAllowed, ClassPolicy, 451, "The contract's egress rules do not include this host, method and path."},
	{PolicySecretNotAllowed, ClassPolicy, 451, "The contract does not allow the secret class that this upstream needs."},
	{PolicyConditionUnknown, ClassPolicy, 451, "A condition of the contract cannot be decided for this call, so it does not pass."},
	{RouteNotAllowed, ClassPolicy, 451, "The contract's routes do not include this host, method and path."},
	{EndpointNotAllowed, ClassPolicy, 451, "This gateway does not carry that endpoint of the provider."},
	{SecretClassHostNotAllowed, ClassPolicy, 451, "The secret class may not be sent to this host, method or path."},
	{AuthorityMismatch, ClassPolicy, 451, "The request names another host than the tunnel it came through, or than its TLS server name."},
	{AddressNotAllowed, ClassPolicy, 451, "The target is an address, or a name of this machine, that no cidrs of the contract name."},
	{RedactionImpossible, ClassPolicy, 451, "The contract redacts requests, and this body is not a JSON object that its rules can be carried out on."},

	{InvalidRequest, ClassRequest, 400, "The request cannot be read."},
	{UnknownProvider, ClassRequest, 404, "No upstream of that name is configured at this gateway."},
	{PathNotCanonical, ClassRequest, 400, "The path is not in its plain form: no dot segments, doubled or encoded slashes, semicolons or backslashes."},
	{HeaderReserved, ClassRequest, 400, "Headers that start with x-sallyport- belong to the gateway."},
	{HeaderDuplicate, ClassRequest, 400, "A security header came more than once."},
	{PayloadTooLarge, ClassRequest, 413, "The request body is larger than this gateway's limit."},
	{PayloadEncoded, ClassRequest, 415, "The request body is compressed; send it without Content-Encoding."},
	{PayloadEmpty, ClassRequest, 400, "The request body is empty."},
	{MCPNoSession, ClassRequest, 405, "This GET belongs to no session, and the older transport with one stream for all answers is not carried; configure the client for streamable HTTP."},
	{UpgradeNotSupported, ClassRequest, 426, "WebSocket is not carried on this route; use an ordinary POST."},
	{IdempotencyInUse, ClassConflict, 409, "A call with this X-Idempotency-Key is still in flight."},
	{IdempotencyMismatch, ClassConflict, 409, "This X-Idempotency-Key was used for a different call."},
	{IdempotencyNoReplay, ClassConflict, 409, "The call with this X-Idempotency-Key is complete, and its answer is not kept."},
	{InvalidNonce, ClassRequest, 400, "The nonce in /v1/receipt/NONCE must be 1 to 128 of A-Z a-z 0-9 . _ : -"},
	{ReceiptNotFound, ClassRequest, 404, "No call of this job has that nonce."},
	{ReceiptInFlight, ClassConflict, 409, "The call with that nonce is still in flight; ask again when it is over."},
	{ReceiptMismatch, ClassConflict, 409, "The receipt of that nonce is bound to another run or event than the one asked for."},

	{LimitReached, ClassLimit, 429, "A limit of the contract is reached."},
	{ReplayStoreDown, ClassGate, 503, "The store of used tokens cannot be reached, so nothing passes."},
	{EvidenceDown, ClassGate, 503, "The call cannot be recorded, so it does not pass."},
	{TrustStateStale, ClassGate, 503, "This gateway has not heard of keys and withdrawals for too long, so nothing passes."},
	{RegistryDown, ClassGate, 503, "The contract registry cannot be reached and the contract is not at hand."},
	{SecretUnavailable, ClassGate, 503, "The credential for this upstream cannot be obtained."},
	{RedactionKeyMissing, ClassGate, 503, "The contract hashes parts of requests, and this gateway has no redaction secret to do it with."},
	{AuditorKeyMissing, ClassGate, 503, "The call's bodies are to be kept sealed for the auditor, and this gateway has no auditor's key."},
	{GateUnavailable, ClassGate, 503, "The gate does not answer, so nothing passes."},
	{GateInternal, ClassGate, 503, "The gate met an internal fault, so the call does not pass."},
	{UpstreamUnreachable, ClassUpstream, 502, "The call was allowed, but the upstream cannot be reached."},
	{UpstreamTimeout, ClassUpstream, 504, "The call was allowed, but the upstream did not answer in time."},
}

var byCode = func() map[Code]Info {
	m := make(map[Code]Info, len(table))
	for _, i := range table {
		m[i.Code] = i
	}
	return m
}()

// All returns the whole list, in the order of the documentation.
func All() []Info { return append([]Info(nil), table...) }

// Lookup returns what is known about c. An unknown code is a fault of ours and answers as GateInternal does.
func Lookup(c Code) Info {
	if i, ok := byCode[c]; ok {
		return i
	}
	return Info{Code: c, Class: ClassGate, Status: http.StatusServiceUnavailable, Help: byCode[GateInternal].Help}
}

// Denial is a refusal as a value: a code from the list and what is particular to this call.
// It is an error so that it can be returned, but a denial is an outcome, not a fault.
type Denial struct {
	Code   Code
	Detail string // what was asked and what would have been allowed; shown to the client, so never a secret
}

// Deny makes a denial; detail may be empty.
func Deny(c Code, format string, args ...any) *Denial {
	return &Denial{Code: c, Detail: fmt.Sprintf(format, args...)}
}

// Status is the HTTP status that this denial answers with.
func (d *Denial) Status() int { return Lookup(d.Code).Status }

// Message is the sentence for the person who reads the answer.
func (d *Denial) Message() string {
	if d.Detail == "" {
		return Lookup(d.Code).Help
	}
	return Lookup(d.Code).Help + " (" + d.Detail + ")"
}

func (d *Denial) Error() string { return string(d.Code) + ": " + d.Message() }
