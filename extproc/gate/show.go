package gate

import (
	"net/http"

	"sallyport/extproc/message"
)

// ShowPath is the gate's own path at which a job shows its newest token (GET, 204), so that its open tunnels and WebSockets
// go on when the one that they were opened with expires. Nothing leaves by it, so nothing is used up and nothing recorded.
const ShowPath = "/.sallyport/token"

// shows holds for such a request, at a door whose authority is the gate.
func (x *exchange) shows() bool {
	atGate := x.from.door == doorReverse || x.from.proxy() && x.req.authority == GatewayName
	return atGate && x.req.method == http.MethodGet && x.req.path == ShowPath
}

// shown answers it: the token is good, and known from now on.
func (x *exchange) shown() *message.Response {
	x.phase = phaseSettled
	return &message.Response{Immediate: &message.Immediate{Status: http.StatusNoContent, Details: "sallyport_token_shown"}}
}
