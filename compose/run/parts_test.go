package run

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestNameTableIsStableAndBounded(t *testing.T) {
	n := newNameTable()
	first, _ := n.address("a.example.com")
	for i := range maxNames + 10 {
		a, ok := n.address(fmt.Sprintf("n%d.example.com", i))
		if ok != (i < maxNames-1) {
			t.Fatalf("name %d got an address: %t", i, ok)
		}
		if ok && n.name(a) != fmt.Sprintf("n%d.example.com", i) {
			t.Fatalf("%v stands for %q", a, n.name(a))
		}
	}
	if again, ok := n.address("a.example.com"); !ok || again != first {
		t.Errorf("%v, then %v", first, again)
	}
	for in, want := range map[string]string{
		first.String() + ":443": "a.example.com:443", first.String(): "a.example.com", "b.test:1": "b.test:1",
		"192.0.2.1:80": "192.0.2.1:80", "198.19.255.255:1": "198.19.255.255:1", "[::1]:2": "[::1]:2", "": "",
	} {
		if got := n.authority(in); got != want {
			t.Errorf("%q became %q, wanted %q", in, got, want)
		}
	}
}

func testOwner() *owner {
	return newOwner(&Config{Token: func() Token { return "t" }, Names: func(n string) bool { return n == "known.test" }}, "nonce")
}

func TestDNSAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		ask   string
		kind  dnsmessage.Type
		class dnsmessage.Class
		code  dnsmessage.RCode
		n     int
	}{
		"known":                {"known.test.", dnsmessage.TypeA, dnsmessage.ClassINET, dnsmessage.RCodeSuccess, 1},
		"known, another case":  {"KnOwN.test.", dnsmessage.TypeA, dnsmessage.ClassINET, dnsmessage.RCodeSuccess, 1},
		"known, IPv6":          {"known.test.", dnsmessage.TypeAAAA, dnsmessage.ClassINET, dnsmessage.RCodeSuccess, 0},
		"known, another type":  {"known.test.", dnsmessage.TypeTXT, dnsmessage.ClassINET, dnsmessage.RCodeSuccess, 0},
		"below a known one":    {"data.known.test.", dnsmessage.TypeA, dnsmessage.ClassINET, dnsmessage.RCodeNameError, 0},
		"refused, any type":    {"evil.test.", dnsmessage.TypeTXT, dnsmessage.ClassINET, dnsmessage.RCodeNameError, 0},
		"another class":        {"known.test.", dnsmessage.TypeA, dnsmessage.ClassCHAOS, dnsmessage.RCodeRefused, 0},
		"localhost":            {"localhost.", dnsmessage.TypeA, dnsmessage.ClassINET, dnsmessage.RCodeSuccess, 1},
		"the gate's own names": {ReverseHost + ".", dnsmessage.TypeA, dnsmessage.ClassINET, dnsmessage.RCodeSuccess, 1},
	} {
		t.Run(name, func(t *testing.T) {
			q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(tc.ask), Type: tc.kind, Class: tc.class}}}
			raw, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			o := testOwner()
			var a dnsmessage.Message
			if err := a.Unpack(o.answerDNS(raw)); err != nil {
				t.Fatal(err)
			}
			if a.ID != 7 || !a.Response || a.RCode != tc.code || len(a.Answers) != tc.n {
				t.Errorf("%+v", a)
			}
			if refused := len(o.tally.summary().RefusedNames) == 1; refused != (tc.code == dnsmessage.RCodeNameError) {
				t.Errorf("counted as refused: %t", refused)
			}
		})
	}
}

func FuzzDNS(f *testing.F) {
	f.Add([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 0, 0, 1, 0, 1})
	f.Fuzz(func(_ *testing.T, raw []byte) { testOwner().answerDNS(raw) })
}

