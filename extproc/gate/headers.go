package gate

import (
	"encoding/base64"
	"slices"
	"strings"

	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/token"
)

// Header names of the gateway. Everything under reservedPrefix is ours: a client that sends one is refused.
const (
	reservedPrefix = "x-sallyport-"
	scopeHeader    = "x-sallyport-scope"   // key of the contract's scoped routes, set on allowed calls only
	receiptHeader  = "x-sallyport-receipt" // id of the receipt, on every answer of an allowed call
	decisionHeader = "x-sallyport-decision"

	runIDHeader       = "x-run-id"
	eventHashHeader   = "x-event-hash"
	idempotencyHeader = "x-idempotency-key"
	policyHashHeader  = "x-policy-hash"
	clientDIDHeader   = "x-client-did"

	privacyModeHeader  = "x-receipt-privacy-mode"
	confidentialHeader = "x-confidential-mode"

	proxyAuthHeader = "proxy-authorization"
)

// carriers are the headers in which clients put their API key, and so the token (measured on real SDKs).
// All of them are read, and all of them are removed before the call leaves.
var carriers = []string{
	"x-cst", "x-scoped-token", proxyAuthHeader, "authorization", "x-api-key", "x-goog-api-key", "api-key",
	"anthropic-api-key", "x-provider-api-key", "x-provider-key", "x-provider-authorization",
}

// controls are headers that speak to the gateway and go no further.
var controls = []string{
	runIDHeader, eventHashHeader, idempotencyHeader, policyHashHeader, clientDIDHeader,
	confidentialHeader, privacyModeHeader, "x-openai-api", "x-payment-account-did",
	"x-span-id", "x-parent-span-id", "x-tool-span-id", "x-causal-phase", "x-attribution-confidence",
	"x-delegation-spend-minor", "x-idempotency-fingerprint", "x-fingerprint",
}

// trait is what the gate has to know of a header's name.
type trait uint8

const (
	isCarrier trait = 1 << iota
	// isRemoved: it is stripped from every request that passes.
	isRemoved
	// isSingle: its repetition is refused. Envoy delivers duplicates as separate entries (1.40.0, measured), and taking the
	// first or the last would let two readers see two different requests.
	isSingle
	// isJoined: Envoy 1.40.0 hands its repetitions over as one entry with a comma between (measured); none of these holds a
	// comma when it came once.
	isJoined
)

var traits = func() map[string]trait {
	m := map[string]trait{}
	for _, h := range carriers {
		m[h] |= isCarrier | isRemoved | isSingle
	}
	for _, h := range controls {
		m[h] |= isRemoved | isSingle
	}
	for _, h := range []string{"content-encoding", "content-type", "content-length", "upgrade", ":path", ":authority", ":method"} {
		m[h] |= isSingle
	}
	for _, h := range []string{"authorization", "content-encoding", ":authority"} {
		m[h] |= isJoined
	}
	return m
}()

// request is what the gate reads from the request's headers.
type request struct {
	method, path, query string // path without query
	authority           string
	contentEncoding     string
	upgrade, connection string
	sized               bool // it says that a body follows
	runID, eventHash    string
	idempotencyKey      string
	policyHash          string
	clientDID           string
	privacyMode         string
	confidential        string
	openAIAPI           string // X-OpenAI-API, which of OpenAI's APIs a /v1/proxy/openai call speaks
	credentials         []credential
	strip               []string         // headers that go no further, of those that came
	rest                []message.Header // neither read nor stripped
	peer                string           // address of the client without port, as Envoy saw it
}

type credential struct{ header, value string }

// readHeaders picks what the gate needs from Envoy's header list, in one pass, and refuses what must not come:
// reserved headers and repeated security headers.
func readHeaders(list []message.Header) (*request, *code.Denial) {
	r := &request{rest: make([]message.Header, 0, len(list))}
	var denial *code.Denial
	refuse := func(c code.Code, name string) {
		if denial == nil {
			denial = code.Deny(c, "%.64s", name)
		}
	}
	for i, h := range list {
		name, value := h.Name, h.Value
		if name == "" {
			continue
		}
		t := traits[name]
		if strings.HasPrefix(name, reservedPrefix) {
			refuse(code.HeaderReserved, name)
		}
		if t&isSingle != 0 && slices.ContainsFunc(list[:i], func(h message.Header) bool { return h.Name == name }) {
			refuse(code.HeaderDuplicate, name)
		}
		if t&isRemoved != 0 {
			r.strip = append(r.strip, name)
		} else if name[0] != ':' {
			r.rest = append(r.rest, h)
		}
		if t&isJoined != 0 && strings.Contains(value, ",") {
			refuse(code.HeaderDuplicate, name)
		}
		r.take(name, value, t)
	}
	return r, denial
}

