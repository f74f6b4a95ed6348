// Package bundle makes of a run's evidence what an auditor takes away: proof bundles in the Claw ecosystem's form (WIRE 8, 15),
// signed by the job's key, and an archive with what they refer to. The same evidence always gives the same bytes.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
	"sallyport/signer/runs"
)

// ErrOpen means that calls of the run are not settled yet.
var ErrOpen = errors.New("the run has calls that are not settled yet; ask again when they are over")

// ErrNoCalls means that the run has nothing that a bundle could hold.
var ErrNoCalls = errors.New("the run has no call of the gateway's own chain, so there is no bundle; its archive holds what there is")

// ErrTooLarge means that the sealed bodies are more than an archive holds.
var ErrTooLarge = errors.New("the sealed bodies are too large for an archive; ask for one without them, and open them where the evidence is")

// ErrPart means that the run has no part of that number.
var ErrPart = errors.New("the run has no such part")

// Maker makes bundles and archives.
type Maker struct {
	Gateway envelope.Signer                  // signs the archive's manifest
	Job     func(job string) envelope.Signer // the key of a job
	Version string                           // of this program
	// Contract is the envelope of a contract.
	Contract func(hash string) ([]byte, error)
	// Proofs are the logs' proofs of payload hashes, in their order; nil: the archive has none.
	Proofs func(hashes []string) (*Proofs, error)
	// Sealed visits the sealed parts of a call's bodies; nil: the archive has none.
	Sealed func(receipt string, visit func(chunk []byte) error) error
	// Trust is what a verifier could trust, for information.
	Trust any
}

// Proofs say that entries are in the logs.
type Proofs struct {
	Checkpoint []byte // the signed note that all of Log lead to
	Lines      []Proof
}

// Proof is one line of the archive's proofs.jsonl.
type Proof struct {
	Kind        string          `json:"kind"`
	ReceiptLog  json.RawMessage `json:"log_inclusion_proof,omitempty"` // the ecosystem's; of receipts only
	PayloadHash string          `json:"payload_hash_b64u"`
	Log         *LogProof       `json:"tlog,omitempty"`
}

// LogProof leads from an entry of the transparency log to the checkpoint.
type LogProof struct {
	Inclusion []string `json:"inclusion"` // base64, bottom up
	Index     uint64   `json:"index"`
}

// run is a run ready to be bundled.
type run struct {
	*runs.Run
	agent    envelope.Signer
	gateway  string
	version  string
	parts    [][]runs.Call
	own      []runs.Call // that the client recorded
	policies []string
	done     int
	cut      int
}

// split puts a run's calls into parts.
func (m *Maker) split(r *runs.Run) (*run, error) {
	out := &run{Run: r, agent: m.Job(r.Job), gateway: m.Gateway.DID(), version: m.Version}
	seen := map[string]bool{}
	for _, c := range r.CallList {
		if c.Receipt == nil {
			return nil, fmt.Errorf("%w (%s)", ErrOpen, c.Intent.ID)
		}
		if !seen[c.Intent.PolicyHash] {
			seen[c.Intent.PolicyHash] = true
			out.policies = append(out.policies, c.Intent.PolicyHash)
		}
		l := c.Intent.Chain
		if l == nil {
			out.own = append(out.own, c)
			continue
		}
		if l.Part != len(out.parts) {
			if l.Part != len(out.parts)+1 {
				return nil, fmt.Errorf("run %s: part %d follows part %d: events are missing from the evidence", r.Run, l.Part, len(out.parts))
			}
			out.parts = append(out.parts, nil)
		}
		at := len(out.parts) - 1
		if l.Index != len(out.parts[at]) {
			return nil, fmt.Errorf("run %s: event %d of part %d is where event %d is due: events are missing from the evidence", r.Run, l.Index, l.Part, len(out.parts[at]))
		}
		out.parts[at] = append(out.parts[at], c)
		p, err := payloadOf(c.Receipt)
		if err != nil {
			return nil, err
		}
		if p.Metadata.Sallyport.Outcome == record.Cut {
			out.cut++
		} else {
			out.done++
		}
	}
	return out, nil
}

func payloadOf(env []byte) (*receipt.Payload, error) {
	var e struct{ Payload receipt.Payload }
	if err := json.Unmarshal(env, &e); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return &e.Payload, nil
}

// Bundle is the envelope of one part of a run, counted from 1.
func (m *Maker) Bundle(r *runs.Run, part int) (*envelope.Envelope, error) {
	s, err := m.split(r)
	if err != nil {
		return nil, err
	}
	if len(s.parts) == 0 {
		return nil, ErrNoCalls
	}
	return s.bundle(part)
}

// bundle is a proof bundle's payload, its members in canonical order.
type payload struct {
	AgentDID      string            `json:"agent_did"`
	BundleID      string            `json:"bundle_id"`
	BundleVersion string            `json:"bundle_version"`
	Events        []chain.Event     `json:"event_chain"`
	Metadata      metadata          `json:"metadata"`
	Receipts      []json.RawMessage `json:"receipts"`
	SideEffects   []sideEffect      `json:"side_effect_receipts,omitempty"`
}

