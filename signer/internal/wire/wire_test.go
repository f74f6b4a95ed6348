package wire

import (
	"bufio"
	"bytes"
	"net"
	"sync"
	"testing"
)

func TestManySendersOneReader(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	from, to := NewConn(a), NewConn(b)
	defer from.Close()
	defer to.Close()
	const senders, each = 20, 50
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for j := range each {
				if err := from.Send(Frame{Intent, uint64(i*each + j), bytes.Repeat([]byte{byte(i)}, j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[uint64]bool{}
	for range senders * each {
		f, err := to.Receive()
		if err != nil {
			t.Fatal(err)
		}
		i, j := int(f.N)/each, int(f.N)%each
		if seen[f.N] || !bytes.Equal(f.Payload, bytes.Repeat([]byte{byte(i)}, j)) {
			t.Fatalf("frame %d twice or damaged", f.N)
		}
		seen[f.N] = true
	}
	wg.Wait()
}

func FuzzRead(f *testing.F) {
	f.Add(Append(nil, Frame{Ack, 7, []byte("x")}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		fr, _, err := read(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		if out := Append(nil, fr); !bytes.Equal(out, in[:len(out)]) {
			t.Errorf("read %x, wrote %x", in[:len(out)], out)
		}
	})
}
