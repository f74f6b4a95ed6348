package dialect

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	chatSSE = `data: {"id":"c","object":"chat.completion.chunk","model":"gpt-4o-mini-2024","choices":[{"delta":{"content":"say \"usage\":{\"prompt_tokens\":999}"}}],"usage":null}` + "\n\n" +
		`data: {"id":"c","model":"gpt-4o-mini-2024","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,"completion_tokens_details":{"reasoning_tokens":3}}}` + "\n\ndata: [DONE]\n\n"
	responsesSSE = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"model\":\"gpt-5\",\"usage\":null}}\n\n" +
		"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"model\":\"gpt-5\",\"output\":[{\"usage\":{\"input_tokens\":77}}],\"usage\":{\"input_tokens\":5,\"input_tokens_details\":{\"cached_tokens\":1},\"output_tokens\":6,\"total_tokens\":11}}}\n\n"
	anthropicSSE = "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"claude-x\",\"usage\":{\"input_tokens\":10,\"cache_creation_input_tokens\":2,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\r\n\r\n" +
		"event: ping\r\ndata: {\"type\":\"ping\"}\r\n\r\n" +
		"event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"é\\\\\"}}\r\n\r\n" +
		"event: message_delta\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":20}}\r\n\r\n" +
		"event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n"
	geminiSSE = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]}}],\"usageMetadata\":{\"promptTokenCount\":4},\"modelVersion\":\"gemini-3\"}\n\n" +
		"data: {\"candidates\":[],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":9,\"thoughtsTokenCount\":5,\"totalTokenCount\":18},\"modelVersion\":\"gemini-3\"}\n\n"
	geminiList = "[{\"candidates\":[],\"usageMetadata\":{\"promptTokenCount\":4},\"modelVersion\":\"gemini-3\"}\n,\n{\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":9,\"toolUsePromptTokenCount\":2},\"modelVersion\":\"gemini-3\"}]\n"
)

var meterCases = []struct {
	name, dialect, contentType, answer string
	want                               Usage
}{
	{"chat", "openai", "application/json", `{"model":"gpt-4o-mini","choices":[{"message":{"content":"hi","usage":{"prompt_tokens":1}}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10},"service_tier":"default"}`, Usage{7, 3, true, "gpt-4o-mini"}},
	{"chat stream", "openai", "text/event-stream; charset=utf-8", chatSSE, Usage{12, 34, true, "gpt-4o-mini-2024"}},
	{"chat stream without usage", "openai", "text/event-stream", "data: {\"model\":\"m\",\"choices\":[]}\n\ndata: [DONE]\n\n", Usage{Model: "m"}},
	{"responses", "openai", "application/json", `{"object":"response","model":"gpt-5","output":[],"usage":{"input_tokens":5,"output_tokens":6,"total_tokens":11},"user":null}`, Usage{5, 6, true, "gpt-5"}},
	{"responses stream", "openai", "text/event-stream", responsesSSE, Usage{5, 6, true, "gpt-5"}},
	{"embeddings", "openai", "application/json", `{"object":"list","data":[{"embedding":[0.1,-2e-3]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}`, Usage{8, 0, true, "text-embedding-3-small"}},
	{"messages", "anthropic", "application/json", `{"type":"message","model":"claude-x","content":[],"usage":{"input_tokens":11,"cache_read_input_tokens":5,"output_tokens":2}}`, Usage{16, 2, true, "claude-x"}},
	{"messages stream", "anthropic", "text/event-stream", anthropicSSE, Usage{15, 20, true, "claude-x"}},
	{"counted, not used", "anthropic", "application/json", `{"input_tokens":100}`, Usage{}},
	{"gemini", "gemini", "application/json; charset=UTF-8", `{"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":4,"candidatesTokenCount":9,"thoughtsTokenCount":1},"modelVersion":"gemini-3"}`, Usage{4, 10, true, "gemini-3"}},
	{"gemini stream", "gemini", "text/event-stream", geminiSSE, Usage{4, 14, true, "gemini-3"}},
	{"gemini stream as a list", "gemini", "application/json", geminiList, Usage{6, 9, true, "gemini-3"}},
	{"error", "openai", "application/json", `{"error":{"message":"no","type":"invalid_request_error"}}`, Usage{}},
	{"usage of the wrong kind", "openai", "application/json", `{"usage":{"prompt_tokens":"7","completion_tokens":-1}}`, Usage{}},
	{"usage is a text", "openai", "application/json", `{"usage":"{\"prompt_tokens\":7}"}`, Usage{}},
	{"usage in a list", "openai", "application/json", `{"usage":[{"prompt_tokens":7}]}`, Usage{}},
	{"fraction and exponent", "openai", "application/json", `{"usage":{"prompt_tokens":1e2,"completion_tokens":3.0}}`, Usage{100, 3, true, ""}},
	{"html", "openai", "text/html", `{"usage":{"prompt_tokens":7,"completion_tokens":3}}`, Usage{}},
	{"no type", "openai", "", `{"usage":{"prompt_tokens":7,"completion_tokens":3}}`, Usage{}},
	{"cut short", "openai", "application/json", `{"model":"m","usage":{"prompt_tokens":7,"comple`, Usage{Model: "m"}},
	{"unbalanced", "openai", "application/json", `}}]]{"usage":{"prompt_tokens":7,"completion_tokens":3}}`, Usage{7, 3, true, ""}},
	{"data lines of one event", "openai", "text/event-stream", ": a comment\nid: 1\ndata:{\"usage\":\ndata: {\"prompt_tokens\":7,\ndata:\"completion_tokens\":3}}\n\n", Usage{7, 3, true, ""}},
	{"line ends CR", "openai", "text/event-stream", "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\r\rdata: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\r\r", Usage{7, 3, true, ""}},
	{"a broken event", "openai", "text/event-stream", "data: {\"a\":[[[\"\n\ndata: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n", Usage{7, 3, true, ""}},
}

