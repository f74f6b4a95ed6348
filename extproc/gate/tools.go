package gate

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"sallyport/extproc/decide"
	"sallyport/extproc/dialect"
	"sallyport/extproc/mcp"
	"sallyport/extproc/message"
	"sallyport/signer/code"
)

// ofMethod begins the name by which contracts know what is no tool of an MCP server: mcp:SERVER/method:resources/read.
const ofMethod = "method:"

// readTool finds out what is asked of an MCP server.
func (x *exchange) readTool(ask *decide.Ask, body []byte) *code.Denial {
	at := x.dest.Provider + "/"
	if x.req.method != http.MethodPost {
		ask.Tool, ask.Session = at+ofMethod+strings.ToLower(x.req.method), true
		if x.req.method == http.MethodGet && !x.has(mcp.SessionHeader) {
			return code.Deny(code.MCPNoSession, "")
		}
		if len(body) > 0 {
			return code.Deny(code.InvalidRequest, "%s takes no body", x.req.method)
		}
		return nil
	}
	m, d := mcp.Parse(body)
	if d != nil {
		return d
	}
	if m.Kind == mcp.Request {
		x.message = m // so that a refusal has its id
	}
	if d := m.Agree(x.headers); d != nil {
		return d
	}
	switch m.Method {
	case mcp.CallTool:
		if strings.HasPrefix(m.Name, ofMethod) {
			return code.Deny(code.InvalidRequest, "no tool has a name that begins with %s", ofMethod)
		}
		ask.Tool = at + m.Name
	case mcp.ReadResource, mcp.GetPrompt, "resources/subscribe":
		ask.Tool = at + ofMethod + m.Method
	case "":
		ask.Tool, ask.Session = at+ofMethod+"reply", true
	default:
		ask.Tool, ask.Session = at+ofMethod+m.Method, true
	}
	return nil
}

// headers visits those that go on to the server.
func (x *exchange) headers(header func(name, value string)) {
	for _, h := range x.req.rest {
		header(h.Name, h.Value)
	}
}

func (x *exchange) has(name string) bool {
	found := false
	x.headers(func(n, v string) { found = found || n == name && v != "" })
	return found
}

// toolDenial is a refusal in the words of MCP.
func (x *exchange) toolDenial(d *code.Denial) dialect.Answer {
	a := dialect.Answer{Headers: [][2]string{{"content-type", "application/json"}, {"x-should-retry", "false"}}}
	var id []byte
	if x.message != nil {
		id = x.message.ID
	}
	a.Status, a.Body = mcp.Denial(d, dialect.Text(d, x.id), x.id, id)
	return a
}

// judgeAnswer decides how the answer of a server of tools is read. One that cannot be read does not pass, unless it is an HTTP
// error, in which no client looks for tools.
func (x *exchange) judgeAnswer(m *message.Request) error {
	if m.EndOfStream {
		return nil
	}
	kind, _, _ := strings.Cut(strings.ToLower(m.Header("content-type")), ";")
	kind = strings.TrimSpace(kind)
	encoding := m.Header("content-encoding")
	switch {
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return x.withhold("it is encoded as " + clip(encoding))
	case kind != "application/json" && kind != "text/event-stream":
		status, _ := strconv.Atoi(m.Header(":status"))
		if status >= http.StatusBadRequest {
			return nil
		}
		kind = "application/json" // it must be empty, or be read as if it said so
	}
	var id []byte
	if x.message != nil {
		id = x.message.ID
	}
	x.tools = mcp.NewAnswer(kind, id, x.allowsTool)
	return nil
}

// allowsTool says whether a tool of the server could be called now.
func (x *exchange) allowsTool(name string) bool {
	i := x.intent
	ask := decide.Ask{
		Provider: x.dest.Provider, Method: http.MethodPost, Host: i.Host, Path: i.Path, Tool: x.dest.Provider + "/" + name, SecretClass: x.dest.SecretClass,
	}
	return !strings.HasPrefix(name, ofMethod) && decide.Decide(x.contract, x.token, ask, x.gate.cfg.Now()).Denial == nil
}

// toolChunk passes a chunk of the answer as far as it could be read.
func (x *exchange) toolChunk(m *message.Request, read func([]byte) ([]byte, error)) (*message.Response, error) {
	out, err := read(m.Body)
	if err != nil {
		return nil, x.withhold(err.Error())
	}
	return &message.Response{Answer: m.Kind, Body: &message.Body{Bytes: out}}, nil
}

// withhold ends an answer that must not be passed on, and records why.
func (x *exchange) withhold(why string) error {
	x.gate.cfg.Log.Warn("answer withheld", "receipt", x.id, "provider", x.dest.Provider, "host", x.dest.name, "reason", why)
	x.phase = phaseSettled
	x.gate.metrics.cut.Inc()
	go x.recordCut("the answer was withheld: " + clip(why))
	return fmt.Errorf("%w: %s", errWithheld, why)
}
