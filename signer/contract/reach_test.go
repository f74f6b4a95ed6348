package contract_test

import (
	"fmt"
	"testing"

	"sallyport/signer/contract"
)

// A host's tunnels pass unread only where nothing that the contract says of the host needs to see a request.
func TestReachInspect(t *testing.T) {
	bound := `,"bindings":{"tool:wiki.delete":{"host":"wiki.example","methods":["DELETE"],"path":"/pages/**"}}`
	for _, x := range []struct {
		name, tools, rules, want string
	}{
		{"the rule alone", `"allow":[],"deny":[]`, `{"host":"wiki.example","inspect":"none"}`, contract.InspectNone},
		{"sees more of two", `"allow":[],"deny":[]`, `{"host":"wiki.example","inspect":"none"},{"host":"wiki.example","inspect":"sni"}`, contract.InspectSNI},
		{"beside a rule for requests", `"allow":[],"deny":[]`, `{"host":"wiki.example","inspect":"none"},{"host":"wiki.example","path_prefixes":["/a"]}`, contract.InspectFull},
		{"a tool that is allowed there", `"allow":["tool:wiki.delete"],"deny":[]` + bound, `{"host":"wiki.example","inspect":"none"}`, contract.InspectFull},
		{"a tool that is denied there", `"allow":["tool:wiki.delete"],"deny":["tool:wiki.delete"]` + bound, `{"host":"wiki.example","inspect":"none"}`, contract.InspectFull},
		{"a tool that is denied, without a place", `"allow":[],"deny":["tool:shell.exec"]`, `{"host":"wiki.example","inspect":"sni"}`, contract.InspectSNI},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, err := contract.Parse(fmt.Appendf(nil, `{"policy_kind":"wpc","policy_version":"v1","tools":{%s},"models":[],
				"egress":{"default":"deny","rules":[%s]},"secrets":{"minting":"cst_required","allowed_secret_classes":[],"max_ttl_seconds":60},
				"auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`, x.tools, x.rules))
			if err != nil {
				t.Fatal(err)
			}
			if r, ok := c.Reach("wiki.example", 443); !ok || r.Inspect != x.want {
				t.Errorf("%q, %t, want %q", r.Inspect, ok, x.want)
			}
			if _, ok := c.Reach("other.example", 443); ok {
				t.Error("another host is reached")
			}
		})
	}
}
