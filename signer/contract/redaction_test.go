package contract_test

import (
	"strings"
	"testing"

	"sallyport/signer/contract"
)

func TestRedactionIsCompiled(t *testing.T) {
	const doc = `{"policy_version":"1","policy_id":"p","issuer_did":"did:web:x","redaction_rules":[RULES]}`
	none := parse(t, strings.Replace(doc, "RULES", "", 1))
	mask := parse(t, strings.Replace(doc, "RULES", `{"path":"$.user","action":"mask"}`, 1))
	hash := parse(t, strings.Replace(doc, "RULES", `{"path":"$.user","action":"hash"}`, 1))
	if none.Redaction() != nil || mask.Redaction() == nil || mask.Redaction().NeedKey() || !hash.Redaction().NeedKey() {
		t.Error("rules")
	}
	for name, tt := range map[string]struct {
		old, new *contract.Contract
		widens   bool
	}{"a rule comes": {none, mask, false}, "a rule goes": {mask, none, true}, "another action": {mask, hash, true}} {
		changes := contract.Diff(tt.old, tt.new)
		widens := false
		for _, c := range changes {
			widens = widens || c.Widens
			if c.Path != "$.redaction_rules" {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if len(changes) == 0 || widens != tt.widens {
			t.Errorf("%s: %+v", name, changes)
		}
	}
}