func (r *request) take(name, value string, t trait) {
	switch name {
	case ":method":
		r.method = value
	case ":path":
		r.path, r.query, _ = strings.Cut(value, "?")
	case ":authority":
		r.authority = value
	case "content-encoding":
		r.contentEncoding = value
	case "upgrade":
		r.upgrade = value
	case "connection":
		r.connection = value
	case "content-length", "transfer-encoding":
		r.sized = true
	case runIDHeader:
		r.runID = value
	case eventHashHeader:
		r.eventHash = value
	case idempotencyHeader:
		r.idempotencyKey = value
	case policyHashHeader:
		r.policyHash = value
	case clientDIDHeader:
		r.clientDID = value
	case privacyModeHeader:
		r.privacyMode = value
	case confidentialHeader:
		r.confidential = value
	case "x-openai-api":
		r.openAIAPI = value
	default:
		if t&isCarrier == 0 {
			return
		}
		if v := bareCredential(name, value); v != "" {
			r.credentials = append(r.credentials, credential{name, v})
		}
	}
}

// bareCredential takes the scheme off a header's value. A Basic password is the token of clients that got it in the
// user information of a proxy URL; its user name is only a label.
func bareCredential(header, value string) string {
	value = strings.TrimSpace(value)
	scheme, rest, ok := strings.Cut(value, " ")
	if !ok {
		return value
	}
	switch {
	case strings.EqualFold(scheme, "bearer"):
		return strings.TrimSpace(rest)
	case strings.EqualFold(scheme, "basic") && header == proxyAuthHeader:
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest)); err == nil {
			if _, password, ok := strings.Cut(string(raw), ":"); ok {
				return password
			}
		}
	}
	return value
}

// placeholder holds for what `sallyport run` gives to programs in the place of an API key.
func (c credential) placeholder() bool { return strings.Contains(c.value, "sallyport-placeholder") }

// scopedToken returns the one token of the request. Two different ones are refused, and so is any credential that is
// no scoped token: the broker did not give it, and it must not leave.
// known tells of a text whether it is a token that was verified before.
// tunnel is the token of the tunnel that the request came out of, "" for none.
func (r *request) scopedToken(tunnel string, known func(string) bool) (string, *code.Denial) {
	creds := r.credentials
	if tunnel != "" {
		creds = append([]credential{{"the tunnel", tunnel}}, creds...)
	}
	for pair := range strings.SplitSeq(r.query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k == "key" && v != "" {
			creds = append(creds, credential{"?key=", v})
		}
	}
	if len(creds) == 0 {
		return "", code.Deny(code.TokenRequired, "")
	}
	// A program that must have an API key got a placeholder, and came with its token by another way.
	if slices.ContainsFunc(creds, credential.placeholder) {
		if real := slices.DeleteFunc(slices.Clone(creds), credential.placeholder); len(real) > 0 {
			creds = real
		}
	}
	tok := creds[0].value
	for _, c := range creds {
		if len(c.value) > token.MaxBytes {
			return "", code.Deny(code.TokenTooLarge, "%s holds %d bytes", c.header, len(c.value))
		}
	}
	for _, c := range creds {
		if known(c.value) || token.Looks(c.value) {
			continue
		}
		if c.header == "x-cst" || c.header == "x-scoped-token" {
			return "", code.Deny(code.TokenMalformed, "in %s", c.header)
		}
		return "", code.Deny(code.TokenNotCST, "in %s", c.header)
	}
	for _, c := range creds[1:] {
		if c.value != tok {
			return "", code.Deny(code.TokenConflict, "%s and %s differ", creds[0].header, c.header)
		}
	}
	return tok, nil
}

// stripCopies strips every further header and query parameter that holds the token: agents send their key in more places than one thinks,
// and where it is not swapped it must not go.
func (r *request) stripCopies(token string) {
	for _, h := range r.rest {
		if strings.Contains(h.Value, token) {
			r.strip = append(r.strip, h.Name)
		}
	}
	if strings.Contains(r.query, token) {
		pairs := slices.DeleteFunc(strings.Split(r.query, "&"), func(pair string) bool { return strings.Contains(pair, token) })
		r.query = strings.Join(pairs, "&")
	}
}

// canonicalPath refuses every spelling of a path that another reader could resolve to a different one. Envoy is told
// not to normalise, so that what is checked here is what was sent.
func canonicalPath(p string) *code.Denial {
	if p == "" || p[0] != '/' {
		return code.Deny(code.PathNotCanonical, "must start with a slash")
	}
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '/' && i+1 < len(p) && p[i+1] == '/':
			return code.Deny(code.PathNotCanonical, "doubled slash at %d", i)
		case c == '%' || c == ';' || c == '\\' || c == '#':
			return code.Deny(code.PathNotCanonical, "character %q at %d", c, i)
		case c <= ' ' || c >= 0x7f:
			return code.Deny(code.PathNotCanonical, "byte 0x%02x at %d", c, i)
		}
	}
	for _, seg := range strings.Split(p[1:], "/") {
		if seg == "." || seg == ".." {
			return code.Deny(code.PathNotCanonical, "dot segment")
		}
	}
	return nil
}
