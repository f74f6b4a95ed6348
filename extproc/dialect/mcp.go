package dialect

import (
	"net/http"

	"sallyport/signer/code"
)

// MCP is the name of the Model Context Protocol. It is no model's API, but it has a door, endpoints and a credential like one;
// its messages are package mcp's business.
const MCP = "mcp"

// Tools is the kind of an MCP server's one endpoint.
const Tools Kind = "tools"

// toolServer speaks to MCP servers over streamable HTTP: one URL, by three methods.
type toolServer struct{ *dialect }

var mcpMethods = []string{http.MethodPost, http.MethodGet, http.MethodDelete}

func (toolServer) Name() string { return MCP }

func (toolServer) Endpoints() []Endpoint {
	var out []Endpoint
	for _, m := range mcpMethods {
		out = append(out, Endpoint{Kind: Tools, Method: m})
	}
	return out
}

func (toolServer) Route(method, path string) (Call, *code.Denial) {
	for _, m := range mcpMethods {
		if m == method && (path == "" || path == "/") {
			return Call{Endpoint: Endpoint{Kind: Tools, Method: m}, Kind: Tools, NeedsBody: m == http.MethodPost}, nil
		}
	}
	return Call{}, code.Deny(code.EndpointNotAllowed, "%.16s %.128s at an MCP server; use POST at its one URL", method, path)
}

func (toolServer) Inspect(Call, []byte) (Body, *code.Denial) { return Body{}, nil }

func (toolServer) CredentialHeader() (name, format string) { return "authorization", "Bearer %s" }

func (toolServer) NewMeter(string) Meter { return unmetered{} }

// unmetered is the meter of answers that cost no tokens.
type unmetered struct{}

func (unmetered) Write([]byte) {}
func (unmetered) Usage() Usage { return Usage{} }
