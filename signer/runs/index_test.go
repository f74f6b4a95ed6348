package runs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"sallyport/signer/chain"
	"sallyport/signer/evlog"
	"sallyport/signer/record"
)

// world is an evidence log and the index of it.
type world struct {
	t    *testing.T
	dir  string
	log  *evlog.Log
	x    *Index
	said strings.Builder
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.openLog()
	w.openIndex()
	return w
}

func (w *world) openLog() {
	w.t.Helper()
	l, _, err := evlog.Open(w.dir, evlog.Options{SegmentBytes: 64 << 10})
	if err != nil {
		w.t.Fatal(err)
	}
	w.log = l
	w.t.Cleanup(func() { _ = l.Close() })
}

func (w *world) file() string { return filepath.Join(w.dir, "index", "runs.db") }

func (w *world) openIndex() {
	w.t.Helper()
	x, err := Open(w.file(), w.dir, w.log, slog.New(slog.NewTextHandler(&w.said, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.x = x
	w.t.Cleanup(func() { _ = x.Close() })
	w.catchUp()
}

func (w *world) catchUp() {
	w.t.Helper()
	if err := w.x.CatchUp(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// again closes the index, does something to its file, and opens it.
func (w *world) again(change func()) {
	w.t.Helper()
	if err := w.x.Close(); err != nil {
		w.t.Fatal(err)
	}
	change()
	w.openIndex()
}

func (w *world) append(k evlog.Kind, payload string) {
	w.t.Helper()
	if err := w.log.AppendWait(k, []byte(payload), evlog.Written); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) intent(job, run string, n int, at int64) string {
	id := fmt.Sprintf("rcpt_%s_%s_%d", job, run, n)
	l := record.Logged{
		Intent: record.Intent{ID: id, TimeMS: at, RunID: run, MissionID: job, TokenHash: "t", Subject: "did:key:z", PolicyHash: "contract", Provider: "openai", Model: "m", Action: "model:invoke"},
		Chain:  &chain.Link{Part: 1, Index: n, Span: "s", Event: chain.Event{Hash: fmt.Sprintf("h%d", n)}},
	}
	w.append(evlog.KindIntent, string(l.AppendJSON(nil, nil)))
	return id
}

func (w *world) receipt(job, run, id, outcome string) {
	w.append(evlog.KindReceipt, fmt.Sprintf(`{"envelope_type":"gateway_receipt","payload":{"binding":{"nonce":"n-%s","run_id":%q},"metadata":{"sallyport":{"mission_id":%q,"outcome":%q,"token_hash":"t"}},"receipt_id":%q,"tokens_input":2,"tokens_output":3}}`, id, run, job, outcome, id))
}

func (w *world) summary(job, run string) Summary {
	w.t.Helper()
	w.catchUp()
	found, err := w.x.Find(run, job)
	if err != nil || len(found) != 1 {
		w.t.Fatalf("%s of %s: %v %v", run, job, found, err)
	}
	return found[0]
}

func (w *world) calls(job, run string, n int) {
	for i := range n {
		w.receipt(job, run, w.intent(job, run, i, 1767225600000+int64(i)), "completed")
	}
}

func TestFollows(t *testing.T) {
	w := newWorld(t)
	w.calls("a", "r", 300) // over several segments
	w.calls("b", "r", 5)
	open := w.intent("a", "r", 300, 1767225600300)
	s := w.summary("a", "r")
	if s.Calls != 301 || s.Completed != 300 || s.Open != 1 || s.TokensInput != 600 || s.TokensOutput != 900 || s.Models["openai/m"] != 301 {
		t.Errorf("%+v", s)
	}
	if both, err := w.x.Find("r", ""); err != nil || len(both) != 2 {
		t.Errorf("runs of one id: %v %v", both, err)
	}
	w.receipt("a", "r", open, "cut")
	w.receipt("a", "r", open, "cut") // a second one settles no other call
	second := w.intent("a", "r", 301, 1767225600301)
	if s := w.summary("a", "r"); s.Open != 1 || s.Calls != 302 {
		t.Errorf("%+v", s)
	}
	w.receipt("a", "r", second, "completed")
	w.catchUp()
	r, err := w.x.Load(w.summary("a", "r").ID)
	if err != nil || len(r.CallList) != 302 || r.CallList[7].Intent.Chain.Index != 7 || r.CallList[301].Receipt == nil {
		t.Errorf("%d calls, %v", len(r.CallList), err)
	}
	for _, text := range []string{"a", "did:key:z", "contract", s.ID} {
		if list, err := w.x.List(Query{Text: text}); err != nil || len(list) == 0 {
			t.Errorf("nothing is found by %q: %v", text, err)
		}
	}
}

// TestMadeAgain: an index that is gone, spoilt, of another version or of another log is made again, and says the same.
func TestMadeAgain(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world)
		reason string // "": it is used as it is
	}{
		"as it was": {func(*world) {}, ""},
		"gone":      {func(w *world) { must(w.t, os.Remove(w.file())) }, ""},
		"no index at all": {func(w *world) {
			must(w.t, os.WriteFile(w.file(), []byte(strings.Repeat("not an index ", 9000)), 0o600))
		}, "made again"},
		"cut short": {func(w *world) { must(w.t, os.Truncate(w.file(), 5000)) }, "made again"},
		"another version": {func(w *world) {
			w.edit(func(tx *bolt.Tx) error { return tx.Bucket(bMeta).Put([]byte("version"), []byte("0")) })
		}, "of version 0"},
		"ahead of the log": {func(w *world) {
			w.edit(func(tx *bolt.Tx) error { return tx.Bucket(bMeta).Put([]byte("next"), []byte{0, 0, 0, 0, 1, 0, 0, 0}) })
		}, "and the log has"},
		"of another log": {func(w *world) {
			other := newWorld(w.t)
			other.calls("x", "r", 40)
			other.catchUp()
			must(w.t, other.x.Close())
			raw, err := os.ReadFile(other.file())
			must(w.t, err)
			must(w.t, os.WriteFile(w.file(), raw, 0o600))
		}, "of another log"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.calls("a", "r", 50)
			want := fmt.Sprintf("%+v", w.summary("a", "r"))
			w.said.Reset()
			w.again(func() { c.change(w) })
			if got := fmt.Sprintf("%+v", w.summary("a", "r")); got != want {
				t.Errorf("%s\nwas %s", got, want)
			}
			if said := w.said.String(); !strings.Contains(said, c.reason) || c.reason == "" && said != "" {
				t.Errorf("the log says %q", said)
			}
			if list, err := w.x.List(Query{}); err != nil || len(list) != 1 {
				t.Errorf("%v %v", list, err)
			}
		})
	}
}

// edit changes the closed index.
func (w *world) edit(f func(*bolt.Tx) error) {
	w.t.Helper()
	db, err := bolt.Open(w.file(), 0o600, nil)
	must(w.t, err)
	must(w.t, db.Update(f))
	must(w.t, db.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsHidden: what does not fit together is an error, and never a run with a call less.
func TestNothingIsHidden(t *testing.T) {
	w := newWorld(t)
	w.calls("a", "r", 3)
	w.receipt("a", "r", "rcpt_without_intent", "completed")
	if _, err := w.x.Load(w.summary("a", "r").ID); err == nil || !strings.Contains(err.Error(), "has no intent") {
		t.Errorf("a receipt whose intent is lost: %v", err)
	}
	w.calls("b", "r", 3)
	a, b := w.summary("a", "r").ID, w.summary("b", "r").ID
	w.again(func() {
		w.edit(func(tx *bolt.Tx) error { // a call of b in a's place
			refs := tx.Bucket(bRefs)
			_, from := refs.Cursor().Seek([]byte(b))
			k, _ := refs.Cursor().Seek([]byte(a))
			return refs.Put(k, from)
		})
	})
	if _, err := w.x.Load(a); err == nil || !strings.Contains(err.Error(), "of another run") {
		t.Errorf("a call of another run: %v", err)
	}
}

// TestDamagedInUse: pages that are spoilt while the index is open are an error, and not the end of the signer.
func TestDamagedInUse(t *testing.T) {
	w := newWorld(t)
	w.calls("a", "r", 200)
	w.catchUp()
	info, err := os.Stat(w.file())
	must(t, err)
	f, err := os.OpenFile(w.file(), os.O_WRONLY, 0)
	must(t, err)
	junk := make([]byte, info.Size()-2*int64(os.Getpagesize()))
	for i := range junk {
		junk[i] = 0xff
	}
	_, err = f.WriteAt(junk, 2*int64(os.Getpagesize()))
	must(t, err)
	must(t, f.Close())
	if _, err := w.x.List(Query{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	x, err := Open(w.file(), w.dir, w.log, slog.New(slog.DiscardHandler))
	must(t, err)
	defer x.Close() //nolint:errcheck // of no account
	must(t, x.CatchUp(t.Context()))
	if list, err := x.List(Query{}); err != nil || len(list) != 1 || list[0].Completed != 200 {
		t.Errorf("after the next start: %v %v", list, err)
	}
}

// TestPages: every run is on one page, also those that began in the same millisecond.
func TestPages(t *testing.T) {
	w := newWorld(t)
	for i := range 25 {
		w.intent("a", fmt.Sprintf("r%02d", i), 0, 1767225600000+int64(i/10))
	}
	w.catchUp()
	seen := map[string]bool{}
	q := Query{Limit: 4}
	for {
		list, err := w.x.List(q)
		must(t, err)
		if len(list) == 0 {
			break
		}
		for _, s := range list {
			if seen[s.ID] {
				t.Errorf("%s is on two pages", s.Run)
			}
			seen[s.ID] = true
			if s.Started.After(time.UnixMilli(1767225600002)) {
				t.Error(s.Started)
			}
		}
		last := list[len(list)-1]
		q.Before, q.ID = last.Started, last.ID
	}
	if len(seen) != 25 {
		t.Errorf("%d of 25 runs", len(seen))
	}
}
