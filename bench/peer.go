package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// peer is one way to the upstream.
type peer interface {
	Name() string
	// Check shows, before anything is measured, that the peer really does what its name says.
	Check(ctx context.Context) error
	// Target prepares n connections. It is called before each cell, outside the measured time.
	Target(ctx context.Context, n int) (target, error)
	// Groups are the peer's own processes, by what they do; CPU time is counted for each group.
	Groups() map[string][]int
	// Verify shows, after everything was measured, that the peer did its job for all calls that were answered.
	Verify(ctx context.Context, answered int64) error
	Stop()
}

// target is where a peer takes calls, and the call that each connection repeats.
type target struct {
	Address  string   // host:port
	Requests [][]byte // one for each connection, as it goes over the wire
	Header   string   // header that every answer must have, "" for none
}

// peerNames is the order in which peers are started and shown. To add one, write a file with its constructor, and name
// it here and in the registry. Those that take long to install stand only in the registry: they run where they are asked for.
var peerNames = []string{directName, envoyName, envoyNativeName, noopName, sallyportName}

var registry = map[string]func(context.Context, *environment) (peer, error){
	directName: newDirect, envoyName: newEnvoyAlone, noopName: newNoop, sallyportName: newSallyport,
	envoyNativeName: newEnvoyNative, mitmproxyName: newMitmproxy, litellmName: newLitellm,
}

// baseline is what the ratios are to: the least that any processor in these phases can cost.
const baseline = noopName

const chatPath = "/v1/chat/completions"

// prompt is the call that everyone makes: a small chat completion. The example contract allows the model.
var prompt = []byte(`{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You answer in one paragraph."},` +
	`{"role":"user","content":"` + strings.Repeat("Say what a gate is for. ", 32) + `"}],"temperature":0.2,"max_tokens":256}`)

// stockToken stands in for the scoped token where no gate reads it, so that all peers carry headers of the same size.
var stockToken = "not-a-real-token-" + strings.Repeat("0", 683)

// request renders the call for one connection. The bytes are made once: making them is not what is measured.
func request(host, path, bearer string, more http.Header) []byte {
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}, "User-Agent": {"sallyport-bench"}}
	if bearer != "" {
		h.Set("Authorization", "Bearer "+bearer)
	}
	for k, v := range more {
		h[k] = v
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", path, host, len(prompt))
	_ = h.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	b.Write(prompt)
	return b.Bytes()
}

// same is a target whose connections all repeat one call.
func same(address string, n int) target {
	t := target{Address: address, Requests: make([][]byte, n)}
	r := request(address, chatPath, stockToken, nil)
	for i := range t.Requests {
		t.Requests[i] = r
	}
	return t
}

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
