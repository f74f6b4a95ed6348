// Package testarchive makes auditor's archives of made-up runs for tests: with the real keys, envelopes, chain and receipts,
// but without a log or a service.
package testarchive

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/contract"
	"sallyport/signer/decision"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// Start is when the run began.
var Start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Contract is what the run's calls are allowed by.
const Contract = `{"policy_kind":"wpc","policy_version":"v1","policy_id":"test","tools":{"allow":["provider:sallyport/openai"],"deny":[]},
"models":[{"provider":"openai","models":["gpt-4o-mini"]}],
"egress":{"default":"deny","rules":[{"host":"files.example.com","methods":["GET"],"path_prefixes":["/public"]}]},
"secrets":{"minting":"cst_required","allowed_secret_classes":["openai_key"],"max_ttl_seconds":300},
"auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true},"limits":{"max_request_bytes":1048576}}`

// Options say what the run did.
type Options struct {
	Calls, Refused, ClientRecorded int
	PartSize                       int // 0: chain.MaxEvents

	// Intent and Completion change a call before it is recorded.
	Intent     func(n int, i *record.Intent)
	Completion func(n int, c *record.Completion)
	// Events changes a part's events and receipts before it is signed.
	Part func(part int, payload map[string]any)
	// EventLine changes an event's payload before the event is hashed.
	EventLine func(n int, line []byte) []byte
	// Link changes a call's place in the chain before the receipt is made.
	Link func(n int, l *chain.Link)
	// Decision changes a refusal before it is signed.
	Decision func(n int, p *decision.Payload)
}

// Archive is an archive in the making.
type Archive struct {
	Gateway, Contract, Job *keyring.Key
	JobName, RunID         string
	PolicyHash             string
	Parts                  int
	Files                  map[string][]byte // all but the manifest
}

// Key is a key whose seed is one repeated byte.
func Key(b byte) *keyring.Key {
	k, err := keyring.Generate(bytes.NewReader(bytes.Repeat([]byte{b}, 64)))
	if err != nil {
		panic(err)
	}
	return k
}

// New makes an archive.
func New(o Options) *Archive {
	a := &Archive{Gateway: Key(1), Contract: Key(2), Job: Key(3), JobName: "job_1", RunID: "run_1", Files: map[string][]byte{}}
	wpc := must(contract.Sign([]byte(Contract), a.Contract, Start))
	a.PolicyHash = wpc.PayloadHashB64u
	a.Files["contracts/"+a.PolicyHash+".json"] = must(wpc.Encode())
	if o.PartSize == 0 {
		o.PartSize = chain.MaxEvents
	}
	a.Parts = (o.Calls + o.PartSize - 1) / o.PartSize
	a.decisions(o)
	a.calls(o)
	a.clientRecorded(o)
	trust := map[string]any{"gateway_dids": []string{a.Gateway.DID()}, "contract_signer_dids": []string{a.Contract.DID()}}
	a.Files["trust.json"] = must(jcs.Marshal(trust))
	return a
}

func (a *Archive) decisions(o Options) {
	var out bytes.Buffer
	for n := range o.Refused {
		r := &record.Refusal{
			ID: fmt.Sprintf("dec_%d", n), TimeMS: Start.UnixMilli() + int64(n), Code: "POLICY_MODEL_NOT_ALLOWED", Status: 451, RunID: a.RunID,
			MissionID: a.JobName, Subject: "agent", TokenHash: strings.Repeat("ab", 32), PolicyHash: a.PolicyHash, Provider: "openai", Model: "gpt-5",
		}
		p := decision.Build(r, "gateway", uint64(n)+1)
		if o.Decision != nil {
			o.Decision(n, p)
		}
		out.Write(must(must(decision.Sign(p, a.Gateway, Start)).Encode()))
		out.WriteByte('\n')
	}
	if o.Refused > 0 {
		a.Files["decisions.jsonl"] = out.Bytes()
	}
}

