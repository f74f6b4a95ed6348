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

// TestLargeFrames: a frame that does not fit the reader's buffer, and those around the limit, come whole and in turn.
func TestLargeFrames(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	from, to := NewConn(a), NewConn(b)
	defer from.Close()
	defer to.Close()
	sizes := []int{0, readBuffer - head - 1, readBuffer - head, readBuffer - head + 1, 3, 5 * readBuffer, 1}
	for i, n := range sizes {
		if err := from.Send(Frame{Trust, uint64(i), bytes.Repeat([]byte{byte(i)}, n)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range sizes {
		f, err := to.Receive()
		if err != nil || f.N != uint64(i) || !bytes.Equal(f.Payload, bytes.Repeat([]byte{byte(i)}, n)) {
			t.Fatalf("frame %d: got %d with %d bytes, %v", i, f.N, len(f.Payload), err)
		}
	}
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
