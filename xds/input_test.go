package xds_test

import (
	"slices"
	"strings"
	"testing"

	"sallyport/signer/code"
)

// Paths reach the processor as they came, so that it can refuse them; Envoy refuses escaped slashes itself.
func TestPathTricks(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	for _, path := range []string{"/a/%2e%2e/b", "/a//b", "/a;x/b", "/a/../b", "/a/./b", "/a%00b", `/a\b`, "/%61"} {
		t.Run(path, func(t *testing.T) {
			if _, closed := w.rawSeen("GET " + path + " HTTP/1.1\r\nHost: x\r\nx-test-do: immediate\r\n\r\n"); closed {
				t.Fatal("no answer")
			}
			if got := value(w.lastSeen(), ":path"); got != path {
				t.Errorf("the processor saw %q", got)
			}
		})
	}
	for _, path := range []string{"/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb"} {
		t.Run(path, func(t *testing.T) {
			a, _ := w.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
			a.refused(t, code.PathNotCanonical)
			if a.processed != 0 {
				t.Error("the processor was asked")
			}
		})
	}
}

// Repeated headers arrive as separate entries, except those that Envoy keeps in fixed places: their values are joined with
// a comma into one entry. Whoever refuses repeated credentials must look for both.
func TestRepeatedHeaders(t *testing.T) {
	w := newWorld(t)
	joined := []string{"authorization", "content-type", "content-encoding", "user-agent", "accept", "x-request-id"}
	separate := []string{"x-api-key", "x-goog-api-key", "api-key", "x-cst", "x-scoped-token", "proxy-authorization", "x-run-id", "x-idempotency-key", "x-sallyport-scope", "cookie"}
	var text strings.Builder
	text.WriteString("POST /x HTTP/1.1\r\nHost: h1\r\nHost: h2\r\nx-test-do: immediate\r\ncontent-length: 0\r\n")
	for _, h := range slices.Concat(joined, separate) {
		text.WriteString(h + ": a\r\n" + h + ": b\r\n")
	}
	w.rawSeen(text.String() + "\r\n")
	got := map[string][]string{}
	for _, e := range w.lastSeen().GetHeaders() {
		got[e.GetKey()] = append(got[e.GetKey()], string(e.GetRawValue()))
	}
	for _, h := range joined {
		if !slices.Equal(got[h], []string{"a,b"}) {
			t.Errorf("%s = %q", h, got[h])
		}
	}
	for _, h := range separate {
		if !slices.Equal(got[h], []string{"a", "b"}) {
			t.Errorf("%s = %q", h, got[h])
		}
	}
	if !slices.Equal(got[":authority"], []string{"h1,h2"}) {
		t.Errorf(":authority = %q", got[":authority"])
	}
}

// What is not HTTP/1.1 is not answered at all: Envoy resets the stream before the processor, which is asked about the
// answer's headers, has replied (1.40.0). Nothing passes, and the access log has the reason.
func TestMalformedRequestsCloseTheConnection(t *testing.T) {
	w := newWorld(t)
	for details, text := range map[string]string{
		"http1.codec_error": "GARBAGE\r\n\r\n",
		"low_version":       "GET / HTTP/1.0\r\n\r\n",
		"http1.content_length_and_chunked_not_allowed": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"http1.headers_too_large":                      "GET / HTTP/1.1\r\nHost: x\r\nx-big: " + strings.Repeat("a", 120<<10) + "\r\n\r\n",
	} {
		t.Run(details, func(t *testing.T) {
			a, closed := w.raw(text)
			if !closed || a.processed != 0 || len(a.upstream) != 0 {
				t.Fatalf("got %+v", a)
			}
			w.until("the access log", func() bool { return strings.Contains(w.accessLog(), `"`+details+`"`) })
		})
	}
}

// Upgrades and CONNECT reach the processor, which can refuse them natively; Envoy alone answers 403.
func TestUpgradesReachTheProcessor(t *testing.T) {
	w := newWorld(t)
	for name, text := range map[string]string{
		"websocket": "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGVzdGtleQ==\r\nx-test-do: immediate\r\n\r\n",
		"other":     "GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other\r\nx-test-do: immediate\r\n\r\n",
		"connect":   "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\nx-test-do: immediate\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := w.raw(text)
			if a.processed != 1 || a.status != 413 || a.body != "from processor" {
				t.Fatalf("got %+v", a)
			}
		})
	}
}

// The access log names no query and no header that carries a credential, and has the receipt's id.
func TestAccessLogHoldsNoSecrets(t *testing.T) {
	w := newWorld(t)
	w.put(hashOf(1), "openai")
	const secret = "not-a-real-key"
	w.call(call{scope: hashOf(1), to: "/base/v1/chat/completions?key=" + secret, header: map[string]string{"authorization": secret, "x-api-key": secret}}).passed(t, "/base/v1/chat/completions")
	w.call(call{path: "/x?key=" + secret, do: "immediate", header: map[string]string{"cookie": secret}})
	w.until("the access log", func() bool { return strings.Count(w.accessLog(), "\n") == 2 })
	log := w.accessLog()
	if strings.Contains(log, secret) {
		t.Errorf("the secret is in the log: %s", log)
	}
	for _, want := range []string{`"receipt":"rcpt_test"`, `"path":"/base/v1/chat/completions"`, `"details":"via_upstream"`} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in %s", want, log)
		}
	}
}
