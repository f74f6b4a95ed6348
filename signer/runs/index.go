package runs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"sallyport/signer/chain"
	"sallyport/signer/contract"
	"sallyport/signer/decision"
	"sallyport/signer/evlog"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/record"
)

// version of what the index's file holds; a file of another is made again.
const version = "2"

// The index's buckets.
var (
	bMeta   = []byte("meta")   // version; next: sequence of the record that is indexed next
	bRuns   = []byte("runs")   // ID → entry
	bByTime = []byte("time")   // start in milliseconds, ID → nothing
	bRefs   = []byte("refs")   // ID, sequence → kind, place
	bOpen   = []byte("open")   // receipt id → ID
	bNonces = []byte("nonces") // hash of job and nonce → place of the newest receipt
	bSealed = []byte("sealed") // receipt id, 0, sequence → place of a sealed part of a body
)

// maxBatch bounds how many records one transaction takes in, and so what it keeps in memory.
const maxBatch = 4096

// Source is the evidence log that is followed.
type Source interface{ Next() uint64 }

// Index is open for reading and writing in one process. Its methods may be called from any goroutine.
type Index struct {
	dir  string // of the evidence
	file string // of the index
	src  Source
	log  *slog.Logger
	db   *bolt.DB

	mu   sync.Mutex // of the following
	tail *evlog.Tail
}

// Open opens the index of a directory of evidence, at file. What cannot be used of it is made again from the log.
func Open(file, evidence string, src Source, log *slog.Logger) (*Index, error) {
	x := &Index{dir: evidence, file: file, src: src, log: log}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("index of runs: %w", err)
	}
	err := x.open(file)
	if errors.Is(err, bolterrors.ErrTimeout) || errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("index of runs: %s: %w", file, err) // it is not ours to remove
	}
	if err != nil {
		log.Warn("the index of runs is made again", "file", file, "reason", err)
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("index of runs: %w", err)
		}
		if err = x.open(file); err != nil {
			return nil, fmt.Errorf("index of runs: %w", err)
		}
	}
	return x, nil
}

func (x *Index) open(file string) (err error) {
	defer sound(&err)
	// Without a sync for each batch: what a crash loses or spoils is made again from the log.
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: time.Second, NoSync: true, NoFreelistSync: true})
	if err != nil {
		return err
	}
	x.db = db
	next := uint64(0)
	err = x.update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bMeta, bRuns, bByTime, bRefs, bOpen, bNonces, bSealed} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bMeta)
		v := meta.Get([]byte("version"))
		if v != nil && string(v) != version {
			return fmt.Errorf("it is of version %s, not %s", v, version)
		}
		if n := meta.Get([]byte("next")); n != nil {
			next = binary.BigEndian.Uint64(n)
		}
		if err := x.sameLog(meta.Get([]byte("last"))); err != nil {
			return err
		}
		return meta.Put([]byte("version"), []byte(version))
	})
	if err == nil && next > x.src.Next() {
		err = fmt.Errorf("it knows %d records, and the log has %d", next, x.src.Next())
	}
	if err != nil {
		return errors.Join(err, db.Close())
	}
	x.tail = evlog.NewTail(x.dir, next)
	return nil
}

// ErrDamaged means that the index's file is damaged. It is made again at the next start.
var ErrDamaged = errors.New("the index of runs is damaged")

// sound makes an error of what the library does with a damaged file: it panics, or reads memory that is not there.
func sound(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", ErrDamaged, p)
	}
}

func (x *Index) view(f func(*bolt.Tx) error) error { return x.guarded(x.db.View, f) }

func (x *Index) update(f func(*bolt.Tx) error) error { return x.guarded(x.db.Update, f) }

func (x *Index) guarded(do func(func(*bolt.Tx) error) error, f func(*bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if errors.Is(err, ErrDamaged) {
			err = errors.Join(err, os.Remove(x.file)) // the open one goes on failing; the next start begins anew
		}
	}()
	defer sound(&err)
	return do(f)
}

