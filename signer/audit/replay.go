package audit

import (
	"maps"
	"slices"
	"strings"
	"time"

	"sallyport/signer/clawverify"
	"sallyport/signer/contract"
	"sallyport/signer/envelope"
	"sallyport/signer/receipt"
)

// contracts are those that the calls name, each read and verified once.
type contracts struct {
	cfg   *Config
	from  *bag // nil for a bundle alone
	given map[string][]byte
	known map[string]*contract.Contract // nil: cannot be believed
}

func newContracts(c *Config) *contracts {
	k := &contracts{cfg: c, given: map[string][]byte{}, known: map[string]*contract.Contract{}}
	for _, raw := range c.Contracts {
		if env, err := envelope.Parse(raw); err == nil {
			k.given[env.PayloadHashB64u] = raw
		}
	}
	return k
}

func contractName(hash string) string { return "contracts/" + hash + ".json" }

// contract returns a contract that can be believed, else nil; why not is noted once.
func (a *auditor) contract(at, hash string) *contract.Contract {
	k := a.contracts
	if c, ok := k.known[hash]; ok {
		return c
	}
	k.known[hash] = nil
	raw, ok := k.given[hash]
	switch {
	case ok:
	case k.from == nil:
		a.skip(checkContracts, "needs the contracts; give them with --contract")
		a.skip(checkReplay, "needs the contracts; give them with --contract")
		return nil
	case k.from.files[contractName(hash)] == nil:
		a.fail(checkContracts, EvidenceMissing, at, "the contract %.43s that it names is not in the archive", hash)
		return nil
	default:
		var err error
		if raw, err = k.from.read(contractName(hash), maxSmallFile); err != nil {
			a.fail(checkContracts, ArchiveMalformed, contractName(hash), "%v", err)
			return nil
		}
	}
	if len(a.cfg.ContractSigners) == 0 {
		a.skip(checkContracts, "no contract signer is trusted; name them with --trust-contract")
		a.skip(checkReplay, "no contract signer is trusted; name them with --trust-contract")
		return nil
	}
	a.did(checkContracts, 1)
	env, err := envelope.Parse(raw)
	if err != nil {
		a.fail(checkContracts, clawverify.MalformedEnvelope, contractName(hash), "%v", err)
		return nil
	}
	c, d := contract.Verify(env, hash, a.cfg.ContractSigners)
	if d != nil {
		a.fail(checkContracts, clawverify.Code(d.Code), contractName(hash), "%v", d)
		return nil
	}
	k.known[hash] = c
	return c
}

// unusedContracts: a contract that no call and no refusal names has no business in the archive.
func (a *auditor) unusedContracts(b *bag) {
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		hash, ok := strings.CutPrefix(name, "contracts/")
		if !ok {
			continue
		}
		hash = strings.TrimSuffix(hash, ".json")
		if _, used := a.contracts.known[hash]; !used {
			a.fail(checkContracts, EvidenceMismatch, name, "no call and no refusal is under this contract")
		}
	}
	for _, t := range a.totals {
		for _, hash := range t.Archive.Contracts {
			if b.files[contractName(hash)] == nil {
				a.fail(checkContracts, EvidenceMissing, contractName(hash), "bundle %d says that it is in the archive", t.Part)
			}
		}
	}
	a.skip(checkContracts, "no call is under a contract")
	a.skip(checkReplay, "there are no calls, or none whose contract can be believed")
}

// decided is how long before its record a call may have been decided.
const decided = 5 * time.Second

// replay asks the contract again: was this call allowed, with this credential?
func (a *auditor) replay(at string, r *receipt.Payload) {
	d := &r.Metadata.Sallyport
	c := a.contract(at+".payload.binding.policy_hash", r.Binding.PolicyHash)
	if c == nil {
		return
	}
	a.did(checkReplay, 1)
	model := r.Model
	if d.Resource == r.Provider+"/" {
		model = "" // the receipt has to name one, and says "unknown"
	}
	egress := d.Action != contract.ModelInvoke
	want := r.Provider + "/" + model
	if egress {
		want = d.Method + " " + d.Host + d.Path
	}
	if d.Resource != want {
		a.fail(checkReplay, EvidenceMismatch, at+".payload.metadata.sallyport.resource", "is %.200q; the other members make it %.200q", d.Resource, want)
	}
	stamp, err := time.Parse(time.RFC3339, r.Timestamp)
	if err != nil {
		return // the receipt's own check says so
	}
	v := c.Decide(contract.Ask{Action: d.Action, Resource: d.Resource, Context: askContext(r, model, egress, stamp)}, stamp)
	if early := stamp.Add(-decided); !v.Allow && early.UTC().Hour() != stamp.UTC().Hour() {
		v = c.Decide(contract.Ask{Action: d.Action, Resource: d.Resource, Context: askContext(r, model, egress, early)}, early)
	}
	if !v.Allow {
		a.fail(checkReplay, PolicyViolation, at, "contract %s does not allow %s on %.200s: %v", c.Hash, d.Action, d.Resource, v.Denial)
		return
	}
	class := at + ".payload.metadata.sallyport.secret_class"
	switch {
	case egress && len(v.SecretClasses) > 1:
		a.fail(checkReplay, PolicyViolation, class, "the contract names %d classes for this call and cannot say which", len(v.SecretClasses))
	case egress && d.SecretClass != strings.Join(v.SecretClasses, ""):
		a.fail(checkReplay, PolicyViolation, class, "the call used %q; the contract names %q for it", d.SecretClass, strings.Join(v.SecretClasses, ""))
	case d.SecretClass != "" && !c.AllowsSecretClass(d.SecretClass):
		a.fail(checkReplay, PolicyViolation, class, "the contract does not allow the class %q", d.SecretClass)
	}
	if most := c.Limits().MaxRequestBytes; most > 0 && d.RequestBytes > most {
		a.fail(checkReplay, PolicyViolation, at+".payload.metadata.sallyport.request_bytes", "%d; the contract's limit is %d", d.RequestBytes, most)
	}
}

// askContext is what a contract's conditions may look at (WIRE 5.2), as the gate knew it when it decided.
func askContext(r *receipt.Payload, model string, egress bool, at time.Time) map[string]string {
	d := &r.Metadata.Sallyport
	ctx := map[string]string{"Agent:DID": d.Subject, "SideEffect:TargetDomain": d.Host, "Context:Hour": at.UTC().Format("15")}
	if egress {
		ctx["SideEffect:TargetDomain"], _, _ = strings.Cut(d.Host, ":")
	} else {
		ctx["Model:Provider"] = r.Provider
	}
	if model != "" {
		ctx["Model:Name"] = model
	}
	return ctx
}
