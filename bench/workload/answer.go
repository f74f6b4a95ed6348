package workload

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// AnswerSize is the length of a small answer's body, in bytes.
const AnswerSize = 1024

const (
	answerBegin = `{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini",` +
		`"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"`
	answerEnd = `"}}],"usage":{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350}}`
)

// Answer is the fixed chat completion of AnswerSize bytes.
var Answer = []byte(answerBegin + strings.Repeat("a", AnswerSize-len(answerBegin)-len(answerEnd)) + answerEnd)

// dimensions of an embedding, as the common small model has.
const dimensions = 1536

// Embedding is the fixed answer to an embeddings call, about 8 KiB.
var Embedding = []byte(`{"object":"list","data":[{"object":"embedding","index":0,"embedding":"` +
	base64.StdEncoding.EncodeToString(make([]byte, 4*dimensions)) +
	`"}],"model":"text-embedding-3-small","usage":{"prompt_tokens":50,"total_tokens":50}}`)

// chunk is one event of a stream, as OpenAI's are.
const chunk = `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o-mini",` +
	`"choices":[{"index":0,"delta":{"content":"gate "},"finish_reason":null}]}` + "\n\n"

// LastEvent ends a stream.
const LastEvent = "data: [DONE]\n\n"

var (
	streamTag = regexp.MustCompile(`^\{\s*"model":\s*"[^"]*-stream-([0-9]+)-([0-9.a-zµ]+)"`)
	answerTag = regexp.MustCompile(`^\{\s*"model":\s*"[^"]*-answer-([0-9]+)"`)
)

// HeadSize is how much of a request's body tells how to answer, in bytes.
const HeadSize = 256

// Pace is told how a stream was sent: how long the first event took, and each one after it.
type Pace interface {
	First(d time.Duration)
	Gap(d time.Duration)
}

// Respond answers a call as its path and the beginning of its body say.
func Respond(w http.ResponseWriter, path string, head []byte, pace Pace) error {
	if path == EmbeddingsPath {
		return whole(w, Embedding)
	}
	if m := streamTag.FindSubmatch(head); m != nil {
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			return err
		}
		gap, err := time.ParseDuration(string(m[2]))
		if err != nil {
			return err
		}
		return stream(w, n, gap, pace)
	}
	if m := answerTag.FindSubmatch(head); m != nil {
		n, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			return err
		}
		return long(w, n)
	}
	return whole(w, Answer)
}

func whole(w http.ResponseWriter, body []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, err := w.Write(body)
	return err
}

// long is a chat completion of exactly size bytes.
func long(w http.ResponseWriter, size int64) error {
	fill := size - int64(len(answerBegin)+len(answerEnd))
	if fill < 0 {
		return fmt.Errorf("an answer has at least %d bytes", len(answerBegin)+len(answerEnd))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.WriteString(w, answerBegin); err != nil {
		return err
	}
	for left := fill; left > 0; left -= int64(len(filler)) {
		if _, err := w.Write(filler[:min(left, int64(len(filler)))]); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, answerEnd)
	return err
}

// stream sends n events with a pause before each but the first, and the end.
func stream(w http.ResponseWriter, n int, gap time.Duration, pace Pace) error {
	begin := time.Now()
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	out := http.NewResponseController(w)
	last := begin
	for i := range n {
		if i > 0 {
			time.Sleep(gap)
		}
		if _, err := io.WriteString(w, chunk); err != nil {
			return err
		}
		if err := out.Flush(); err != nil {
			return err
		}
		now := time.Now()
		if i == 0 {
			pace.First(now.Sub(begin))
		} else {
			pace.Gap(now.Sub(last))
		}
		last = now
	}
	_, err := io.WriteString(w, LastEvent)
	return err
}
