package loopback

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/http"
)

var openAIAPI = api{
	carriers: []string{"Authorization"},
	fault: func(status int, message string) obj {
		kind, code := "invalid_request_error", any(nil)
		switch {
		case status == http.StatusUnauthorized:
			code = "invalid_api_key"
		case status == http.StatusTooManyRequests:
			kind, code = "requests", "rate_limit_exceeded"
		case status >= 500:
			kind = "server_error"
		}
		return obj{"error": obj{"message": message, "type": kind, "code": code, "param": nil}}
	},
}

func (x *exchange) openAI() {
	switch {
	case x.is(http.MethodPost, "/chat/completions"):
		x.chat()
	case x.is(http.MethodPost, "/responses"):
		x.responses()
	case x.is(http.MethodPost, "/embeddings"):
		x.embeddings()
	case x.is(http.MethodGet, "/models"):
		data := make([]obj, 0, len(modelNames))
		for _, m := range modelNames {
			data = append(data, obj{"id": m, "object": "model", "created": x.now(), "owned_by": "sallyport"})
		}
		x.json(http.StatusOK, obj{"object": "list", "data": data})
	default:
		x.notFound()
	}
}

// modelNames are what the lists of models show; any other name is served as well.
var modelNames = []string{"gpt-4o-mini", "gpt-5", "claude-sonnet-4-5", "claude-haiku-4-5", "gemini-2.5-flash", "text-embedding-3-small"}

func (x *exchange) now() int64 { return x.model.cfg.Now().Unix() }

// id is the same for the same request.
func (x *exchange) id(prefix string) string { return prefix + hex.EncodeToString(x.hash[:12]) }

func (x *exchange) answerJSON(v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		x.refuse(http.StatusInternalServerError, "answer not encoded")
		return
	}
	x.whole(raw)
}

func (x *exchange) chat() {
	text := x.text()
	usage := obj{
		"prompt_tokens": tokens(x.ask.texts...), "completion_tokens": tokens(text), "total_tokens": tokens(x.ask.texts...) + tokens(text),
		"prompt_tokens_details": obj{"cached_tokens": 0}, "completion_tokens_details": obj{"reasoning_tokens": 0},
	}
	base := func(object string) obj {
		return obj{"id": x.id("chatcmpl-"), "object": object, "created": x.now(), "model": x.ask.model, "system_fingerprint": "fp_loopback"}
	}
	if !x.ask.stream {
		a := base("chat.completion")
		a["choices"] = []obj{{"index": 0, "message": obj{"role": "assistant", "content": text, "refusal": nil}, "logprobs": nil, "finish_reason": "stop"}}
		a["usage"] = usage
		x.answerJSON(a)
		return
	}
	s := x.stream(true)
	send := func(delta obj, finish any) {
		c := base("chat.completion.chunk")
		c["choices"] = []obj{{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}}
		if x.ask.includeUsage {
			c["usage"] = nil
		}
		s.event("", c)
	}
	send(obj{"role": "assistant", "content": ""}, nil)
	s.pieces(text, func(p string) { send(obj{"content": p}, nil) })
	send(obj{}, "stop")
	if x.ask.includeUsage {
		c := base("chat.completion.chunk")
		c["choices"], c["usage"] = []obj{}, usage
		s.event("", c)
	}
	s.write("data: [DONE]\n\n")
}

// event sends one server-sent event; the name may be empty.
func (s *stream) event(name string, data obj) {
	raw, err := json.Marshal(data)
	if err != nil {
		s.x.model.cfg.Log.Error("event not encoded", "error", err)
		s.dead = true
		return
	}
	text := "data: " + string(raw) + "\n\n"
	if name != "" {
		text = "event: " + name + "\n" + text
	}
	s.write(text)
}

func (x *exchange) embeddings() {
	inputs, _ := x.ask.body["input"].([]any)
	if inputs == nil || !listOfInputs(inputs) {
		inputs = []any{x.ask.body["input"]}
	}
	size := 8
	if d, ok := x.ask.body["dimensions"].(float64); ok && d >= 1 && d <= 4096 {
		size = int(d)
	}
	format, _ := x.ask.body["encoding_format"].(string)
	data := make([]obj, 0, len(inputs))
	for i, in := range inputs {
		v := vector(in, size)
		e := obj{"object": "embedding", "index": i, "embedding": v}
		if format == "base64" {
			e["embedding"] = packed(v)
		}
		data = append(data, e)
	}
	n := tokens(x.ask.texts...)
	x.answerJSON(obj{"object": "list", "data": data, "model": x.ask.model, "usage": obj{"prompt_tokens": n, "total_tokens": n}})
}

// listOfInputs tells several inputs from one input given as a list of token numbers.
func listOfInputs(in []any) bool {
	for _, v := range in {
		if _, number := v.(float64); number {
			return false
		}
	}
	return true
}

// vector is a unit vector that depends on the input alone.
func vector(in any, size int) []float32 {
	raw, _ := json.Marshal(in) // it came from JSON
	out := make([]float32, size)
	var length float64
	var block [sha256.Size]byte
	for i := range out {
		if i%8 == 0 {
			block = sha256.Sum256(append(raw, byte(i>>3), byte(i>>11)))
		}
		f := float64(binary.LittleEndian.Uint32(block[4*(i%8):]))/math.MaxUint32*2 - 1
		out[i] = float32(f)
		length += f * f
	}
	for i := range out {
		out[i] = float32(float64(out[i]) / math.Sqrt(length))
	}
	return out
}

// packed is the form that the SDKs ask for: little-endian floats in base64.
func packed(v []float32) string {
	raw := make([]byte, 0, 4*len(v))
	for _, f := range v {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	return base64.StdEncoding.EncodeToString(raw)
}
