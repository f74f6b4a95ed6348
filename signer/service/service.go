// Package service is the signer's end of the stream: it writes intents, signs receipts, groups commits and acknowledges,
// and it settles as cut whatever a dead process left open. The rules are the design's ("Evidence").
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/signer/envelope"
	"sallyport/signer/evlog"
	"sallyport/signer/trust"
)

// Mode says what is synced to the disk before a call goes on.
type Mode string

// The evidence modes. In each, what was acknowledged survives the death of any process.
const (
	Strict Mode = "strict" // intent and receipt are synced
	Sealed Mode = "sealed" // the intent is written, the receipt is synced
	Async  Mode = "async"  // both are written, and synced in the background
)

// DefaultGrace is how long a call whose process went away may be claimed again before it is settled as cut.
const DefaultGrace = 5 * time.Second

// Log is what the service needs of the evidence log. Append copies the payload.
type Log interface {
	Append(k evlog.Kind, payload []byte, level evlog.Durability, done func(error))
	AppendFinished(k evlog.Kind, payload []byte, level evlog.Durability, finish func(dst, payload []byte) []byte, done func(error))
}

// Receipts finds the receipts that stand in the log.
type Receipts interface {
	// ByNonce is the envelope of the newest receipt of a job's call with that nonce, nil where there is none.
	ByNonce(job, nonce string) ([]byte, error)
}

// Config of a service.
type Config struct {
	Log       Log
	Gateway   envelope.Signer // signs receipts
	GatewayID string
	KID       string   // of the gateway's key, for receipts in the older form
	Receipts  Receipts // nil: receipts are not found by nonce
	Heads     Heads    // nil: where each run's chain ends is kept in memory for good
	Mode      Mode
	Trust     trust.Source
	Grace     time.Duration // 0: DefaultGrace
	Now       func() time.Time
	Slog      *slog.Logger
	Metrics   prometheus.Registerer // nil: counted but not published
}

// Validate joins everything that is wrong.
func (c *Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("signer service: "+what))
		}
	}
	need(c.Log != nil && c.Gateway != nil && c.Trust != nil && c.Slog != nil, "log, gateway key, trust source and logger are needed")
	need(c.GatewayID != "", "the gateway needs an id")
	need(c.Mode == Strict || c.Mode == Sealed || c.Mode == Async, fmt.Sprintf("evidence mode %q is none of strict, sealed, async", c.Mode))
	return errors.Join(errs...)
}

// Service holds the calls that are open. It serves any number of ext_proc processes.
type Service struct {
	cfg     Config
	metrics *metrics
	work    chan job
	group   sync.WaitGroup
	writes  sync.WaitGroup // intents on their way to the log
	chains  chains

	mu      sync.Mutex
	open    map[string]*call
	settled *recent
}

// New makes a service. Recover must have run on it before it serves.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, metrics: m, work: make(chan job, 1024), chains: chains{cold: cfg.Heads, most: maxHeads, heads: map[run]*tip{}}, open: map[string]*call{}, settled: newRecent(maxSettled)}, nil
}

// Serve answers on the listener until ctx ends. It returns after everything that was accepted has been written.
func (s *Service) Serve(ctx context.Context, lis net.Listener) error {
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			var buf []byte
			for j := range s.work {
				buf = s.sign(j, buf)
			}
		})
	}
	sweepCtx, stopSweep := context.WithCancel(ctx)
	defer stopSweep()
	var sweeping sync.WaitGroup
	sweeping.Go(func() { s.sweep(sweepCtx) })
	stop := context.AfterFunc(ctx, func() { _ = lis.Close() })
	defer stop()
	err := s.accept(ctx, lis)
	s.group.Wait()
	stopSweep()
	sweeping.Wait()
	s.writes.Wait()
	close(s.work)
	workers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Service) accept(ctx context.Context, lis net.Listener) error {
	for {
		nc, err := lis.Accept()
		if err != nil {
			return fmt.Errorf("signer service: %w", err)
		}
		s.group.Go(func() { s.serveConn(ctx, nc) })
	}
}

// level is the durability of an intent or of a receipt in the configured mode.
func (s *Service) level(k evlog.Kind) evlog.Durability {
	if s.cfg.Mode == Strict || (s.cfg.Mode == Sealed && k == evlog.KindReceipt) {
		return evlog.Synced
	}
	return evlog.Written
}
