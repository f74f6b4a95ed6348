// Package trust is what a replica must believe at the moment: which keys sign tokens, and what was withdrawn. The signer
// process holds it and pushes it to every replica; the rules are the design's ("The token").
package trust

import "sallyport/signer/keyring"

// State is one snapshot, whole. Slices are sorted where they are withdrawals, and must not be changed.
type State struct {
	// Version grows with every change, over restarts of the signer too.
	Version uint64 `json:"version"`
	// Keys verify tokens; ended ones are among them, so that they can be told from unknown ones.
	Keys []keyring.VerifyKey `json:"keys"`
	// RevokedTokens are hex SHA-256 of whole tokens.
	RevokedTokens []string `json:"revoked_tokens,omitempty"`
	// RevokedMissions are mission_id claims: every token of such a job is withdrawn.
	RevokedMissions []string `json:"revoked_missions,omitempty"`
	// RevokedPolicies are policy_hash_b64u claims: every token under such a contract is withdrawn.
	RevokedPolicies []string `json:"revoked_policies,omitempty"`
	// AtMS is when the snapshot was taken, in milliseconds since the Unix epoch.
	AtMS int64 `json:"at_ms"`
}

// Source gives snapshots.
type Source interface {
	// Snapshot is the newest.
	Snapshot() State
	// Changed is closed when a newer snapshot exists than at the time of this call. Take the channel before the
	// snapshot, so that no change falls between the two.
	Changed() <-chan struct{}
}
