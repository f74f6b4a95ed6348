package audit

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"

	"sallyport/signer/clawverify"
	"sallyport/signer/decision"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// eachLine visits a file's lines.
func (a *auditor) eachLine(b *bag, check, name string, visit func(at string, line []byte)) {
	l, err := b.lines(name)
	if err != nil {
		a.fail(check, ArchiveMalformed, name, "%v", err)
		return
	}
	defer l.close()
	for {
		line, err := l.next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			a.fail(check, ArchiveMalformed, name, "%v", err)
			return
		}
		visit(l.at(), line)
	}
}

// decisions verifies the refusals: signed, of this run, counted without a gap.
func (a *auditor) decisions(b *bag, m *manifest) {
	seen := map[string]bool{}
	a.eachLine(b, checkDecisions, "decisions.jsonl", func(at string, line []byte) {
		a.did(checkDecisions, 1)
		a.result.Refused++
		d, err := decision.Verify(line, a.cfg.GatewaySigners)
		if err != nil {
			var bad *envelope.Error
			code, field := clawverify.SchemaValidationFailed, at
			if errors.As(err, &bad) {
				code, field = clawverify.Code(bad.Code), at+" "+bad.Field
				err = errors.New(bad.Message)
			}
			a.fail(checkDecisions, code, field, "%v", err)
			return
		}
		env, err := envelope.Parse(line)
		if err != nil {
			return // it was read a moment ago
		}
		if env.ExpiresAt != "" {
			a.fail(checkDecisions, clawverify.SchemaValidationFailed, at+" expires_at", "is not signed; our refusals have none")
		}
		a.receipts[env.PayloadHashB64u] = kindDecision
		job := d.MissionID
		if job == "" {
			job = d.TokenHash
		}
		switch {
		case d.RunID != m.RunID || job != m.Job:
			a.fail(checkDecisions, EvidenceMismatch, at+" payload.run_id", "the refusal is of another run or job")
		case d.Sequence != uint64(a.result.Refused): //nolint:gosec // counted from 1
			a.fail(checkDecisions, EvidenceMissing, at+" payload.sequence", "is %d where %d is expected: refusals are missing or out of order", d.Sequence, a.result.Refused)
		case seen[d.DecisionID]:
			a.fail(checkDecisions, EvidenceMismatch, at+" payload.decision_id", "is that of another refusal too")
		}
		seen[d.DecisionID] = true
		if d.PolicyHash != "" && b.files[contractName(d.PolicyHash)] != nil {
			a.contract(at+" payload.policy_hash_b64u", d.PolicyHash)
		}
	})
	if m.Parts > 0 && len(a.totals) > 0 && a.totals[0].Refused == 0 {
		a.skip(checkDecisions, "there are none, and the bundles say so")
	}
	a.skip(checkDecisions, "there are none")
}

// clientRecorded verifies the receipts of calls that the client keeps a chain of itself.
func (a *auditor) clientRecorded(b *bag, m *manifest) {
	a.eachLine(b, checkOwn, "client-recorded.jsonl", func(at string, line []byte) {
		a.result.Own++
		r := a.readReceipt(checkOwn, at, line)
		if r == nil {
			return
		}
		switch {
		case r.Binding.RunID != m.RunID:
			a.fail(checkOwn, EvidenceMismatch, at+" payload.binding.run_id", "is not the run of the manifest")
		case r.Binding.EventHash == "":
			a.fail(checkOwn, EvidenceMismatch, at+" payload.binding.event_hash_b64u", "missing: a call that the client records names its event")
		case r.Binding.SpanID != "" || r.Binding.ParentSpanID != "":
			a.fail(checkOwn, EvidenceMismatch, at+" payload.binding.span_id", "a call that the client records has no span of the gateway's")
		}
		a.token(&call{at: at, receipt: r})
		a.replay(at, r)
	})
	a.skip(checkOwn, "there are none")
}

// The kinds of entries in the transparency log.
const (
	kindReceipt  = "receipt"
	kindDecision = "decision"
)

// proof is a line of proofs.jsonl.
type proof struct {
	PayloadHash string          `json:"payload_hash_b64u"`
	Kind        string          `json:"kind"`
	Claw        json.RawMessage `json:"log_inclusion_proof"`
	TLog        *struct {
		Index     *uint64  `json:"index"`
		Inclusion []string `json:"inclusion"`
	} `json:"tlog"`
}

