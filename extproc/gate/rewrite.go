package gate

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"sallyport/extproc/dialect"
	"sallyport/extproc/message"
	"sallyport/extproc/secret"
)

// Dynamic metadata that the guard filter reads: without it nothing passes, whatever else went wrong.
const (
	metadataNamespace = "sallyport"
	verdictKey        = "verdict"
	verdictAllow      = "allow"
	receiptKey        = "receipt"
)

// rewrite makes the request that leaves: the upstream's authority and path, the contract's scope, the real credential;
// everything that carried the token or spoke to the gateway is gone.
func (x *exchange) rewrite(class string, cred secret.Credential, inject secret.Inject) *message.Mutation {
	path, query := x.dest.path, x.req.query
	if !x.dest.egress() {
		query = dialect.CleanQuery(query)
	}
	m := &message.Mutation{ClearRoute: true}
	set := func(name, value string) { m.Set = append(m.Set, message.Header{Name: name, Value: value}) }
	keep := ""
	if class != "" {
		switch {
		case inject.Query != "":
			if query = withoutParameter(dialect.CleanQuery(query), inject.Query); query != "" {
				query += "&"
			}
			query += url.QueryEscape(inject.Query) + "=" + url.QueryEscape(cred.Value.Reveal())
		default:
			name, value := x.credentialHeader(cred, inject)
			keep = name
			set(name, value)
		}
	}
	if query != "" {
		path += "?" + query
	}
	set(":authority", x.dest.host)
	set(":path", path)
	set(scopeHeader, x.contract.Hash)
	if x.dest.egress() {
		set(schemeHeader, x.routeScheme())
		if x.socket() && !x.req.has(keyHeader) {
			set(keyHeader, newKey())
		}
	}
	if !x.dest.egress() || x.lent {
		// The answer is measured for token usage, and read for echoes of the credential, so it must come uncompressed.
		set("accept-encoding", "identity")
	}
	for _, h := range x.req.strip {
		if h != keep {
			m.Remove = append(m.Remove, h)
		}
	}
	return m
}

// withoutParameter takes every parameter of a name out of a query, so that the agent's own does not stand beside ours:
// which of two counts is the server's choice.
func withoutParameter(query, name string) string {
	kept := slices.DeleteFunc(strings.Split(query, "&"), func(pair string) bool {
		key, _, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(key)
		return err != nil || strings.EqualFold(key, name)
	})
	return strings.Join(kept, "&")
}

// credentialHeader is the class's own header, or the provider's canonical one.
func (x *exchange) credentialHeader(cred secret.Credential, inject secret.Inject) (name, value string) {
	format := inject.Format
	if name = inject.Header; name == "" {
		name, format = x.dest.dialect.CredentialHeader()
	}
	if format == "" {
		format = "%s"
	}
	return name, fmt.Sprintf(format, cred.Value.Reveal())
}