// lastOf is what the index keeps of the newest record that it holds, so that another log is not taken for this one.
func lastOf(r evlog.Entry) []byte {
	sum := sha256.Sum256(r.Payload)
	return append(sum[:], place(r)...)
}

// sameLog holds the evidence against it.
func (x *Index) sameLog(last []byte) error {
	if last == nil {
		return nil
	}
	e, err := x.at(last[sha256.Size:])
	if err == nil && sha256.Sum256(e.Payload) != [sha256.Size]byte(last[:sha256.Size]) {
		err = errors.New("another record stands there")
	}
	if err != nil {
		return fmt.Errorf("it is of another log: %w", err)
	}
	return nil
}

// Close gives the file up.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(x.tail.Close(), x.db.Sync(), x.db.Close())
}

// Follow keeps up with the log until ctx ends.
func (x *Index) Follow(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch err := x.CatchUp(ctx); {
		case err == nil:
			told = ""
		case ctx.Err() == nil && err.Error() != told:
			told = err.Error()
			x.log.Error("the index of runs does not follow the evidence", "error", err)
		}
	}
}

// CatchUp takes in everything that has been written.
func (x *Index) CatchUp(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for until := x.src.Next(); x.tail.Next() < until; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := x.take(min(until, x.tail.Next()+maxBatch)); err != nil {
			return fmt.Errorf("index of runs: %w", err)
		}
	}
	return nil
}

// take takes in the records before a sequence number, all or none.
func (x *Index) take(until uint64) error {
	from := x.tail.Next()
	err := x.update(func(tx *bolt.Tx) error {
		b := &batch{tx: tx, entries: map[string]*entry{}}
		if err := x.tail.Read(until, b.record); err != nil {
			return err
		}
		return b.write(until)
	})
	if err != nil {
		// The transaction is undone, so its records are read again.
		err = errors.Join(err, x.tail.Close())
		x.tail = evlog.NewTail(x.dir, from)
	}
	return err
}

// batch is a transaction in the making.
type batch struct {
	tx      *bolt.Tx
	entries map[string]*entry
	last    []byte // lastOf the newest record
}

func (b *batch) entry(k Key) (*entry, error) {
	return b.known(k.ID(), func() *entry { return newEntry(k) })
}

func (b *batch) known(id string, fresh func() *entry) (*entry, error) {
	if e := b.entries[id]; e != nil {
		return e, nil
	}
	e, err := readEntry(b.tx, id)
	if err != nil {
		return nil, err
	}
	if e == nil {
		if e = fresh(); e == nil {
			return nil, fmt.Errorf("no run %s", id)
		}
	}
	b.entries[id] = e
	return e, nil
}

func readEntry(tx *bolt.Tx, id string) (*entry, error) {
	raw := tx.Bucket(bRuns).Get([]byte(id))
	if raw == nil {
		return nil, nil
	}
	e := newEntry(Key{})
	if err := json.Unmarshal(raw, e); err != nil {
		return nil, fmt.Errorf("run %s: %w", id, err)
	}
	return e, nil
}

// record takes in one record.
func (b *batch) record(r evlog.Entry) error {
	var err error
	b.last = lastOf(r)
	switch r.Kind {
	case evlog.KindIntent:
		err = b.intent(r)
	case evlog.KindReceipt:
		err = b.receipt(r)
	case evlog.KindRefusal:
		err = b.refusal(r)
	case evlog.KindSealed:
		err = b.sealed(r)
	case evlog.KindControl, evlog.KindTombstone:
	}
	if err != nil {
		return fmt.Errorf("segment %s, offset %d: %w", r.Segment, r.Offset, err)
	}
	return nil
}

