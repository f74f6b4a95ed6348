package evlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestTailFollowsAnOwner: over segments, from every record on, in pieces, while the owner appends.
func TestTailFollowsAnOwner(t *testing.T) {
	t.Parallel()
	const records = 60
	dir := t.TempDir()
	l := openT(t, dir, Options{SegmentBytes: 300})
	for from := range uint64(records) {
		if err := l.AppendWait(KindReceipt, fmt.Appendf(nil, "record %d", from), Written); err != nil {
			t.Fatal(err)
		}
		tail := NewTail(dir, from/2)
		for until := from/2 + 1; until <= l.Next(); until++ {
			var got []string
			if err := tail.Read(until, func(e Entry) error { got = append(got, string(e.Payload)); return nil }); err != nil {
				t.Fatalf("from %d until %d: %v", from/2, until, err)
			}
			if want := fmt.Sprintf("record %d", until-1); len(got) != 1 || got[0] != want {
				t.Fatalf("from %d until %d: got %q", from/2, until, got)
			}
		}
		if err := errors.Join(tail.Sync(), tail.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestTailPassesLargeRecords: each is larger than what fits beside another in one read.
func TestTailPassesLargeRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openT(t, dir, Options{})
	for i := range 11 {
		if err := l.AppendWait(KindReceipt, append(make([]byte, MaxRecord-1), byte(i+1)), Written); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := NewTail(dir, 0).Read(l.Next(), func(e Entry) error {
		if int(e.Payload[MaxRecord-1]) != n+1 {
			t.Errorf("record %d out of place", n)
		}
		n++
		return nil
	})
	if err != nil || n != 11 {
		t.Errorf("read %d: %v", n, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTailStopsWhereTheVisitorSays(t *testing.T) {
	t.Parallel()
	dir, stop := t.TempDir(), errors.New("enough")
	fill(t, dir, Options{}, 3, Written)
	tail := NewTail(dir, 0)
	if err := tail.Read(3, func(e Entry) error {
		if e.Seq == 1 {
			return stop
		}
		return nil
	}); !errors.Is(err, stop) || tail.Next() != 1 {
		t.Errorf("at %d: %v", tail.Next(), err)
	}
	n := 0
	if err := tail.Read(3, func(Entry) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("went on with %d records: %v", n, err)
	}
}

func TestTailNamesWhatIsDamagedOrMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, Options{}, 3, Written)
	read := func(from, until uint64) error {
		return NewTail(dir, from).Read(until, func(Entry) error { return nil })
	}
	if err := read(0, 4); !errors.Is(err, ErrDamaged) {
		t.Errorf("a record that was written and is gone: %v", err)
	}
	name := damage(t, dir, func(data []byte) { data[len(data)-1] ^= 1 })
	if err := read(0, 3); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	if err := read(0, 3); !errors.Is(err, ErrDamaged) {
		t.Errorf("no segment: %v", err)
	}
}
