package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/dns/dnsmessage"
)

// zone is what the test's names lead to; a name that it does not have does not exist.
type zone map[string][]string

func (z zone) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if list, ok := z[host]; ok {
		return addresses(list...), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func addresses(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func start(t *testing.T, c Config) *Server {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func question(t *testing.T, host string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(host + "."), Type: kind, Class: dnsmessage.ClassINET}},
	}
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// exchange sends a packet over UDP and reads the answer.
func exchange(t *testing.T, s *Server, packet []byte) dnsmessage.Message {
	t.Helper()
	conn, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 65536)
	n, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	if n > 512 {
		t.Errorf("an answer of %d bytes", n)
	}
	var m dnsmessage.Message
	if err := m.Unpack(buffer[:n]); err != nil {
		t.Fatal(err)
	}
	return m
}

// ask asks for both types and returns the addresses, and the code of the answers where there is none.
func ask(t *testing.T, s *Server, host string) (found []string, code dnsmessage.RCode) {
	t.Helper()
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		m := exchange(t, s, question(t, host, kind))
		code = m.RCode
		for _, a := range m.Answers {
			switch body := a.Body.(type) {
			case *dnsmessage.AResource:
				found = append(found, netip.AddrFrom4(body.A).String())
			case *dnsmessage.AAAAResource:
				found = append(found, netip.AddrFrom16(body.AAAA).String())
			default:
				t.Errorf("%s: answered with %T", host, body)
			}
		}
	}
	return found, code
}

func TestAnswers(t *testing.T) {
	names := zone{
		"public.test": {"8.8.8.8", "2606:4700::1", "8.8.4.4"}, "private.test": {"10.0.0.1"}, "mixed.test": {"10.0.0.1", "8.8.8.8", "127.0.0.1"},
		"metadata.google.internal": {"169.254.169.254"}, "mapped.test": {"::ffff:10.0.0.1"}, "mapped-public.test": {"::ffff:8.8.8.8"},
		"nat64.test": {"64:ff9b::a9fe:a9fe"}, "nat64-public.test": {"64:ff9b::808:808"}, "6to4.test": {"2002:a00:1::1"}, "teredo.test": {"2001:0:a00:1::f5ff:fffe"},
		"loopback.test": {"127.0.0.1", "::1"}, "any.test": {"0.0.0.0", "::"}, "zoned.test": {"fe80::1%lo"}, "empty.test": {},
		"allowed.test": {"10.0.0.9", "10.0.0.7", "8.8.8.8", "fd00::1"}, "half.test": {"10.0.9.9", "8.8.8.8"}, "allowed6.test": {"fd00::2", "fd00::1", "8.8.8.8"},
		"localhost": {"8.8.8.8"}, "app.localhost": {"8.8.8.8"}, "10.0.0.1": {"8.8.8.8"}, "1.0x7f": {"8.8.8.8"},
		"many.test": {"1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4", "1.0.0.5", "1.0.0.6", "1.0.0.7", "1.0.0.8", "1.0.0.9", "1.0.0.10"},
	}
	s := start(t, Config{
		Lookup: names.lookup,
		Hosts:  map[string][]netip.Addr{"Fixed.Test.": addresses("9.9.9.9"), "fixed-private.test": addresses("192.168.0.1"), "public.fixed.test": addresses("192.168.0.1", "9.9.9.9")},
		Permitted: func(host string) []netip.Prefix {
			switch host {
			case "allowed.test", "half.test":
				return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/16")}
			case "allowed6.test":
				return []netip.Prefix{netip.MustParsePrefix("fd00::/16")}
			case "nat64-public.test", "nat64.test":
				return []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96")}
			}
			return nil
		},
	})
	for _, x := range []struct {
		name, host string
		want       []string
	}{
		{"public addresses in order", "public.test", []string{"8.8.8.8", "8.8.4.4", "2606:4700::1"}},
		{"in other letters", "PUBLIC.Test", []string{"8.8.8.8", "8.8.4.4", "2606:4700::1"}},
		{"private", "private.test", nil},
		{"public among private", "mixed.test", []string{"8.8.8.8"}},
		{"metadata", "metadata.google.internal", nil},
		{"mapped private", "mapped.test", nil},
		{"mapped public", "mapped-public.test", []string{"8.8.8.8"}},
		{"NAT64 of the metadata service, though NAT64 is named", "nat64.test", nil},
		{"NAT64 of a public address, named", "nat64-public.test", []string{"64:ff9b::808:808"}},
		{"6to4 of a private address", "6to4.test", nil},
		{"Teredo", "teredo.test", nil},
		{"loopback", "loopback.test", nil},
		{"unspecified", "any.test", nil},
		{"link-local with a zone", "zoned.test", nil},
		{"no address", "empty.test", nil},
		{"no such name", "nothing.test", nil},
		{"permitted: one of all, always the same", "allowed.test", []string{"10.0.0.7"}},
		{"permitted IPv6: one of all", "allowed6.test", []string{"fd00::1"}},
		{"another special one than is permitted", "half.test", []string{"8.8.8.8"}},
		{"fixed", "fixed.test", []string{"9.9.9.9"}},
		{"fixed and private", "fixed-private.test", nil},
		{"fixed, of both kinds", "public.fixed.test", []string{"9.9.9.9"}},
		{"localhost", "localhost", nil},
		{"below localhost", "app.localhost", nil},
		{"an address for a name", "10.0.0.1", nil},
		{"something like an address", "1.0x7f", nil},
		{"more than fit", "many.test", names["many.test"][:maxAddresses]},
	} {
		t.Run(x.name, func(t *testing.T) {
			got, code := ask(t, s, x.host)
			if !slices.Equal(got, x.want) {
				t.Errorf("%s: %v, want %v", x.host, got, x.want)
			}
			if want := dnsmessage.RCodeNameError; len(x.want) == 0 && code != want {
				t.Errorf("%s: %v, want %v", x.host, code, want)
			}
		})
	}
}

