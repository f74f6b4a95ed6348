package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/signer/client"
	"sallyport/signer/evlog"
	"sallyport/signer/internal/wire"
	"sallyport/signer/keyring"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

// source is a trust source that a test changes.
type source struct {
	mu      sync.Mutex
	state   trust.State
	changed chan struct{}
}

func newSource() *source {
	return &source{state: trust.State{Version: 1}, changed: make(chan struct{})}
}

func (s *source) Snapshot() trust.State { s.mu.Lock(); defer s.mu.Unlock(); return s.state }

func (s *source) Changed() <-chan struct{} { s.mu.Lock(); defer s.mu.Unlock(); return s.changed }

func (s *source) revoke(mission string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Version++
	s.state.RevokedMissions = append(s.state.RevokedMissions, mission)
	close(s.changed)
	s.changed = make(chan struct{})
}

// rig is a signer that can be ended and started again on one directory and one socket.
type rig struct {
	t      *testing.T
	dir    string
	socket string
	mode   Mode
	grace  time.Duration
	trust  *source
	key    *keyring.Key
	stop   func()
	broken *atomic.Bool // set: appends fail

	receipts Receipts
}

func newRig(t *testing.T, mode Mode, grace time.Duration) *rig {
	t.Helper()
	k, err := keyring.Generate(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &rig{t: t, dir: filepath.Join(dir, "ev"), socket: filepath.Join(dir, "s"), mode: mode, grace: grace, trust: newSource(), key: k, broken: new(atomic.Bool)}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

type breakable struct {
	*evlog.Log
	broken *atomic.Bool
}

var errFull = errors.New("the test's disk is full")

func (b breakable) Append(k evlog.Kind, p []byte, d evlog.Durability, done func(error)) {
	if b.broken.Load() {
		done(errFull)
		return
	}
	b.Log.Append(k, p, d, done)
}

func (b breakable) AppendFinished(k evlog.Kind, p []byte, d evlog.Durability, finish func(dst, p []byte) []byte, done func(error)) {
	if b.broken.Load() {
		done(errFull)
		return
	}
	b.Log.AppendFinished(k, p, d, finish, done)
}

func (r *rig) start() {
	r.t.Helper()
	l, _, err := evlog.Open(r.dir, evlog.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := New(Config{Log: breakable{l, r.broken}, Gateway: r.key, GatewayID: "gateway", Mode: r.mode, Trust: r.trust, Receipts: r.receipts, Grace: r.grace, Slog: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := s.Recover(r.dir); err != nil {
		r.t.Fatal(err)
	}
	lis, err := net.Listen("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		if err := s.Serve(ctx, lis); err != nil {
			r.t.Error(err)
		}
		close(done)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := l.Close(); err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) client(instance string) (c *client.Client, stop func()) {
	r.t.Helper()
	c, err := client.New(client.Config{Network: "unix", Address: r.socket, Instance: instance, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = c.Run(ctx); close(done) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	r.await("the client is connected", func() bool { return c.Ready() == nil })
	return c, stop
}

func (r *rig) await(what string, cond func() bool) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	r.t.Fatalf("waited in vain: %s", what)
}

// outcomes is what the log holds: "" for an intent without a receipt.
func (r *rig) outcomes() map[string]record.Outcome {
	r.t.Helper()
	out := map[string]record.Outcome{}
	err := evlog.Read(r.dir, func(e evlog.Entry) error {
		switch e.Kind {
		case evlog.KindIntent:
			out[intentID(r.t, e.Payload)] = ""
		case evlog.KindReceipt:
			got, err := receipt.Verify(e.Payload, []string{r.key.DID()})
			if err != nil {
				return err
			}
			if old, seen := out[got.ReceiptID]; !seen || old != "" {
				r.t.Errorf("receipt %s: without an intent, or twice", got.ReceiptID)
			}
			out[got.ReceiptID] = got.Metadata.Sallyport.Outcome
		case evlog.KindRefusal, evlog.KindControl, evlog.KindTombstone, evlog.KindSealed:
		}
		return nil
	})
	if err != nil && !errors.Is(err, evlog.ErrTorn) {
		r.t.Fatal(err)
	}
	return out
}

func intent(id string) *record.Intent {
	return &record.Intent{ID: id, TimeMS: 1_760_000_000_000, RunID: "run", Provider: "openai", Model: "m", RequestHash: record.EmptyHash, Subject: "s"}
}

func completed(id string) *record.Completion {
	return &record.Completion{ID: id, Outcome: record.Completed, Status: 200, ResponseHash: record.EmptyHash}
}

func TestEachModeRecords(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Strict, Sealed, Async} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, mode, time.Minute)
			c, _ := r.client("p")
			var wg sync.WaitGroup
			const calls = 200
			for n := range calls {
				wg.Go(func() {
					i := intent(fmt.Sprintf("rcpt_%d", n))
					if err := c.Intent(t.Context(), i); err != nil {
						t.Error(err)
					}
					if err := c.Complete(t.Context(), i, completed(i.ID)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			// Acknowledged means in the log now, while the signer runs.
			got := r.outcomes()
			for id, o := range got {
				if o != record.Completed {
					t.Errorf("%s: %q", id, o)
				}
			}
			if len(got) != calls {
				t.Errorf("%d calls in the log", len(got))
			}
		})
	}
}

func TestRestartKeepsOpenCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, 300*time.Millisecond)
	c, _ := r.client("p")
	i := intent("rcpt_open")
	if err := c.Intent(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	r.stop()
	result := make(chan error, 1)
	go func() { result <- c.Complete(t.Context(), i, completed(i.ID)) }() // waits over the restart
	r.start()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(t.Context(), i, completed(i.ID)); err != nil {
		t.Errorf("settled again: %v", err)
	}
	if got := r.outcomes()[i.ID]; got != record.Completed {
		t.Errorf("outcome %q", got)
	}
}

// TestIntentGoneFromTheLog: a call whose intent was acknowledged and is in the log no more is written again, whole.
func TestIntentGoneFromTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	i, cut := intent("rcpt_gone"), intent("rcpt_cut")
	if err := errors.Join(c.Intent(t.Context(), i), c.Intent(t.Context(), cut)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	r.start()
	for range 2 { // the second time as one that lost its acknowledgement
		if err := c.Complete(t.Context(), i, completed(i.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Complete(t.Context(), cut, &record.Completion{ID: cut.ID, Outcome: record.Cut, ResponseHash: record.EmptyHash}); err != nil {
		t.Error(err)
	}
	if got := r.outcomes(); len(got) != 1 || got[i.ID] != record.Completed {
		t.Errorf("got %v", got)
	}
	if err := c.Complete(t.Context(), cut, completed(i.ID)); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("the completion of another call: %v", err)
	}
}

// TestOtherBuildIsRefused: a processor of another build is told so, and nothing of it is taken.
func TestOtherBuildIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	nc, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	w := wire.NewConn(nc)
	defer w.Close()
	if err := w.Send(wire.Frame{Type: wire.Hello, Payload: []byte(`{"instance":"p","open":[]}`)}); err != nil {
		t.Fatal(err)
	}
	f, err := w.Receive()
	if err != nil || f.Type != wire.Ack || f.N != 0 || !strings.Contains(string(f.Payload), "another version: 0") {
		t.Errorf("got %+v, %v", f, err)
	}
	if f, err := w.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection goes on: %+v, %v", f, err)
	}
}

func TestClaimedCallIsNotCut(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, 200*time.Millisecond)
	c, _ := r.client("p")
	i := intent("rcpt_long")
	if err := c.Intent(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start()
	r.await("the client is back", func() bool { return c.Ready() == nil })
	// A second call of another process that dies is cut meanwhile: by then the first would have been too.
	d, gone := r.client("q")
	if err := d.Intent(t.Context(), intent("rcpt_other")); err != nil {
		t.Fatal(err)
	}
	gone()
	r.await("the dead process's call is cut", func() bool { return r.outcomes()["rcpt_other"] == record.Cut })
	if got := r.outcomes()[i.ID]; got != "" {
		t.Errorf("a call that its process still carries was settled as %q", got)
	}
	if err := c.Complete(t.Context(), i, completed(i.ID)); err != nil || r.outcomes()[i.ID] != record.Completed {
		t.Errorf("%v, %q", err, r.outcomes()[i.ID])
	}
}

func TestUnclaimedCallIsCutAfterRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t, Async, 50*time.Millisecond)
	c, gone := r.client("p")
	if err := c.Intent(t.Context(), intent("rcpt_lost")); err != nil {
		t.Fatal(err)
	}
	gone()
	r.stop()
	r.start()
	r.await("the call is cut", func() bool { return r.outcomes()["rcpt_lost"] == record.Cut })
}

func TestFullDiskIsSaid(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	r.broken.Store(true)
	if err := c.Intent(t.Context(), intent("rcpt_a")); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("intent: %v", err)
	}
	r.broken.Store(false)
	i := intent("rcpt_b")
	if err := c.Intent(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	r.broken.Store(true)
	if err := c.Complete(t.Context(), i, completed(i.ID)); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("completion: %v", err)
	}
	r.broken.Store(false)
	if err := c.Complete(t.Context(), i, completed(i.ID)); err != nil {
		t.Errorf("completion with room again: %v", err)
	}
}

func TestWithheldAnswerIsCutOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, 50*time.Millisecond)
	c, _ := r.client("p")
	i := intent("rcpt_a")
	if err := c.Intent(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	r.broken.Store(true)
	if err := c.Complete(t.Context(), i, completed(i.ID)); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("completion: %v", err)
	}
	r.broken.Store(false)
	r.await("the call is cut", func() bool { return r.outcomes()[i.ID] == record.Cut })
}

