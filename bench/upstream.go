package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
)

// answerSize is the length of every answer's body, in bytes.
const answerSize = 1024

// credential is what Sallyport is to put in place of the token. It opens nothing.
const credential = "bench-upstream-credential-not-a-real-key"

// answer is the fixed chat completion, filled up to answerSize.
var answer = func() []byte {
	const begin = `{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"gpt-4o-mini",` +
		`"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"`
	const end = `"}}],"usage":{"prompt_tokens":200,"completion_tokens":150,"total_tokens":350}}`
	return []byte(begin + strings.Repeat("a", answerSize-len(begin)-len(end)) + end)
}()

// upstreamCounts is what the upstream has seen.
type upstreamCounts struct {
	requests   atomic.Int64
	credential atomic.Int64 // of them with the planted credential
}

func (c *upstreamCounts) read() map[string]int64 {
	return map[string]int64{"requests": c.requests.Load(), "credential": c.credential.Load()}
}

// ServeHTTP answers a chat completion after reading all of it, as a model would.
func (c *upstreamCounts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil || r.URL.Path != chatPath || n != int64(len(prompt)) {
		http.Error(w, fmt.Sprintf("not the call that is measured: %s, %d bytes", r.URL.Path, n), http.StatusBadRequest)
		return
	}
	c.requests.Add(1)
	if r.Header.Get("Authorization") == "Bearer "+credential {
		c.credential.Add(1)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // a client that is gone notices by itself
}

func runUpstream(ctx context.Context, socket string, stdout io.Writer) error {
	var c upstreamCounts
	s, err := serveCounts(socket, c.read)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, l.Addr())
	return serveHTTP(ctx, &http.Server{Handler: &c}, l)
}

// upstream is the running upstream as the comparison sees it.
type upstream struct {
	*process
	address string
	counter *http.Client
}

func startUpstream(ctx context.Context, socket string) (*upstream, error) {
	p, address, err := startRole(ctx, roleUpstream, socket)
	if err != nil {
		return nil, err
	}
	return &upstream{process: p, address: address, counter: overSocket(socket)}, nil
}

// expectForwarded sends the target's first call once: it must come back with the fixed answer, and must have reached
// the upstream exactly once.
func (e *environment) expectForwarded(ctx context.Context, t target) error {
	return e.during(ctx, "requests", 1, func() error {
		a, err := once(ctx, t.Address, t.Requests[0])
		switch {
		case err != nil:
			return err
		case a.status != http.StatusOK || !bytes.Equal(a.body, answer):
			return fmt.Errorf("the call is answered with %d %.300q, not with what the upstream says", a.status, a.body)
		case t.Header != "" && a.header.Get(t.Header) == "":
			return fmt.Errorf("the answer has no %s", t.Header)
		}
		return nil
	})
}

// during reports whether a counter of the upstream goes up by want while do runs.
func (e *environment) during(ctx context.Context, counter string, want int64, do func() error) error {
	before, err := counts(ctx, e.upstream.counter)
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	after, err := counts(ctx, e.upstream.counter)
	if err != nil {
		return err
	}
	if got := after[counter] - before[counter]; got != want {
		return fmt.Errorf("the upstream's count %q went up by %d, want %d", counter, got, want)
	}
	return nil
}
