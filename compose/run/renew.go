package run

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// retireIdle is how long nothing must have moved in a tunnel whose token was renewed before it is closed. Clients take the
// end of an idle connection for what it is and open another.
const retireIdle = 5 * time.Second

// tunnelConn is the gate's end of a tunnel. The gate looks at the token that a tunnel was opened with on each request that
// comes out of it, so a tunnel must not outlive its token by much.
type tunnelConn struct {
	*bufferedConn
	token Token        // that it was opened with
	moved atomic.Int64 // when bytes last moved, in nanoseconds of Unix time
}

func newTunnelConn(c *bufferedConn, token Token) *tunnelConn {
	t := &tunnelConn{bufferedConn: c, token: token}
	t.touch()
	return t
}

func (t *tunnelConn) touch() { t.moved.Store(time.Now().UnixNano()) }

// Read notes that something moved.
func (t *tunnelConn) Read(p []byte) (int, error) {
	n, err := t.bufferedConn.Read(p)
	t.touch()
	return n, err
}

// Write notes that something moved.
func (t *tunnelConn) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	t.touch()
	return n, err
}

// retire closes the tunnel when its token has been renewed and nothing moves in it any more; it returns when stop is closed.
// While something moves, the renewed token is shown to the gate, which ends a tunnel that passes unread with the newest token
// that it knows of the job.
func (t *tunnelConn) retire(now func() Token, show func(Token), idle time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(idle)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			newest := now()
			switch {
			case newest == t.token:
			case time.Since(time.Unix(0, t.moved.Load())) >= idle:
				_ = t.Close()
				return
			default:
				show(newest)
			}
		}
	}
}

// spliceTunnel carries bytes between a client and the gate until both have ended or the tunnel is retired.
func (o *owner) spliceTunnel(client, door net.Conn) {
	if t, ok := door.(*tunnelConn); ok {
		stop := make(chan struct{})
		defer close(stop)
		go t.retire(o.c.Token, o.show, retireIdle, stop)
	}
	splice(client, door, nil)
}

// showPath is where the gate is shown a token (gate.ShowPath).
const showPath = "/.sallyport/token"

// show has the gate know a renewed token, once. One that it could not be shown is tried again with the next tick of a tunnel.
func (o *owner) show(t Token) {
	o.showing.Lock()
	defer o.showing.Unlock()
	if o.shown == t {
		return
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+ReverseHost+showPath, http.NoBody)
	if err != nil {
		return // cannot be: all of it is constant
	}
	req.Header.Set("Authorization", "Bearer "+string(t))
	resp, err := o.reverse.Transport.RoundTrip(req)
	if err != nil {
		return
	}
	_ = resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		o.shown = t
	}
}
