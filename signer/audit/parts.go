package audit

import (
	"encoding/json"
	"fmt"
	"slices"

	"sallyport/signer/chain"
	"sallyport/signer/clawverify"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// partMetadata is payload.metadata.sallyport of a bundle.
type partMetadata struct {
	Job          string   `json:"job"`
	Subject      string   `json:"sub"`
	GatewayDID   string   `json:"gateway_did"`
	PolicyHashes []string `json:"policy_hashes"`
	Part         int      `json:"part"`
	Parts        int      `json:"parts"`
	Previous     string   `json:"previous_bundle_id"`
	NextBundleID string   `json:"next_bundle_id"`
	Continues    string   `json:"continues"`
	Calls        int      `json:"calls"`
	Completed    int      `json:"completed"`
	Cut          int      `json:"cut"`
	Refused      int      `json:"refused"`
	Own          int      `json:"client_recorded"`
	LastDecision uint64   `json:"last_decision_sequence"`
	Archive      struct {
		Contracts []string `json:"contracts"`
	} `json:"archive"`
}

func partOf(m *partMetadata) string {
	if m == nil {
		return "1 of an unknown number"
	}
	return fmt.Sprintf("%d of %d", m.Part, m.Parts)
}

// part is one bundle, as far as the audit reads it.
type part struct {
	number   int
	name     string
	meta     *partMetadata // nil where the gateway that made the bundle is not of this kind
	issuedAt string

	BundleID    string            `json:"bundle_id"`
	AgentDID    string            `json:"agent_did"`
	Events      []chain.Event     `json:"event_chain"`
	Receipts    []json.RawMessage `json:"receipts"`
	SideEffects []json.RawMessage `json:"side_effect_receipts"`
	Approvals   []json.RawMessage `json:"human_approval_receipts"`
	Tools       []json.RawMessage `json:"tool_receipts"`
	Metadata    struct {
		Sallyport json.RawMessage `json:"sallyport"`
	} `json:"metadata"`
}

// part verifies a bundle by the public rules and reads it, even where it does not verify, so that the other checks can say
// what in it is wrong. number is 0 for a bundle without an archive.
func (a *auditor) part(number int, raw []byte) *part {
	p := &part{number: number, name: bundleName(max(number, 1))}
	if number == 0 {
		p.name = "bundle"
	}
	a.did(checkBundles, 1)
	v := clawverify.Bundle(raw, a.cfg.claw())
	a.result.Bundles = append(a.result.Bundles, v)
	if bad := v.Strict(a.cfg.claw()); bad != nil {
		a.failed(checkBundles, p.name, bad)
	}
	env, err := envelope.Parse(raw)
	if err == nil {
		err = json.Unmarshal(env.Payload, p)
	}
	if err != nil {
		a.fail(checkBundles, clawverify.MalformedEnvelope, p.name, "%v", err)
		return nil
	}
	p.issuedAt = env.IssuedAt
	if env.ExpiresAt != "" {
		a.fail(checkBundles, clawverify.SchemaValidationFailed, p.name+" expires_at", "is not signed; our bundles have none")
	}
	if len(p.Metadata.Sallyport) == 0 {
		return p
	}
	p.meta = new(partMetadata)
	if err := json.Unmarshal(p.Metadata.Sallyport, p.meta); err != nil {
		a.fail(checkBundles, clawverify.SchemaValidationFailed, p.name+" payload.metadata.sallyport", "%v", err)
		p.meta = nil
	}
	if n := len(p.SideEffects) + len(p.Approvals) + len(p.Tools); n > 0 && v.Error == nil {
		a.did(checkReported, n) // the public rules anchor them
	}
	a.skip(checkReported, "there is none")
	return p
}

// runID is the id of a run in its bundles.
func runID(job, run string) string { return jcs.Hash([]byte(job + "\n" + run))[:22] }

// follows checks what a bundle says of its place among the bundles of the run.
func (a *auditor) follows(before, p *part, m *manifest) {
	a.did(checkParts, 1)
	a.did(checkIdentity, 1)
	a.result.Parts++
	meta := p.meta
	if meta == nil {
		a.fail(checkParts, EvidenceMissing, p.name+" payload.metadata.sallyport", "missing: the bundle does not say where it stands")
		return
	}
	bad := func(name, field, format string, args ...any) {
		a.fail(name, EvidenceMismatch, p.name+" payload."+field, format, args...)
	}
	if meta.Part != p.number || meta.Parts != m.Parts {
		bad(checkParts, "metadata.sallyport.part", "says bundle %d of %d, and is %d of %d", meta.Part, meta.Parts, p.number, m.Parts)
	}
	previous, continues := "", ""
	if before != nil {
		previous = before.BundleID
		if n := len(before.Events); n > 0 {
			continues = before.Events[n-1].Hash
		}
		if before.meta != nil && before.meta.NextBundleID != p.BundleID {
			a.fail(checkParts, EvidenceMismatch, before.name+" payload.metadata.sallyport.next_bundle_id", "is not the id of %s", p.name)
		}
	}
	if meta.Previous != previous {
		bad(checkParts, "metadata.sallyport.previous_bundle_id", "is not %q, the id of the bundle before", previous)
	}
	if meta.Continues != continues {
		bad(checkParts, "metadata.sallyport.continues", "is not %q, the last event of the bundle before", continues)
	}
	if len(p.Events) > 0 {
		if want := "bundle_" + jcs.Hash(fmt.Appendf(nil, "%s/%d/%s", runID(m.Job, m.RunID), p.number, p.Events[0].Hash))[:22]; p.BundleID != want {
			bad(checkParts, "bundle_id", "is not %s, which run, number and first event make", want)
		}
		if p.Events[0].RunID != m.RunID {
			bad(checkIdentity, "event_chain[0].run_id", "is not the run %s of the manifest", m.RunID)
		}
	}
	if p.AgentDID != m.AgentDID {
		bad(checkIdentity, "agent_did", "is not the agent of the manifest, %s", m.AgentDID)
	}
	if meta.Job != m.Job {
		bad(checkIdentity, "metadata.sallyport.job", "is not the job %s of the manifest", m.Job)
	}
	if meta.GatewayDID != m.GatewayDID {
		bad(checkIdentity, "metadata.sallyport.gateway_did", "is not the gateway of the manifest, %s", m.GatewayDID)
	}
}

// countUp holds the signed counts against what was found. Counts of calls are those of the whole run or, throughout, those of
// each part.
func (a *auditor) countUp(m *manifest) {
	r := a.result
	run := counts{r.Calls, r.Completed, r.Cut}
	ofRun := 0
	for i, t := range a.totals {
		if (counts{t.Calls, t.Completed, t.Cut}) == run {
			ofRun++
		}
		a.did(checkTotals, 1)
		own := a.perPart[i]
		if got := (counts{t.Calls, t.Completed, t.Cut}); got != own && (m == nil || got != run) {
			if m == nil && t.Parts > 1 {
				continue // may be those of the run
			}
			a.fail(checkTotals, EvidenceMismatch, fmt.Sprintf("bundle %d payload.metadata.sallyport", t.Part), "says %d calls, %d completed and %d cut; there are %d, %d and %d",
				t.Calls, t.Completed, t.Cut, own.calls, own.completed, own.cut)
		}
		if m == nil {
			continue
		}
		for _, c := range []struct {
			name, file string
			said, have int
		}{
			{"refused", "decisions.jsonl", t.Refused, r.Refused}, {"client_recorded", "client-recorded.jsonl", t.Own, r.Own},
			{"last_decision_sequence", "decisions.jsonl", int(min(t.LastDecision, 1<<53)), r.Refused}, //nolint:gosec // bounded
		} {
			if c.said != c.have {
				a.fail(checkTotals, EvidenceMissing, fmt.Sprintf("bundle %d payload.metadata.sallyport.%s", t.Part, c.name), "says %d; %s has %d", c.said, c.file, c.have)
			}
		}
	}
	if m != nil && ofRun != 0 && ofRun != len(a.totals) && slices.ContainsFunc(a.perPart, func(c counts) bool { return c != run }) {
		a.fail(checkTotals, EvidenceMismatch, "payload.metadata.sallyport", "some bundles count the run and some themselves")
	}
	a.skip(checkTotals, "no bundle says how much there is")
}
