package gate

import "testing"

func TestLines(t *testing.T) {
	l := &lines{}
	written := 0
	for range maxLines + 7 {
		if ok, left := l.write(start); ok {
			written++
		} else if left != 0 {
			t.Error("left out, and counted as written")
		}
	}
	if written != maxLines {
		t.Errorf("%d lines in one second", written)
	}
	next := start.Add(1_000_000_000)
	if ok, left := l.write(next); !ok || left != 7 {
		t.Errorf("the next second begins with %t and %d left out, want 7", ok, left)
	}
	if ok, left := l.write(next); !ok || left != 0 {
		t.Errorf("then %t, %d", ok, left)
	}
}
