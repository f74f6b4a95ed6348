package issuer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func lines(dst *[]string) func([]byte) error {
	return func(l []byte) error {
		*dst = append(*dst, string(l))
		return nil
	}
}

func mustOpen(t *testing.T, path string) (j *journal, torn int, got []string) {
	t.Helper()
	j, torn, err := openJournal(path, lines(&got))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.close() })
	return j, torn, got
}

func TestJournalKeepsWhatItAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "j.jsonl")
	j, torn, got := mustOpen(t, path)
	if torn != 0 || len(got) != 0 {
		t.Fatalf("a new journal has %d torn bytes and the lines %q", torn, got)
	}
	want := []string{"a", "bb", ""}
	for _, l := range want {
		if err := j.append([]byte(l)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if _, _, err := openJournal(path, lines(&got)); !errors.Is(err, ErrJournal) {
		t.Errorf("a second writer: %v, want ErrJournal", err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.close()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if err := j.append([]byte("x")); !errors.Is(err, ErrJournal) {
		t.Errorf("append after close: %v", err)
	}
	if _, _, got = mustOpen(t, path); !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
}

func TestJournalRefusesWhatIsNoLine(t *testing.T) {
	j, _, _ := mustOpen(t, filepath.Join(t.TempDir(), "j.jsonl"))
	for _, l := range []string{"a\nb", strings.Repeat("a", maxLine+1)} {
		if err := j.append([]byte(l)); !errors.Is(err, ErrJournal) {
			t.Errorf("%d bytes: %v, want ErrJournal", len(l), err)
		}
	}
}

func TestJournalRefusesOthersFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(path, lines(new([]string))); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("%v, want it to name the mode", err)
	}
}

func TestJournalNamesTheBrokenLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	if err := os.WriteFile(path, []byte("a\nb\nc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := openJournal(path, func(l []byte) error {
		if string(l) == "b" {
			return errors.New("b is no record")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "line 2: b is no record") {
		t.Errorf("%v, want it to name line 2", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "a\nb\nc\n" {
		t.Errorf("the file was changed to %q", data)
	}
}

// A write that fails leaves no part of itself before the next line.
func TestJournalRepairsAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	j, _, _ := mustOpen(t, path)
	if err := j.append([]byte("first")); err != nil {
		t.Fatal(err)
	}
	good := j.file
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	j.file = readOnly
	if err := j.append([]byte("lost")); !errors.Is(err, ErrJournal) {
		t.Fatalf("%v, want ErrJournal", err)
	}
	if err := j.append([]byte("lost too")); !errors.Is(err, ErrJournal) {
		t.Fatalf("while it cannot be repaired: %v, want ErrJournal", err)
	}
	j.file = good
	if _, err := good.WriteAt([]byte("half a li"), j.size); err != nil { // as a full disk would leave it
		t.Fatal(err)
	}
	if err := errors.Join(j.append([]byte("second")), readOnly.Close(), j.close()); err != nil {
		t.Fatal(err)
	}
	if _, torn, got := mustOpen(t, path); torn != 0 || !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("%d torn bytes and the lines %q", torn, got)
	}
}

// Wherever the file ends, what was acknowledged before that point is read back, and the journal can be written again.
func TestJournalTornAnywhere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "journal")
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		path := filepath.Join(dir, "j.jsonl")
		var text strings.Builder
		n := rapid.IntRange(0, 6).Draw(rt, "lines")
		for i := range n {
			fmt.Fprintf(&text, "line-%d-%s\n", i, strings.Repeat("x", rapid.IntRange(0, 9).Draw(rt, "length")))
		}
		cut := rapid.IntRange(0, text.Len()).Draw(rt, "cut")
		left := text.String()[:cut]
		if err := os.WriteFile(path, []byte(left), 0o600); err != nil {
			rt.Fatal(err)
		}
		var got []string
		j, torn, err := openJournal(path, lines(&got))
		if err != nil {
			rt.Fatal(err)
		}
		whole := strings.LastIndexByte(left, '\n') + 1
		if torn != cut-whole || strings.Join(append(got, ""), "\n") != left[:whole] {
			rt.Fatalf("%d torn bytes and the lines %q of %q", torn, got, left)
		}
		if err := errors.Join(j.append([]byte("next")), j.close()); err != nil {
			rt.Fatal(err)
		}
		if data, _ := os.ReadFile(path); string(data) != left[:whole]+"next\n" {
			rt.Fatalf("the file is %q", data)
		}
	})
}
