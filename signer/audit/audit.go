// Package audit checks an auditor's archive of a run, or a bundle alone, offline, with nothing but the keys that it is told to
// believe. Beyond what the ecosystem's verifiers check (package clawverify) it holds the pieces against each other: the
// manifest against the files, the parts and the chain for completeness, each receipt against the intent that was recorded
// before the call left, each call against the contract that it names, and the refusals, counts and log proofs.
// What the archive looks like is said in README.md.
package audit

import (
	"fmt"
	"time"

	"sallyport/signer/clawverify"
	"sallyport/signer/envelope"
)

// Config is whom and what an audit believes. An empty list means nobody.
type Config struct {
	GatewaySigners  []string // did:keys that sign receipts, refusals and manifests
	ContractSigners []string // did:keys that sign contracts
	// Contracts are signed contracts (envelopes) for the audit of a bundle that comes without an archive.
	Contracts [][]byte
	URM       []byte
	// AllowUnchecked: see clawverify.Config.
	AllowUnchecked bool
	Now            time.Time

	// TLog verifies that a receipt or a refusal is in the transparency log that a checkpoint is of; nil where no log is trusted.
	TLog func(kind, payloadHash string, index uint64, inclusion [][]byte, checkpoint []byte) error
	// ClawLog verifies an inclusion proof of the ecosystem's receipt log and returns the leaf that it is about; nil where none
	// is trusted.
	ClawLog func(proof []byte) (leaf string, err error)
}

func (c *Config) claw() *clawverify.Config {
	return &clawverify.Config{GatewaySigners: c.GatewaySigners, URM: c.URM, Now: c.Now, AllowUnchecked: c.AllowUnchecked}
}

// KindArchive is the kind of an archive in a report.
const KindArchive = "sallyport_archive"

// Codes of ours, for what the ecosystem has no word for.
const (
	ArchiveMalformed clawverify.Code = "ARCHIVE_MALFORMED"   // no zip, or one that has more than one reading
	EvidenceMismatch clawverify.Code = "EVIDENCE_MISMATCH"   // two pieces contradict each other
	EvidenceMissing  clawverify.Code = "EVIDENCE_INCOMPLETE" // a piece that must be there is not
	PolicyViolation  clawverify.Code = "POLICY_VIOLATION"    // a call that its contract does not allow
	ProofInvalid     clawverify.Code = "INCLUSION_PROOF_INVALID"
)

// Verdict is what one check came to.
type Verdict string

// The verdicts. A check that was not made is never a passed one.
const (
	Passed     Verdict = "passed"
	Failed     Verdict = "failed"
	NotChecked Verdict = "not_checked"
)

// Check is one thing that was looked at.
type Check struct {
	Name    string          `json:"name"`
	What    string          `json:"what"` // in a sentence
	Verdict Verdict         `json:"verdict"`
	Count   int             `json:"count"` // things looked at
	Faults  int             `json:"faults,omitempty"`
	Code    clawverify.Code `json:"code,omitempty"`   // of the first fault
	Field   string          `json:"field,omitempty"`  // of the first fault
	Reason  string          `json:"reason,omitempty"` // of the first fault, or why it was not checked
	// More are further faults, at most nine.
	More []string `json:"more,omitempty"`
}

// maxMore bounds the faults that are kept besides the first.
const maxMore = 9

// Result is what an audit came to.
type Result struct {
	RunID      string   `json:"run_id,omitempty"`
	Job        string   `json:"job,omitempty"`
	AgentDID   string   `json:"agent_did,omitempty"`
	GatewayDID string   `json:"gateway_did,omitempty"`
	Parts      int      `json:"parts"`
	Calls      int      `json:"calls"`
	Completed  int      `json:"completed"`
	Cut        int      `json:"cut"`
	Refused    int      `json:"refused"`
	Own        int      `json:"client_recorded"`
	Checks     []*Check `json:"checks"`
	// Bundles are the public verifiers' verdicts on the parts.
	Bundles []*clawverify.Verification `json:"bundles,omitempty"`
}

// The checks, in the order of the report.
const (
	checkArchive   = "archive"
	checkManifest  = "manifest"
	checkFiles     = "files"
	checkBundles   = "bundles"
	checkParts     = "parts"
	checkIdentity  = "identity"
	checkChain     = "chain"
	checkEvents    = "events"
	checkReceipts  = "receipts"
	checkTokens    = "tokens"
	checkTotals    = "totals"
	checkContracts = "contracts"
	checkReplay    = "contract replay"
	checkDecisions = "refusals"
	checkOwn       = "client-recorded"
	checkTLog      = "transparency log"
	checkClawLog   = "receipt log"
	checkSealed    = "sealed bodies"
	checkReported  = "self-reported"
)

