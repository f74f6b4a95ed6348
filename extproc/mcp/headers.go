package mcp

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
)

// Header names, lower case.
const (
	VersionHeader = "mcp-protocol-version"
	methodHeader  = "mcp-method"
	nameHeader    = "mcp-name"
	paramPrefix   = "mcp-param-"
	SessionHeader = "mcp-session-id"
)

// Agree holds a request's headers against its body: a server, or anything on the way, may go by either, so both must say the
// same. visit calls its argument for each header, names in lower case. The denial is HEADER_DUPLICATE or INVALID_REQUEST.
func (m *Message) Agree(visit func(header func(name, value string))) *code.Denial {
	said := map[string]string{}
	var params []string
	var denial *code.Denial
	visit(func(name, value string) {
		switch {
		case strings.HasPrefix(name, paramPrefix):
			params = append(params, name)
		case name != VersionHeader && name != methodHeader && name != nameHeader && name != SessionHeader:
			return
		}
		if _, twice := said[name]; twice || name != nameHeader && !strings.HasPrefix(name, paramPrefix) && strings.Contains(value, ",") {
			denial = code.Deny(code.HeaderDuplicate, "%.64s", name)
		}
		said[name] = value
	})
	if denial != nil {
		return denial
	}
	return m.agree(said, params)
}

func (m *Message) agree(said map[string]string, params []string) *code.Denial {
	version, versioned := said[VersionHeader]
	if versioned && !Carried(version) {
		return code.Deny(code.InvalidRequest, "MCP revision %.32q is not carried; use one of %s", version, strings.Join(versions, " "))
	}
	modern := version == Modern || m.Version == Modern
	if modern && version != m.Version && m.Kind != Reply {
		return code.Deny(code.InvalidRequest, "MCP-Protocol-Version and the message's own protocolVersion differ")
	}
	method, named := said[methodHeader]
	if named && method != m.Method || modern && !named && m.Kind != Reply {
		return code.Deny(code.InvalidRequest, "Mcp-Method is not the message's method")
	}
	name, has := said[nameHeader]
	if has {
		var ok bool
		if name, ok = plain(name); !ok || name != m.Name {
			return code.Deny(code.InvalidRequest, "Mcp-Name is not what the message names")
		}
	} else if modern && (m.Method == CallTool || m.Method == ReadResource || m.Method == GetPrompt) {
		return code.Deny(code.InvalidRequest, "Mcp-Name is missing")
	}
	for _, p := range params {
		if v, ok := plain(said[p]); !ok || !m.hasArgument(v) {
			return code.Deny(code.InvalidRequest, "%.64s repeats no argument of the call", p)
		}
	}
	return nil
}

// plain is a header's value without the wrapping that values outside ASCII come in.
func plain(v string) (string, bool) {
	inner, ok := strings.CutPrefix(v, "=?base64?")
	if !ok {
		return v, true
	}
	if inner, ok = strings.CutSuffix(inner, "?="); !ok {
		return "", false
	}
	raw, err := base64.StdEncoding.DecodeString(inner)
	return string(raw), err == nil
}

// hasArgument tells whether an argument of the call, at any depth, reads as v: which argument a header repeats stands in the
// tool's schema, which the gateway does not have.
func (m *Message) hasArgument(v string) bool {
	if m.Arguments == nil {
		return false
	}
	tree, err := jcs.Parse(m.Arguments)
	return err == nil && reads(tree, v)
}

func reads(tree any, v string) bool {
	switch t := tree.(type) {
	case map[string]any:
		for _, e := range t {
			if reads(e, v) {
				return true
			}
		}
	case []any:
		for _, e := range t {
			if reads(e, v) {
				return true
			}
		}
	case string:
		return t == v
	default:
		raw, err := json.Marshal(t)
		return err == nil && string(raw) == v
	}
	return false
}
