package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sallyport/signer/jcs"
)

// MaxMessage bounds one message of an answer, in bytes.
const MaxMessage = 32 << 20

// ErrAnswer is wrapped by every error about an answer that must not be passed on.
var ErrAnswer = errors.New("MCP answer")

var errOther = errors.New("another kind of value")

// Answer passes a server's answer on, without the tools that the contract does not allow. It holds one message at a time, and
// passes only what it could read: a JSON answer as a whole, an event stream event by event.
type Answer struct {
	allowed func(tool string) bool
	id      []byte // canonical, of the request; nil: replies to any request may come, as when a stream is resumed
	stream  bool
	held    []byte
	scanned int // bytes of held in which no event ends
	hidden  int
}

// NewAnswer is for one answer to a request with this id; nil for a stream that a client listens to.
func NewAnswer(contentType string, id json.RawMessage, allowed func(tool string) bool) *Answer {
	kind, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	a := &Answer{allowed: allowed, stream: strings.TrimSpace(kind) == "text/event-stream"}
	if id != nil {
		a.id, _ = jcs.Canonical(id) // it was read strictly before
	}
	return a
}

// Hidden is how many tools were left out.
func (a *Answer) Hidden() int { return a.hidden }

// Pass takes the next bytes and returns those that may go on.
func (a *Answer) Pass(chunk []byte) ([]byte, error) {
	if len(a.held)+len(chunk) > MaxMessage {
		return nil, fmt.Errorf("%w: a message is larger than %d bytes", ErrAnswer, MaxMessage)
	}
	a.held = append(a.held, chunk...)
	if !a.stream {
		return nil, nil
	}
	var out []byte
	for {
		end := eventEnd(a.held, a.scanned)
		if end < 0 {
			a.scanned = max(0, len(a.held)-3)
			return out, nil
		}
		event, err := a.event(a.held[:end])
		if err != nil {
			return nil, err
		}
		out = append(out, event...)
		a.held, a.scanned = a.held[end:], 0
	}
}

// End is Pass for the last bytes.
func (a *Answer) End(chunk []byte) ([]byte, error) {
	out, err := a.Pass(chunk)
	if err != nil {
		return nil, err
	}
	if a.stream {
		if len(bytes.Trim(a.held, "\r\n")) > 0 { // a client that reads to the end takes it for an event
			event, err := a.event(a.held)
			if err != nil {
				return nil, err
			}
			return append(out, event...), nil
		}
		return append(out, a.held...), nil
	}
	if len(bytes.Trim(a.held, " \t\r\n")) == 0 {
		return a.held, nil
	}
	return a.message(a.held)
}

// eventEnd is where the first event ends, with the empty line behind it; -1 if it has not ended yet. Lines end in LF, CR or
// CRLF.
func eventEnd(b []byte, from int) int {
	for i := from; i < len(b); i++ {
		n := lineEnd(b[i:])
		if n == 0 {
			continue
		}
		if i+n >= len(b) {
			return -1 // whether an LF follows is not known, nor what comes then
		}
		if m := lineEnd(b[i+n:]); m > 0 {
			if b[i+n] == '\r' && i+n+m == len(b) && m == 1 {
				return -1
			}
			return i + n + m
		}
		i += n - 1
	}
	return -1
}

// lineEnd is the length of the line end that b begins with.
func lineEnd(b []byte) int {
	switch {
	case len(b) == 0:
		return 0
	case b[0] == '\n':
		return 1
	case b[0] != '\r':
		return 0
	case len(b) > 1 && b[1] == '\n':
		return 2
	}
	return 1
}

// event is what goes on of one event.
func (a *Answer) event(raw []byte) ([]byte, error) {
	var data, rest [][]byte
	found := false
	for _, line := range lines(raw) {
		field, value, _ := bytes.Cut(line, []byte(":"))
		if string(field) == "data" {
			data, found = append(data, bytes.TrimPrefix(value, []byte(" "))), true
		} else if len(line) > 0 {
			rest = append(rest, line)
		}
	}
	body := bytes.Join(data, []byte("\n"))
	if !found || len(bytes.Trim(body, " \t\r\n")) == 0 {
		return raw, nil // a comment, or the empty event that only names a place to resume from
	}
	msg, err := a.message(body)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(msg, body) {
		return raw, nil
	}
	var out []byte
	for _, line := range rest {
		out = append(append(out, line...), '\n')
	}
	return append(append(append(out, "data: "...), msg...), "\n\n"...), nil
}

func lines(b []byte) [][]byte {
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	return bytes.Split(bytes.ReplaceAll(b, []byte("\r"), []byte("\n")), []byte("\n"))
}

// message is what goes on of one JSON-RPC message of the server's.
func (a *Answer) message(raw []byte) ([]byte, error) {
	var id, method, result json.RawMessage
	if err := scan(raw, func(key string, value json.RawMessage) {
		switch key {
		case "id":
			id = value
		case "method":
			method = value
		case "result":
			result = value
		}
	}); err != nil {
		return nil, err
	}
	if method != nil {
		return raw, nil // the server asks or tells: sampling, elicitation, progress
	}
	if a.id != nil && !isNull(id) { // an error about a message that could not be read has no id
		if got, err := jcs.Canonical(id); err != nil || !bytes.Equal(got, a.id) {
			return nil, fmt.Errorf("%w: it answers id %.64s, and %.64s was asked", ErrAnswer, id, a.id)
		}
	}
	if len(result) == 0 || result[0] != '{' {
		return raw, nil
	}
	if a.id != nil && isNull(id) {
		return nil, fmt.Errorf("%w: a result without an id", ErrAnswer)
	}
	judged, err := a.result(result)
	if err != nil || judged == nil {
		return raw, err
	}
	return rebuilt(raw, "result", judged)
}

func isNull(id json.RawMessage) bool { return id == nil || string(id) == "null" }

// result is a result without the tools that are not allowed; nil where it stays as it is.
func (a *Answer) result(raw json.RawMessage) ([]byte, error) {
	var tools json.RawMessage
	if err := scan(raw, func(key string, value json.RawMessage) {
		if key == "tools" {
			tools = value
		}
	}); err != nil || len(tools) == 0 || tools[0] != '[' {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(tools, &list); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	kept := []byte{'['}
	hidden := 0
	for _, t := range list {
		name, err := nameOf(t)
		if err != nil {
			return nil, err
		}
		if !a.allowed(name) {
			hidden++
			continue
		}
		if len(kept) > 1 {
			kept = append(kept, ',')
		}
		kept = append(kept, t...)
	}
	a.hidden += hidden
	if hidden == 0 {
		return nil, nil
	}
	return rebuilt(raw, "tools", append(kept, ']'))
}

// nameOf is a tool's name.
func nameOf(tool json.RawMessage) (name string, err error) {
	var raw json.RawMessage
	if err := scan(tool, func(key string, value json.RawMessage) {
		if key == "name" {
			raw = value
		}
	}); err != nil {
		return "", err
	}
	if err := json.Unmarshal(raw, &name); err != nil || name == "" {
		return "", fmt.Errorf("%w: a tool in the list has no name", ErrAnswer)
	}
	return name, nil
}

// rebuilt is an object with another value for one member, and the others as they were.
func rebuilt(object []byte, member string, value []byte) ([]byte, error) {
	out := []byte{'{'}
	err := scan(object, func(key string, old json.RawMessage) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		if out = append(jcs.AppendText(out, key), ':'); key == member {
			old = value
		}
		out = append(out, old...)
	})
	return append(out, '}'), err
}
