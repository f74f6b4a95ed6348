package evlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// recorded fills a directory with records over several segments and gives what Read sees of it.
func recorded(t *testing.T, records, size int) (dir string, want []string) {
	t.Helper()
	dir = t.TempDir()
	l, _, err := Open(dir, Options{SegmentBytes: 3 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		payload := fmt.Sprintf(`{"n":%d,"text":%q}`, i, strings.Repeat(fmt.Sprintf("word %d ", i), size/9))
		if err := l.AppendWait(KindIntent, []byte(payload), Written); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	for _, name := range plainSegments(t, dir) {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	want, err = all(dir)
	if err != nil || len(want) != records || len(plainSegments(t, dir)) < 4 {
		t.Fatalf("%d records in %v: %v", len(want), plainSegments(t, dir), err)
	}
	return dir, want
}

func plainSegments(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	return names
}

func all(dir string) (out []string, err error) {
	err = Read(dir, func(e Entry) error {
		out = append(out, fmt.Sprintf("%d %v %s %d %s", e.Seq, e.Kind, e.Segment, e.Offset, e.Payload))
		return nil
	})
	return out, err
}

func pack(t *testing.T, dir string) int {
	t.Helper()
	n, err := Pack(dir, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPacked: every way of reading gives of packed segments what it gave of the plain ones, and the log goes on behind them.
func TestPacked(t *testing.T) {
	dir, want := recorded(t, 9000, 1700)
	plain := plainSegments(t, dir)
	before := map[string][]byte{}
	size, packedSize := 0, int64(0)
	for _, name := range plain {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		before[name] = data
		size += len(data)
	}
	if n := pack(t, dir); n != len(plain)-1 || !slices.Equal(plainSegments(t, dir), plain[len(plain)-1:]) {
		t.Fatalf("%d of %d segments were packed; %v are left", n, len(plain), plainSegments(t, dir))
	}
	got, err := all(dir)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("read: %d of %d records, %v", len(got), len(want), err)
	}
	if err := Read(dir, func(e Entry) error {
		one, err := ReadAt(dir, e.Segment, e.Offset)
		if err == nil && (one.Kind != e.Kind || !bytes.Equal(one.Payload, e.Payload)) {
			err = errors.New("another record")
		}
		return err
	}); err != nil {
		t.Errorf("one by one: %v", err)
	}
	tail, seen := NewTail(dir, 100), 0
	if err := tail.Read(uint64(len(want)), func(e Entry) error {
		if want[e.Seq] != fmt.Sprintf("%d %v %s %d %s", e.Seq, e.Kind, e.Segment, e.Offset, e.Payload) {
			return fmt.Errorf("record %d is another", e.Seq)
		}
		seen++
		return nil
	}); err != nil || seen != len(want)-100 {
		t.Errorf("followed: %d records, %v", seen, err)
	}
	if err := errors.Join(tail.Sync(), tail.Close()); err != nil {
		t.Error(err)
	}
	since := 0
	if err := ReadSince(dir, time.Now().Add(-time.Hour), func(Entry) error { since++; return nil }); err != nil || since == 0 || since >= len(want) {
		t.Errorf("since an hour ago: %d records, %v", since, err)
	}
	// Any reader of zstd gives the segment back.
	for _, name := range plain[:len(plain)-1] {
		raw, err := os.ReadFile(filepath.Join(dir, name+packedSuffix))
		if err != nil {
			t.Fatal(err)
		}
		packedSize += int64(len(raw))
		r, err := zstd.NewReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := out.ReadFrom(r); err != nil || !bytes.Equal(out.Bytes(), before[name]) {
			t.Errorf("%s: %d of %d bytes, %v", name, out.Len(), len(before[name]), err)
		}
		r.Close()
	}
	t.Logf("%d bytes of segments became %d, the last one apart", size, packedSize)
	l, rec, err := Open(dir, Options{})
	if err != nil || rec.Next != uint64(len(want)) {
		t.Fatalf("%+v %v", rec, err)
	}
	if err := errors.Join(l.AppendWait(KindIntent, []byte(`{"n":"more"}`), Synced), l.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := all(dir); err != nil || len(got) != len(want)+1 {
		t.Errorf("%d records, %v", len(got), err)
	}
	if n := pack(t, dir); n != 1 { // what was the last one, and not what was written just now
		t.Errorf("%d more were packed", n)
	}
}

// TestPackedDamage: a bit that flips in a packed segment, or an end that is cut off, is found and named; what stands before the
// damage and in other segments is read.
func TestPackedDamage(t *testing.T) {
	dir, want := recorded(t, 9000, 1700)
	names := plainSegments(t, dir)
	pack(t, dir)
	second := filepath.Join(dir, names[1]+packedSuffix)
	sound, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	inSecond := 0
	for _, w := range want {
		if strings.Contains(w, " "+names[1]+" ") {
			inSecond++
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		bad := bytes.Clone(sound)
		at := r.IntN(len(bad))
		bad[at] ^= 1 << r.IntN(8)
		if at%5 == 0 {
			bad = sound[:at]
		}
		if err := os.WriteFile(second, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := all(dir)
		switch {
		case err == nil && slices.Equal(got, want): // a bit that means nothing, as one of a frame's header that is not used
		case err == nil:
			t.Fatalf("byte %d: %d of %d records, and no error", at, len(got), len(want))
		case !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), names[1]):
			t.Fatalf("byte %d: %v", at, err)
		case len(got) < len(want)-inSecond:
			t.Fatalf("byte %d: only %d of %d records are read", at, len(got), len(want))
		}
		for i, g := range got {
			if j := slices.Index(want[i:], g); j < 0 {
				t.Fatalf("byte %d: a record that never was: %.100s", at, g)
			}
		}
	}
}

// TestPackIsCareful: what is damaged or cannot be packed stays as it is, and what an interrupted packing left does not count.
func TestPackIsCareful(t *testing.T) {
	dir, want := recorded(t, 9000, 1700)
	names := plainSegments(t, dir)
	path := filepath.Join(dir, names[1])
	for name, content := range map[string]string{names[0] + packedSuffix: "half a file", names[0] + packedSuffix + ".tmp": "less"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := all(dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("with the remains of a packing: %d records, %v", len(got), err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	write := func(b []byte) {
		if err := errors.Join(os.WriteFile(path, b, 0o600), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	bad := bytes.Clone(data)
	bad[len(bad)/2] ^= 1
	write(bad)
	if n, err := Pack(dir, time.Now().Add(-time.Hour)); n != 1 || !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), names[1]) {
		t.Errorf("a damaged segment: %d, %v", n, err)
	}
	write(data)
	if err := os.Mkdir(path+packedSuffix+".tmp", 0o700); err != nil { // nothing can be written there
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path+packedSuffix+".tmp", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Pack(dir, time.Now().Add(-time.Hour)); n != 0 || err == nil {
		t.Errorf("where nothing can be written: %d, %v", n, err)
	}
	if err := os.RemoveAll(path + packedSuffix + ".tmp"); err != nil {
		t.Fatal(err)
	}
	pack(t, dir)
	if got, err := all(dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("at last: %d of %d records, %v", len(got), len(want), err)
	}
}

const packingDir = "SALLYPORT_TEST_PACK_DIR"

// TestPackKillNine: a process that packs is killed again and again. Every record is there once, after each.
func TestPackKillNine(t *testing.T) {
	if dir := os.Getenv(packingDir); dir != "" {
		_, err := Pack(dir, time.Now().Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	dir, want := recorded(t, 9000, 1700)
	begun := time.Now()
	cmd := func() *exec.Cmd {
		c := exec.Command(os.Args[0], "-test.run=^TestPackKillNine$")
		c.Env = append(os.Environ(), packingDir+"="+dir)
		return c
	}
	killed := 0
	for i := 0; len(plainSegments(t, dir)) > 1 && i < 200; i++ {
		c := cmd()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+i*15) * time.Millisecond) // each lives a little longer
		_ = c.Process.Kill()
		if c.Wait() != nil {
			killed++
		}
		if got, err := all(dir); err != nil || !slices.Equal(got, want) {
			t.Fatalf("after %d kills: %d of %d records, %v", killed, len(got), len(want), err)
		}
	}
	if killed < 3 || len(plainSegments(t, dir)) > 1 {
		t.Errorf("%d kills, and %v are left, after %v", killed, plainSegments(t, dir), time.Since(begun))
	}
}
