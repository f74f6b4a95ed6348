package tlog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"sallyport/signer/evlog"
)

func leavesOf(dir string) client.FileFetcher { return client.FileFetcher{Root: dir} }

// audited is a log of n records, at rest.
func audited(t *testing.T, n int) *world {
	t.Helper()
	w := newWorld(t)
	for range n {
		w.evidence.Append(evlog.KindReceipt, receiptOf(w.next), evlog.Written, func(error) {})
		w.next++
	}
	w.append(evlog.KindControl, []byte(`{}`)) // waits for those before it
	w.follow()
	w.settled()
	w.stop()
	return w
}

func (w *world) audit(o AuditOptions) *Report {
	w.t.Helper()
	o.Verifiers = w.verifiers()
	rep, err := Audit(w.tlogDir(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return rep
}

func mustFind(t *testing.T, what string, rep *Report, want ...string) {
	t.Helper()
	all := strings.Join(rep.Findings, "\n")
	for _, s := range want {
		if !strings.Contains(all, s) {
			t.Errorf("%s: want %q among:\n%s", what, s, all)
		}
	}
}

func TestAuditNamesTheFileThatWasAltered(t *testing.T) {
	t.Parallel()
	const n = 66_000 // so that there are tiles of three levels
	w := audited(t, n)
	if rep := w.audit(AuditOptions{Evidence: w.dir}); len(rep.Findings) > 0 || rep.Compared != n || rep.Kinds[Receipt] != n {
		t.Fatalf("%+v", rep)
	}
	entry := len(Entry{Receipt, hashOf(0)}.Data()) + 2
	for _, c := range []struct {
		name, path string
		at         int
		want       []string
	}{
		{"a bit in an entry", layout.EntriesPath(5, 0), 3*entry + 30, []string{"entry 1283 ", "do not have the root"}},
		{"a bit in an entry's length", layout.EntriesPath(7, 0), 5 * entry, []string{"tile/entries/007"}},
		{"a bit in a tile of hashes", layout.TilePath(0, 9, 0), 32 * 17, []string{"entry 2321 ", "tile/0/009"}},
		{"a bit in a tile above", layout.TilePath(1, 0, 0), 32 * 40, []string{"tile/1/000: node 40 "}},
		{"a bit in the top tile", layout.TilePath(2, 0, 1), 5, []string{"tile/2/000.p/1: node 0 "}},
	} {
		path := filepath.Join(w.tlogDir(), c.path)
		flip(t, path, c.at)
		mustFind(t, c.name, w.audit(AuditOptions{}), c.want...)
		flip(t, path, c.at)
	}
	path := filepath.Join(w.tlogDir(), layout.TilePath(0, 30, 0))
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	mustFind(t, "a tile that is missing", w.audit(AuditOptions{}), "tile/0/030 is missing")
}

// TestAuditTellsHowLogAndEvidenceDiffer: one log, held against evidence that was changed in each way.
func TestAuditTellsHowLogAndEvidenceDiffer(t *testing.T) {
	t.Parallel()
	const n = 300
	w := audited(t, n)
	for _, c := range []struct {
		name   string
		order  func(i int) []int // what stands at place i
		want   []string
		others int
	}{
		{"missing in the log", func(i int) []int {
			if i == 50 {
				return []int{1000, 50}
			}
			return []int{i}
		}, []string{"missing: record 50 (receipt " + hashOf(1000)}, 1},
		{"extra in the log", func(i int) []int {
			if i == 50 {
				return nil
			}
			return []int{i}
		}, []string{"extra: entry 50 (receipt " + hashOf(50)}, 1},
		{"altered", func(i int) []int {
			if i == 50 {
				return []int{1000}
			}
			return []int{i}
		}, []string{"altered: entry 50 is receipt " + hashOf(50), hashOf(1000)}, 1},
		{"reordered", func(i int) []int {
			switch i {
			case 50:
				return []int{60}
			case 60:
				return []int{50}
			}
			return []int{i}
		}, []string{"reordered: the record 50 (receipt " + hashOf(60)}, 1},
		{"the end removed from the evidence", func(i int) []int {
			if i >= 290 {
				return nil
			}
			return []int{i}
		}, []string{"extra: entry 290 ", "extra: entry 299 "}, 10},
		{"newer records", func(i int) []int {
			if i == n-1 {
				return []int{i, 1000, 1001}
			}
			return []int{i}
		}, nil, 0},
	} {
		dir := t.TempDir()
		l, _, err := evlog.Open(dir, evlog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			for _, r := range c.order(i) {
				if err := l.AppendWait(evlog.KindReceipt, receiptOf(r), evlog.Written); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		rep := w.audit(AuditOptions{Evidence: dir})
		mustFind(t, c.name, rep, c.want...)
		if len(rep.Findings) != c.others {
			t.Errorf("%s: %d findings, want %d: %q", c.name, len(rep.Findings), c.others, rep.Findings)
		}
	}
}

func TestAuditHoldsTheLogToAnOlderCheckpoint(t *testing.T) {
	t.Parallel()
	w := audited(t, 40)
	_, old, err := (&Reader{files: leavesOf(w.tlogDir()), verifiers: w.verifiers()}).Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	w.follow()
	w.add(60)
	w.settled()
	w.stop()
	if rep := w.audit(AuditOptions{Since: old}); len(rep.Findings) > 0 || rep.Since != 40 {
		t.Errorf("%+v", rep)
	}
	// The same key, another history of the same length.
	other := newWorld(t)
	other.keys, other.next = w.keys, 1
	other.follow()
	other.add(100)
	other.next-- // 100 entries
	other.settled()
	other.stop()
	mustFind(t, "another history", other.audit(AuditOptions{Since: old}), "not a continuation of the older checkpoint")
	short := audited(t, 10)
	mustFind(t, "a shorter log", short.audit(AuditOptions{Since: old}), "entries were removed from its end")
	if _, err := Audit(w.tlogDir(), AuditOptions{Verifiers: w.verifiers(), Since: append([]byte("x"), old...)}); !errors.Is(err, ErrCheckpoint) {
		t.Errorf("an older checkpoint that nobody signed: %v", err)
	}
}
