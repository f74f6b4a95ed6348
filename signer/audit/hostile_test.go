package audit_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"sallyport/signer/audit"
	"sallyport/signer/chain"
	"sallyport/signer/clawverify"
	"sallyport/signer/decision"
	"sallyport/signer/envelope"
	"sallyport/signer/internal/testarchive"
	"sallyport/signer/jcs"
	"sallyport/signer/record"
)

// TestDishonestGateway: everything is signed by the right keys, and all the same the evidence says that something is wrong.
func TestDishonestGateway(t *testing.T) {
	t.Parallel()
	at := func(want int, f func(i *record.Intent)) func(int, *record.Intent) {
		return func(n int, i *record.Intent) {
			if n == want {
				f(i)
			}
		}
	}
	for name, tt := range map[string]struct {
		o     testarchive.Options
		check string
		code  clawverify.Code
		field string
	}{
		"model that the contract does not allow": {testarchive.Options{Calls: 3, Intent: at(2, func(i *record.Intent) { i.Model, i.Resource = "gpt-5", "openai/gpt-5" })}, "contract replay", audit.PolicyViolation, "receipts[2]"},
		"host that the contract does not allow":  {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) { i.Host, i.Resource = "evil.example", "GET evil.example/public/a" })}, "contract replay", audit.PolicyViolation, "receipts[1]"},
		"method that the contract does not allow": {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) {
			i.Method, i.Resource = "POST", "POST files.example.com/public/a"
		})}, "contract replay", audit.PolicyViolation, "receipts[1]"},
		"resource that is not the host": {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) { i.Host = "evil.example" })}, "contract replay", audit.EvidenceMismatch, "resource"},
		"credential of another class":   {testarchive.Options{Calls: 1, Intent: at(0, func(i *record.Intent) { i.SecretClass = "other" })}, "contract replay", audit.PolicyViolation, "secret_class"},
		"credential where none is due":  {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) { i.SecretClass = "openai_key" })}, "contract replay", audit.PolicyViolation, "secret_class"},
		"request above the limit":       {testarchive.Options{Calls: 1, Intent: at(0, func(i *record.Intent) { i.RequestBytes = 2 << 20 })}, "contract replay", audit.PolicyViolation, "request_bytes"},
		"nonce used twice":              {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) { i.Nonce = "nonce_0" })}, "tokens", audit.EvidenceMismatch, "nonce"},
		"one token, two scopes":         {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) { i.TokenScopeHash = jcs.Hash(nil) })}, "tokens", audit.EvidenceMismatch, "receipts[1]"},
		"one token, two contracts":      {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) { i.PolicyHash = jcs.Hash(nil) })}, "tokens", audit.EvidenceMismatch, "receipts[1]"},
		"contract that is not there":    {testarchive.Options{Calls: 1, ClientRecorded: 1, Intent: at(0, func(i *record.Intent) { i.PolicyHash = jcs.Hash(nil) })}, "contracts", audit.EvidenceMissing, "policy_hash"},
		"call of another job":           {testarchive.Options{Calls: 2, Intent: at(1, func(i *record.Intent) { i.MissionID = "job_2" })}, "identity", audit.EvidenceMismatch, "mission_id"},
		"client's call in our chain":    {testarchive.Options{Calls: 1, Intent: at(0, func(i *record.Intent) { i.EventHash = jcs.Hash(nil) })}, "events", audit.EvidenceMismatch, "event_hash_b64u"},
		"time that runs backwards":      {testarchive.Options{Calls: 3, Intent: at(2, func(i *record.Intent) { i.TimeMS -= 1000 })}, "chain", audit.EvidenceMismatch, "timestamp"},
		"intent other than recorded": {testarchive.Options{Calls: 1, EventLine: func(_ int, l []byte) []byte {
			return bytes.Replace(l, []byte(`"request_bytes":100`), []byte(`"request_bytes":101`), 1)
		}}, "receipts", audit.EvidenceMismatch, "request_bytes"},
		"intent in another form": {testarchive.Options{Calls: 1, EventLine: func(_ int, l []byte) []byte {
			return bytes.Replace(l, []byte(`"intent":`), []byte(`"intent": `), 1)
		}}, "events", clawverify.SchemaValidationFailed, "events.jsonl line 1"},
		"part that continues nothing": {testarchive.Options{Calls: 4, PartSize: 2, EventLine: func(n int, l []byte) []byte {
			if n != 2 {
				return l
			}
			i := bytes.Index(l, []byte(`"intent"`))
			return append([]byte("{"), l[i:]...)
		}}, "events", audit.EvidenceMismatch, "continues"},
		"span that is used twice": {testarchive.Options{Calls: 2, Link: func(_ int, l *chain.Link) { l.Span, l.Parent = "span", "" }}, "bundles", clawverify.CausalClock, "span_id"},
		"call that hangs on no root": {testarchive.Options{Calls: 3, Link: func(n int, l *chain.Link) {
			if n == 2 {
				l.Parent = "span_1"
			}
		}}, "chain", audit.EvidenceMismatch, "parent_span_id"},
		"receipt that was left out": {testarchive.Options{Calls: 3, Part: func(_ int, p map[string]any) {
			p["receipts"] = slices.Delete(slices.Clone(p["receipts"].([]json.RawMessage)), 1, 2)
		}}, "chain", audit.EvidenceMissing, "event_chain[1]"},
		"receipt that is there twice": {testarchive.Options{Calls: 3, Part: func(_ int, p map[string]any) {
			r := p["receipts"].([]json.RawMessage)
			p["receipts"] = append(slices.Clone(r), r[0])
		}}, "chain", audit.EvidenceMismatch, "event_chain[0]"},
		"receipts out of order": {testarchive.Options{Calls: 3, Part: func(_ int, p map[string]any) {
			r := slices.Clone(p["receipts"].([]json.RawMessage))
			r[0], r[1] = r[1], r[0]
			p["receipts"] = r
		}}, "chain", audit.EvidenceMismatch, "event_chain[0]"},
		"count that is too small": {testarchive.Options{Calls: 3, Part: func(_ int, p map[string]any) {
			p["metadata"].(map[string]any)["sallyport"].(map[string]any)["calls"] = 2
		}}, "totals", audit.EvidenceMismatch, "bundle 1"},
		"refusal that is not counted": {testarchive.Options{Calls: 1, Refused: 3, Decision: func(n int, p *decision.Payload) {
			if n == 2 {
				p.Sequence = 4
			}
		}}, "refusals", audit.EvidenceMissing, "sequence"},
		"refusal of another run":  {testarchive.Options{Calls: 1, Refused: 1, Decision: func(_ int, p *decision.Payload) { p.RunID = "run_2" }}, "refusals", audit.EvidenceMismatch, "run_id"},
		"refusal that is doubled": {testarchive.Options{Calls: 1, Refused: 2, Decision: func(_ int, p *decision.Payload) { p.DecisionID = "dec" }}, "refusals", audit.EvidenceMismatch, "decision_id"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := testarchive.New(tt.o)
			rep, res := run(a.Seal(), trusting(a))
			k := check(res, tt.check)
			if rep.Status != clawverify.Fail || k.Verdict != audit.Failed || k.Code != tt.code || !strings.Contains(k.Field, tt.field) {
				t.Errorf("%s %s; %s: %+v", rep.ReasonCode, rep.Reason, tt.check, k)
			}
		})
	}
}