// TestCutIsFinal: what is recorded as cut cannot be completed, or an answer would be released that the log calls cut.
func TestCutIsFinal(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	i := intent("rcpt_a")
	if err := c.Intent(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	cut := &record.Completion{ID: i.ID, Outcome: record.Cut, ResponseHash: record.EmptyHash}
	if err := c.Complete(t.Context(), i, cut); err != nil {
		t.Fatal(err)
	}
	if err := c.Complete(t.Context(), i, completed(i.ID)); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("completed after cut: %v", err)
	}
	r.stop()
	r.start()
	if err := c.Complete(t.Context(), i, completed(i.ID)); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("completed after cut and a restart: %v", err)
	}
	if err := c.Complete(t.Context(), i, cut); err != nil {
		t.Errorf("cut again: %v", err)
	}
}

// TestIntentTooLargeForAReceipt: a call whose receipt could never be made must not leave.
func TestIntentTooLargeForAReceipt(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	i := intent("rcpt_a")
	i.Model = strings.Repeat("m", maxIntent)
	if err := c.Intent(t.Context(), i); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("got %v", err)
	}
}

// TestLateIntentIsCut: an intent whose caller gave up is settled although its connection lives on.
func TestLateIntentIsCut(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Intent(ctx, intent("rcpt_a")); !errors.Is(err, client.ErrNotRecorded) {
		t.Fatalf("got %v", err)
	}
	r.await("the intent is settled, if it is there", func() bool {
		o, there := r.outcomes()["rcpt_a"]
		return !there || o == record.Cut
	})
}

