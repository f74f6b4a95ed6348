package run

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A tunnel goes on as long as its token is the job's, and as long as bytes move; then it is closed.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, gates := net.Pipe()
		var token atomic.Value
		token.Store(Token("one"))
		var shown atomic.Value
		c := newTunnelConn(&bufferedConn{Conn: ours, r: bufio.NewReader(ours)}, "one")
		ended := make(chan struct{})
		go func() {
			c.retire(func() Token { return token.Load().(Token) }, func(t Token) { shown.Store(t) }, retireIdle, t.Context().Done())
			close(ended)
		}()
		open := func() bool {
			select {
			case <-ended:
				return false
			default:
				return true
			}
		}
		time.Sleep(10 * retireIdle)
		if !open() {
			t.Fatal("closed though its token is the job's")
		}
		move := func() {
			go func() { _, _ = gates.Write([]byte("x")) }()
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatalf("closed while bytes moved: %v", err)
			}
		}
		move()
		token.Store(Token("two"))
		for range 20 { // a stream
			time.Sleep(retireIdle / 2)
			move()
		}
		if shown.Load() != Token("two") {
			t.Errorf("the gate was shown %v while bytes moved", shown.Load())
		}
		time.Sleep(3 * retireIdle)
		if open() {
			t.Fatal("still open, with a token that was renewed and nothing moving")
		}
		if _, err := gates.Write([]byte("x")); err == nil {
			t.Error("the gate's end is open")
		}
	})
}

// A renewed token is shown to the gate until the gate has taken it, and then no more.
func TestShow(t *testing.T) {
	var asked []string
	status := http.StatusServiceUnavailable
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host+r.URL.Path+" "+r.Header.Get("Authorization"))
		w.WriteHeader(status)
	}))
	defer door.Close()
	o := newOwner(&Config{ForwardAddress: door.Listener.Addr().String(), Token: func() Token { return "one" }}, "nonce")
	defer o.close()
	o.show("two")
	status = http.StatusNoContent
	for range 3 {
		o.show("two")
	}
	want := "GET gateway.sallyport.internal/.sallyport/token Bearer two"
	if len(asked) != 2 || asked[0] != want || asked[1] != want {
		t.Errorf("the gate was asked %q", asked)
	}
	o.show("three")
	if len(asked) != 3 || !strings.HasSuffix(asked[2], "three") {
		t.Errorf("the gate was asked %q", asked)
	}
}
