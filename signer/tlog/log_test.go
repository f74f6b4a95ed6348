package tlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"sallyport/signer/evlog"
)

const testOrigin = "log.test/one"

func testKeys(t testing.TB) *Keys {
	t.Helper()
	k, err := OpenOrCreateKeys(filepath.Join(t.TempDir(), "root"), bytes.NewReader(bytes.Repeat([]byte{7}, rootSize)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// hashOf is the payload hash of the i-th record of a test.
func hashOf(i int) string {
	h := sha256.Sum256(fmt.Append(nil, "record ", i))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

func receiptOf(i int) []byte {
	return fmt.Appendf(nil, `{"envelope_type":"gateway_receipt","payload":{},"payload_hash_b64u":%q}`, hashOf(i))
}

// world is an evidence log and the transparency log over it.
type world struct {
	t        testing.TB
	dir      string
	keys     *Keys
	evidence *evlog.Log
	log      *Log
	stop     func()
	next     int
}

func (w *world) tlogDir() string { return filepath.Join(w.dir, "tlog") }

func (w *world) verifiers() Verifiers { return w.keys.Verifiers(testOrigin) }

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), keys: testKeys(t)}
	w.openEvidence()
	t.Cleanup(func() {
		if w.stop != nil {
			w.stop()
		}
		_ = w.evidence.Close()
	})
	return w
}

func (w *world) openEvidence() {
	w.t.Helper()
	var err error
	if w.evidence, _, err = evlog.Open(w.dir, evlog.Options{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() Config {
	return Config{Dir: w.tlogDir(), Evidence: w.dir, Source: w.evidence, Keys: w.keys, Origin: testOrigin, Every: 10 * time.Millisecond,
		Slog: slog.New(slog.DiscardHandler)}
}

// follow starts the log; the world's stop ends it in order.
func (w *world) follow() {
	w.t.Helper()
	l, err := Open(w.t.Context(), w.config())
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	w.log = l
	w.stop = func() {
		cancel()
		wg.Wait()
		if err := l.Close(); err != nil {
			w.t.Error(err)
		}
		w.stop = nil
	}
}

// add appends n records, with others between them that have no entry.
func (w *world) add(n int) {
	w.t.Helper()
	for range n {
		if w.next%3 == 0 {
			w.append(evlog.KindIntent, []byte(`{}`))
			w.append(evlog.KindRefusal, []byte(`{"code":"TOKEN_EXPIRED"}`))
		}
		w.append(evlog.KindReceipt, receiptOf(w.next))
		w.next++
	}
}

func (w *world) append(k evlog.Kind, payload []byte) {
	w.t.Helper()
	if err := w.evidence.AppendWait(k, payload, evlog.Written); err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 20 s: %s", what)
}

// settled waits until all records are under a checkpoint.
func (w *world) settled() {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d entries under a checkpoint", w.next), func() bool {
		if err := w.log.Status(); err != nil {
			w.t.Fatal(err)
		}
		c, _, err := w.log.Checkpoint()
		return err == nil && c.Size == uint64(w.next)
	})
}

func TestEveryRecordHasAProofThatVerifiesOffline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	w.add(600)
	w.append(evlog.KindTombstone, fmt.Appendf(nil, `{"envelope_type":"sallyport_tombstone","payload_hash_b64u":%q}`, hashOf(600)))
	w.append(evlog.KindRefusal, fmt.Appendf(nil, `{"envelope_type":"sallyport_decision","payload_hash_b64u":%q}`, hashOf(601)))
	w.next += 2
	w.settled()
	for i := 0; i < 602; i += 7 {
		kind := Receipt
		if i >= 600 {
			kind = Decision
		}
		p, err := w.log.Proof(hashOf(i))
		if err != nil {
			t.Fatal(err)
		}
		if p.Kind != kind && i != 600 || p.Index != uint64(i) {
			t.Errorf("record %d: %s at %d", i, p.Kind, p.Index)
		}
		if err := VerifyInclusion(p.Kind, hashOf(i), p, p.Checkpoint, w.verifiers()); err != nil {
			t.Error(err)
		}
		if err := VerifyInclusion(p.Kind, hashOf(i+1), p, p.Checkpoint, w.verifiers()); !errors.Is(err, ErrProof) {
			t.Errorf("another record's hash: %v", err)
		}
		if err := VerifyInclusion(p.Kind, hashOf(i), &Proof{Index: p.Index ^ 1, Inclusion: p.Inclusion}, p.Checkpoint, w.verifiers()); !errors.Is(err, ErrProof) {
			t.Errorf("another place: %v", err)
		}
	}
	if _, err := w.log.Proof(hashOf(9999)); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record that is not there: %v", err)
	}
	w.stop()
	r, err := OpenReader(w.tlogDir(), w.verifiers())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Proof(hashOf(333)); err != nil || p.Index != 333 {
		t.Errorf("from the files alone: %v, %v", p, err)
	}
}