// TestGivenUpCalls: a call that gives up leaves nothing behind that another could take for its own answer.
func TestGivenUpCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, Async, time.Minute)
	c, _ := r.client("p")
	if err := c.Intent(t.Context(), intent("rcpt_used")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			for k := range 40 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(k%20)*20*time.Microsecond)
				_ = c.Intent(ctx, intent(fmt.Sprintf("rcpt_late_%d_%d", n, k)))
				cancel()
				if err := c.Intent(t.Context(), intent(fmt.Sprintf("rcpt_%d_%d", n, k))); err != nil {
					t.Errorf("a new id: %v", err)
				}
				if c.Intent(t.Context(), intent("rcpt_used")) == nil {
					t.Error("a used id was taken")
				}
			}
		})
	}
	wg.Wait()
}

func TestSignerAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	i := intent("rcpt_a")
	if err := c.Intent(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.await("the loss is noticed", func() bool { return c.Ready() != nil })
	if err := c.Intent(t.Context(), intent("rcpt_b")); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("intent without a signer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Complete(ctx, i, completed(i.ID)); !errors.Is(err, client.ErrNotRecorded) {
		t.Errorf("completion without a signer: %v", err)
	}
}

func TestRevocationIsPushed(t *testing.T) {
	t.Parallel()
	r := newRig(t, Sealed, time.Minute)
	c, _ := r.client("p")
	k := &token.Token{Claims: token.Claims{MissionID: "job"}, Hash: "h"}
	if c.Trust().Revoked(k) {
		t.Fatal("revoked before")
	}
	r.trust.revoke("job")
	r.await("the withdrawal arrives", func() bool { return c.Trust().Revoked(k) })
	if c.Trust().Revoked(&token.Token{Hash: "h"}) {
		t.Error("a token without a job is withdrawn with the job")
	}
}