// Intent is the n-th call of the run: in turn a call to a model and one to another host.
func (a *Archive) intent(n int) *record.Intent {
	h := func(s string) string { return jcs.Hash([]byte(fmt.Sprint(s, n))) }
	i := &record.Intent{
		ID: fmt.Sprintf("rcpt_%d", n), TimeMS: Start.UnixMilli() + int64(n), RunID: a.RunID, Nonce: fmt.Sprintf("nonce_%d", n), MissionID: a.JobName,
		Subject: "agent", TokenHash: strings.Repeat("ab", 32), TokenScopeHash: jcs.Hash([]byte("scope")), PolicyHash: a.PolicyHash,
		Provider: "openai", Model: "gpt-4o-mini", Action: contract.ModelInvoke, Resource: "openai/gpt-4o-mini", Method: "POST", Host: "api.openai.com",
		Path: "/v1/chat/completions", SecretClass: "openai_key", RequestHash: h("request"), RequestBytes: 100, TrustVersion: 1,
	}
	if n%2 == 1 {
		i.Provider, i.Model, i.SecretClass, i.Action = "files.example.com", "", "", contract.NetworkEgress
		i.Method, i.Host, i.Path, i.Resource = "GET", "files.example.com", "/public/a", "GET files.example.com/public/a"
	}
	return i
}

func (a *Archive) settle(o Options, l *record.Logged, n int) []byte {
	c := &record.Completion{
		ID: l.ID, TimeMS: l.TimeMS + 50, Outcome: record.Completed, Status: 200, ResponseHash: jcs.Hash([]byte(fmt.Sprint("response", n))),
		ResponseBytes: 200, TokensInput: 10, TokensOutput: 20, UsageReported: true, LatencyMS: 50,
	}
	if n%3 == 2 {
		c.Outcome, c.Reason, c.Status = record.Cut, "the client went away", 0
	}
	if o.Completion != nil {
		o.Completion(n, c)
	}
	p := must(receipt.Build(l, c, "gateway"))
	return must(must(receipt.Sign(p, a.Gateway, time.UnixMilli(c.TimeMS))).Encode())
}

func (a *Archive) clientRecorded(o Options) {
	var out bytes.Buffer
	for n := range o.ClientRecorded {
		i := a.intent(2 * n)
		i.ID, i.Nonce, i.EventHash = fmt.Sprintf("rcpt_client_%d", n), fmt.Sprintf("nonce_client_%d", n), jcs.Hash([]byte(fmt.Sprint("client", n)))
		out.Write(a.settle(o, &record.Logged{Intent: *i}, 0))
		out.WriteByte('\n')
	}
	if o.ClientRecorded > 0 {
		a.Files["client-recorded.jsonl"] = out.Bytes()
	}
}

// BundleID is a part's id.
func (a *Archive) bundleID(part int, first string) string {
	run := jcs.Hash([]byte(a.JobName + "\n" + a.RunID))[:22]
	return "bundle_" + jcs.Hash([]byte(fmt.Sprintf("%s/%d/%s", run, part, first)))[:22]
}

type part struct {
	events    []chain.Event
	receipts  []json.RawMessage
	continues string
	cut       int
}