// TestCheckpointForThoseWhoKnowOnlyEd25519: the second signature does not disturb them, and ours is required where it is known.
func TestCheckpointForThoseWhoKnowOnlyEd25519(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	w.add(3)
	w.settled()
	_, signed, err := w.log.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	keys := w.verifiers().Keys()
	classic, err := note.NewVerifier(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(classic))
	if err != nil || len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 1 {
		t.Fatalf("%+v, %v", n, err)
	}
	both, err := ParseVerifiers(keys...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.OpenCheckpoint(signed); err != nil {
		t.Error(err)
	}
	only, err := ParseVerifiers(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(signed), "\n")
	without := strings.Join(lines[:len(lines)-2], "")
	if _, err := only.OpenCheckpoint([]byte(without)); err != nil {
		t.Errorf("one signature, one key: %v", err)
	}
	if _, err := both.OpenCheckpoint([]byte(without)); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("the quantum-safe signature was cut off: %v", err)
	}
	for i := range signed {
		bad := bytes.Clone(signed)
		bad[i] ^= 1
		if i%13 != 0 && i > 200 {
			continue // the second signature is long
		}
		if _, err := both.OpenCheckpoint(bad); err == nil {
			t.Errorf("byte %d altered, and believed", i)
		}
	}
	if _, err := ParseVerifiers(keys[1]); err == nil {
		t.Error("no Ed25519 key, and accepted")
	}
	if _, err := ParseVerifiers(keys[0], keys[0]); err == nil {
		t.Error("one key twice, and accepted")
	}
	if _, err := ParseVerifiers(strings.Replace(keys[0], "log.test", "log.best", 1)); err == nil {
		t.Error("another name, and accepted")
	}
}

func TestRestartsAppendExactlyOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 6 {
		w.follow()
		w.add(1 + 97*i)
		w.settled()
		w.stop()
		w.add(5) // while nobody follows
		if i == 3 {
			// Derived files can be thrown away.
			if err := errors.Join(os.Remove(filepath.Join(w.tlogDir(), positionFile)), os.RemoveAll(filepath.Join(w.tlogDir(), indexDir))); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.follow()
	w.settled()
	w.auditClean()
}

func (w *world) auditClean() {
	w.t.Helper()
	rep, err := Audit(w.tlogDir(), AuditOptions{Verifiers: w.verifiers(), Evidence: w.dir})
	if err != nil || len(rep.Findings) > 0 || rep.Entries != uint64(w.next) || rep.Compared != uint64(w.next) {
		w.t.Errorf("audit: %+v, %v", rep, err)
	}
}

func TestTwoOwnersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	if _, err := Open(t.Context(), w.config()); !errors.Is(err, ErrLocked) {
		t.Errorf("a second owner: %v", err)
	}
}

// TestOtherEvidenceIsNotTakenForThis: nothing is appended behind entries that the evidence does not have.
func TestOtherEvidenceIsNotTakenForThis(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	w.add(10)
	w.settled()
	w.stop()
	if err := os.Remove(filepath.Join(w.tlogDir(), positionFile)); err != nil { // else only the newest entries are compared
		t.Fatal(err)
	}
	other := newWorld(t)
	other.keys = w.keys
	other.next = 5 // other records
	other.add(10)
	cfg := other.config()
	cfg.Dir = w.tlogDir()
	_, err := Open(t.Context(), cfg)
	if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), hashOf(0)) || !strings.Contains(err.Error(), hashOf(5)) {
		t.Errorf("must name both: %v", err)
	}
	empty := newWorld(t)
	cfg.Evidence, cfg.Source = empty.dir, empty.evidence
	if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), hashOf(0)) {
		t.Errorf("evidence that ends before the log does: %v", err)
	}
}

func TestDamagedTilesAreFoundBeforeAnythingIsSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	w.add(300)
	w.settled()
	w.stop()
	path := filepath.Join(w.tlogDir(), layout.TilePath(0, 1, layout.PartialTileSize(0, 1, 300)))
	flip(t, path, 40)
	if _, err := Open(t.Context(), w.config()); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit in the right edge: %v", err)
	}
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 4
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOnlyWhatFollowsFromTheEvidenceIsSigned: another root for a tree, or a size that was not computed here.
func TestOnlyWhatFollowsFromTheEvidenceIsSigned(t *testing.T) {
	t.Parallel()
	g := newGate()
	root := bytes.Repeat([]byte{1}, 32)
	g.permit(7, root)
	text := func(size int, root []byte) []byte {
		return fmt.Appendf(nil, "%s\n%d\n%s\n", testOrigin, size, base64.StdEncoding.EncodeToString(root))
	}
	other := bytes.Repeat([]byte{2}, 32)
	if err := g.allow(text(7, other)); !errors.Is(err, ErrMismatch) || g.refused() == nil {
		t.Errorf("another root: %v", err)
	}
	if err := g.allow(text(6, root)); !errors.Is(err, ErrMismatch) {
		t.Errorf("another size: %v", err)
	}
	if err := g.allow(text(7, root)); err != nil || g.refused() != nil {
		t.Errorf("its own: %v", err)
	}
	if err := g.allow(text(0, newGate().roots[0])); !errors.Is(err, ErrMismatch) {
		t.Errorf("a smaller tree after a larger one: %v", err)
	}
}

