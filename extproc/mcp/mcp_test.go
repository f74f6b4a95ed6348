package mcp

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/signer/code"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]Message{
		`{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"echo","arguments":{"a":1}}}`:                                                {Kind: Request, ID: json.RawMessage("0"), Method: CallTool, Name: "echo", Arguments: json.RawMessage(`{"a":1}`)},
		`{"jsonrpc":"2.0","id":"p-1","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","x":{}}}}`: {Kind: Request, ID: json.RawMessage(`"p-1"`), Method: "server/discover", Version: Modern},
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`:                                                                                     {Kind: Notification, Method: "notifications/initialized"},
		`{"jsonrpc":"2.0","id":7,"result":{"ok":true}}`:                                                                                              {Kind: Reply, ID: json.RawMessage("7"), Result: json.RawMessage(`{"ok":true}`)},
		`{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no"}}`:                                                                                {Kind: Reply, ID: json.RawMessage("7")},
		`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///x","name":"decoy"}}`:                                             {Kind: Request, ID: json.RawMessage("1"), Method: ReadResource, Name: "file:///x"},
	} {
		got, d := Parse([]byte(body))
		if d != nil || fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s\ngot  %+v %v\nwant %+v", body, got, d, want)
		}
	}
	for body, want := range map[string]code.Code{
		``: code.PayloadEmpty, ` `: code.PayloadEmpty,
		`[{"jsonrpc":"2.0","id":1,"method":"ping"}]`:                                                                     code.InvalidRequest,
		`{"id":1,"method":"ping"}`:                                                                                       code.InvalidRequest,
		`{"jsonrpc":"1.0","id":1,"method":"ping"}`:                                                                       code.InvalidRequest,
		`{"jsonrpc":"2.0","id":null,"method":"ping"}`:                                                                    code.InvalidRequest,
		`{"jsonrpc":"2.0","id":{},"method":"ping"}`:                                                                      code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`:                                                 code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}`:                                code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1,"x":2}}}`:                 code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`:                                                                 code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["a"]}`:                                                  code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":""}}`:                                            code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}`:                                             code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}`:                            code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1}`:                                                                                       code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`:                                                                code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`:                                                           code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping"} {}`:                                                                    code.InvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"x","params":` + strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 201): code.InvalidRequest,
	} {
		if m, d := Parse([]byte(body)); d == nil || d.Code != want {
			t.Errorf("%.80s: got %+v %v, want %s", body, m, d, want)
		}
	}
}

func agree(body string, headers ...string) *code.Denial {
	m, d := Parse([]byte(body))
	if d != nil {
		return d
	}
	return m.Agree(func(header func(name, value string)) {
		for i := 0; i < len(headers); i += 2 {
			header(headers[i], headers[i+1])
		}
	})
}

func TestHeadersAgreeWithTheBody(t *testing.T) {
	t.Parallel()
	const (
		call   = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"region":"eu","n":5,"deep":[{"x":true}]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
		old    = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}`
		umlaut = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"überweisung","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
		list   = `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`
		reply  = `{"jsonrpc":"2.0","id":1,"result":{}}`
	)
	modern := []string{"mcp-protocol-version", Modern, "mcp-method", "tools/call"}
	for name, c := range map[string]struct {
		body    string
		headers []string
		want    code.Code
	}{
		"modern":                     {call, append(modern, "mcp-name", "echo"), ""},
		"with repeated arguments":    {call, append(modern, "mcp-name", "echo", "mcp-param-region", "eu", "mcp-param-n", "5", "mcp-param-x", "true"), ""},
		"encoded":                    {umlaut, append(modern, "mcp-name", "=?base64?w7xiZXJ3ZWlzdW5n?="), ""},
		"old, without headers":       {old, nil, ""},
		"old, with its version":      {old, []string{"mcp-protocol-version", "2025-11-25", "mcp-session-id", "s"}, ""},
		"list has no name":           {list, []string{"mcp-protocol-version", Modern, "mcp-method", "tools/list"}, ""},
		"reply":                      {reply, []string{"mcp-protocol-version", "2025-11-25"}, ""},
		"another tool":               {call, append(modern, "mcp-name", "delete"), code.InvalidRequest},
		"another tool, old":          {old, []string{"mcp-name", "delete"}, code.InvalidRequest},
		"another method":             {call, []string{"mcp-protocol-version", Modern, "mcp-method", "tools/list", "mcp-name", "echo"}, code.InvalidRequest},
		"no name":                    {call, modern, code.InvalidRequest},
		"no method":                  {call, []string{"mcp-protocol-version", Modern, "mcp-name", "echo"}, code.InvalidRequest},
		"no version":                 {call, []string{"mcp-method", "tools/call", "mcp-name", "echo"}, code.InvalidRequest},
		"older version than it says": {call, []string{"mcp-protocol-version", "2025-11-25", "mcp-method", "tools/call", "mcp-name", "echo"}, code.InvalidRequest},
		"newer version than it says": {old, append(modern, "mcp-name", "echo"), code.InvalidRequest},
		"unknown version":            {old, []string{"mcp-protocol-version", "2024-11-05"}, code.InvalidRequest},
		"bad encoding":               {umlaut, append(modern, "mcp-name", "=?base64?w7x"), code.InvalidRequest},
		"a parameter of its own":     {call, append(modern, "mcp-name", "echo", "mcp-param-region", "us"), code.InvalidRequest},
		"twice":                      {call, append(modern, "mcp-name", "echo", "mcp-name", "echo"), code.HeaderDuplicate},
		"twice, joined":              {call, []string{"mcp-protocol-version", Modern, "mcp-method", "tools/call,tools/list", "mcp-name", "echo"}, code.HeaderDuplicate},
	} {
		d := agree(c.body, c.headers...)
		if got := codeOf(d); got != c.want {
			t.Errorf("%s: got %q (%v), want %q", name, got, d, c.want)
		}
	}
}