func (a *Archive) calls(o Options) {
	parts := make([]*part, a.Parts)
	var lines bytes.Buffer
	last, cut := "", 0
	for p := range parts {
		b := &part{continues: last}
		root := ""
		var prev *string
		for k := range min(o.PartSize, o.Calls-p*o.PartSize) {
			n := p*o.PartSize + k
			l := &record.Logged{Intent: *a.intent(n)}
			if o.Intent != nil {
				o.Intent(n, &l.Intent)
			}
			continues := ""
			if k == 0 {
				continues = b.continues
			}
			line := chain.Payload(nil, l.Intent.AppendJSON(nil), continues)
			if o.EventLine != nil {
				line = o.EventLine(n, line)
			}
			lines.Write(line)
			lines.WriteByte('\n')
			typ := chain.ToolCall
			if l.Action == contract.ModelInvoke {
				typ = chain.ModelCall
			}
			e := chain.Event{ID: fmt.Sprintf("evt_%d", n), RunID: a.RunID, Type: typ, Timestamp: envelope.FormatTime(time.UnixMilli(l.TimeMS)), PayloadHash: jcs.Hash(line), Prev: prev}
			e.Hash = e.Sum()
			l.Chain = &chain.Link{Part: p + 1, Index: k, Continues: continues, Event: e, Span: fmt.Sprintf("span_%d", n), Parent: root}
			if root == "" {
				root = l.Chain.Span
			}
			if o.Link != nil {
				o.Link(n, l.Chain)
			}
			env := a.settle(o, l, n)
			if bytes.Contains(env, []byte(`"outcome":"cut"`)) {
				b.cut++
				cut++
			}
			b.events, b.receipts = append(b.events, e), append(b.receipts, env)
			h := e.Hash
			prev, last = &h, h
		}
		parts[p] = b
	}
	if o.Calls > 0 {
		a.Files["events.jsonl"] = lines.Bytes()
	}
	for p, b := range parts {
		meta := map[string]any{
			"job": a.JobName, "sub": "agent", "gateway_did": a.Gateway.DID(), "policy_hashes": []string{a.PolicyHash}, "part": p + 1, "parts": a.Parts,
			"calls": o.Calls, "completed": o.Calls - cut, "cut": cut, "refused": o.Refused, "client_recorded": o.ClientRecorded,
			"last_decision_sequence": o.Refused, "archive": map[string]any{"contracts": []string{a.PolicyHash}},
		}
		if p > 0 {
			meta["previous_bundle_id"], meta["continues"] = a.bundleID(p, parts[p-1].events[0].Hash), b.continues
		}
		if p+1 < len(parts) {
			meta["next_bundle_id"] = a.bundleID(p+2, parts[p+1].events[0].Hash)
		}
		payload := map[string]any{
			"bundle_version": "1", "bundle_id": a.bundleID(p+1, b.events[0].Hash), "agent_did": a.Job.DID(), "event_chain": b.events, "receipts": b.receipts,
			"metadata": map[string]any{"harness": map[string]any{"id": "sallyport", "version": "test"}, "sallyport": meta},
		}
		if o.Part != nil {
			o.Part(p+1, payload)
		}
		lastReceipt := must(envelope.Parse(b.receipts[len(b.receipts)-1]))
		env := must(envelope.Seal(envelope.TypeProofBundle, payload, a.Job, must(time.Parse(time.RFC3339, lastReceipt.IssuedAt))))
		a.Files[BundleName(p+1)] = must(env.Encode())
	}
}

// BundleName is the name of a part's file.
func BundleName(part int) string {
	if part == 1 {
		return "bundle.json"
	}
	return fmt.Sprintf("bundle-%d.json", part)
}

// Manifest is the manifest's payload, as the files are now.
func (a *Archive) Manifest() map[string]any {
	files := []any{}
	for _, name := range slices.Sorted(maps.Keys(a.Files)) {
		files = append(files, map[string]any{"path": name, "sha256_b64u": jcs.Hash(a.Files[name]), "size_bytes": len(a.Files[name])})
	}
	return map[string]any{
		"archive_version": "1", "run_id": a.RunID, "job": a.JobName, "agent_did": a.Job.DID(), "gateway_did": a.Gateway.DID(),
		"created_at": envelope.FormatTime(Start.Add(time.Hour)), "parts": a.Parts, "files": files,
	}
}

// SignedManifest is the manifest over the files as they are now.
func (a *Archive) SignedManifest() []byte {
	return must(must(envelope.Seal(envelope.TypeArchive, a.Manifest(), a.Gateway, Start.Add(time.Hour))).Encode())
}

// Seal signs the manifest over the files as they are now and returns the archive.
func (a *Archive) Seal() []byte { return a.Zip(a.SignedManifest()) }

// Zip returns the archive with any manifest.
func (a *Archive) Zip(manifest []byte) []byte {
	all := maps.Clone(a.Files)
	all["manifest.json"] = manifest
	var entries []Entry
	for _, name := range slices.Sorted(maps.Keys(all)) {
		entries = append(entries, Entry{Name: name, Data: all[name]})
	}
	return Zip(entries)
}

// Entry is one file of a zip.
type Entry struct {
	Name    string
	Data    []byte
	Deflate bool
}

// Zip writes a zip of any entries in any order.
func Zip(entries []Entry) []byte {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		method := zip.Store
		if e.Deflate {
			method = zip.Deflate
		}
		f := must(w.CreateHeader(&zip.FileHeader{Name: e.Name, Method: method}))
		must(f.Write(e.Data))
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