// A name that led to a public address leads nowhere once it leads to a private one: nothing is kept between questions.
func TestRebinding(t *testing.T) {
	var turn atomic.Int32
	s := start(t, Config{Lookup: func(context.Context, string) ([]netip.Addr, error) {
		if turn.Add(1) == 1 {
			return addresses("8.8.8.8"), nil
		}
		return addresses("127.0.0.1"), nil
	}})
	first, second := exchange(t, s, question(t, "rebind.test", dnsmessage.TypeA)), exchange(t, s, question(t, "rebind.test", dnsmessage.TypeA))
	if len(first.Answers) != 1 || first.Answers[0].Header.TTL != uint32(DefaultTTL.Seconds()) {
		t.Errorf("first %v", first.Answers)
	}
	if len(second.Answers) != 0 || second.RCode != dnsmessage.RCodeNameError || len(second.Authorities) != 0 {
		t.Errorf("second %v", second)
	}
}

// A contract that is withdrawn takes its addresses with it.
func TestPermittedIsAskedEachTime(t *testing.T) {
	var permitted atomic.Bool
	s := start(t, Config{Lookup: zone{"db.test": {"10.0.0.1"}}.lookup, Permitted: func(string) []netip.Prefix {
		if permitted.Load() {
			return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}
		return nil
	}})
	for _, want := range []bool{false, true, false} {
		permitted.Store(want)
		if got, _ := ask(t, s, "db.test"); (len(got) == 1) != want {
			t.Errorf("permitted %v: %v", want, got)
		}
	}
}

func TestQuestionsOfOtherKinds(t *testing.T) {
	s := start(t, Config{Lookup: zone{"a.test": {"8.8.8.8"}}.lookup})
	change := func(f func(m *dnsmessage.Message)) []byte {
		var m dnsmessage.Message
		if err := m.Unpack(question(t, "a.test", dnsmessage.TypeA)); err != nil {
			t.Fatal(err)
		}
		f(&m)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return packet
	}
	kind := func(k dnsmessage.Type) []byte { return question(t, "a.test", k) }
	for _, x := range []struct {
		name   string
		packet []byte
		code   dnsmessage.RCode
	}{
		{"HTTPS", kind(65), dnsmessage.RCodeSuccess},
		{"SVCB", kind(64), dnsmessage.RCodeSuccess},
		{"TXT", kind(dnsmessage.TypeTXT), dnsmessage.RCodeSuccess},
		{"MX", kind(dnsmessage.TypeMX), dnsmessage.RCodeSuccess},
		{"PTR", question(t, "1.0.0.10.in-addr.arpa", dnsmessage.TypePTR), dnsmessage.RCodeSuccess},
		{"ALL", kind(dnsmessage.TypeALL), dnsmessage.RCodeSuccess},
		{"AXFR", kind(dnsmessage.TypeAXFR), dnsmessage.RCodeSuccess},
		{"class CHAOS", change(func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }), dnsmessage.RCodeNotImplemented},
		{"update", change(func(m *dnsmessage.Message) { m.OpCode = 5 }), dnsmessage.RCodeNotImplemented},
		{"two questions", change(func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }), dnsmessage.RCodeFormatError},
		{"no question", change(func(m *dnsmessage.Message) { m.Questions = nil }), dnsmessage.RCodeFormatError},
		{"cut off", kind(dnsmessage.TypeA)[:20], dnsmessage.RCodeFormatError},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := exchange(t, s, x.packet)
			if m.RCode != x.code || len(m.Answers) != 0 || !m.Response || m.ID != 4711 {
				t.Errorf("%+v", m)
			}
		})
	}
	if m := exchange(t, s, kind(dnsmessage.TypeA)); len(m.Answers) != 1 {
		t.Errorf("the plain question: %+v", m)
	}
}