var sentences = []struct{ name, what string }{
	{checkArchive, "the archive is a plain zip with one reading"},
	{checkManifest, "the manifest is signed by a trusted gateway"},
	{checkFiles, "every file is the one that the manifest names, none is missing and none is added"},
	{checkBundles, "each bundle passes the public verifiers' rules and every receipt in it counts"},
	{checkParts, "the bundles follow each other without a gap"},
	{checkIdentity, "run, job, agent and gateway are the same throughout"},
	{checkChain, "each event has exactly one receipt, in order, and hangs on its bundle's first call"},
	{checkEvents, "each event's hash covers the intent that was recorded before the call left"},
	{checkReceipts, "each receipt agrees with that intent in every member"},
	{checkTokens, "calls with one token have one contract, scope and job, and no nonce was used twice"},
	{checkTotals, "the signed counts are those of what is here"},
	{checkContracts, "each contract is here, hashes to its name and is signed by a trusted signer"},
	{checkReplay, "each call is allowed by its contract, with the credential that the contract names for it"},
	{checkDecisions, "each refusal is signed by a trusted gateway, and none is missing in the count"},
	{checkOwn, "receipts of calls that the client recorded itself are signed and of this run"},
	{checkTLog, "each receipt and refusal is in the transparency log that the checkpoint is of"},
	{checkClawLog, "each receipt is in the ecosystem's receipt log"},
	{checkSealed, "sealed bodies belong to receipts that are here"},
	{checkReported, "what a bundle reports without a signature of its own hangs on a receipt"},
}

// auditor is one audit under way.
type auditor struct {
	cfg    *Config
	result *Result
	checks map[string]*Check

	contracts *contracts
	receipts  map[string]string // payload hash of each receipt and refusal → its kind in the log
	ids       map[string]bool   // receipt ids
	encrypted []string          // those whose bodies were sealed
	tokens    map[string]*tokenUse
	nonces    map[string]string
	lastTime  string
	lastHash  string
	totals    []*partMetadata
	perPart   []counts
}

type counts struct{ calls, completed, cut int }

func newAuditor(c *Config) *auditor {
	a := &auditor{
		cfg: c, result: &Result{}, checks: map[string]*Check{}, receipts: map[string]string{}, ids: map[string]bool{},
		tokens: map[string]*tokenUse{}, nonces: map[string]string{},
	}
	for _, s := range sentences {
		k := &Check{Name: s.name, What: s.what, Verdict: NotChecked, Reason: "an earlier fault stood in the way"}
		a.checks[s.name] = k
		a.result.Checks = append(a.result.Checks, k)
	}
	a.contracts = newContracts(c)
	return a
}

// did says that a check was made, of n things more.
func (a *auditor) did(name string, n int) {
	k := a.checks[name]
	k.Count += n
	if k.Verdict == NotChecked {
		k.Verdict, k.Reason = Passed, ""
	}
}

// fail notes a fault of a check.
func (a *auditor) fail(name string, code clawverify.Code, field, format string, args ...any) {
	k := a.checks[name]
	text := fmt.Sprintf(format, args...)
	k.Faults++
	switch {
	case k.Verdict != Failed:
		k.Verdict, k.Code, k.Field, k.Reason = Failed, code, field, text
	case len(k.More) < maxMore:
		k.More = append(k.More, fmt.Sprintf("%s: %s: %s", code, field, text))
	}
}

func (a *auditor) failed(name, prefix string, err *clawverify.Error) {
	field := prefix
	if err.Field != "" {
		field = prefix + " " + err.Field
	}
	a.fail(name, err.Code, field, "%s", err.Message)
}

// skip says why a check is not made. A check that was begun keeps its verdict.
func (a *auditor) skip(name, format string, args ...any) {
	if k := a.checks[name]; k.Verdict == NotChecked {
		k.Reason = fmt.Sprintf(format, args...)
	}
}

// report makes the public verifiers' result of it: the reason is that of the first check that failed.
func (a *auditor) report(kind string, input any) *clawverify.Report {
	r := &clawverify.Report{Kind: kind, Status: clawverify.Pass, VerifiedAt: envelope.FormatTime(a.cfg.Now), ReasonCode: clawverify.OK, Input: input, Verification: a.result}
	passed, skipped := 0, 0
	for _, k := range a.result.Checks {
		switch k.Verdict {
		case Passed:
			passed++
		case NotChecked:
			skipped++
		case Failed:
			if r.Status == clawverify.Pass {
				r.Status, r.ReasonCode = clawverify.Fail, k.Code
				r.Reason = fmt.Sprintf("%s: %s: %s", k.Name, k.Field, k.Reason)
				r.Hint = clawverify.Hint(k.Code)
			}
		}
	}
	if r.Status == clawverify.Pass {
		r.Reason = fmt.Sprintf("%d checks passed, %d were not made", passed, skipped)
	}
	return r
}
