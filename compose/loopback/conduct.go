package loopback

import (
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// conduct is how the model behaves on a request. Tests choose it by the model's name or by the metadata of the body
// (metadata.loopback, for Gemini labels.loopback), where several can be combined with spaces:
//
//	slow-N        N milliseconds before each chunk
//	big-N         an answer of N KiB
//	chunks-N      an answer in N chunks
//	status-N      an error with HTTP status N
//	hang          no answer until the client goes away
//	abort         the connection is cut in the middle of the answer
//	echo-headers  the answer is the request's headers, keys as their hash
type conduct struct {
	gap    time.Duration
	size   int // bytes
	chunks int
	status int
	hang   bool
	abort  bool
	echo   bool
}

// Bounds on what a request can ask for, so that it ends.
const (
	maxGap    = time.Minute
	maxSize   = 64 << 20
	maxChunks = 100_000
	maxHang   = 10 * time.Minute

	defaultChunks = 5
)

func conductOf(a ask) conduct {
	c := conduct{chunks: defaultChunks}
	for _, word := range append(strings.Fields(a.directives), a.model) {
		c.apply(word)
	}
	return c
}

func (c *conduct) apply(word string) {
	switch word {
	case "hang":
		c.hang = true
	case "abort":
		c.abort = true
	case "echo-headers":
		c.echo = true
	}
	name, number, _ := strings.Cut(word, "-")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 {
		return
	}
	switch name {
	case "slow":
		c.gap = min(time.Duration(min(n, int(maxGap/time.Millisecond)))*time.Millisecond, maxGap)
	case "big":
		c.size = min(n, maxSize>>10) << 10
	case "chunks":
		c.chunks = min(max(n, 1), maxChunks)
	case "status":
		if n >= 200 && n <= 599 {
			c.status = n
		}
	}
}

// misbehave carries out what ends a request without an answer of the model. It says whether it did.
func (x *exchange) misbehave() bool {
	switch {
	case x.conduct.hang:
		x.pause(maxHang)
		return true
	case x.conduct.status != 0:
		x.refuse(x.conduct.status, "status "+strconv.Itoa(x.conduct.status)+", as the request asked for")
		return true
	}
	return false
}

// pause waits, or says false where the client went away before.
func (x *exchange) pause(d time.Duration) bool {
	if d <= 0 {
		return x.r.Context().Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-x.r.Context().Done():
		return false
	}
}

// text is the answer.
func (x *exchange) text() string {
	t := x.ask.summary()
	if x.conduct.echo {
		t = echoed(x.r)
	}
	if n := x.conduct.size; n > 0 {
		const filler = "The quick brown fox jumps over the lazy dog. "
		t += " " + strings.Repeat(filler, n/len(filler)+1)
		t = strings.ToValidUTF8(t[:n], "")
	}
	return t
}

// pieces cuts the answer into chunks at the borders of characters.
func (x *exchange) pieces(text string) []string {
	n := x.conduct.chunks
	out := make([]string, 0, n)
	for left := n; left > 1; left-- {
		cut := len(text) / left
		for cut < len(text) && !utf8.RuneStart(text[cut]) {
			cut++
		}
		out = append(out, text[:cut])
		text = text[cut:]
	}
	return append(out, text)
}

// stream is a streamed answer. Its methods do nothing once the client is gone or the connection was cut.
type stream struct {
	x      *exchange
	events bool // an event stream; else a JSON list, as Gemini streams without alt=sse
	sent   int
	dead   bool
}

func (x *exchange) stream(events bool) *stream {
	media := "application/json"
	if events {
		media = "text/event-stream; charset=utf-8"
		x.w.Header().Set("Cache-Control", "no-cache")
	}
	x.w.Header().Set("Content-Type", media)
	x.w.WriteHeader(http.StatusOK)
	return &stream{x: x, events: events}
}

// write sends raw bytes at once.
func (s *stream) write(raw string) {
	if s.dead {
		return
	}
	_, err := s.x.w.Write([]byte(raw))
	if err == nil {
		err = http.NewResponseController(s.x.w).Flush()
	}
	s.dead = err != nil
}

// pieces sends each piece of the answer with send, in the pace that the request asked for.
func (s *stream) pieces(text string, send func(piece string)) {
	all := s.x.pieces(text)
	for i, p := range all {
		if !s.x.pause(s.x.conduct.gap) {
			s.dead = true
		}
		if s.x.conduct.abort && i == len(all)/2 {
			s.cut()
		}
		if s.dead {
			return
		}
		send(p)
	}
}

// cut closes the connection without ending the answer.
func (s *stream) cut() {
	s.dead = true
	conn, _, err := http.NewResponseController(s.x.w).Hijack()
	if err != nil {
		s.x.model.cfg.Log.Error("connection not cut", "error", err)
		return
	}
	_ = conn.Close()
}

// whole sends a document in pieces, for answers that are not streamed.
func (x *exchange) whole(raw []byte) {
	if x.conduct.gap == 0 && !x.conduct.abort {
		x.w.Header().Set("Content-Type", "application/json")
		_, _ = x.w.Write(raw)
		return
	}
	x.w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	s := x.stream(false)
	s.pieces(string(raw), s.write)
}
