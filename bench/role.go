package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// The roles that this program starts of itself. They are processes of their own so that their CPU time can be told
// apart from the client's.
const (
	roleArgument  = "role"
	roleUpstream  = "upstream"
	roleProcessor = "processor"
	roleProgram   = "program"
)

// runRole runs one role until the context ends. It prints one line when it takes calls.
func runRole(ctx context.Context, args []string, stdout io.Writer) error {
	switch {
	case len(args) == 4 && args[0] == roleUpstream:
		return runUpstream(ctx, args[1], args[2], args[3], stdout)
	case len(args) == 3 && args[0] == roleProcessor:
		return runProcessor(ctx, args[1], args[2], stdout)
	case len(args) == 2 && args[0] == roleProgram:
		return runProgram(ctx, args[1])
	}
	return fmt.Errorf("unknown role %q", args)
}

// serveCounts answers GET /counts on a Unix socket, apart from the measured traffic.
func serveCounts(socket string, read func() map[string]int64) (*http.Server, error) {
	return serveLocal(socket, map[string]func() any{"/counts": func() any { return read() }})
}

// serveLocal answers a GET of each path with JSON on a Unix socket.
func serveLocal(socket string, paths map[string]func() any) (*http.Server, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for path, read := range paths {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(read()) // the reader sees a short answer
		})
	}
	s := &http.Server{Handler: mux}
	go func() { _ = s.Serve(l) }() // ends with Close
	return s, nil
}

// serveHTTP serves until the context ends, over TLS where the server has a configuration for it.
func serveHTTP(ctx context.Context, s *http.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	serve := s.Serve
	if s.TLSConfig != nil {
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
