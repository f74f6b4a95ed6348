package run

import (
	"bufio"
	"net"
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
		c := newTunnelConn(&bufferedConn{Conn: ours, r: bufio.NewReader(ours)}, "one")
		ended := make(chan struct{})
		go func() {
			c.retire(func() Token { return token.Load().(Token) }, retireIdle, t.Context().Done())
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
		time.Sleep(3 * retireIdle)
		if open() {
			t.Fatal("still open, with a token that was renewed and nothing moving")
		}
		if _, err := gates.Write([]byte("x")); err == nil {
			t.Error("the gate's end is open")
		}
	})
}
