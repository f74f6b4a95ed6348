package hashindex

import (
	"crypto/sha256"
	"encoding/binary"
	"os"
	"slices"
	"testing"
)

func hashOf(i uint64) []byte {
	h := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
	return h[:]
}

func TestFindsEveryPlaceAlsoAfterOpening(t *testing.T) {
	t.Parallel()
	const n = 2*RunLength + 1000
	dir := t.TempDir()
	x, err := Open(dir, n)
	if err != nil {
		t.Fatal(err)
	}
	add := func(x *Index) {
		for i := x.Indexed(); i < n; i++ {
			if err := x.Add(hashOf(i % (n - 1))); err != nil { // the last one is the first again
				t.Fatal(err)
			}
		}
	}
	check := func(x *Index) {
		t.Helper()
		for i := uint64(1); i < n-1; i += 331 {
			if got, err := x.Find(hashOf(i)); err != nil || !slices.Equal(got, []uint64{i}) {
				t.Fatalf("hash %d: %v, %v", i, got, err)
			}
		}
		if got, err := x.Find(hashOf(0)); err != nil || !slices.Equal(got, []uint64{n - 1, 0}) {
			t.Fatalf("a hash at two places: %v, %v", got, err)
		}
		if got, err := x.Find(hashOf(n + 7)); err != nil || len(got) != 0 {
			t.Fatalf("a hash that is not there: %v, %v", got, err)
		}
	}
	add(x)
	check(x)
	again, err := Open(dir, n)
	if err != nil || again.Indexed() != 2*RunLength {
		t.Fatalf("opened with %d: %v", again.Indexed(), err)
	}
	add(again)
	check(again)
	if short, err := Open(dir, 2*RunLength-1); err != nil || short.Indexed() != RunLength {
		t.Fatalf("of a shorter list, opened with %d: %v", short.Indexed(), err)
	}

	// A file that a crash cut short does not count.
	if err := os.Truncate(x.run(1), 100); err != nil {
		t.Fatal(err)
	}
	cut, err := Open(dir, n)
	if err != nil || cut.Indexed() != RunLength {
		t.Fatalf("opened with %d: %v", cut.Indexed(), err)
	}
	add(cut)
	check(cut)
}