// TestTrust: nobody is believed who was not named, and what was not checked is not passed.
func TestTrust(t *testing.T) {
	t.Parallel()
	a := testarchive.New(testarchive.Options{Calls: 2, Refused: 1})
	data := a.Seal()
	c := trusting(a)
	c.GatewaySigners = nil
	if r, res := run(data, c); r.Status != clawverify.Fail || check(res, "manifest").Verdict != audit.Failed || check(res, "bundles").Code != clawverify.DependencyMissing {
		t.Errorf("no gateway is trusted: %s %s", r.ReasonCode, r.Reason)
	}
	c.GatewaySigners = []string{testarchive.Key(9).DID()}
	if r, _ := run(data, c); r.ReasonCode != clawverify.ClaimNotFound {
		t.Errorf("another gateway is trusted: %s %s", r.ReasonCode, r.Reason)
	}
	c = trusting(a)
	c.ContractSigners = nil
	if r, res := run(data, c); r.Status != clawverify.Pass || check(res, "contract replay").Verdict != audit.NotChecked || check(res, "contracts").Verdict != audit.NotChecked {
		t.Errorf("no contract signer is trusted: %s %s, %+v", r.ReasonCode, r.Reason, check(res, "contract replay"))
	}
	c.ContractSigners = []string{testarchive.Key(9).DID()}
	if r, _ := run(data, c); r.ReasonCode != "WPC_SIGNER_NOT_ALLOWED" {
		t.Errorf("another contract signer is trusted: %s %s", r.ReasonCode, r.Reason)
	}
}

