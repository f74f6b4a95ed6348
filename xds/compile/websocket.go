package compile

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Values of SchemeHeader for a WebSocket that the processor has allowed, over TLS and plain. They are values of their own so
// that only the routes of rules with WebSocket match, whatever else the contract has for the same host and path.
const (
	SchemeWSS = "wss"
	SchemeWS  = "ws"
)

// upgradeWebSocket is the one upgrade that reaches the processor.
const upgradeWebSocket = "websocket"

var socketOver = map[string]string{"https": SchemeWSS, "http": SchemeWS}

func (w way) socket() bool { return w.scheme == SchemeWSS || w.scheme == SchemeWS }

// action leads to the hosts of the rule. A WebSocket over TLS has clusters of its own, that speak HTTP/1.1: the others take
// HTTP/2 wherever a host offers it, and few hosts take the extended CONNECT (RFC 8441) that an upgrade becomes there.
func (w way) action(named bool) *routev3.Route_Route {
	scheme := w.scheme
	if scheme == SchemeWS {
		scheme = "http"
	}
	a := toCluster(egressCluster(scheme, named))
	if w.socket() {
		a.Route.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: upgradeWebSocket}}
	}
	return a
}

// noUpgrade keeps upgrades off a route. Envoy looks at a route's upgrade_configs only when it builds the chain of filters,
// and the contract's route is chosen after that (1.40.0), so that they alone would keep nothing off.
func noUpgrade() *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: "upgrade", HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: false}}
}
