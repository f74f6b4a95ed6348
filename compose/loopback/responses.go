package loopback

// responses answers OpenAI's Responses API.
func (x *exchange) responses() {
	text := x.text()
	in, out := tokens(x.ask.texts...), tokens(text)
	usage := obj{
		"input_tokens": in, "input_tokens_details": obj{"cached_tokens": 0, "cache_write_tokens": 0},
		"output_tokens": out, "output_tokens_details": obj{"reasoning_tokens": 0}, "total_tokens": in + out,
	}
	part := func(text string) obj {
		return obj{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}
	}
	item := func(status string, content ...obj) obj {
		if content == nil {
			content = []obj{}
		}
		return obj{"type": "message", "id": x.id("msg_"), "status": status, "role": "assistant", "content": content}
	}
	response := func(status string, usage any, output ...obj) obj {
		if output == nil {
			output = []obj{}
		}
		return obj{
			"id": x.id("resp_"), "object": "response", "created_at": x.now(), "status": status, "model": x.ask.model,
			"output": output, "usage": usage, "error": nil, "incomplete_details": nil, "instructions": x.ask.body["instructions"],
			"metadata": obj{}, "parallel_tool_calls": true, "tool_choice": "auto", "tools": []any{}, "temperature": 1, "top_p": 1,
			"previous_response_id": nil, "text": obj{"format": obj{"type": "text"}}, "truncation": "disabled", "store": false,
		}
	}
	if !x.ask.stream {
		x.answerJSON(response("completed", usage, item("completed", part(text))))
		return
	}
	s := x.stream(true)
	n := 0
	send := func(kind string, data obj) {
		data["type"], data["sequence_number"] = kind, n
		n++
		s.event(kind, data)
	}
	within := func(data obj) obj {
		data["item_id"], data["output_index"], data["content_index"] = x.id("msg_"), 0, 0
		return data
	}
	send("response.created", obj{"response": response("in_progress", nil)})
	send("response.in_progress", obj{"response": response("in_progress", nil)})
	send("response.output_item.added", obj{"output_index": 0, "item": item("in_progress")})
	send("response.content_part.added", within(obj{"part": part("")}))
	s.pieces(text, func(p string) {
		send("response.output_text.delta", within(obj{"delta": p, "logprobs": []any{}}))
	})
	send("response.output_text.done", within(obj{"text": text, "logprobs": []any{}}))
	send("response.content_part.done", within(obj{"part": part(text)}))
	send("response.output_item.done", obj{"output_index": 0, "item": item("completed", part(text))})
	send("response.completed", obj{"response": response("completed", usage, item("completed", part(text)))})
}