type metadata struct {
	Harness   harness `json:"harness"`
	Sallyport details `json:"sallyport"`
}

type harness struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

// details are ours, in the open part of the bundle. The counts are the whole run's.
type details struct {
	Archive      archived `json:"archive"`
	Calls        int      `json:"calls"`
	Own          int      `json:"client_recorded"`
	Completed    int      `json:"completed"`
	Continues    string   `json:"continues,omitempty"` // the last event of the part before
	Cut          int      `json:"cut"`
	GatewayDID   string   `json:"gateway_did"`
	Job          string   `json:"job"`
	LastDecision uint64   `json:"last_decision_sequence"`
	Next         string   `json:"next_bundle_id,omitempty"`
	Part         int      `json:"part"`
	Parts        int      `json:"parts"`
	PolicyHashes []string `json:"policy_hashes"`
	Previous     string   `json:"previous_bundle_id,omitempty"`
	Refused      int      `json:"refused"`
	Subject      string   `json:"sub"`
}

type archived struct {
	Contracts []string `json:"contracts"`
}

// sideEffect says that a call left for a host that is no model provider's. It is anchored to the call's receipt by its span.
type sideEffect struct {
	AgentDID       string  `json:"agent_did"`
	Binding        binding `json:"binding"`
	EffectClass    string  `json:"effect_class"`
	HashAlgorithm  string  `json:"hash_algorithm"`
	ReceiptID      string  `json:"receipt_id"`
	ReceiptVersion string  `json:"receipt_version"`
	RequestHash    string  `json:"request_hash_b64u"`
	ResponseHash   string  `json:"response_hash_b64u"`
	TargetHash     string  `json:"target_hash_b64u"` // of the resource
	Timestamp      string  `json:"timestamp"`
}

type binding struct {
	EventHash string `json:"event_hash_b64u"`
	RunID     string `json:"run_id"`
	ToolSpan  string `json:"tool_span_id"`
}

const networkEgress = "network_egress"

// maxPolicies keeps a bundle's metadata within the 16 KiB that verifiers take; a run has one contract, or a few.
const maxPolicies = 64

func (s *run) bundle(part int) (*envelope.Envelope, error) {
	if part < 1 || part > len(s.parts) {
		return nil, fmt.Errorf("%w: %d of %d", ErrPart, part, len(s.parts))
	}
	if len(s.policies) > maxPolicies {
		return nil, fmt.Errorf("run %s was under %d contracts, and a bundle can name %d; start a new run for each contract", s.Run.Run, len(s.policies), maxPolicies)
	}
	calls := s.parts[part-1]
	p := payload{AgentDID: s.agent.DID(), BundleID: s.bundleID(part), BundleVersion: "1", Metadata: metadata{harness{"sallyport", s.version}, s.details(part)}}
	at := ""
	for _, c := range calls {
		p.Events, p.Receipts = append(p.Events, c.Intent.Chain.Event), append(p.Receipts, c.Receipt)
		r, err := payloadOf(c.Receipt)
		if err != nil {
			return nil, err
		}
		if d := r.Metadata.Sallyport; d.Action == contract.NetworkEgress || d.Action == contract.ToolExecute && !strings.HasPrefix(r.Provider, contract.MCPPrefix) {
			p.SideEffects = append(p.SideEffects, sideEffect{
				AgentDID: p.AgentDID, Binding: binding{r.Binding.EventHash, r.Binding.RunID, r.Binding.SpanID}, EffectClass: networkEgress,
				HashAlgorithm: envelope.HashAlgorithm, ReceiptID: "side_" + strings.TrimPrefix(r.ReceiptID, "rcpt_"), ReceiptVersion: "1",
				RequestHash: r.RequestHash, ResponseHash: r.ResponseHash, TargetHash: jcs.Hash([]byte(d.Method + " " + d.Host + d.Path)), Timestamp: r.Timestamp,
			})
		}
		var e struct {
			IssuedAt string `json:"issued_at"`
		}
		if err := json.Unmarshal(c.Receipt, &e); err != nil {
			return nil, fmt.Errorf("receipt: %w", err)
		}
		at = e.IssuedAt // of the last
	}
	issued, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return envelope.Seal(envelope.TypeProofBundle, p, s.agent, issued)
}

func (s *run) details(part int) details {
	d := details{
		Archive: archived{s.policies}, Calls: s.done + s.cut, Own: len(s.own), Completed: s.done, Cut: s.cut, GatewayDID: s.gateway, Job: s.Job,
		LastDecision: uint64(len(s.Decisions)), Part: part, Parts: len(s.parts), PolicyHashes: s.policies, Refused: len(s.Decisions), Subject: s.Subject,
	}
	if part > 1 {
		before := s.parts[part-2]
		d.Previous, d.Continues = s.bundleID(part-1), before[len(before)-1].Intent.Chain.Event.Hash
	}
	if part < len(s.parts) {
		d.Next = s.bundleID(part + 1)
	}
	return d
}

func (s *run) bundleID(part int) string {
	return "bundle_" + jcs.Hash(fmt.Appendf(nil, "%s/%d/%s", s.ID, part, s.parts[part-1][0].Intent.Chain.Event.Hash))[:22]
}
