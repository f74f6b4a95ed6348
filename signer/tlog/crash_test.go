package tlog

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"sallyport/signer/evlog"
)

// crashEnv makes this test's program a child that writes evidence and follows it until it is killed.
const crashEnv = "SALLYPORT_TEST_TLOG_CHILD"

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	if dir := os.Getenv(crashEnv); dir != "" {
		fmt.Fprintln(os.Stderr, crashChild(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func crashChild(dir string) error {
	evidence, recovered, err := evlog.Open(dir, evlog.Options{SegmentBytes: 64 << 10})
	if err != nil {
		return err
	}
	keys, err := OpenOrCreateKeys(filepath.Join(dir, "root"), nil) // the parent made them
	if err != nil {
		return err
	}
	l, err := Open(context.Background(), Config{Dir: filepath.Join(dir, "tlog"), Evidence: dir, Source: evidence, Keys: keys,
		Origin: testOrigin, Every: 5 * time.Millisecond, Slog: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	go func() {
		// The record's own number makes it one of its kind.
		for i := int(recovered.Next); ; i++ { //nolint:gosec // small
			if err := evidence.AppendWait(evlog.KindReceipt, receiptOf(i), evlog.Written); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			if i%5 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	return l.Run(context.Background())
}

// TestKillNine kills the process at 25 random points, which fall into appends of evidence, batches of tiles, and checkpoints.
// After each death a new owner goes on, so a log that lost, doubled or moved an entry is refused then, or found by the audit;
// and each checkpoint that was ever read must be a beginning of the last one.
func TestKillNine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys := testKeys(t)
	if _, err := OpenOrCreateKeys(filepath.Join(dir, "root"), sevens{}); err != nil {
		t.Fatal(err)
	}
	v := keys.Verifiers(testOrigin)
	tdir := filepath.Join(dir, "tlog")
	var seen [][]byte
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any seed will do; it is printed
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // not a secret
	last := uint64(0)
	for range 25 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		eventually(t, "the child publishes a checkpoint", func() bool {
			select {
			case err := <-ended:
				t.Fatalf("the child ended: %v", err)
			default:
			}
			c, signed, err := (&Reader{files: leavesOf(tdir), verifiers: v}).Checkpoint()
			if err != nil || c.Size <= last {
				return false
			}
			last, seen = c.Size, append(seen, signed)
			return true
		})
		time.Sleep(time.Duration(rng.IntN(60_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Fatal("the child ended by itself")
		}
	}
	w := &world{t: t, dir: dir, keys: keys}
	w.openEvidence()
	t.Cleanup(func() { _ = w.evidence.Close() })
	w.next = int(w.evidence.Next()) //nolint:gosec // small
	w.follow()
	w.settled()
	w.stop()
	w.auditClean()
	for _, old := range seen {
		rep, err := Audit(tdir, AuditOptions{Verifiers: v, Since: old})
		if err != nil || len(rep.Findings) > 0 || rep.Since == 0 {
			t.Fatalf("%+v, %v", rep, err)
		}
	}
	t.Logf("%d entries, %d checkpoints seen", w.next, len(seen))
}

// sevens is the randomness of testKeys.
type sevens struct{}

func (sevens) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}
