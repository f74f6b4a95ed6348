package audit_test

import (
	"strings"
	"testing"

	"sallyport/signer/audit"
	"sallyport/signer/clawverify"
	"sallyport/signer/contract"
	"sallyport/signer/internal/testarchive"
	"sallyport/signer/record"
)

const toolContract = `{"policy_kind":"wpc","policy_version":"v1","tools":{"allow":["tool:files.small","tool:files.any","tool:issues.list"],"deny":[],"bindings":{
	"tool:files.small":{"host":"files.example.com","methods":["GET"],"path":"/public/{name}","args":["size(path.name) < 2"],"secret_class":"small_key"},
	"tool:files.any":{"host":"files.example.com","methods":["GET"],"path":"/public/{name}","args":["query.all(k, k == 'page')"],"secret_class":"any_key"},
	"tool:issues.list":{"mcp_server":"github","tool":"list","secret_class":"github_key"}}},
"secrets":{"minting":"cst_required","allowed_secret_classes":["small_key","any_key","github_key"],"max_ttl_seconds":300},
"auth":{"pin_policy_hash":true},"model_calls":{"must_route_via":"sallyport","receipts_required":true}}`

// A call of a tool is replayed where the tool is: its arguments are kept nowhere, but its place and its class must be the ones
// that the contract gives to the tool that the receipt names.
func TestReplayOfTools(t *testing.T) {
	t.Parallel()
	tool := func(name, class string) func(*record.Intent) {
		return func(i *record.Intent) {
			i.Action, i.Resource, i.SecretClass, i.Provider, i.Model = contract.ToolExecute, name, class, "files.example.com", ""
			i.Method, i.Host, i.Path = "GET", "files.example.com", "/public/a"
		}
	}
	mcp := func(server, what, class string) func(*record.Intent) {
		return func(i *record.Intent) {
			i.Action, i.Provider, i.Resource, i.SecretClass, i.Model = contract.ToolExecute, "mcp:github", "mcp:"+server+"/"+what, class, ""
			i.Method, i.Host, i.Path = "POST", "mcp.example.com", "/mcp"
		}
	}
	then := func(f, g func(*record.Intent)) func(*record.Intent) { return func(i *record.Intent) { f(i); g(i) } }
	for name, x := range map[string]struct {
		call  func(i *record.Intent)
		code  clawverify.Code
		field string
	}{
		"a tool":                          {tool("tool:files.small", "small_key"), "", ""},
		"the other one at its place":      {tool("tool:files.any", "any_key"), "", ""},
		"a tool of a server":              {mcp("github", "list", "github_key"), "", ""},
		"what its session needs":          {mcp("github", "method:initialize", "github_key"), "", ""},
		"the class of the other":          {tool("tool:files.any", "small_key"), audit.PolicyViolation, "secret_class"},
		"no class":                        {tool("tool:files.any", ""), audit.PolicyViolation, "secret_class"},
		"a tool that is nowhere":          {tool("tool:files.none", ""), audit.PolicyViolation, "receipts[0]"},
		"a tool that is bound elsewhere":  {tool("tool:issues.list", "github_key"), audit.PolicyViolation, "receipts[0]"},
		"another method":                  {then(tool("tool:files.any", "any_key"), func(i *record.Intent) { i.Method = "PUT" }), audit.PolicyViolation, "receipts[0]"},
		"another path":                    {then(tool("tool:files.any", "any_key"), func(i *record.Intent) { i.Path = "/secret" }), audit.PolicyViolation, "receipts[0]"},
		"another host":                    {then(tool("tool:files.any", "any_key"), func(i *record.Intent) { i.Host = "evil.example" }), audit.PolicyViolation, "receipts[0]"},
		"another tool of a server":        {mcp("github", "delete", "github_key"), audit.PolicyViolation, "receipts[0]"},
		"a resource of a server":          {mcp("github", "method:resources/read", "github_key"), audit.PolicyViolation, "receipts[0]"},
		"a tool of another server":        {mcp("other", "list", "github_key"), audit.EvidenceMismatch, "resource"},
		"a class that is not of the tool": {mcp("github", "list", "undeclared"), audit.PolicyViolation, "secret_class"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := testarchive.New(testarchive.Options{Calls: 1, Contract: toolContract, Intent: func(_ int, i *record.Intent) { x.call(i) }})
			rep, res := run(a.Seal(), trusting(a))
			k := check(res, "contract replay")
			if x.code == "" && (rep.Status != clawverify.Pass || k.Verdict != audit.Passed) || x.code != "" && (k.Verdict != audit.Failed || k.Code != x.code || !strings.Contains(k.Field, x.field)) {
				t.Errorf("%s %s; %+v", rep.ReasonCode, rep.Reason, k)
			}
		})
	}
}
