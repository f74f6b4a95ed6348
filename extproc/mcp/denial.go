package mcp

import (
	"encoding/json"
	"net/http"

	"sallyport/signer/code"
)

// Codes of JSON-RPC errors.
const (
	invalidRequest = -32600
	refused        = -32003
)

// Denial renders a refusal of the request with this id (nil: it has none, or none is known) so that MCP clients show its text
// and their session goes on (measured: only 200 with an error of the same id does in all SDKs). A token that is missing or bad
// is an HTTP 401, and what is no message a 4xx, as clients expect.
func Denial(d *code.Denial, text, decision string, id json.RawMessage) (status int, body []byte) {
	info := code.Lookup(d.Code)
	status, number := http.StatusOK, refused
	switch {
	case info.Class == code.ClassToken:
		status = info.Status
	case info.Class == code.ClassRequest:
		status, number = info.Status, invalidRequest
	case id == nil:
		status = info.Status
	}
	if id == nil {
		id = json.RawMessage("null")
	}
	body, err := json.Marshal(reply{"2.0", id, fault{number, text, data{string(d.Code), decision}}})
	if err != nil {
		// The id is JSON, or it would not have been read.
		body = []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32003,"message":"refused"}}`)
	}
	return status, body
}

type reply struct {
	RPC   string          `json:"jsonrpc"`
	ID    json.RawMessage `json:"id"`
	Error fault           `json:"error"`
}

type fault struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    data   `json:"data"`
}

type data struct {
	Code     string `json:"code"`
	Decision string `json:"decision,omitempty"`
}
