package run

import (
	"bufio"
	"io"
	"net"
	"sync"
)

// bufferedConn is a connection of which some bytes were read ahead.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

// Read takes what was read ahead first.
func (c *bufferedConn) Read(p []byte) (int, error) {
	if c.r.Buffered() > 0 {
		return c.r.Read(p)
	}
	return c.Conn.Read(p)
}

// CloseWrite ends one direction.
func (c *bufferedConn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// splice carries bytes both ways until both have ended; early are bytes of a's that were read ahead. An end on one side
// ends that direction only, an error ends both.
func splice(a, b net.Conn, early []byte) {
	var wg sync.WaitGroup
	carry := func(to, from net.Conn, first []byte) {
		defer wg.Done()
		_, err := to.Write(first)
		if err == nil {
			_, err = io.Copy(to, from)
		}
		if err != nil || closeWrite(to) != nil {
			a.Close()
			b.Close()
		}
	}
	wg.Add(2)
	go carry(b, a, early)
	go carry(a, b, nil)
	wg.Wait()
}