// TestForeign: pieces of another job's run, each good by itself.
func TestForeign(t *testing.T) {
	t.Parallel()
	a := testarchive.New(testarchive.Options{Calls: 2})
	b := testarchive.New(testarchive.Options{Calls: 2, Intent: func(_ int, i *record.Intent) { i.MissionID, i.TokenHash = "job_2", strings.Repeat("cd", 32) }})
	a.Files["bundle.json"], a.Files["events.jsonl"] = b.Files["bundle.json"], b.Files["events.jsonl"]
	if r, res := run(a.Seal(), trusting(a)); r.Status != clawverify.Fail || check(res, "identity").Verdict != audit.Failed {
		t.Errorf("%s %s", r.ReasonCode, r.Reason)
	}
	// Another job's receipts in this job's bundle.
	other := receiptsOf(t, b.Files["bundle.json"])
	a = testarchive.New(testarchive.Options{Calls: 2, Part: func(_ int, p map[string]any) { p["receipts"] = other }})
	if r, res := run(a.Seal(), trusting(a)); check(res, "bundles").Code != clawverify.BindingMismatch {
		t.Errorf("%s %s", r.ReasonCode, r.Reason)
	}
}

// TestZips: archives with more than one reading, or made to hurt.
func TestZips(t *testing.T) {
	t.Parallel()
	a := testarchive.New(testarchive.Options{Calls: 2})
	manifest := a.SignedManifest()
	entries := func() []testarchive.Entry {
		all := maps.Clone(a.Files)
		all["manifest.json"] = manifest
		var out []testarchive.Entry
		for _, name := range slices.Sorted(maps.Keys(all)) {
			out = append(out, testarchive.Entry{Name: name, Data: all[name]})
		}
		return out
	}
	with := func(name string) []byte {
		e := append(entries(), testarchive.Entry{Name: name, Data: []byte("{}")})
		slices.SortStableFunc(e, func(x, y testarchive.Entry) int { return strings.Compare(x.Name, y.Name) })
		return testarchive.Zip(e)
	}
	whole := testarchive.Zip(entries())
	cases := map[string][]byte{
		"empty":           nil,
		"no zip":          []byte("PK but no zip at all"),
		"doubled entry":   with("bundle.json"),
		"parent":          with("../bundle.json"),
		"absolute":        with("/etc/passwd"),
		"backslash":       with(`contracts\x.json`),
		"sealed outside":  with("sealed/../../x.request"),
		"unknown file":    with("readme.txt"),
		"extra part":      with("bundle-2.json"),
		"part 1 by other": with("bundle-1.json"),
		"part 02":         with("bundle-02.json"),
		"extra contract":  with("contracts/" + strings.Repeat("A", 43) + ".json"),
	}
	bomb := entries()
	bomb[0] = testarchive.Entry{Name: bomb[0].Name, Data: make([]byte, 8<<20), Deflate: true}
	cases["bomb"] = testarchive.Zip(bomb)
	unsorted := entries()
	slices.Reverse(unsorted)
	cases["unsorted"] = testarchive.Zip(unsorted)
	for name, data := range cases {
		if r, res := run(data, trusting(a)); r.Status != clawverify.Fail || check(res, "archive").Verdict != audit.Failed && check(res, "files").Verdict != audit.Failed {
			t.Errorf("%s: %s %s", name, r.ReasonCode, r.Reason)
		}
	}
	for n := 0; n < len(whole); n += 401 {
		if r, _ := run(whole[:n], trusting(a)); r.Status != clawverify.Fail {
			t.Fatalf("cut at %d of %d: %s", n, len(whole), r.Reason)
		}
	}
	for n := 0; n < len(whole); n += 101 { // a bit anywhere: either it is noticed, or what is read is the same
		flipped := bytes.Clone(whole)
		flipped[n] ^= 4
		if r, res := run(flipped, trusting(a)); r.Status == clawverify.Pass && res.Calls != 2 {
			t.Fatalf("bit flipped at %d: %s", n, r.Reason)
		}
	}
}

