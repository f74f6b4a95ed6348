package dialect

import (
	"net/url"
	"strings"
)

// neverUpstream are query parameters that carry a credential, or by which Google's front end lets a URL stand in for
// another method, header or body. They are compared in lower case and decoded.
var neverUpstream = map[string]bool{
	"key": true, "api_key": true, "apikey": true, "api-key": true, "access_token": true, "token": true,
	"oauth_token": true, "auth": true, "authorization": true, "bearer_token": true, "client_secret": true,
	"x-http-method-override": true, "_method": true,
}

// CleanQuery is what of a raw query may go upstream: all parameters, in their order and spelling, but those that carry
// a credential or would let the URL speak for the method, the headers or the body. Parameters that two readers could
// understand differently (bad escapes, semicolons, a fragment) are left out too.
func CleanQuery(raw string) string {
	if raw == "" {
		return ""
	}
	kept := make([]string, 0, 4)
	for pair := range strings.SplitSeq(raw, "&") {
		if pair != "" && mayGo(pair) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

func mayGo(pair string) bool {
	for i := 0; i < len(pair); i++ {
		if c := pair[i]; c <= ' ' || c >= 0x7f || c == ';' || c == '#' {
			return false
		}
	}
	name, value, _ := strings.Cut(pair, "=")
	name, err := url.QueryUnescape(name)
	if err != nil {
		return false
	}
	if _, err := url.QueryUnescape(value); err != nil {
		return false
	}
	name = strings.ToLower(strings.TrimSpace(name))
	if strings.HasPrefix(name, "$") {
		return name == "$alt" // the form of the answer; $httpMethod, $httpHeaders and $req change the request
	}
	return !neverUpstream[name]
}
