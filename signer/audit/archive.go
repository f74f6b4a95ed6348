package audit

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"sallyport/signer/clawverify"
)

// Archive audits an archive. input describes where it came from. Memory is bounded by the largest bundle and by some hundred
// bytes for each call.
func Archive(r io.ReaderAt, size int64, c *Config, input any) *clawverify.Report {
	a := newAuditor(c)
	b, err := openBag(r, size)
	if err != nil {
		a.fail(checkArchive, ArchiveMalformed, "zip", "%v", err)
		return a.report(KindArchive, input)
	}
	a.did(checkArchive, len(b.files))
	if m := a.manifest(b); m != nil {
		a.result.RunID, a.result.Job, a.result.AgentDID, a.result.GatewayDID = m.RunID, m.Job, m.AgentDID, m.GatewayDID
		a.contracts.from = b
		a.contents(b, m)
	}
	return a.report(KindArchive, input)
}

func (a *auditor) contents(b *bag, m *manifest) {
	a.bundles(b, m)
	a.decisions(b, m)
	a.clientRecorded(b, m)
	a.countUp(m)
	a.unusedContracts(b)
	a.proofs(b)
	a.sealed(b)
}

// bundles audits part by part, with the events' payloads beside them.
func (a *auditor) bundles(b *bag, m *manifest) {
	events, err := b.lines("events.jsonl")
	if err != nil {
		a.fail(checkEvents, ArchiveMalformed, "events.jsonl", "%v", err)
		return
	}
	defer events.close()
	if m.Parts == 0 {
		for _, name := range []string{checkBundles, checkParts, checkChain, checkEvents, checkReceipts, checkTokens, checkTotals, checkReported} {
			a.skip(name, "the run has no calls of which the gateway kept the chain, so there is no bundle")
		}
	}
	var before *part
	for n := 1; n <= m.Parts && b.files[bundleName(n)] != nil; n++ {
		raw, err := b.readBundle(n)
		if err != nil {
			a.fail(checkBundles, ArchiveMalformed, bundleName(n), "%v", err)
			return
		}
		p := a.part(n, raw)
		if p == nil {
			return
		}
		a.follows(before, p, m)
		a.calls(p, events)
		before = p
	}
	if before != nil && before.meta != nil && before.meta.NextBundleID != "" {
		a.fail(checkParts, EvidenceMissing, before.name+" payload.metadata.sallyport.next_bundle_id", "the last bundle names a next one")
	}
	if _, err := events.next(); !errors.Is(err, io.EOF) {
		a.fail(checkEvents, EvidenceMismatch, "events.jsonl", "has more lines than the bundles have events")
	}
}

// sealed: whose bodies they are. What is in them shows only to who has the auditor's key.
func (a *auditor) sealed(b *bag) {
	if len(a.encrypted) == 0 {
		a.skip(checkSealed, "there are none")
	} else {
		a.skip(checkSealed, "the bodies of %d calls were sealed, and are not in this archive", len(a.encrypted))
	}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		id, ok := strings.CutPrefix(name, "sealed/")
		if !ok {
			continue
		}
		a.did(checkSealed, 1)
		id = id[:strings.LastIndexByte(id, '.')]
		if !a.ids[id] {
			a.fail(checkSealed, EvidenceMismatch, name, "there is no receipt %s", id)
		}
	}
	if a.checks[checkSealed].Count == 0 {
		return
	}
	for _, id := range a.encrypted {
		if name := "sealed/" + id + ".request"; b.files[name] == nil {
			a.fail(checkSealed, EvidenceMissing, name, "its receipt says that it was sealed, and other bodies are here")
		}
	}
}

// Bundle audits a bundle that comes alone: what needs the rest of an archive is reported as not checked.
func Bundle(data []byte, c *Config, input any) *clawverify.Report {
	a := newAuditor(c)
	for _, name := range []string{checkArchive, checkManifest, checkFiles, checkEvents, checkDecisions, checkOwn, checkTLog, checkClawLog, checkSealed} {
		a.skip(name, "needs the archive; this is a bundle alone")
	}
	a.skip(checkIdentity, "needs the archive: anybody can sign a bundle, and only the manifest says which agent key the gateway made for the job")
	if p := a.part(0, data); p != nil {
		a.result.Parts = 1
		if p.meta != nil {
			a.result.Job, a.result.GatewayDID = p.meta.Job, p.meta.GatewayDID
		}
		a.result.AgentDID = p.AgentDID
		if len(p.Events) > 0 {
			a.result.RunID = p.Events[0].RunID
		}
		a.calls(p, nil)
		a.countUp(nil)
		a.skip(checkParts, "needs the archive; this is bundle %s", partOf(p.meta))
	}
	return a.report(clawverify.KindBundle, input)
}

// Ours says whether a bundle was made by a gateway of this kind, so that there is more in it to audit.
func Ours(bundle []byte) bool {
	var b struct {
		Payload struct {
			Metadata struct {
				Sallyport json.RawMessage `json:"sallyport"`
			} `json:"metadata"`
		} `json:"payload"`
	}
	return json.Unmarshal(bundle, &b) == nil && len(b.Payload.Metadata.Sallyport) > 0
}