func codeOf(d *code.Denial) code.Code {
	if d == nil {
		return ""
	}
	return d.Code
}

func only(names ...string) func(string) bool {
	return func(tool string) bool { return strings.Contains(" "+strings.Join(names, " ")+" ", " "+tool+" ") }
}

const listOfThree = `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo","n":12345678901234567890},{"name":"add"},{"name":"delete","x":"}"}],"nextCursor":"c"},"extra":1e400}`

// whole passes an answer in one piece, or cut at the given places.
func whole(a *Answer, text string, cuts ...int) (string, error) {
	var out strings.Builder
	last := 0
	for _, c := range cuts {
		b, err := a.Pass([]byte(text[last:c]))
		if err != nil {
			return out.String(), err
		}
		out.Write(b)
		last = c
	}
	b, err := a.End([]byte(text[last:]))
	out.Write(b)
	return out.String(), err
}

func TestToolsVanishFromLists(t *testing.T) {
	t.Parallel()
	id := json.RawMessage("1")
	want := `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo","n":12345678901234567890},{"name":"add"}],"nextCursor":"c"},"extra":1e400}`
	a := NewAnswer("application/json", id, only("echo", "add"))
	if got, err := whole(a, listOfThree); err != nil || got != want || a.Hidden() != 1 {
		t.Errorf("%s %v, %d hidden", got, err, a.Hidden())
	}
	if got, err := whole(NewAnswer("application/json", id, only("echo", "add", "delete")), listOfThree); err != nil || got != listOfThree {
		t.Errorf("all allowed: %s %v", got, err)
	}
	if got, err := whole(NewAnswer("application/json", id, only()), listOfThree); err != nil || !strings.Contains(got, `"tools":[]`) {
		t.Errorf("none allowed: %s %v", got, err)
	}
	events := "id: 5\nevent: message\ndata: " + listOfThree + "\n\n: keep-alive\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n"
	got, err := whole(NewAnswer("text/event-stream; charset=utf-8", id, only("echo", "add")), events)
	if err != nil || got != "id: 5\nevent: message\ndata: "+want+"\n\n: keep-alive\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n" {
		t.Errorf("%q %v", got, err)
	}
}

func TestStreamIsTheSameHoweverItIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nl := rapid.SampledFrom([]string{"\n", "\r\n", "\r"}).Draw(t, "line end")
		var text strings.Builder
		for range rapid.IntRange(0, 5).Draw(t, "events") {
			text.WriteString(rapid.SampledFrom([]string{
				"data: " + listOfThree + "\n\n", "id: 1\ndata:\n\n", ": c\n\n", "event: message\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"id\":1,\"result\":{}}\n\n",
				"\n", "data: {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"sampling/createMessage\",\"params\":{\"tools\":[{\"name\":\"x\"}]}}\n\n",
			}).Draw(t, "event"))
		}
		text.WriteString(rapid.SampledFrom([]string{"", "data: " + listOfThree, "id: 2"}).Draw(t, "end"))
		all := strings.ReplaceAll(text.String(), "\n", nl)
		one := NewAnswer("text/event-stream", json.RawMessage("1"), only("echo"))
		want, err := whole(one, all)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(want, "delete") {
			t.Fatalf("a tool that is not allowed stands in %q", want)
		}
		var cuts []int
		for at := 0; at < len(all); {
			at += rapid.IntRange(1, 20).Draw(t, "piece")
			cuts = append(cuts, min(at, len(all)))
		}
		if got, err := whole(NewAnswer("text/event-stream", json.RawMessage("1"), only("echo")), all, cuts...); err != nil || got != want {
			t.Fatalf("cut at %v:\n%q\nin one piece:\n%q (%v)", cuts, got, want, err)
		}
	})
}

