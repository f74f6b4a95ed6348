package loopback

import (
	"encoding/json"
	"net/http"
	"strings"
)

var geminiAPI = api{
	carriers: []string{"X-Goog-Api-Key"},
	fault: func(status int, message string) obj {
		name := "INVALID_ARGUMENT"
		switch {
		case status == http.StatusUnauthorized:
			name = "UNAUTHENTICATED"
		case status == http.StatusNotFound:
			name = "NOT_FOUND"
		case status == http.StatusTooManyRequests:
			name = "RESOURCE_EXHAUSTED"
		case status >= 500:
			name = "INTERNAL"
		}
		return obj{"error": obj{"code": status, "message": message, "status": name}}
	},
}

func (x *exchange) gemini() {
	_, verb, _ := strings.Cut(x.path, ":")
	switch {
	case x.is(http.MethodGet, "/models"):
		data := make([]obj, 0, len(modelNames))
		for _, m := range modelNames {
			data = append(data, obj{"name": "models/" + m, "displayName": m, "supportedGenerationMethods": []string{"generateContent", "countTokens"}})
		}
		x.json(http.StatusOK, obj{"models": data})
		return
	case x.r.Method != http.MethodPost:
		x.notFound()
		return
	}
	switch verb {
	case "generateContent", "streamGenerateContent":
		x.generate(verb == "streamGenerateContent")
	case "countTokens":
		x.json(http.StatusOK, obj{"totalTokens": tokens(x.ask.texts...)})
	case "embedContent":
		x.answerJSON(obj{"embedding": obj{"values": vector(x.ask.body["content"], 8)}, "usageMetadata": obj{"promptTokenCount": tokens(x.ask.texts...)}})
	case "batchEmbedContents":
		requests, _ := x.ask.body["requests"].([]any)
		out := make([]obj, 0, len(requests))
		for _, r := range requests {
			out = append(out, obj{"values": vector(r, 8)})
		}
		x.answerJSON(obj{"embeddings": out})
	default:
		x.notFound()
	}
}

func (x *exchange) generate(streaming bool) {
	text := x.text()
	in, out := tokens(x.ask.texts...), tokens(text)
	answer := func(piece string, finish any, usage obj) obj {
		c := obj{"content": obj{"role": "model", "parts": []obj{{"text": piece}}}, "index": 0}
		if finish != nil {
			c["finishReason"] = finish
		}
		return obj{"candidates": []obj{c}, "usageMetadata": usage, "modelVersion": x.ask.model, "responseId": x.id("")}
	}
	final := obj{"promptTokenCount": in, "candidatesTokenCount": out, "totalTokenCount": in + out}
	if !streaming {
		x.answerJSON(answer(text, "STOP", final))
		return
	}
	s := x.stream(x.r.URL.Query().Get("alt") == "sse")
	s.pieces(text, func(p string) {
		s.element(answer(p, nil, obj{"promptTokenCount": in, "totalTokenCount": in}))
	})
	s.element(answer("", "STOP", final))
	if !s.events {
		s.write("]")
	}
}

// element sends one answer of a stream: an event, or an element of a JSON list.
func (s *stream) element(v obj) {
	if s.events {
		s.event("", v)
		return
	}
	raw, err := json.Marshal(v)
	if err != nil {
		s.x.model.cfg.Log.Error("answer not encoded", "error", err)
		s.dead = true
		return
	}
	before := ",\r\n"
	if s.sent == 0 {
		before = "["
	}
	s.sent++
	s.write(before + string(raw))
}