func TestMeter(t *testing.T) {
	for _, c := range meterCases {
		t.Run(c.name, func(t *testing.T) {
			d, _ := ByName(c.dialect)
			whole := d.NewMeter(c.contentType)
			whole.Write([]byte(c.answer))
			if got := whole.Usage(); got != c.want {
				t.Errorf("whole: %+v, want %+v", got, c.want)
			}
			bytewise := d.NewMeter(c.contentType)
			for i := range len(c.answer) {
				bytewise.Write([]byte{c.answer[i]})
			}
			if got := bytewise.Usage(); got != c.want {
				t.Errorf("byte by byte: %+v, want %+v", got, c.want)
			}
		})
	}
}

// However an answer is cut, the usage is the same.
func FuzzMeter(f *testing.F) {
	for i, c := range meterCases {
		f.Add([]byte(c.answer), c.contentType == "text/event-stream", uint64(i))
	}
	f.Fuzz(func(t *testing.T, answer []byte, events bool, seed uint64) {
		contentType := "application/json"
		if events {
			contentType = "text/event-stream"
		}
		for name, d := range spoken {
			whole, cut := d.NewMeter(contentType), d.NewMeter(contentType)
			whole.Write(answer)
			r := rand.New(rand.NewPCG(seed, 1))
			for rest := answer; len(rest) > 0; {
				n := 1 + r.IntN(min(len(rest), 40))
				cut.Write(rest[:n])
				rest = rest[n:]
			}
			if whole.Usage() != cut.Usage() {
				t.Fatalf("%s: whole %+v, cut %+v", name, whole.Usage(), cut.Usage())
			}
		}
	})
}

// The usage of any JSON answer is found wherever it stands, and nothing else is taken for it.
func TestMeterAgreesWithParser(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := map[string]any{}
		for range rapid.IntRange(0, 4).Draw(t, "members") {
			doc[rapid.SampledFrom([]string{"a", "choices", "usage2", "messages", "data"}).Draw(t, "name")] = anyJSON(t, 4)
		}
		want := Usage{}
		if rapid.Bool().Draw(t, "has usage") {
			want = Usage{Input: int64(rapid.IntRange(0, 1<<30).Draw(t, "in")), Output: int64(rapid.IntRange(0, 1<<30).Draw(t, "out")), Reported: true}
			doc["usage"] = map[string]any{"prompt_tokens": want.Input, "completion_tokens": want.Output, "details": anyJSON(t, 2)}
		}
		raw, err := json.MarshalIndent(doc, "", rapid.SampledFrom([]string{"", " "}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		m := openAI.NewMeter("application/json")
		m.Write(raw)
		if got := m.Usage(); got != want {
			t.Fatalf("%s: %+v, want %+v", raw, got, want)
		}
	})
}

func anyJSON(t *rapid.T, depth int) any {
	switch rapid.IntRange(0, 5+min(depth, 1)*2).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Int().Draw(t, "number")
	case 3, 4, 5:
		return rapid.SampledFrom([]string{"", `"`, `\`, `\"usage\":{`, "usage", "}", "é\u2028", `{"usage":{"prompt_tokens":1}}`}).Draw(t, "text")
	case 6:
		list := make([]any, rapid.IntRange(0, 3).Draw(t, "length"))
		for i := range list {
			list[i] = anyJSON(t, depth-1)
		}
		return list
	default:
		return map[string]any{
			rapid.SampledFrom([]string{"usage", "model", "message", "x"}).Draw(t, "key"): anyJSON(t, depth-1),
		}
	}
}

// A long answer costs no memory: neither a long text nor a usage object that never ends is kept.
func TestMeterIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		d     *dialect
		media string
		head  string
		fill  string
	}{
		"text in JSON":      {&openAI, "application/json", `{"choices":[{"message":{"content":"`, "words and "},
		"usage in JSON":     {&openAI, "application/json", `{"usage":{"x":"`, "words and "},
		"name in JSON":      {&openAI, "application/json", `{"`, "words and "},
		"depth in JSON":     {&openAI, "application/json", "", "[[[[[[[[[["},
		"one line of SSE":   {&anthropic, "text/event-stream", `data: {"delta":{"text":"`, "words and "},
		"SSE without lines": {&gemini, "text/event-stream", "", "words and "},
	} {
		t.Run(name, func(t *testing.T) {
			m := c.d.NewMeter(c.media)
			m.Write([]byte(c.head))
			chunk := []byte(strings.Repeat(c.fill, 1<<10))
			for range 8 {
				m.Write(chunk) // past every bound
			}
			if n := testing.AllocsPerRun(100, func() { m.Write(chunk) }); n > 0 {
				t.Errorf("%v allocations for each further chunk", n)
			}
		})
	}
}

func BenchmarkMeter(b *testing.B) {
	event := "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"some words\"}}]}\n\n"
	for name, c := range map[string]struct{ media, chunk string }{
		"sse":  {"text/event-stream", strings.Repeat(event, 100)},
		"json": {"application/json", `{"choices":["` + strings.Repeat("some words ", 1<<10) + `"],`},
	} {
		b.Run(name, func(b *testing.B) {
			m := openAI.NewMeter(c.media)
			chunk := []byte(c.chunk)
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				m.Write(chunk)
			}
		})
	}
}
