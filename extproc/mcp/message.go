// Package mcp reads the Model Context Protocol over streamable HTTP (revisions 2025-03-26 to 2026-07-28) as far as a gateway
// must that judges tool calls one by one: what a message asks for, whether its headers say the same, how a refusal must look,
// and what of an answer a client may see.
package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"

	"sallyport/signer/code"
	"sallyport/signer/jcs"
)

// Modern is the first revision without sessions, whose headers repeat what the body says.
const Modern = "2026-07-28"

// versions are the revisions that are carried.
var versions = []string{"2025-03-26", "2025-06-18", "2025-11-25", Modern}

// Methods with a name that is judged.
const (
	CallTool     = "tools/call"
	ReadResource = "resources/read"
	GetPrompt    = "prompts/get"
)

// Kind tells JSON-RPC's messages apart.
type Kind uint8

// The kinds.
const (
	Request      Kind = iota // has a method and an id
	Notification             // has a method
	Reply                    // has an id
)

// Message is one JSON-RPC message, as far as it is judged.
type Message struct {
	Kind      Kind
	ID        json.RawMessage // as it came; nil in a notification
	Method    string          // "" in a reply
	Name      string          // of the tool or prompt, or the resource's URI; "" where the method has none
	Arguments json.RawMessage // of tools/call, nil where it has none
	Version   string          // of the protocol, where the message says it
	Result    json.RawMessage // of a reply that is no error
}

// Parse reads one message strictly: no duplicate keys at any depth, no batches. The denial is INVALID_REQUEST or
// PAYLOAD_EMPTY.
func Parse(body []byte) (*Message, *code.Denial) {
	if trimmed := bytes.TrimLeft(body, " \t\r\n"); len(trimmed) == 0 {
		return nil, code.Deny(code.PayloadEmpty, "")
	} else if trimmed[0] == '[' {
		return nil, code.Deny(code.InvalidRequest, "JSON-RPC batches are no part of the protocol any more; send one message at a time")
	}
	var p parts
	if err := jcs.Scan(body, p.member); err != nil {
		return nil, code.Deny(code.InvalidRequest, "%v", err)
	}
	return p.message()
}

// parts are the members of a message.
type parts struct {
	rpc, id, method, params, result, fault json.RawMessage
}

func (p *parts) member(key, value []byte) error {
	switch string(key) {
	case "jsonrpc":
		p.rpc = value
	case "id":
		p.id = value
	case "method":
		p.method = value
	case "params":
		p.params = value
	case "result":
		p.result = value
	case "error":
		p.fault = value
	}
	return nil
}

func (p *parts) message() (*Message, *code.Denial) {
	bad := func(what string) (*Message, *code.Denial) { return nil, code.Deny(code.InvalidRequest, "%s", what) }
	m := &Message{ID: p.id, Result: p.result}
	if v, err := jcs.String(p.rpc); err != nil || v != "2.0" {
		return bad(`not JSON-RPC: jsonrpc must be "2.0"`)
	}
	if p.id != nil && !isID(p.id) {
		return bad("id must be a string or a number")
	}
	if p.method == nil {
		if m.Kind = Reply; p.id == nil || (p.result == nil) == (p.fault == nil) {
			return bad("a message has a method, or an id with either result or error")
		}
		return m, nil
	}
	var err error
	if m.Method, err = jcs.String(p.method); err != nil || m.Method == "" || p.result != nil || p.fault != nil {
		return bad("method must be a name, without result or error beside it")
	}
	if m.Kind = Request; p.id == nil {
		m.Kind = Notification
	}
	if err := m.readParams(p.params); err != nil {
		return bad(err.Error())
	}
	return m, nil
}

// isID tells what JSON-RPC takes for the id of a request that is answered. 0 is one.
func isID(raw json.RawMessage) bool {
	return raw[0] == '"' || raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9'
}

var (
	errNoName = errors.New("the method needs params with a name")
	errParams = errors.New("params must be an object")
)

func (m *Message) readParams(params json.RawMessage) error {
	member := map[string]string{CallTool: "name", GetPrompt: "name", ReadResource: "uri", "resources/subscribe": "uri", "resources/unsubscribe": "uri"}[m.Method]
	if params == nil {
		if member != "" {
			return errNoName
		}
		return nil
	}
	if params[0] != '{' {
		return errParams
	}
	err := jcs.Scan(params, func(key, value []byte) error {
		var err error
		switch k := string(key); {
		case k == member:
			m.Name, err = jcs.String(value)
		case k == "arguments":
			m.Arguments = value
		case k == "_meta" && value[0] == '{':
			err = jcs.Scan(value, func(key, value []byte) error {
				var err error
				if string(key) == "io.modelcontextprotocol/protocolVersion" {
					m.Version, err = jcs.String(value)
				}
				return err
			})
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case member != "" && m.Name == "":
		return errNoName
	case m.Method == CallTool && m.Arguments != nil && m.Arguments[0] != '{':
		return errors.New("params.arguments must be an object")
	}
	return nil
}

// Carried tells whether a revision is carried.
func Carried(version string) bool { return slices.Contains(versions, version) }