// What is no question gets no answer, so that two servers never talk to each other; the next question gets one.
func TestPacketsThatAreDropped(t *testing.T) {
	g := &guard{cfg: Config{Lookup: zone{}.lookup}.withDefaults(), metrics: must(newMetrics(nil))}
	response := question(t, "a.test", dnsmessage.TypeA)
	response[2] |= 0x80
	for name, packet := range map[string][]byte{"empty": {}, "short": []byte("hello"), "a response": response} {
		if out := g.answer(t.Context(), packet); out != nil {
			t.Errorf("%s: answered %x", name, out)
		}
		if out := g.busy(packet); out != nil {
			t.Errorf("%s: answered %x while busy", name, out)
		}
	}
}

func TestLookupsThatFail(t *testing.T) {
	var log lockedBuffer
	registry := prometheus.NewRegistry()
	s := start(t, Config{
		Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: registry, Timeout: 50 * time.Millisecond,
		Lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			switch host {
			case "slow.test":
				<-ctx.Done()
				return nil, ctx.Err()
			case "panic.test":
				panic("broken")
			case "private.test":
				return addresses("10.0.0.1"), nil
			}
			return nil, errors.New("server misbehaving")
		},
	})
	for _, host := range []string{"slow.test", "broken.test"} {
		if found, code := ask(t, s, host); code != dnsmessage.RCodeServerFailure || len(found) > 0 {
			t.Errorf("%s: %v %v", host, found, code)
		}
	}
	g := s.guard
	if out := s.safely(t.Context(), question(t, "panic.test", dnsmessage.TypeA)); out != nil {
		t.Errorf("a panic is answered: %x", out)
	}
	for range 100 {
		g.answer(t.Context(), question(t, "private.test", dnsmessage.TypeA))
	}
	if n := strings.Count(log.String(), "10.0.0.1"); n < 1 || n > 2*maxLines {
		t.Errorf("a hundred drops wrote %d lines", n)
	}
	if got := refusedNames(t, registry); got[refusedSpecial] != 100 || got[refusedFailed] < 5 || len(got) != 5 {
		t.Errorf("counted %v", got)
	}
}

// Ten thousand names leave nothing behind, and more questions than there is room for are refused at once, not kept.
func TestBounded(t *testing.T) {
	release := make(chan struct{})
	s := start(t, Config{Concurrency: 4, Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
		if strings.HasPrefix(host, "stuck") {
			<-release
		}
		return addresses("8.8.8.8"), nil
	}})
	for n := range 100 {
		s.guard.answer(t.Context(), question(t, fmt.Sprintf("warm%d.test", n), dnsmessage.TypeA))
	}
	before := heap()
	for n := range 10_000 {
		s.guard.answer(t.Context(), question(t, fmt.Sprintf("n%d.test", n), dnsmessage.TypeA))
	}
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("ten thousand names left %d bytes behind", grown)
	}
	var stuck sync.WaitGroup
	for n := range 4 {
		stuck.Go(func() { exchange(t, s, question(t, fmt.Sprintf("stuck%d.test", n), dnsmessage.TypeA)) })
	}
	for len(s.room) < 4 {
		time.Sleep(time.Millisecond)
	}
	if m := exchange(t, s, question(t, "a.test", dnsmessage.TypeA)); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("no room: %+v", m)
	}
	close(release)
	stuck.Wait()
	for len(s.room) > 0 {
		time.Sleep(time.Millisecond)
	}
	if m := exchange(t, s, question(t, "a.test", dnsmessage.TypeA)); len(m.Answers) != 1 {
		t.Errorf("room again: %+v", m)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below
}

