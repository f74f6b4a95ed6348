package loopback

import "net/http"

var anthropicAPI = api{
	carriers: []string{"X-Api-Key", "Authorization"},
	fault: func(status int, message string) obj {
		kind := "invalid_request_error"
		switch {
		case status == http.StatusUnauthorized:
			kind = "authentication_error"
		case status == http.StatusNotFound:
			kind = "not_found_error"
		case status == http.StatusTooManyRequests:
			kind = "rate_limit_error"
		case status >= 500:
			kind = "api_error"
		}
		return obj{"type": "error", "error": obj{"type": kind, "message": message}}
	},
}

func (x *exchange) anthropic() {
	switch {
	case x.is(http.MethodPost, "/messages"):
		x.messages()
	case x.is(http.MethodPost, "/messages/count_tokens"):
		x.json(http.StatusOK, obj{"input_tokens": tokens(x.ask.texts...)})
	case x.is(http.MethodGet, "/models"):
		data := make([]obj, 0, len(modelNames))
		for _, m := range modelNames {
			data = append(data, obj{"type": "model", "id": m, "display_name": m, "created_at": "2026-01-01T00:00:00Z"})
		}
		x.json(http.StatusOK, obj{"data": data, "has_more": false, "first_id": modelNames[0], "last_id": modelNames[len(modelNames)-1]})
	default:
		x.notFound()
	}
}

func (x *exchange) messages() {
	text := x.text()
	in, out := tokens(x.ask.texts...), tokens(text)
	message := func(stop any, outputTokens int, content ...obj) obj {
		if content == nil {
			content = []obj{}
		}
		return obj{
			"id": x.id("msg_"), "type": "message", "role": "assistant", "model": x.ask.model, "content": content,
			"stop_reason": stop, "stop_sequence": nil,
			"usage": obj{"input_tokens": in, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": outputTokens, "service_tier": "standard"},
		}
	}
	if !x.ask.stream {
		x.answerJSON(message("end_turn", out, obj{"type": "text", "text": text}))
		return
	}
	s := x.stream(true)
	send := func(kind string, data obj) {
		data["type"] = kind
		s.event(kind, data)
	}
	send("message_start", obj{"message": message(nil, 1)})
	send("content_block_start", obj{"index": 0, "content_block": obj{"type": "text", "text": ""}})
	send("ping", obj{})
	s.pieces(text, func(p string) {
		send("content_block_delta", obj{"index": 0, "delta": obj{"type": "text_delta", "text": p}})
	})
	send("content_block_stop", obj{"index": 0})
	send("message_delta", obj{"delta": obj{"stop_reason": "end_turn", "stop_sequence": nil}, "usage": obj{"output_tokens": out}})
	send("message_stop", obj{})
}