func TestAnswersThatAreWithheld(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ kind, text string }{
		"another id":           {"application/json", `{"jsonrpc":"2.0","id":2,"result":{}}`},
		"id of another type":   {"application/json", `{"jsonrpc":"2.0","id":"1","result":{}}`},
		"no id":                {"application/json", `{"jsonrpc":"2.0","result":{"tools":[]}}`},
		"a batch":              {"application/json", `[` + listOfThree + `]`},
		"no JSON":              {"application/json", `<html>`},
		"two messages":         {"application/json", `{"jsonrpc":"2.0","id":1,"result":{}}{"jsonrpc":"2.0","id":1,"result":{}}`},
		"two results":          {"application/json", `{"jsonrpc":"2.0","id":1,"result":{},"result":{"tools":[{"name":"delete"}]}}`},
		"two lists":            {"application/json", `{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"delete"}]}}`},
		"a tool with no name":  {"application/json", `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"title":"delete"}]}}`},
		"a tool with two":      {"application/json", `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"echo","name":"delete"}]}}`},
		"a tool that is none":  {"application/json", `{"jsonrpc":"2.0","id":1,"result":{"tools":["delete"]}}`},
		"another id, streamed": {"text/event-stream", "data: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n\n"},
		"no JSON, streamed":    {"text/event-stream", "data: hello\n\n"},
		"cut short":            {"application/json", `{"jsonrpc":"2.0","id":1,"result":{"to`},
		"cut short, streamed":  {"text/event-stream", `data: {"jsonrpc":"2.0","id":1,"res`},
	} {
		if got, err := whole(NewAnswer(c.kind, json.RawMessage("1"), only("echo")), c.text); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: passed as %q (%v)", name, got, err)
		}
	}
	for name, c := range map[string]struct{ kind, text string }{
		"nothing": {"", ""}, "an error without an id": {"application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}`},
		"1.0 is 1": {"application/json", `{"jsonrpc":"2.0","id":1.0,"result":{}}`}, "tools that are no list": {"application/json", `{"jsonrpc":"2.0","id":1,"result":{"tools":{}}}`},
	} {
		if got, err := whole(NewAnswer(c.kind, json.RawMessage("1"), only("echo")), c.text); err != nil || got != c.text {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	// A stream that is resumed brings replies to earlier requests.
	if got, err := whole(NewAnswer("text/event-stream", nil, only("echo")), "data: "+listOfThree+"\n\n"); err != nil || strings.Contains(got, "delete") {
		t.Errorf("resumed: %q %v", got, err)
	}
}

func TestHugeMessageIsWithheld(t *testing.T) {
	t.Parallel()
	a := NewAnswer("application/json", json.RawMessage("1"), only())
	var err error
	for n := 0; n <= MaxMessage && err == nil; n += 1 << 20 {
		_, err = a.Pass(make([]byte, 1<<20))
	}
	if !errors.Is(err, ErrAnswer) {
		t.Errorf("got %v", err)
	}
}

func TestDenial(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		code   code.Code
		id     string
		status int
		want   string
	}{
		"a tool":           {code.PolicyActionNotAllowed, "0", 200, `{"jsonrpc":"2.0","id":0,"error":{"code":-32003,"message":"text","data":{"code":"POLICY_ACTION_NOT_ALLOWED","decision":"dec_1"}}}`},
		"no token":         {code.TokenRequired, "", 401, `"id":null,"error":{"code":-32003`},
		"no message":       {code.InvalidRequest, "", 400, `"id":null,"error":{"code":-32600`},
		"the gate is away": {code.EvidenceDown, `"x"`, 200, `"id":"x","error":{"code":-32003`},
		"a notification":   {code.PolicyActionNotAllowed, "", 451, `"id":null`},
	} {
		var id json.RawMessage
		if c.id != "" {
			id = json.RawMessage(c.id)
		}
		status, body := Denial(code.Deny(c.code, ""), "text", "dec_1", id)
		if status != c.status || !strings.Contains(string(body), c.want) || !json.Valid(body) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("data: "+listOfThree+"\n\n", true)
	f.Add(listOfThree, false)
	f.Fuzz(func(t *testing.T, text string, stream bool) {
		kind := map[bool]string{true: "text/event-stream", false: "application/json"}[stream]
		got, err := whole(NewAnswer(kind, json.RawMessage("1"), func(string) bool { return false }), text)
		if err != nil {
			return
		}
		// Whatever passed has no tools: read as a client would, once more with nothing allowed, it stays as it is.
		again, err := whole(NewAnswer(kind, json.RawMessage("1"), func(string) bool { return false }), got)
		if err != nil || again != got {
			t.Errorf("%q passed as %q, and that as %q (%v)", text, got, again, err)
		}
	})
}