func TestOneLookupForEachName(t *testing.T) {
	var lookups atomic.Int32
	begun, release := make(chan struct{}), make(chan struct{})
	s := start(t, Config{Lookup: func(context.Context, string) ([]netip.Addr, error) {
		if lookups.Add(1) == 1 {
			close(begun)
		}
		<-release
		return addresses("8.8.8.8"), nil
	}})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { exchange(t, s, question(t, "a.test", dnsmessage.TypeA)) })
	}
	<-begun
	for len(s.room) < 20 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // the last of them is on its way from its place to the lookup
	close(release)
	all.Wait()
	if got := lookups.Load(); got != 1 {
		t.Errorf("%d lookups", got)
	}
}

func TestTCP(t *testing.T) {
	s := start(t, Config{Lookup: zone{"a.test": {"8.8.8.8"}}.lookup})
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	packet := question(t, "a.test", dnsmessage.TypeA)
	for range 3 { // one connection carries many
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)); err != nil {
			t.Fatal(err)
		}
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			t.Fatal(err)
		}
		out := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, out); err != nil {
			t.Fatal(err)
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || len(m.Answers) != 1 {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if _, err := conn.Write([]byte{0xff, 0xff, 0}); err != nil {
		t.Fatal(err)
	}
	var late net.Error
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &late) && late.Timeout() {
		t.Errorf("a question of 65535 bytes does not end the connection: %v", err)
	}
}

// Go's own resolver is a client as any other.
func TestGoAsks(t *testing.T) {
	s := start(t, Config{Listen: "[::1]:0", Lookup: zone{"a.test": {"8.8.8.8", "2606:4700::1"}, "b.test": {"10.0.0.1"}}.lookup})
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Addr().String())
	}}
	if got, err := r.LookupHost(t.Context(), "a.test."); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	_, err := r.LookupHost(t.Context(), "b.test.")
	var missing *net.DNSError
	if !errors.As(err, &missing) || !missing.IsNotFound {
		t.Errorf("private: %v", err)
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"every address":    {Listen: "0.0.0.0:53"},
		"no port":          {Listen: "127.0.0.1"},
		"a name":           {Listen: "localhost:53"},
		"public":           {Listen: "8.8.8.8:53"},
		"nothing":          {},
		"TTL too short":    {Listen: "127.0.0.1:0", TTL: time.Millisecond},
		"TTL too long":     {Listen: "127.0.0.1:0", TTL: time.Minute},
		"negative timeout": {Listen: "127.0.0.1:0", Timeout: -1},
	} {
		c.Log = slog.New(slog.DiscardHandler)
		if s, err := New(c); err == nil {
			t.Errorf("%s: listens on %v", name, s.Addr())
		}
	}
	if _, err := New(Config{Listen: "127.0.0.1:0"}); err == nil {
		t.Error("no log: no error")
	}
}

func FuzzAnswer(f *testing.F) {
	for _, host := range []string{"a.test", "private.test", "localhost", strings.Repeat(strings.Repeat("a", 63)+".", 3) + "b"} {
		m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(host + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	g := &guard{
		cfg: Config{Log: slog.New(slog.DiscardHandler), Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "private.test" {
				return addresses("10.0.0.1"), nil
			}
			return slices.Repeat(addresses("8.8.8.8", "2606:4700::1", "127.0.0.1"), 20), nil
		}}.withDefaults(),
		metrics: must(newMetrics(nil)),
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		out := g.answer(t.Context(), packet)
		if out == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil {
			t.Fatalf("the answer cannot be read: %v", err)
		}
		if len(out) > 512 || !m.Response || m.ID != binary.BigEndian.Uint16(packet) {
			t.Fatalf("%d bytes: %+v", len(out), m)
		}
		for _, a := range m.Answers {
			if body, ok := a.Body.(*dnsmessage.AResource); ok && body.A != [4]byte{8, 8, 8, 8} {
				t.Fatalf("a special address is answered: %v", body.A)
			}
		}
	})
}

// refusedNames reads the metric, by reason.
func refusedNames(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "sallyport_resolver_refused_names_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return out
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