// TestClockGoingBack: the last checkpoint is from the future, as after a correction of the clock.
func TestClockGoingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	w.add(4)
	w.settled()
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(w.tlogDir(), layout.CheckpointPath), future, future); err != nil {
		t.Fatal(err)
	}
	w.add(4)
	w.settled()
	w.auditClean()
}

// TestDiskFaultIsToldAndCaughtUp: the log cannot write for a while; the evidence goes on, and the log follows afterwards.
func TestDiskFaultIsToldAndCaughtUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	w.add(20)
	w.settled()
	// Where a directory should be there is a file: every write of an entry bundle fails.
	tiles := filepath.Join(w.tlogDir(), "tile")
	if err := errors.Join(os.Rename(tiles, tiles+".away"), os.WriteFile(tiles, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	w.add(20)
	eventually(t, "the status says that the log does not go on", func() bool { return w.log.Status() != nil })
	if err := errors.Join(os.Remove(tiles), os.Rename(tiles+".away", tiles)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log goes on", func() bool { return w.log.Status() == nil })
	w.settled()
	w.auditClean()
}

// TestTornEvidence: the evidence ends inside a record, which its next owner cuts off. The log never read so far.
func TestTornEvidence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.follow()
	w.add(8)
	w.settled()
	w.stop()
	if err := w.evidence.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(w.dir, "*.seg"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	data, err := os.ReadFile(names[len(names)-1])
	if err == nil {
		err = os.WriteFile(names[len(names)-1], append(data, data[16:40]...), 0o600) // the beginning of a record
	}
	if err != nil {
		t.Fatal(err)
	}
	w.openEvidence()
	w.follow()
	w.add(8)
	w.settled()
	w.auditClean()
}

func FuzzParseEntry(f *testing.F) {
	f.Add(Entry{Receipt, hashOf(1)}.Data())
	f.Add([]byte("sallyport/v1 receipt \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEntry(data)
		if err == nil && !bytes.Equal(e.Data(), data) {
			t.Errorf("read %q, wrote %q", data, e.Data())
		}
	})
}

func FuzzOpenCheckpoint(f *testing.F) {
	k, err := newKeys(bytes.Repeat([]byte{7}, rootSize))
	if err != nil {
		f.Fatal(err)
	}
	v := k.Verifiers(testOrigin)
	a, b := k.signers(testOrigin, func([]byte) error { return nil })
	signed, err := note.Sign(&note.Note{Text: testOrigin + "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"}, a, b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := v.OpenCheckpoint(data); err == nil && (c.Size != 0 || c.Origin != testOrigin) {
			t.Errorf("believed %q", data)
		}
	})
}

// BenchmarkFollow is what the log takes, from records that are in the evidence to their checkpoint.
func BenchmarkFollow(b *testing.B) {
	w := newWorld(b)
	for range b.N {
		w.evidence.Append(evlog.KindReceipt, receiptOf(w.next), evlog.Written, func(error) {})
		w.next++
	}
	w.append(evlog.KindControl, []byte(`{}`))
	b.ResetTimer()
	w.follow()
	w.settled()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkLeafToCheckpoint is the time from a record's append to a checkpoint with its entry, at given loads.
func BenchmarkLeafToCheckpoint(b *testing.B) {
	for _, rate := range []int{1, 1000, 5000, 20000} {
		b.Run(fmt.Sprintf("rate=%d", rate), func(b *testing.B) {
			w := newWorld(b)
			cfg := w.config()
			cfg.Every = DefaultEvery
			l, err := Open(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _ = l.Run(ctx) })
			var mu sync.Mutex
			added := 0
			add := func(n int) (last int) {
				mu.Lock()
				defer mu.Unlock()
				for range n {
					w.evidence.Append(evlog.KindReceipt, receiptOf(added), evlog.Written, func(error) {})
					added++
				}
				return added
			}
			wg.Go(func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for ctx.Err() == nil && rate >= 100 {
					<-tick.C
					add(rate / 100)
				}
			})
			var took []time.Duration
			for range b.N {
				want, begun := add(1), time.Now()
				eventually(b, "a checkpoint", func() bool {
					c, _, err := l.Checkpoint()
					return err == nil && c.Size >= uint64(want) //nolint:gosec // small
				})
				took = append(took, time.Since(begun))
			}
			cancel()
			wg.Wait()
			if err := l.Close(); err != nil {
				b.Fatal(err)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-median")
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-max")
		})
	}
}
