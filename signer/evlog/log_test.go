package evlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func openT(t *testing.T, dir string, o Options) *Log {
	t.Helper()
	l, _, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func readAll(t *testing.T, dir string) (out []string, err error) {
	t.Helper()
	err = Read(dir, func(e Entry) error {
		if e.Seq != uint64(len(out)) {
			t.Errorf("sequence %d at place %d", e.Seq, len(out))
		}
		out = append(out, e.Kind.String()+" "+string(e.Payload))
		return nil
	})
	return out, err
}

// fill appends n small records and closes the log.
func fill(t *testing.T, dir string, o Options, n int, level Durability) {
	t.Helper()
	l := openT(t, dir, o)
	for i := range n {
		if err := l.AppendWait(KindReceipt, fmt.Appendf(nil, `{"record":%d}`, i), level); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// damage changes the bytes of the first segment and returns its name.
func damage(t *testing.T, dir string, change func(data []byte)) string {
	t.Helper()
	names, err := segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, names[0])
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return names[0]
}

func TestAppendAndReadBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openT(t, dir, Options{SegmentBytes: 300})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := l.AppendWait(KindIntent, fmt.Appendf(nil, "record %d", i), Durability(i%2)); err != nil {
				t.Error(err)
			}
		})
		if i%10 == 9 {
			wg.Wait()
		}
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t, dir)
	if err != nil || len(got) != 100 {
		t.Errorf("read %d records, %v", len(got), err)
	}
	names, _ := segments(dir)
	if len(names) < 5 {
		t.Errorf("%d segments: the log did not roll", len(names))
	}
	if err := l.AppendWait(KindIntent, nil, Written); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openT(t, dir, Options{})
	if _, _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openT(t, dir, Options{}).Close(); err != nil {
		t.Error(err)
	}
}

func TestTornTailAtEveryByte(t *testing.T) {
	t.Parallel()
	for cut := 1; cut < recordHead+len("second"); cut++ {
		dir := t.TempDir()
		l := openT(t, dir, Options{})
		for _, s := range []string{"first", "second"} {
			if err := l.AppendWait(KindReceipt, []byte(s), Written); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		names, _ := segments(dir)
		path := filepath.Join(dir, names[0])
		info, _ := os.Stat(path)
		if err := os.Truncate(path, info.Size()-int64(cut)); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(t, dir); !errors.Is(err, ErrTorn) || len(got) != 1 {
			t.Errorf("cut %d: reader got %v, %v", cut, got, err)
		}
		l, rec, err := Open(dir, Options{})
		if err != nil || rec.Next != 1 || rec.TornFile == "" {
			t.Fatalf("cut %d: %+v, %v", cut, rec, err)
		}
		if err := errors.Join(l.AppendWait(KindReceipt, []byte("third"), Synced), l.Close()); err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(t, dir); err != nil || len(got) != 2 || got[1] != "receipt third" {
			t.Errorf("cut %d: after recovery %v, %v", cut, got, err)
		}
	}
}

func TestFlippedBitIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openT(t, dir, Options{})
	for i := range 3 {
		if err := l.AppendWait(KindIntent, fmt.Appendf(nil, "record %d", i), Written); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	at := headerSize + recordHead + 8 + recordHead // into the second record's payload
	name := damage(t, dir, func(data []byte) { data[at] ^= 1 })
	want := fmt.Sprintf("segment %s, offset %d: evidence log damaged: checksum", name, headerSize+recordHead+8)
	if got, err := readAll(t, dir); err == nil || err.Error() != want || len(got) != 1 {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	if _, _, err := Open(dir, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("opened for appending all the same: %v", err)
	}
}

// TestFlippedLengthIsNotATear: a length that reaches past the end must not take the sound records behind it along.
func TestFlippedLengthIsNotATear(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, Options{}, 10, Synced)
	damage(t, dir, func(data []byte) { data[headerSize+1] ^= 0x08 }) // half a MiB longer
	if _, err := readAll(t, dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("reader: %v", err)
	}
	if _, rec, err := Open(dir, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("opened, with %+v: %v", rec, err)
	}
}

// TestUnwrittenTail: the last record's bytes never arrived, which shows as zeros after a power cut.
func TestUnwrittenTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, Options{}, 2, Written)
	damage(t, dir, func(data []byte) { clear(data[len(data)-6:]) })
	l, rec, err := Open(dir, Options{})
	if err != nil || rec.Next != 1 {
		t.Fatalf("%+v, %v", rec, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingSegmentIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, Options{SegmentBytes: 1}, 5, Synced)
	names, _ := segments(dir)
	if err := os.Remove(filepath.Join(dir, names[len(names)/2])); err != nil {
		t.Fatal(err)
	}
	if err := Read(dir, func(Entry) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// faulty fails its writes after some bytes while broken is set.
type faulty struct {
	file
	broken *bool
}

var errDisk = errors.New("no space left on the test's disk")

func (f faulty) Write(p []byte) (int, error) {
	if !*f.broken {
		return f.file.Write(p)
	}
	n, err := f.file.Write(p[:len(p)/2])
	return n, errors.Join(err, errDisk)
}

func TestFullDiskRecovers(t *testing.T) {
	t.Parallel()
	dir, broken := t.TempDir(), false
	l := openT(t, dir, Options{open: func(name string, flag int, perm os.FileMode) (file, error) {
		f, err := os.OpenFile(name, flag, perm)
		return faulty{f, &broken}, err
	}})
	for i := range 6 {
		broken = i%2 == 1 // the writer is idle between appends, so this is no race
		err := l.AppendWait(KindIntent, fmt.Appendf(nil, "record %d", i), Written)
		if broken != errors.Is(err, errDisk) {
			t.Errorf("append %d: %v", i, err)
		}
	}
	broken = false
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(t, dir); err != nil || len(got) != 3 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	l := openT(t, t.TempDir(), Options{})
	if err := l.AppendWait(KindIntent, make([]byte, MaxRecord+1), Written); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func record(k Kind, p []byte) []byte { return appendRecord(nil, k, p, checksum(k, p)) }

func FuzzParseRecord(f *testing.F) {
	f.Add(record(KindIntent, []byte(`{"id":"x"}`)))
	f.Add([]byte{})
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, p, n, err := parseRecord(b)
		if err != nil {
			return
		}
		if again := record(k, p); string(again) != string(b[:n]) {
			t.Errorf("read %q, wrote %q", b[:n], again)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for name, level := range map[string]Durability{"written": Written, "synced": Synced} {
		b.Run(name, func(b *testing.B) {
			l, _, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			payload := make([]byte, 1200)
			b.SetParallelism(64)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := l.AppendWait(KindReceipt, payload, level); err != nil {
						b.Error(err)
					}
				}
			})
			if err := l.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}
