package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"

	"github.com/redis/go-redis/v9"
)

// redisServer is a real Redis without persistence, on a Unix socket.
type redisServer struct {
	*process
	url    string
	client *redis.Client
}

// startRedis starts redis-server with its files in a directory; it returns nil without an error where there is none.
func startRedis(ctx context.Context, dir string) (*redisServer, error) {
	bin, err := exec.LookPath("redis-server")
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "redis.sock")
	p, _, err := start(ctx, "redis-server", false, bin,
		"--dir", dir, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no")
	if err != nil {
		return nil, err
	}
	s := &redisServer{process: p, url: "unix://" + socket, client: redis.NewClient(&redis.Options{Network: "unix", Addr: socket})}
	if err := p.await(ctx, func() error { return s.client.Ping(ctx).Err() }); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// keys is how many keys it holds.
func (s *redisServer) keys(ctx context.Context) (int64, error) { return s.client.DBSize(ctx).Result() }

func (s *redisServer) stop() {
	if s == nil {
		return
	}
	_ = s.client.Close()
	s.process.stop()
}
