package gate

import (
	"errors"
	"sync"
	"time"

	"sallyport/signer/client"
	"sallyport/signer/token"
)

// watchEvery is how often open tunnels are held against the newest revocations and the time.
const watchEvery = 250 * time.Millisecond

// errWithdrawn and errExpired end a stream whose token was withdrawn, or expired, while nothing was asked.
var (
	errWithdrawn = errors.New("the token was withdrawn")
	errExpired   = errors.New("the token expired, and its job has shown no newer one")
)

// watch ends the tunnels of withdrawn and expired tokens. Calls are looked at whenever a message of theirs comes; through a
// tunnel or WebSocket that passes unread a client may send for hours without one.
type watch struct {
	trust func() *client.Trust
	now   func() time.Time
	// renewed is the newest token that the holder of another has shown, or nil.
	renewed func(*token.Token, *client.Trust) *token.Token

	mu      sync.Mutex
	tunnels map[*exchange]*token.Token // and the token by which each is open now: its own, or a newer one of its job
	running bool
}

func newWatch(trust func() *client.Trust, now func() time.Time, renewed func(*token.Token, *client.Trust) *token.Token) *watch {
	return &watch{trust: trust, now: now, renewed: renewed, tunnels: map[*exchange]*token.Token{}}
}

func (w *watch) add(x *exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tunnels[x] = x.token
	if !w.running {
		w.running = true
		go w.run()
	}
}

func (w *watch) remove(x *exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.tunnels, x)
}

// run looks until no tunnel is left.
func (w *watch) run() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for range tick.C {
		over, left := w.over(w.trust(), w.now())
		for x, why := range over {
			x.gate.cfg.Log.Warn("open tunnel cut", "receipt", x.id, "host", x.dest.name, "why", why)
			x.stream.Abort(why)
		}
		if !left {
			return
		}
	}
}

// over takes out the tunnels whose time is over, with the reason.
func (w *watch) over(t *client.Trust, now time.Time) (out map[*exchange]error, left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out = map[*exchange]error{}
	for x, by := range w.tunnels {
		if t != nil && by.Expired(now) {
			if newer := w.renewed(by, t); newer != nil && !newer.Expired(now) {
				by = newer
				w.tunnels[x] = by
			}
		}
		switch {
		case t != nil && (t.Revoked(x.token) || t.Revoked(by)):
			out[x] = errWithdrawn
		case by.Expired(now):
			out[x] = errExpired
		default:
			continue
		}
		delete(w.tunnels, x)
	}
	w.running = len(w.tunnels) > 0
	return out, w.running
}
