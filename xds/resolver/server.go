package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	maxUDP   = 4096             // bytes of a question that are read; longer ones are cut, and then they are none
	maxTCP   = 4096             // bytes of a question over TCP
	maxConns = 64               // TCP connections at once
	idle     = 10 * time.Second // of a TCP connection
	tries    = 20               // for one free port in both UDP and TCP
)

// Server answers DNS questions. Make it with New and start it with Serve.
type Server struct {
	guard *guard
	udp   *net.UDPConn
	tcp   *net.TCPListener
	room  chan struct{} // one for each question that is worked on
	conns chan struct{} // one for each TCP connection
}

// New listens on UDP and TCP, and answers once Serve runs.
func New(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	hosts := make(map[string][]netip.Addr, len(c.Hosts))
	for host, addresses := range maps.All(c.Hosts) {
		hosts[strings.ToLower(strings.TrimSuffix(host, "."))] = addresses
	}
	c.Hosts = hosts
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	udp, tcp, err := listen(netip.MustParseAddrPort(c.Listen))
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	return &Server{
		guard: &guard{cfg: c, metrics: m}, udp: udp, tcp: tcp,
		room: make(chan struct{}, c.Concurrency), conns: make(chan struct{}, maxConns),
	}, nil
}

// listen takes one port for both. Where any will do, one that is free for UDP may be taken for TCP; then another is tried.
func listen(at netip.AddrPort) (*net.UDPConn, *net.TCPListener, error) {
	var last error
	for range tries {
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return nil, nil, err
		}
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(udp.LocalAddr().(*net.UDPAddr).AddrPort()))
		if err == nil {
			return udp, tcp, nil
		}
		_ = udp.Close()
		if last = err; at.Port() != 0 {
			break
		}
	}
	return nil, nil, last
}

// Addr is where it answers, for UDP and TCP.
func (s *Server) Addr() netip.AddrPort { return s.udp.LocalAddr().(*net.UDPAddr).AddrPort() }

// Serve answers until ctx ends, then returns nil once everything that it began has ended. It may be called once.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = s.udp.Close()
		_ = s.tcp.Close()
	})
	defer stop()
	var all sync.WaitGroup
	var errs [2]error
	all.Go(func() {
		defer cancel() // one without the other is of no use
		errs[0] = s.serveUDP(ctx, &all)
	})
	all.Go(func() {
		defer cancel()
		errs[1] = s.serveTCP(ctx, &all)
	})
	all.Wait()
	return errors.Join(errs[:]...)
}

func (s *Server) serveUDP(ctx context.Context, all *sync.WaitGroup) error {
	buffer := make([]byte, maxUDP)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("resolver: %w", err)
		}
		if err != nil || !from.Addr().Unmap().IsLoopback() {
			continue // an ICMP message of an answer that nobody waited for, or a stranger
		}
		packet := append([]byte(nil), buffer[:n]...)
		send := func(out []byte) {
			if out != nil {
				_, _ = s.udp.WriteToUDPAddrPort(out, from) // the one who asked left; nothing to do about it
			}
		}
		select {
		case s.room <- struct{}{}:
			all.Go(func() {
				defer func() { <-s.room }()
				send(s.safely(ctx, packet))
			})
		default:
			send(s.guard.busy(packet))
		}
	}
}

func (s *Server) serveTCP(ctx context.Context, all *sync.WaitGroup) error {
	for {
		conn, err := s.tcp.AcceptTCP()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("resolver: %w", err)
		}
		if err != nil {
			s.guard.lines.warn(s.guard.cfg.Log, "a DNS connection cannot be taken", slog.Any("error", err))
			time.Sleep(10 * time.Millisecond) // out of files; without a pause this would spin
			continue
		}
		peer, _ := conn.RemoteAddr().(*net.TCPAddr)
		select {
		case s.conns <- struct{}{}:
		default:
			peer = nil
		}
		if peer == nil {
			_ = conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-s.conns }()
			defer func() { _ = conn.Close() }()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			if peer.IP.IsLoopback() {
				s.talk(ctx, conn)
			}
		})
	}
}

// talk answers the questions of one connection, one after the other, each with its length in front.
func (s *Server) talk(ctx context.Context, conn net.Conn) {
	for {
		_ = conn.SetDeadline(time.Now().Add(idle))
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if n == 0 || n > maxTCP {
			return
		}
		packet := make([]byte, n)
		if _, err := io.ReadFull(conn, packet); err != nil {
			return
		}
		out := s.overTCP(ctx, packet)
		if out == nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(idle))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil { //nolint:gosec // far below 64 KiB
			return
		}
	}
}

func (s *Server) overTCP(ctx context.Context, packet []byte) []byte {
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
		return s.safely(ctx, packet)
	default:
		return s.guard.busy(packet)
	}
}

// safely answers nothing where the code that reads a packet or looks a name up breaks: the one who asked gets no address,
// and the control plane lives on.
func (s *Server) safely(ctx context.Context, packet []byte) (out []byte) {
	defer func() {
		if r := recover(); r != nil {
			s.guard.metrics.refused(refusedFailed)
			s.guard.lines.warn(s.guard.cfg.Log, "a DNS question broke the resolver", slog.Any("panic", r))
			out = nil
		}
	}()
	return s.guard.answer(ctx, packet)
}