func (b *batch) intent(r evlog.Entry) error {
	l, err := readIntent(r.Payload)
	if err != nil {
		return err
	}
	e, err := b.entry(KeyOf(l.MissionID, l.TokenHash, l.RunID))
	if err != nil {
		return err
	}
	s := &e.Summary
	s.at(l.TimeMS)
	s.policy(l.PolicyHash)
	if s.Subject == "" {
		s.Subject = l.Subject
	}
	s.Open++
	if l.Chain != nil {
		s.Calls++
		e.Head = e.Head.After(l.Chain, l.TimeMS)
		s.Parts = e.Head.Part
	} else if l.EventHash != "" {
		s.ClientRecorded++
	}
	if l.Action == contract.ModelInvoke {
		count(s.Models, l.Provider+"/"+l.Model)
	} else {
		count(s.Hosts, l.Host)
	}
	count(s.SecretClasses, l.SecretClass)
	if err := b.tx.Bucket(bOpen).Put([]byte(l.ID), []byte(s.ID)); err != nil {
		return err
	}
	return b.ref(s.ID, r)
}

func (b *batch) receipt(r evlog.Entry) error {
	p, err := readReceipt(r.Payload)
	if err != nil {
		return err
	}
	open := b.tx.Bucket(bOpen)
	id := open.Get([]byte(p.ReceiptID))
	d := &p.Metadata.Sallyport
	key := KeyOf(d.MissionID, d.TokenHash, p.Binding.RunID)
	known := id != nil
	if !known {
		id = []byte(key.ID()) // its intent was lost with the machine, or it is the second of one call
	} else if err := open.Delete([]byte(p.ReceiptID)); err != nil {
		return err
	}
	e, err := b.known(string(id), func() *entry { return newEntry(key) })
	if err != nil {
		return err
	}
	s := &e.Summary
	if known {
		s.Open = max(0, s.Open-1)
	}
	if d.Outcome == record.Cut {
		s.Cut++
	} else {
		s.Completed++
	}
	s.TokensInput += p.TokensInput
	s.TokensOutput += p.TokensOutput
	if p.Binding.Nonce != "" {
		if err := b.tx.Bucket(bNonces).Put(nonceKey(key.Job, p.Binding.Nonce), place(r)); err != nil {
			return err
		}
	}
	return b.ref(s.ID, r)
}

func (b *batch) refusal(r evlog.Entry) error {
	f, sequence, err := decision.Read(r.Payload)
	if err != nil {
		return err
	}
	if sequence == 0 {
		return nil // of nobody's run
	}
	e, err := b.entry(KeyOf(f.MissionID, f.TokenHash, f.RunID))
	if err != nil {
		return err
	}
	s := &e.Summary
	s.at(f.TimeMS)
	s.policy(f.PolicyHash)
	if s.Subject == "" {
		s.Subject = f.Subject
	}
	s.Refused++
	count(s.Codes, f.Code)
	e.Head.Refused = max(e.Head.Refused, sequence)
	return b.ref(s.ID, r)
}

// sealed notes a part of a body. The request's come before the call's intent, so that no run is known of them.
func (b *batch) sealed(r evlog.Entry) error {
	c, err := seal.ParseChunk(r.Payload)
	if err != nil {
		return err
	}
	return b.tx.Bucket(bSealed).Put(binary.BigEndian.AppendUint64(sealedOf(c.Receipt), r.Seq), place(r))
}

func sealedOf(receipt string) []byte { return append([]byte(receipt), 0) }

