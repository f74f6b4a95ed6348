package gate

import (
	"sync"
	"time"

	"sallyport/signer/client"
)

// watchEvery is how often open tunnels are held against the newest revocations.
const watchEvery = 250 * time.Millisecond

// watch ends the tunnels of withdrawn tokens. Calls are looked at whenever a message of theirs comes; through a tunnel that
// passes unread a client may send for hours without one.
type watch struct {
	trust func() *client.Trust

	mu      sync.Mutex
	tunnels map[*exchange]struct{}
	running bool
}

func newWatch(trust func() *client.Trust) *watch {
	return &watch{trust: trust, tunnels: map[*exchange]struct{}{}}
}

func (w *watch) add(x *exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tunnels[x] = struct{}{}
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
		withdrawn, left := w.withdrawn(w.trust())
		for _, x := range withdrawn {
			x.gate.cfg.Log.Warn("open tunnel cut", "receipt", x.id, "host", x.dest.name)
			x.stream.Abort(errWithdrawn)
		}
		if !left {
			return
		}
	}
}

// withdrawn takes out the tunnels whose token is withdrawn.
func (w *watch) withdrawn(t *client.Trust) (out []*exchange, left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.tunnels {
		if t != nil && t.Revoked(x.token) {
			out = append(out, x)
			delete(w.tunnels, x)
		}
	}
	w.running = len(w.tunnels) > 0
	return out, w.running
}