// proofs verifies what the two logs prove, each where a log is trusted.
func (a *auditor) proofs(b *bag) {
	if b.files["proofs.jsonl"] == nil {
		a.skip(checkTLog, "the archive has no proofs.jsonl")
		a.skip(checkClawLog, "the archive has no proofs.jsonl")
		return
	}
	var checkpoint []byte
	if b.files["checkpoint"] != nil {
		var err error
		if checkpoint, err = b.read("checkpoint", maxSmallFile); err != nil {
			a.fail(checkTLog, ArchiveMalformed, "checkpoint", "%v", err)
			return
		}
	}
	seen := map[string]bool{}
	noTLog, noClaw := 0, 0
	a.eachLine(b, checkTLog, "proofs.jsonl", func(at string, line []byte) {
		var p proof
		if err := jcs.Unmarshal(line, &p); err != nil {
			a.fail(checkTLog, clawverify.SchemaValidationFailed, at, "%v", err)
			return
		}
		switch {
		case a.receipts[p.PayloadHash] == "" || a.receipts[p.PayloadHash] != p.Kind:
			a.fail(checkTLog, EvidenceMismatch, at+" payload_hash_b64u", "no %.20s in the archive has this hash", p.Kind)
			return
		case seen[p.PayloadHash]:
			a.fail(checkTLog, EvidenceMismatch, at+" payload_hash_b64u", "another line has it too")
			return
		}
		seen[p.PayloadHash] = true
		if p.TLog == nil {
			noTLog++
		} else {
			a.inTLog(at, &p, checkpoint)
		}
		switch {
		case p.Kind != kindReceipt && len(p.Claw) > 0:
			a.fail(checkClawLog, EvidenceMismatch, at+" log_inclusion_proof", "only receipts are in the receipt log")
		case p.Kind == kindReceipt && len(p.Claw) == 0:
			noClaw++
		case p.Kind == kindReceipt:
			a.inClawLog(at, &p)
		}
	})
	for hash, kind := range a.receipts {
		if seen[hash] {
			continue
		}
		noTLog++
		if kind == kindReceipt {
			noClaw++
		}
	}
	a.lacking(checkTLog, noTLog)
	a.lacking(checkClawLog, noClaw)
	a.skip(checkTLog, "nothing here is in a log")
	a.skip(checkClawLog, "nothing here is in a log")
}

// lacking: a log that proves some of the entries has to prove them all.
func (a *auditor) lacking(check string, n int) {
	k := a.checks[check]
	if n > 0 && k.Count > 0 {
		a.fail(check, EvidenceMissing, "proofs.jsonl", "%d entries have no proof; if they are younger than the log, get the archive again", n)
	}
}

func (a *auditor) inTLog(at string, p *proof, checkpoint []byte) {
	if a.cfg.TLog == nil {
		a.skip(checkTLog, "no key of a transparency log is trusted; name it with --trust-log")
		return
	}
	a.did(checkTLog, 1)
	if p.TLog.Index == nil {
		a.fail(checkTLog, clawverify.SchemaValidationFailed, at+" tlog.index", "missing")
		return
	}
	var path [][]byte
	for _, s := range p.TLog.Inclusion {
		h, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil || len(h) != 32 {
			a.fail(checkTLog, ProofInvalid, at+" tlog.inclusion", "holds something that is no base64 of a SHA-256")
			return
		}
		path = append(path, h)
	}
	if err := a.cfg.TLog(p.Kind, p.PayloadHash, *p.TLog.Index, path, checkpoint); err != nil {
		a.fail(checkTLog, ProofInvalid, at+" tlog", "%v", err)
	}
}

func (a *auditor) inClawLog(at string, p *proof) {
	if a.cfg.ClawLog == nil {
		a.skip(checkClawLog, "no receipt log is trusted")
		return
	}
	a.did(checkClawLog, 1)
	leaf, err := a.cfg.ClawLog(p.Claw)
	if err != nil {
		a.fail(checkClawLog, ProofInvalid, at+" log_inclusion_proof", "%v", err)
		return
	}
	if leaf != p.PayloadHash {
		a.fail(checkClawLog, ProofInvalid, at+" log_inclusion_proof.leaf_hash_b64u", "is not the receipt's payload hash")
	}
}
