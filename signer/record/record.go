// Package record defines what ext_proc tells the signer about a call: the intent before the request
// leaves, the completion before the last byte of the answer is released, and the refusal.
// These are data only; how they travel is package client's and package service's business.
package record

// Times are milliseconds since the Unix epoch, sizes are bytes, hashes are base64url SHA-256 without padding
// over the raw bytes as they went upstream or came back.

// EmptyHash is the base64url SHA-256 of nothing: the hash of a body of which nothing came.
const EmptyHash = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"

// Intent is written before the request leaves. Its ID is the id of the receipt that will settle it.
type Intent struct {
	ID             string `json:"id"` // "rcpt_" + UUID
	TimeMS         int64  `json:"time_ms"`
	RunID          string `json:"run_id"`
	EventHash      string `json:"event_hash_b64u,omitempty"` // the client's own, where it records for itself
	Nonce          string `json:"nonce,omitempty"`           // X-Idempotency-Key, or the token's nonce
	MissionID      string `json:"mission_id,omitempty"`
	Subject        string `json:"sub"`
	TokenHash      string `json:"token_hash"` // hex SHA-256 of the token
	TokenScopeHash string `json:"token_scope_hash_b64u"`
	PolicyHash     string `json:"policy_hash_b64u"`
	Provider       string `json:"provider"`
	Model          string `json:"model,omitempty"`
	Action         string `json:"action"`   // e.g. model:invoke
	Resource       string `json:"resource"` // e.g. openai/gpt-4o-mini
	Method         string `json:"method"`
	Host           string `json:"host"` // upstream authority
	Path           string `json:"path"` // upstream path without query
	SecretClass    string `json:"secret_class,omitempty"`
	RequestHash    string `json:"request_hash_b64u"`
	RequestBytes   int64  `json:"request_bytes"`
	Stream         bool   `json:"stream,omitempty"`
	TrustVersion   uint64 `json:"trust_version"` // of the key and revocation snapshot the call was judged by
	Peer           string `json:"peer,omitempty"`
	// PrivacyMode is PrivacyEncrypted where the bodies are sealed, "" where only their hashes are kept.
	PrivacyMode string `json:"privacy_mode,omitempty"`
	SealedTo    string `json:"sealed_to,omitempty"` // names of the auditors' keys, with commas between
}

// PrivacyEncrypted says that the bodies are in the log, sealed to the auditors' keys.
const PrivacyEncrypted = "encrypted"

// Outcome says how a call that reached its intent ended.
type Outcome string

// The outcomes.
const (
	Completed Outcome = "completed" // the whole answer came back
	Cut       Outcome = "cut"       // the call ended before the whole answer was released
)

// Completion settles an intent.
type Completion struct {
	ID            string  `json:"id"`
	TimeMS        int64   `json:"time_ms"`
	Outcome       Outcome `json:"outcome"`
	Reason        string  `json:"reason,omitempty"` // why it was cut, or what is to be known of an answer
	Status        int     `json:"status,omitempty"` // HTTP status of the upstream; 0 where none came
	ResponseHash  string  `json:"response_hash_b64u"`
	ResponseBytes int64   `json:"response_bytes"`
	TokensInput   int64   `json:"tokens_input"`
	TokensOutput  int64   `json:"tokens_output"`
	UsageReported bool    `json:"usage_reported"` // false: the upstream reported no token counts, and both are 0
	LatencyMS     int64   `json:"latency_ms"`     // from intent to the last byte
	TTFBMS        int64   `json:"ttfb_ms,omitempty"`
}

// Refusal says that a call was not let through.
type Refusal struct {
	ID         string `json:"id"` // "dec_" + UUID
	TimeMS     int64  `json:"time_ms"`
	Code       string `json:"code"`
	Status     int    `json:"status"`
	Detail     string `json:"detail,omitempty"`
	RunID      string `json:"run_id,omitempty"`
	MissionID  string `json:"mission_id,omitempty"`
	Subject    string `json:"sub,omitempty"` // only where the token's signature was good
	TokenHash  string `json:"token_hash,omitempty"`
	PolicyHash string `json:"policy_hash_b64u,omitempty"`
	Provider   string `json:"provider,omitempty"`
	Model      string `json:"model,omitempty"`
	Resource   string `json:"resource,omitempty"` // what was asked, as contracts name it, where that much was understood
	Method     string `json:"method,omitempty"`
	Host       string `json:"host,omitempty"`
	Path       string `json:"path,omitempty"`
	Peer       string `json:"peer,omitempty"`
}

// Settlement is what travels when a call is over: the completion and its intent again, so that a signer that was
// restarted meanwhile can make the receipt.
type Settlement struct {
	Intent     *Intent     `json:"intent"`
	Completion *Completion `json:"completion"`
}
