// Package server serves Envoy's external processing protocol over HTTP/2: gRPC with one method, for one kind of client
// that keeps few connections with very many short streams. A stock gRPC server spends most of a call's time on what this
// protocol does not use, so only what it does use is here: frames and header compression are golang.org/x/net's, the
// messages are package message's, and what stands between is small. A message is handed over by the goroutine that read
// it; what many streams answer at the same time leaves in one write.
package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"sallyport/extproc/message"
)

// Exchange is one stream's conversation as whoever decides sees it. Its methods are never called at the same time.
type Exchange interface {
	// Handle takes the next message. It must not wait, because the other streams' messages are behind this one; what has
	// to wait goes on elsewhere. Every message is answered by exactly one Stream.Reply, in Handle or later, and the next
	// message comes after that. The message's body is the exchange's until then, and must not be changed; its headers are
	// strings, and may be kept.
	Handle(m *message.Request)
	// End says that no message will come: io.EOF if Envoy had no more to say, message.ErrMalformed if it said what cannot
	// be read, the error of the last Reply if there was one, anything else if the stream broke. What it returns is the
	// stream's gRPC status; an error without one is Aborted.
	End(why error) error
}

// Stream is one stream as an exchange sees it.
type Stream interface {
	// Context ends when the stream does.
	Context() context.Context
	// Reply answers the message that was handed over last. With an error, the stream ends and nothing is answered. It may
	// be called from any goroutine, and does not wait for Envoy to read.
	Reply(r *message.Response, err error)
	// Abort ends the stream, also while no message is with the exchange, which is told by End. It may be called from any
	// goroutine but from within Handle and End, and is of no effect where the stream has ended.
	Abort(err error)
}

// Config of a server. All of it is required.
type Config struct {
	Open       func(Stream) Exchange // makes the exchange of a new stream
	MaxMessage int                   // bytes of one message; a larger one ends its stream with ResourceExhausted
	Grace      time.Duration         // how long open streams may go on when the server is to end
	Log        *slog.Logger
}

// Server serves connections; make it with New.
type Server struct {
	cfg Config

	mu    sync.Mutex
	conns map[*conn]struct{}
	done  sync.WaitGroup // of connections
}

// New makes a server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, conns: map[*conn]struct{}{}}
}

// Serve answers on the listener until ctx ends. Then Envoy is told to open no more streams, and those that are open may
// go on for the grace time. It closes the listener, and returns when every stream has ended.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = lis.Close() })
	defer stop()
	err := s.accept(ctx, lis)
	s.drain()
	s.done.Wait()
	return err
}

func (s *Server) accept(ctx context.Context, lis net.Listener) error {
	for {
		nc, err := lis.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = nc.Close()
			}
			return nil
		}
		if err != nil {
			var temporary interface{ Temporary() bool } // out of file descriptors, or a client that left at once
			if errors.As(err, &temporary) && temporary.Temporary() {
				s.cfg.Log.Error("accept", "error", err)
				time.Sleep(50 * time.Millisecond)
				continue
			}
			return err
		}
		c := newConn(s, nc)
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.done.Go(func() {
			if err := c.serve(); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.cfg.Log.Warn("connection of Envoy's ended", "error", err)
			}
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// drain lets open streams end, for the grace time at most.
func (s *Server) drain() {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	var idle sync.WaitGroup
	deadline := time.Now().Add(s.cfg.Grace)
	for _, c := range conns {
		idle.Go(func() { c.drain(deadline) })
	}
	idle.Wait()
}
