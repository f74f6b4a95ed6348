// Package workload says what the measured calls are: method, path, body, and what the upstream answers. Who makes them, and
// by which way, is the peers' matter. A workload's name says everything about its calls, as in stream-50 or prompt-1MiB.
package workload

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/bench/load"
)

// The workloads that are a call repeated, and those about tokens, which all make the chat call.
const (
	Chat       = "chat"
	Embeddings = "embeddings"
	SingleUse  = "single-use"
	Tenants    = "tenants"
	Mix        = "mix"

	RefusedGarbage   = "refused-garbage"
	RefusedSignature = "refused-signature"
	RefusedExpired   = "refused-expired"

	// Refusals stands for chat and the three kinds of refused calls, measured in the same rounds.
	Refusals = "refusals"
)

// Refused are the kinds of calls that a gate must refuse.
var Refused = []string{RefusedGarbage, RefusedSignature, RefusedExpired}

// IsRefused says whether calls of this name must be refused.
func IsRefused(name string) bool { return slices.Contains(Refused, name) }

// Names are the workloads for messages and the documentation; N and SIZE are free.
const Names = "chat, embeddings, stream-N, prompt-SIZE, upload-SIZE, download-SIZE, single-use, tenants, refusals, mix"

const (
	// ChatPath is OpenAI's path for chat completions.
	ChatPath = "/v1/chat/completions"
	// EmbeddingsPath is OpenAI's path for embeddings.
	EmbeddingsPath = "/v1/embeddings"

	// Model is one that Sallyport's example contract allows; what follows it in a model's name tells our upstream how to
	// answer, since a name is what every gateway passes on.
	Model          = "gpt-4o-mini"
	embeddingModel = "text-embedding-3-small"
)

// Call is one call as everyone makes it.
type Call struct {
	Name   string
	Path   string
	Accept string
	Body   load.Body
	Want   load.Want
}

// DefaultGap is the pause between the chunks of a stream, as a fast model has it.
const DefaultGap = 10 * time.Millisecond

// Params are what a scenario may choose about a workload's calls.
type Params struct {
	Model string        // "" for Model
	Gap   time.Duration // between the chunks of streams; 0 for DefaultGap
	Loose bool          // the upstream is not ours, so that answers may have any length
}

var (
	streamName = regexp.MustCompile(`^stream-([1-9][0-9]{0,4})$`)
	sizeName   = regexp.MustCompile(`^(prompt|upload|download)-([1-9][0-9]{0,5})(KiB|MiB|GiB)$`)
)

// ErrUnknown is of names that are no workload.
var ErrUnknown = errors.New("no such workload; there are " + Names)

// Check says whether a name is a workload's.
func Check(name string) error {
	if name == Refusals || name == Mix {
		return nil
	}
	_, err := New(name, Params{})
	return err
}

// Streams says whether a workload's answers are streams.
func Streams(name string) bool { return streamName.MatchString(name) }

// Size is how many bytes the name of a prompt, an upload or a download says; 0 of other workloads.
func Size(name string) (kind string, bytes int64) {
	m := sizeName.FindStringSubmatch(name)
	if m == nil {
		return "", 0
	}
	n, err := strconv.ParseInt(m[2], 10, 64)
	if err != nil {
		return "", 0
	}
	unit := map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
	return m[1], n * unit[m[3]]
}

// New makes the call of a workload.
func New(name string, p Params) (*Call, error) {
	if p.Model == "" {
		p.Model = Model
	}
	if p.Gap == 0 {
		p.Gap = DefaultGap
	}
	c := &Call{Name: name, Path: ChatPath, Accept: "application/json", Want: load.Want{Status: http.StatusOK, Size: AnswerSize}}
	switch kind, size := Size(name); {
	case name == Chat, name == SingleUse, name == Tenants, IsRefused(name):
		c.Body = load.Body{Before: chatBody(p.Model)}
	case name == Embeddings:
		c.Path, c.Body, c.Want.Size = EmbeddingsPath, load.Body{Before: embeddingsBody()}, int64(len(Embedding))
	case kind == "prompt", kind == "upload":
		c.Body = longBody(p.Model, size)
	case kind == "download":
		c.Body, c.Want.Size = load.Body{Before: chatBody(tagged(p, fmt.Sprintf("answer-%d", size)))}, size
	case Streams(name):
		c.stream(name, p)
	default:
		return nil, fmt.Errorf("%q: %w", name, ErrUnknown)
	}
	if p.Loose {
		c.Want.Size = load.AnySize
	}
	return c, nil
}

func (c *Call) stream(name string, p Params) {
	n, _ := strconv.Atoi(streamName.FindStringSubmatch(name)[1]) // digits
	c.Accept = "text/event-stream"
	c.Want = load.Want{Status: http.StatusOK, Size: load.AnySize, Events: n + 1} // with [DONE]
	if p.Loose {
		c.Want.Events = load.AnyEvents
	}
	c.Body = load.Body{Before: streamBody(tagged(p, fmt.Sprintf("stream-%d-%s", n, p.Gap)), n, p.Gap)}
}

// tagged adds what our upstream is to do to the model's name. Another upstream would know no such model.
func tagged(p Params, tag string) string {
	if p.Loose {
		return p.Model
	}
	return p.Model + "-" + tag
}

const question = `"messages":[{"role":"system","content":"You answer in one paragraph."},{"role":"user","content":"`

var chatEnd = strings.Repeat("Say what a gate is for. ", 32) + `"}],"temperature":0.2,"max_tokens":256}`

// chatBody is a small chat completion, about 0.9 KiB.
func chatBody(model string) []byte {
	return []byte(`{"model":"` + model + `",` + question + chatEnd)
}

// streamBody asks for a stream. Sallyport's built-in model follows the metadata, our upstream the model's name, and others
// stream as they do.
func streamBody(model string, n int, gap time.Duration) []byte {
	return fmt.Appendf(nil, `{"model":"%s","stream":true,"metadata":{"loopback":"chunks-%d slow-%d"},%s%s`,
		model, n, gap.Milliseconds(), question, chatEnd)
}

// filler is what long prompts and answers are made of; it needs no escape in JSON.
var filler = []byte(strings.Repeat("The gate lets pass what the contract allows and nothing else. ", 4096))

// longBody is a chat completion of exactly size bytes.
func longBody(model string, size int64) load.Body {
	b := load.Body{Before: []byte(`{"model":"` + model + `",` + question), Block: filler, After: []byte(`"}],"max_tokens":256}`)}
	b.Fill = max(0, size-int64(len(b.Before)+len(b.After)))
	return b
}

func embeddingsBody() []byte {
	return []byte(`{"model":"` + embeddingModel + `","encoding_format":"base64","input":"` + strings.Repeat("Say what a gate is for. ", 8) + `"}`)
}
