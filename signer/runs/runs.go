// Package runs is the index of the evidence by run: which records are whose, what they add up to, and where each run's chain
// ends. It is made from the evidence log alone and can be made again at any time; nothing is decided by it and no call waits for it.
package runs

import (
	"encoding/json"
	"maps"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// Key names a run: the job (the token's mission, or its hash where it has none) and the run's id within the job.
type Key struct {
	Job string `json:"job"`
	Run string `json:"run_id"`
}

// KeyOf is the run that a record belongs to.
func KeyOf(mission, tokenHash, run string) Key {
	if mission == "" {
		mission = tokenHash
	}
	return Key{mission, run}
}

// idLen is the length of a run's short name: 132 bits of a hash.
const idLen = 22

// ID is a short name that is safe in paths.
func (k Key) ID() string { return jcs.Hash([]byte(k.Job + "\n" + k.Run))[:idLen] }

// Summary is what a run adds up to.
type Summary struct {
	ID string `json:"id"`
	Key
	Subject        string         `json:"sub"`
	AgentDID       string         `json:"agent_did,omitempty"` // of the job's key; set by who holds that
	PolicyHashes   []string       `json:"policy_hashes"`
	Started        time.Time      `json:"started"`
	Updated        time.Time      `json:"updated"`
	Calls          int            `json:"calls"` // of the gateway's own chain
	Completed      int            `json:"completed"`
	Cut            int            `json:"cut"`
	Open           int            `json:"open"` // not settled yet, the client's own included
	Refused        int            `json:"refused"`
	ClientRecorded int            `json:"client_recorded"` // calls of which the client keeps a chain itself
	Parts          int            `json:"parts"`
	TokensInput    int64          `json:"tokens_input"`
	TokensOutput   int64          `json:"tokens_output"`
	Models         map[string]int `json:"models"` // calls by provider/model
	Hosts          map[string]int `json:"hosts"`  // other calls, by host
	SecretClasses  map[string]int `json:"secret_classes"`
	Codes          map[string]int `json:"codes"` // refusals by code
}

// maxNames bounds each map of a summary, so that no client makes one grow without end. What is beyond is counted as other.
const (
	maxNames = 64
	other    = "other"
)

func count(m map[string]int, name string) {
	if name == "" {
		return
	}
	if _, known := m[name]; !known && len(m) >= maxNames {
		name = other
	}
	m[name]++
}

// Call is one call of a run.
type Call struct {
	Intent  record.Logged
	Receipt json.RawMessage // its envelope; nil while it is open
}

// Run is all that the evidence holds of a run.
type Run struct {
	Summary
	CallList  []Call            `json:"call_list"` // in the order of the log
	Decisions []json.RawMessage `json:"decisions"` // signed refusals, in the order of their numbers
}

// entry is a run as the index keeps it.
type entry struct {
	Summary Summary    `json:"summary"`
	Head    chain.Head `json:"head"`
}

func newEntry(k Key) *entry {
	return &entry{Summary: Summary{
		ID: k.ID(), Key: k, PolicyHashes: []string{}, Models: map[string]int{}, Hosts: map[string]int{}, SecretClasses: map[string]int{}, Codes: map[string]int{},
	}}
}

func (s *Summary) at(ms int64) {
	t := time.UnixMilli(ms).UTC()
	if s.Started.IsZero() || t.Before(s.Started) {
		s.Started = t
	}
	if t.After(s.Updated) {
		s.Updated = t
	}
}

func (s *Summary) policy(hash string) {
	for _, h := range s.PolicyHashes {
		if h == hash {
			return
		}
	}
	if hash != "" && len(s.PolicyHashes) < maxNames {
		s.PolicyHashes = append(s.PolicyHashes, hash)
	}
}

// clone is a summary that shares nothing.
func (s *Summary) clone() Summary {
	c := *s
	c.Models, c.Hosts, c.SecretClasses, c.Codes = maps.Clone(s.Models), maps.Clone(s.Hosts), maps.Clone(s.SecretClasses), maps.Clone(s.Codes)
	c.PolicyHashes = append([]string{}, s.PolicyHashes...)
	return c
}