// Sealed visits the sealed parts of a call's bodies (package seal), in the order of the log.
func (x *Index) Sealed(receipt string, visit func(chunk []byte) error) error {
	var places [][]byte
	err := x.view(func(tx *bolt.Tx) error {
		prefix := sealedOf(receipt)
		c := tx.Bucket(bSealed).Cursor()
		for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+8; k, v = c.Next() {
			places = append(places, bytes.Clone(v))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range places {
		e, err := x.at(p)
		if err != nil {
			return err
		}
		if err := visit(e.Payload); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) ref(id string, r evlog.Entry) error {
	key := binary.BigEndian.AppendUint64([]byte(id), r.Seq)
	return b.tx.Bucket(bRefs).Put(key, append([]byte{byte(r.Kind)}, place(r)...))
}

// write ends the transaction.
func (b *batch) write(next uint64) error {
	runs, byTime := b.tx.Bucket(bRuns), b.tx.Bucket(bByTime)
	for id, e := range b.entries {
		if runs.Get([]byte(id)) == nil {
			if err := byTime.Put(timeKey(e.Summary.Started, id), nil); err != nil {
				return err
			}
		} else if old, err := readEntry(b.tx, id); err != nil {
			return err
		} else if !old.Summary.Started.Equal(e.Summary.Started) {
			if err := errors.Join(byTime.Delete(timeKey(old.Summary.Started, id)), byTime.Put(timeKey(e.Summary.Started, id), nil)); err != nil {
				return err
			}
		}
		raw, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if err := runs.Put([]byte(id), raw); err != nil {
			return err
		}
	}
	meta := b.tx.Bucket(bMeta)
	if b.last != nil {
		if err := meta.Put([]byte("last"), b.last); err != nil {
			return err
		}
	}
	return meta.Put([]byte("next"), binary.BigEndian.AppendUint64(nil, next))
}

func timeKey(t time.Time, id string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(0, t.UnixMilli()))), id...) //nolint:gosec // not negative
}

func nonceKey(job, nonce string) []byte {
	sum := sha256.Sum256([]byte(job + "\n" + nonce))
	return sum[:16]
}

// place is where a record stands.
func place(r evlog.Entry) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(r.Offset)), r.Segment...) //nolint:gosec // not negative
}

func (x *Index) at(place []byte) (evlog.Entry, error) {
	return evlog.ReadAt(x.dir, string(place[8:]), int64(binary.BigEndian.Uint64(place))) //nolint:gosec // was an offset
}

// Head is where a run's chain ends, the zero value for a run that is not known.
func (x *Index) Head(job, run string) (h chain.Head, err error) {
	err = x.view(func(tx *bolt.Tx) error {
		e, err := readEntry(tx, Key{job, run}.ID())
		if e != nil {
			h = e.Head
		}
		return err
	})
	return h, err
}

// ByNonce is the envelope of the newest receipt of a job's call with that nonce, nil where there is none.
func (x *Index) ByNonce(job, nonce string) ([]byte, error) {
	if err := x.CatchUp(context.Background()); err != nil {
		return nil, err
	}
	var at []byte
	if err := x.view(func(tx *bolt.Tx) error {
		at = bytes.Clone(tx.Bucket(bNonces).Get(nonceKey(job, nonce)))
		return nil
	}); err != nil || at == nil {
		return nil, err
	}
	r, err := x.at(at)
	return r.Payload, err
}

// Query chooses runs.
type Query struct {
	Limit  int       // 0: 100
	Before time.Time // zero: from the newest on
	ID     string    // of runs that began at Before, those with a lower ID; "": none of them
	Text   string    // part of the run's id, job or subject; "" for all
}

// maxListed bounds one answer.
const maxListed = 1000

// List is the runs that a query chooses, the newest first.
func (x *Index) List(q Query) ([]Summary, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	q.Limit = min(q.Limit, maxListed)
	out := []Summary{}
	err := x.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bByTime).Cursor()
		k, _ := c.Last()
		if !q.Before.IsZero() {
			if found, _ := c.Seek(timeKey(q.Before, q.ID)); found != nil {
				k, _ = c.Prev()
			} else {
				k, _ = c.Last()
			}
		}
		for ; k != nil && len(out) < q.Limit; k, _ = c.Prev() {
			e, err := readEntry(tx, string(k[8:]))
			if err != nil {
				return err
			}
			if e != nil && e.Summary.has(q.Text) {
				out = append(out, e.Summary)
			}
		}
		return nil
	})
	return out, err
}

func (s *Summary) has(text string) bool {
	return text == "" || strings.Contains(s.Run, text) || strings.Contains(s.Job, text) || strings.Contains(s.Subject, text) || s.ID == text ||
		slices.Contains(s.PolicyHashes, text)
}

