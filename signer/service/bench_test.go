package service

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/signer/client"
	"sallyport/signer/evlog"
	"sallyport/signer/keyring"
	"sallyport/signer/record"
)

// benchDir and benchMode make this test binary a signer on a directory, so that a benchmark can tell its processor time
// from the caller's. benchProfile, if set, is the file that it writes a CPU profile to.
const (
	benchDir     = "SALLYPORT_BENCH_DIR"
	benchMode    = "SALLYPORT_BENCH_MODE"
	benchProfile = "SALLYPORT_BENCH_PROFILE"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(benchDir); dir != "" {
		if err := benchSigner(dir, Mode(os.Getenv(benchMode))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// benchSigner serves until its input ends, and answers each byte of it with the processor time that it has used so far:
// nanoseconds as eight bytes.
func benchSigner(dir string, mode Mode) error {
	if path := os.Getenv(benchProfile); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	l, _, err := evlog.Open(filepath.Join(dir, "ev"), evlog.Options{})
	if err != nil {
		return err
	}
	key, err := keyring.Generate(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		return err
	}
	s, err := New(Config{Log: l, Gateway: key, GatewayID: key.DID(), Mode: mode, Trust: newSource(), Slog: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	lis, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, lis) }()
	ask := make([]byte, 1)
	for {
		if _, err := io.ReadFull(os.Stdin, ask); err != nil {
			cancel()
			return errors.Join(<-done, l.Close())
		}
		if _, err := os.Stdout.Write(binary.BigEndian.AppendUint64(nil, uint64(cpuTime()))); err != nil {
			return err
		}
	}
}

// cpuTime is the processor time that this process has used, in user and kernel mode.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// otherSigner is a signer in a process of its own.
type otherSigner struct {
	b   *testing.B
	ask io.WriteCloser
	say io.Reader
}

func startSigner(b *testing.B, dir string, mode Mode) *otherSigner {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchDir+"="+dir, benchMode+"="+string(mode))
	cmd.Stderr = os.Stderr
	ask, err1 := cmd.StdinPipe()
	say, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(ask.Close(), cmd.Wait()); err != nil {
			b.Error(err)
		}
	})
	return &otherSigner{b, ask, say}
}

func (o *otherSigner) cpuTime() time.Duration {
	o.b.Helper()
	answer := make([]byte, 8)
	_, err := o.ask.Write([]byte{0})
	if _, rerr := io.ReadFull(o.say, answer); errors.Join(err, rerr) != nil {
		o.b.Fatal(err, rerr)
	}
	return time.Duration(binary.BigEndian.Uint64(answer))
}

// benchCalls is how many calls are under way at a time.
const benchCalls = 64

// benchUpstream is how long a call's upstream takes in BenchmarkPaced: with benchCalls under way, some thousand calls a second.
const benchUpstream = 10 * time.Millisecond

// BenchmarkCall is what a call costs on the way to its receipt: intent and completion over a Unix socket, with the signer
// in a process of its own. Processor time a call is reported for each side: this process's is the client's. Elapsed time says
// little, since the two compete for the same processors.
func BenchmarkCall(b *testing.B) { benchmarkModes(b, 0) }

// BenchmarkPaced is the same where the calls wait for their upstreams: less comes at once, so less is shared.
func BenchmarkPaced(b *testing.B) { benchmarkModes(b, benchUpstream) }

func benchmarkModes(b *testing.B, upstream time.Duration) {
	for _, mode := range []Mode{Strict, Sealed, Async} {
		b.Run(string(mode), func(b *testing.B) {
			dir := b.TempDir()
			other := startSigner(b, dir, mode)
			c, err := client.New(client.Config{Network: "unix", Address: filepath.Join(dir, "s"), Instance: "b", Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = c.Run(b.Context()) }()
			for c.Ready() != nil {
				time.Sleep(time.Millisecond)
			}
			b.ReportAllocs()
			b.ResetTimer()
			here, there := cpuTime(), other.cpuTime()
			callMany(b, c, upstream)
			here, there = cpuTime()-here, other.cpuTime()-there
			b.ReportMetric(float64(here.Nanoseconds())/1000/float64(b.N), "client-µs/op")
			b.ReportMetric(float64(there.Nanoseconds())/1000/float64(b.N), "signer-µs/op")
		})
	}
}

// callMany makes b.N calls, benchCalls at a time.
func callMany(b *testing.B, c *client.Client, upstream time.Duration) {
	var n atomic.Int64
	var wg sync.WaitGroup
	for range benchCalls {
		wg.Go(func() {
			for {
				k := n.Add(1)
				if k > int64(b.N) {
					return
				}
				i, done := realCall(k)
				err := c.Intent(b.Context(), i)
				if upstream > 0 {
					time.Sleep(upstream)
				}
				if err := errors.Join(err, c.Complete(b.Context(), i, done)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// realCall is a call with everything that a real one has.
func realCall(n int64) (*record.Intent, *record.Completion) {
	id := fmt.Sprintf("rcpt_00000000-0000-4000-8000-%012d", n)
	return &record.Intent{
			ID: id, TimeMS: 1_760_000_000_000 + n, RunID: "run_0f1e2d3c4b5a", Nonce: "3f6a1a52-5d8e-4b7e-9d77-5a7a6f3d2c10", MissionID: "job_triage",
			Subject: "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", TokenHash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
			TokenScopeHash: record.EmptyHash, PolicyHash: record.EmptyHash, Provider: "openai", Model: "gpt-4o-mini", Action: "model:invoke",
			Resource: "openai/gpt-4o-mini", Method: "POST", Host: "api.openai.com", Path: "/v1/chat/completions", SecretClass: "openai-key",
			RequestHash: record.EmptyHash, RequestBytes: 812, Stream: true, TrustVersion: 3, Peer: "10.0.0.7:51334",
		}, &record.Completion{
			ID: id, TimeMS: 1_760_000_000_900 + n, Outcome: record.Completed, Status: 200, ResponseHash: record.EmptyHash, ResponseBytes: 4096,
			TokensInput: 211, TokensOutput: 87, UsageReported: true, LatencyMS: 900, TTFBMS: 120,
		}
}
