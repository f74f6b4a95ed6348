package main

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"sallyport/bench/load"
	"sallyport/bench/workload"
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

// carrier is a peer that does not carry every workload. The error says why, in the report's words.
type carrier interface {
	Carries(workload string) error
}

// limited is a peer whose connections cannot get new tokens while they are open.
type limited interface{ Lasts() time.Duration }

// swapper is a peer whose calls all arrive with the real credential in place of what the client sent. The others' calls
// arrive with what the client sent, and so never with it.
type swapper interface{ Swaps() }

// identifier is a peer that reads tokens, and so can give those that the workloads about tokens need: for each of n
// connections the headers of its calls, as many as count says. Single-use tokens must all be different; those of tenants
// may be shared; those to be refused are one for each connection.
type identifier interface {
	Identities(ctx context.Context, workload string, n, count int) ([][]http.Header, error)
}

// target is where a peer takes calls, and who makes them.
type target struct {
	Address string         // host:port
	TLS     *tls.Config    // nil for plain HTTP
	Host    string         // the Host header; "" for Address
	Prefix  string         // goes before the workload's path, as /openai; "" for none
	Headers []http.Header  // one for each connection: authorization, and whatever else identity needs
	Tunnels []*load.Tunnel // nil, or one for each connection, by which Address is reached
	Answer  string         // header that every answer must have, "" for none
}

// call renders a workload's call for one identity.
func (t target) call(c *workload.Call, identity http.Header) *load.Call {
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {c.Accept}, "User-Agent": {"sallyport-bench"}}
	for k, v := range identity {
		h[k] = v
	}
	host := t.Host
	if host == "" {
		host = t.Address
	}
	want := c.Want
	want.Header = t.Answer
	return load.Prepare(c.Name, http.MethodPost, host, t.Prefix+c.Path, h, c.Body, want)
}

// way is how the first connection is made.
func (t target) way() load.Way {
	w := load.Way{Address: t.Address, TLS: t.TLS}
	if t.Tunnels != nil {
		w.Tunnel = t.Tunnels[0]
	}
	return w
}

// bearer is the header that carries a token.
func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// peerNames is the order in which peers are started and shown. To add one, write a file with its constructor, and name
// it here and in the registry. Those that take long to install stand only in the registry: they run where they are asked for.
var peerNames = []string{directName, envoyName, envoyNativeName, noopHeadersName, noopName, sallyportName}

var registry = map[string]func(context.Context, *environment) (peer, error){
	directName: newDirect, envoyName: newEnvoyAlone, noopHeadersName: newNoopHeaders, noopName: newNoop, sallyportName: newSallyport,
	reverseTLSName: newReverseTLS, forwardName: newForward,
	modeName + "strict": newMode("strict"), modeName + "sealed": newMode("sealed"), modeName + "async": newMode("async"),
	envoyNativeName: newEnvoyNative, mitmproxyName: newMitmproxy, mitmproxyForwardName: newMitmproxyForward, litellmName: newLitellm,
}

// allPeers are the usual ones in their order, and then those that run where they are asked for.
func allPeers() []string {
	more := slices.DeleteFunc(slices.Sorted(maps.Keys(registry)), func(name string) bool { return slices.Contains(peerNames, name) })
	return slices.Concat(peerNames, more)
}

// baseline is what the ratios are to: the least that any processor in these phases can cost.
const baseline = noopName

// chat is the call that shows whether a peer works.
var chat = func() *workload.Call {
	c, err := workload.New(workload.Chat, workload.Params{})
	if err != nil {
		panic(err) // a name of ours
	}
	return c
}()

// stockToken stands in for the scoped token where no gate reads it, so that all peers carry headers of the same size.
var stockToken = "not-a-real-token-" + strings.Repeat("0", 683)

// same is a target whose connections all have one identity, which nobody reads.
func same(address string, n int) target {
	return target{Address: address, Headers: slices.Repeat([]http.Header{bearer(stockToken)}, n)}
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
