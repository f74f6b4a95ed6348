// Package dialect knows how the clients of each model provider speak: which endpoints they call, which model a request
// asks for, how a refusal must look to them, and where an answer counts its tokens. Its rules come from the providers'
// public API references and from what their SDKs were measured to send and to accept.
package dialect

import (
	"sallyport/signer/code"
)

// Kind names what an endpoint does.
type Kind string

// The kinds of endpoints that are carried.
const (
	Chat        Kind = "chat"
	Responses   Kind = "responses"
	Embeddings  Kind = "embeddings"
	Messages    Kind = "messages"
	CountTokens Kind = "count_tokens"
	Generate    Kind = "generate"
	ListModels  Kind = "list_models"
)

// Endpoint is one thing that an upstream may be asked. At most one of Path and Regex is set; both are below the
// upstream's base URL, begin with the API version and have no query. Neither is set where the base URL itself is meant.
type Endpoint struct {
	Kind   Kind
	Method string
	Path   string // exact
	Regex  string // RE2, meant for the whole path
}

// Call is a request whose endpoint is known, before its body is.
type Call struct {
	Endpoint     Endpoint
	Kind         Kind
	UpstreamPath string // canonical, below the upstream's base URL, e.g. /v1/chat/completions; see JoinPath
	ModelInPath  string // Gemini names the model in the path; "" elsewhere
	NeedsBody    bool   // false: the request must have none
	StreamByPath bool   // the path alone says that the answer is a stream
}

// Body is what the request's body asks for.
type Body struct {
	Model  string // "" only where the endpoint has no model, as the list of models
	Stream bool   // the answer shall be a stream
}

// Answer is a refusal as it goes to the client.
type Answer struct {
	Status  int
	Headers [][2]string // lower-case names, with content-type
	Body    []byte      // JSON
}

// Usage is what an answer says about the tokens that it took. Input counts every token the model read, cached ones
// included; Output every token it wrote, reasoning included.
type Usage struct {
	Input, Output int64
	Reported      bool   // false: the answer had no usage, and both counts are 0
	Model         string // the model that the answer names, "" for none
}

// Meter reads an answer as it passes. It is for one goroutine, never fails, and keeps a bounded amount of memory
// however long the answer is.
type Meter interface {
	Write(chunk []byte)
	Usage() Usage
}

// Dialect is one way of speaking to a model provider. Its methods may be used by many goroutines at once.
type Dialect interface {
	// Name is openai, anthropic, gemini or mcp.
	Name() string
	// Endpoints are all that is carried: the data of the allowlist that is pushed to Envoy.
	Endpoints() []Endpoint
	// Route finds the endpoint of a request. The path is the one below the door, canonical and without its query; the
	// API version in front of it may be missing. The denial is ENDPOINT_NOT_ALLOWED or UPGRADE_NOT_SUPPORTED.
	Route(method, path string) (Call, *code.Denial)
	// Inspect reads the body strictly. The denial is INVALID_REQUEST, PAYLOAD_EMPTY, POLICY_MODEL_REQUIRED, or
	// POLICY_MODEL_NOT_ALLOWED where the body names a second model beside the first.
	Inspect(c Call, body []byte) (Body, *code.Denial)
	// CredentialHeader is the provider's one canonical header for its key, and a format with one %s for its value.
	CredentialHeader() (name, format string)
	// Denial renders a refusal so that the provider's clients show it and do not retry it. The id is the decision's.
	Denial(d *code.Denial, requestID string) Answer
	// NewMeter returns a meter for one answer of the given Content-Type; answers that are neither JSON nor an event
	// stream are not read.
	NewMeter(contentType string) Meter
}

// ByName returns the dialect of that name.
func ByName(name string) (Dialect, bool) {
	if name == MCP {
		return toolServer{&openAI}, true
	}
	d, ok := spoken[name]
	return d, ok
}

var spoken = map[string]*dialect{"openai": &openAI, "anthropic": &anthropic, "gemini": &gemini}

// dialect is a Dialect as data: the three differ in what they name things, not in what is done with them.
type dialect struct {
	name          string
	credential    string // header
	format        string // of the header's value
	requestID     string // header in which clients look for the id of a request
	routes        []route
	secondModels  map[string]where // members that may name a further model
	prefixOfModel string           // may stand before a model's name in a body
	usage         usageNames
}

func (d *dialect) Name() string { return d.name }

func (d *dialect) CredentialHeader() (name, format string) { return d.credential, d.format }