// Find is the runs with that id, or that short name; several jobs may have runs of one id.
func (x *Index) Find(name, job string) ([]Summary, error) {
	out := []Summary{}
	err := x.view(func(tx *bolt.Tx) error {
		ids := []string{name}
		if job != "" {
			ids = append(ids, Key{job, name}.ID())
		}
		for _, id := range ids {
			e, err := readEntry(tx, id)
			if err != nil {
				return err
			}
			if e != nil && (job == "" || e.Summary.Job == job) {
				out = append(out, e.Summary)
				return nil
			}
		}
		if job != "" {
			return nil
		}
		return tx.Bucket(bRuns).ForEach(func(_, raw []byte) error {
			if !bytes.Contains(raw, []byte(`"run_id":`)) {
				return nil
			}
			e := newEntry(Key{})
			if err := json.Unmarshal(raw, e); err != nil {
				return err
			}
			if e.Summary.Run == name {
				out = append(out, e.Summary)
			}
			return nil
		})
	})
	return out, err
}

// Load is everything that the evidence holds of a run, as far as it is indexed.
func (x *Index) Load(id string) (*Run, error) {
	r := &Run{}
	var refs [][]byte
	err := x.view(func(tx *bolt.Tx) error {
		e, err := readEntry(tx, id)
		if err != nil || e == nil {
			return errors.Join(err, unless(e != nil, fmt.Errorf("%w: %s", ErrNoRun, id)))
		}
		r.Summary = e.Summary.clone()
		c := tx.Bucket(bRefs).Cursor()
		for k, v := c.Seek([]byte(id)); k != nil && bytes.HasPrefix(k, []byte(id)) && len(k) == len(id)+8; k, v = c.Next() {
			refs = append(refs, bytes.Clone(v))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, x.load(r, refs)
}

// ErrNoRun means that the evidence holds nothing of a run.
var ErrNoRun = errors.New("no such run")

func unless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

func (x *Index) load(r *Run, refs [][]byte) error {
	byID := map[string]int{}
	var numbers []uint64
	for _, ref := range refs {
		e, err := x.at(ref[1:])
		if err != nil {
			return err
		}
		if e.Kind != evlog.Kind(ref[0]) {
			return fmt.Errorf("segment %s, offset %d: a %s stands where the index has a %s; remove %s, and it is made again", e.Segment, e.Offset, e.Kind, evlog.Kind(ref[0]), x.file)
		}
		switch e.Kind {
		case evlog.KindIntent:
			var c Call
			if err := json.Unmarshal(e.Payload, &c.Intent); err != nil {
				return err
			}
			if i := &c.Intent; KeyOf(i.MissionID, i.TokenHash, i.RunID).ID() != r.ID {
				return fmt.Errorf("segment %s, offset %d: the call %s is of another run; remove %s, and the index is made again", e.Segment, e.Offset, i.ID, x.file)
			}
			byID[c.Intent.ID] = len(r.CallList)
			r.CallList = append(r.CallList, c)
		case evlog.KindReceipt:
			id, err := evlog.ReceiptID(e.Payload)
			if err != nil {
				return err
			}
			i, ok := byID[id]
			if !ok {
				// Without its intent nobody can tell where in the run it belongs, and leaving it out would hide a call.
				return fmt.Errorf("segment %s, offset %d: the receipt %s has no intent in the evidence", e.Segment, e.Offset, id)
			}
			r.CallList[i].Receipt = e.Payload
		case evlog.KindRefusal:
			_, n, err := decision.Read(e.Payload)
			if err != nil {
				return err
			}
			r.Decisions, numbers = append(r.Decisions, e.Payload), append(numbers, n)
		case evlog.KindControl, evlog.KindTombstone, evlog.KindSealed:
		}
	}
	sort.Sort(byNumber{r.Decisions, numbers})
	return nil
}

// byNumber sorts refusals by their numbers: they may stand in the log a little out of order.
type byNumber struct {
	list    []json.RawMessage
	numbers []uint64
}

func (b byNumber) Len() int           { return len(b.list) }
func (b byNumber) Less(i, j int) bool { return b.numbers[i] < b.numbers[j] }
func (b byNumber) Swap(i, j int) {
	b.list[i], b.list[j] = b.list[j], b.list[i]
	b.numbers[i], b.numbers[j] = b.numbers[j], b.numbers[i]
}