func TestSniff(t *testing.T) {
	hello := func(name string) []byte {
		a, b := net.Pipe()
		go func() { _ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() }()
		buf := make([]byte, maxSniff)
		n, err := b.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
		return buf[:n]
	}
	for name, tc := range map[string]struct {
		first []byte
		kind  protocol
		name  string
	}{
		"TLS":                  {hello("api.example.com"), tlsHello, "api.example.com"},
		"TLS without a name":   {hello(""), tlsHello, ""},
		"half a ClientHello":   {hello("api.example.com")[:60], tlsHello, ""},
		"TLS, then rubbish":    {[]byte("\x16\x03\x01\xff\xff rubbish"), tlsHello, ""},
		"HTTP":                 {[]byte("GET / HTTP/1.1\r\n"), plainHTTP, ""},
		"HTTP, long method":    {[]byte("OPTIONS * HTTP/1.1\r\n"), plainHTTP, ""},
		"HTTP/2 without TLS":   {[]byte("PRI * HTTP/2.0\r\n"), unknown, ""},
		"SSH":                  {[]byte("SSH-2.0-x\r\n"), unknown, ""},
		"a method and no more": {[]byte("GET"), unknown, ""},
		"silence":              {nil, unknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			go func() { _, _ = a.Write(tc.first) }()
			c := &bufferedConn{Conn: b, r: bufio.NewReaderSize(b, maxSniff)}
			if kind, got := sniff(c, 200*time.Millisecond); kind != tc.kind || got != tc.name {
				t.Fatalf("%v %q", kind, got)
			}
			kept := make([]byte, len(tc.first))
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := io.ReadFull(c, kept); err != nil || !bytes.Equal(kept, tc.first) {
				t.Errorf("bytes were taken: %q %v", kept, err)
			}
		})
	}
}

// TestOpenProxyAsksForThePlaceholder: without isolation, every process of the machine reaches the proxy's port.
func TestOpenProxyAsksForThePlaceholder(t *testing.T) {
	reached := 0
	gate := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		reached++
		for _, v := range r.Header {
			if strings.Contains(strings.Join(v, " "), Placeholder) {
				t.Errorf("the placeholder reached the gate: %v", r.Header)
			}
		}
	}))
	defer gate.Close()
	o := testOwner()
	o.c.ForwardAddress, o.requireNonce = gate.Listener.Addr().String(), true
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("job:"+password))
	}
	for name, tc := range map[string]struct {
		url, header, value string
		status             int
	}{
		"nothing":                  {"http://a.test/", "X", "y", 407},
		"another run's":            {"http://a.test/", "Proxy-Authorization", basic(Placeholder + "-other"), 407},
		"this run's":               {"http://a.test/", "Proxy-Authorization", basic(Placeholder + "-nonce"), 200},
		"base URL without":         {"/openai/v1/models", "Authorization", "Bearer sk-real", 407},
		"base URL":                 {"/openai/v1/models", "Authorization", "Bearer sk-" + Placeholder + "-nonce", 200},
		"base URL, another header": {"/anthropic/v1/messages", "X-Api-Key", "sk-ant-" + Placeholder + "-nonce", 200},
		"CONNECT in a GET":         {"https://a.test/", "Proxy-Authorization", basic(Placeholder + "-nonce"), 400},
	} {
		t.Run(name, func(t *testing.T) {
			before := reached
			r := httptest.NewRequest(http.MethodGet, tc.url, nil)
			if strings.HasPrefix(tc.url, "/") {
				r.URL.Host, r.URL.Scheme = "", ""
			}
			r.Header.Set(tc.header, tc.value)
			w := httptest.NewRecorder()
			o.request(w, r)
			if w.Code != tc.status || (reached > before) != (tc.status == 200) {
				t.Errorf("status %d, the gate was reached: %t", w.Code, reached > before)
			}
		})
	}
}

func TestTokenHidesItself(t *testing.T) {
	token := Token("secret")
	raw, err := token.MarshalJSON()
	for _, text := range []string{fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q", token, token, token, token, token), token.LogValue().String(), string(raw)} {
		if strings.Contains(text, "secret") || err != nil {
			t.Errorf("%s %v", text, err)
		}
	}
}

func TestTallyIsBounded(t *testing.T) {
	n := newTally()
	for i := range 3 * maxReceipts {
		h := http.Header{decisionHeader: {fmt.Sprint(i)}}
		n.answer(fmt.Sprintf("h%d", i), h, true, fmt.Sprintf("C%d", i))
		n.refuseName(fmt.Sprintf("n%d", i))
	}
	s := n.summary()
	if len(s.Hosts) > maxHosts+1 || len(s.Codes) > maxHosts || len(s.RefusedNames) != maxRefused || len(s.Receipts) != maxReceipts || s.ReceiptCount != 3*maxReceipts || s.Refused != 3*maxReceipts {
		t.Errorf("%d hosts, %d codes, %d names, %d of %d receipts", len(s.Hosts), len(s.Codes), len(s.RefusedNames), len(s.Receipts), s.ReceiptCount)
	}
}