// TestMissing takes each file away, with and without the manifest knowing.
func TestMissing(t *testing.T) {
	t.Parallel()
	a := sample(t)
	manifest := a.SignedManifest()
	for name := range a.Files {
		b := *a
		b.Files = maps.Clone(a.Files)
		delete(b.Files, name)
		if r, res := run(b.Zip(manifest), withLogs(trusting(a))); check(res, "files").Verdict != audit.Failed {
			t.Errorf("without %s: %s %s", name, r.ReasonCode, r.Reason)
		}
		r, res := run(b.Seal(), withLogs(trusting(a)))
		switch name {
		case "trust.json", "sealed/rcpt_0.request", "proofs.jsonl": // may be left out
			if r.Status != clawverify.Pass || name == "proofs.jsonl" && check(res, "transparency log").Verdict != audit.NotChecked {
				t.Errorf("without %s: %s %s", name, r.ReasonCode, r.Reason)
			}
		default:
			if r.Status != clawverify.Fail {
				t.Errorf("without %s, and signed anew: %s %s", name, r.ReasonCode, r.Reason)
			}
		}
	}
}

// TestLarge: what is too large is refused, and memory stays bounded by the largest bundle.
func TestLarge(t *testing.T) {
	a := testarchive.New(testarchive.Options{Calls: 1})
	huge := bytes.Repeat([]byte(" "), clawverify.MaxBytes+1)
	if r := clawverify.Verify("", huge, &clawverify.Config{}, ""); r.Status != clawverify.Errors || r.Status.ExitCode() != 2 {
		t.Errorf("a huge bundle: %s %s", r.Status, r.Reason)
	}
	a.Files["bundle.json"] = huge
	if _, res := run(a.Seal(), trusting(a)); check(res, "bundles").Code != audit.ArchiveMalformed {
		t.Errorf("a huge bundle in an archive: %+v", check(res, "bundles"))
	}
	a = testarchive.New(testarchive.Options{Calls: 1, Intent: func(_ int, i *record.Intent) { i.Peer = strings.Repeat("p", 300<<10) }})
	if r, _ := run(a.Seal(), trusting(a)); r.Status != clawverify.Pass {
		t.Errorf("a long line: %s %s", r.ReasonCode, r.Reason)
	}
	a.Files["events.jsonl"] = bytes.Repeat([]byte("x"), 8<<20)
	if _, res := run(a.Seal(), trusting(a)); check(res, "events").Verdict != audit.Failed {
		t.Errorf("a huge line: %+v", check(res, "events"))
	}
	if testing.Short() {
		return
	}
	a = testarchive.New(testarchive.Options{Calls: 3000})
	data := a.Seal()
	c := trusting(a)
	a = nil
	runtime.GC()
	r := &watched{Reader: bytes.NewReader(data)}
	r.sample()
	before := r.peak
	rep := audit.Archive(r, int64(len(data)), c, "")
	if res := rep.Verification.(*audit.Result); rep.Status != clawverify.Pass || res.Calls != 3000 {
		t.Fatalf("%s %s", rep.ReasonCode, rep.Reason)
	}
	const bound = 128 << 20
	t.Logf("3,000 calls, %d MB archive: the heap grew by at most %d MB", len(data)>>20, (r.peak-before)>>20)
	if r.peak-before > bound {
		t.Errorf("more than %d MB", bound>>20)
	}
}

// watched looks at the heap while it is read.
type watched struct {
	*bytes.Reader
	reads int
	peak  uint64
}

func (w *watched) ReadAt(p []byte, at int64) (int, error) {
	if w.reads++; w.reads%64 == 0 {
		w.sample()
	}
	return w.Reader.ReadAt(p, at)
}

func (w *watched) sample() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.peak = max(w.peak, m.HeapAlloc)
}

func FuzzArchive(f *testing.F) {
	a := testarchive.New(testarchive.Options{Calls: 2, Refused: 1})
	good := a.Seal()
	f.Add(good)
	f.Add([]byte("PK"))
	c := trusting(a)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, res := run(data, c)
		// Nobody without the keys can make an archive that passes, and says something else.
		if r.Status == clawverify.Pass && (res.RunID != a.RunID || res.Calls != 2 || res.Refused != 1) {
			t.Errorf("a forged archive passes: %s", r.Reason)
		}
	})
}

func FuzzBundle(f *testing.F) {
	a := testarchive.New(testarchive.Options{Calls: 2})
	good := a.Files["bundle.json"]
	f.Add(good)
	f.Add([]byte(`{"payload":{}}`))
	c := trusting(a)
	want, err := envelope.Parse(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := audit.Bundle(data, c, "")
		if r.Status != clawverify.Pass {
			return
		}
		// A bundle of no agent of ours may pass with no receipts; with receipts that count it is ours.
		if res := r.Verification.(*audit.Result); res.Calls > 0 {
			got, err := envelope.Parse(data)
			if err != nil || got.PayloadHashB64u != want.PayloadHashB64u {
				t.Errorf("a forged bundle passes: %s", data)
			}
		}
	})
}
