package gate

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"sallyport/extproc/message"
	"sallyport/signer/code"
)

// webSocket is the one protocol that a request may change to (RFC 6455), in the one spelling that Envoy's configuration
// knows too: its limit on bodies is lifted for this value only.
const webSocket = "websocket"

// keyHeader is the client's challenge. HTTP/2 has none (RFC 8441, 5), and Envoy 1.40.0 makes none when it turns an extended
// CONNECT into the upgrade that a host of HTTP/1.1 knows, which then refuses it.
const keyHeader = "sec-websocket-key"

// newKey is a challenge whose answer nobody looks at.
func newKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it does not fail: it ends the process first
	return base64.StdEncoding.EncodeToString(b[:])
}

// has says whether a header came that is neither read nor stripped.
func (r *request) has(name string) bool {
	return slices.ContainsFunc(r.rest, func(h message.Header) bool { return h.Name == name })
}

const statusSwitching = "101"

// socket holds for a request that asks for a WebSocket. What else named an upgrade was refused by upgradable.
func (x *exchange) socket() bool { return x.req.upgrade != "" }

// upgradable refuses an upgrade that no contract could allow. A WebSocket begins as a GET without a body, and is decided and
// recorded as one; whether the contract lets it go on as a WebSocket is decide's to say.
func (x *exchange) upgradable() *code.Denial {
	r := x.req
	switch {
	case r.upgrade == "":
		return nil
	case !x.dest.egress():
		return code.Deny(code.UpgradeNotSupported, "%.32s", r.upgrade)
	case r.upgrade != webSocket:
		return code.Deny(code.UpgradeNotSupported, "%.32q; the one upgrade that is carried is %q, in small letters", r.upgrade, webSocket)
	case r.method != http.MethodGet, !r.hopsTo("upgrade"), r.sized:
		return code.Deny(code.InvalidRequest, "a WebSocket begins as a GET with Connection: Upgrade and no body")
	}
	return nil
}

// hopsTo says whether the Connection header names an option.
func (r *request) hopsTo(option string) bool {
	return slices.ContainsFunc(strings.Split(r.connection, ","), func(o string) bool {
		return strings.EqualFold(strings.TrimSpace(o), option)
	})
}

// routeScheme names the routes of the request. Those of WebSockets are others than those of calls.
func (x *exchange) routeScheme() string {
	if x.socket() {
		return map[string]string{"https": "wss", "http": "ws"}[x.dest.scheme]
	}
	return x.dest.scheme
}

// switched is told that the host took the upgrade. From here on the exchange is as a tunnel's that passes unread: watched,
// and recorded when its stream ends.
//
// Nothing of the frames is shown, though they would be measured if they were. A host that speaks HTTP/1.1 ends a WebSocket by
// closing its connection, which Envoy takes for a reset, not for the end of the answer: what a processor in mode STREAMED
// then has in its hands is dropped, and that is the closing frame, or the last message (1.40.0, measured). With BUFFERED,
// which is for whole bodies, no frame would ever pass.
func (x *exchange) switched() *message.Response {
	x.unread = webSocket
	x.gate.watch.add(x)
	r := x.answered()
	r.Unshown = true
	return r
}
