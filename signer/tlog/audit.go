package tlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"

	"sallyport/signer/evlog"
)

// maxFindings bounds a report; what is beyond is counted.
const maxFindings = 1000

// AuditOptions say what a log is held against.
type AuditOptions struct {
	Verifiers Verifiers
	Evidence  string // directory of the evidence log; "": only the log itself is audited
	Since     []byte // an older checkpoint, as it was signed then; nil: none
}

// Report is what an audit found.
type Report struct {
	Origin   string
	Entries  uint64 // under the checkpoint, all of them read
	Root     []byte // recomputed from the entries
	Since    uint64 // entries of the older checkpoint that the log is consistent with
	Kinds    map[Kind]uint64
	Compared uint64 // entries held against their record
	Pending  uint64 // records behind the checkpoint
	Findings []string
	Dropped  uint64 // findings beyond the first thousand
}

func (r *Report) find(format string, args ...any) {
	if len(r.Findings) == maxFindings {
		r.Dropped++
		return
	}
	r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
}

// Audit reads a whole log from its files: the checkpoint's signatures, every entry bundle, every tile, the root; consistency
// with an older checkpoint; and every entry against the evidence. The error is about what could not be read or believed at
// all; what is wrong in the log is in the report. Memory is bounded, whatever the log's size.
func Audit(dir string, o AuditOptions) (*Report, error) {
	files := client.FileFetcher{Root: dir}
	signed, err := files.ReadCheckpoint(context.Background())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	c, err := o.Verifiers.OpenCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	var since *Checkpoint
	if o.Since != nil {
		if since, err = o.Verifiers.OpenCheckpoint(o.Since); err != nil {
			return nil, fmt.Errorf("the older checkpoint: %w", err)
		}
	}
	a := &audit{files: files, c: c, since: since, rep: &Report{Origin: c.Origin, Entries: c.Size, Kinds: map[Kind]uint64{}}}
	if err := a.tree(); err != nil {
		return nil, err
	}
	if o.Evidence != "" {
		if err := a.evidence(o.Evidence); err != nil {
			return nil, err
		}
	}
	return a.rep, nil
}

type audit struct {
	files client.FileFetcher
	c     *Checkpoint
	since *Checkpoint
	rep   *Report

	// Hashes of complete nodes, for each level of tiles the last tile's.
	levels [][]byte
	done   []uint64 // tiles of that level that were compared
}

// tree recomputes everything from the entries.
func (a *audit) tree() error {
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	a.checkSince(tree)
	for n := uint64(0); n*layout.EntryBundleWidth < a.c.Size; n++ {
		entries, err := readBundle(a.files, n, a.c.Size)
		if errors.Is(err, ErrDamaged) {
			a.rep.find("%v; nothing behind it can be recomputed", err)
			return nil
		}
		if err != nil {
			return err
		}
		for i, data := range entries {
			index := n*layout.EntryBundleWidth + uint64(i) //nolint:gosec // below 256
			e, err := ParseEntry(data)
			if err != nil {
				a.rep.find("entry %d in %s: %v", index, layout.EntriesPathForLogIndex(index, a.c.Size), err)
			} else {
				a.rep.Kinds[e.Kind]++
			}
			h := rfc6962.DefaultHasher.HashLeaf(data)
			if err := tree.Append(h, nil); err != nil {
				return fmt.Errorf("transparency log: %w", err)
			}
			if err := a.node(0, h); err != nil {
				return err
			}
			a.checkSince(tree)
		}
	}
	for level := range a.levels {
		if err := a.tile(level); err != nil { // the last one of each level, not full
			return err
		}
	}
	root, err := rootOf(tree)
	if err != nil {
		return err
	}
	a.rep.Root = root
	if !bytes.Equal(root, a.c.Root) {
		a.rep.find("the %d entries do not have the root that the checkpoint states: an entry was altered, added, removed or moved", a.c.Size)
	}
	if a.since != nil && a.since.Size > a.c.Size {
		a.rep.find("the older checkpoint has %d entries, and the log only %d: entries were removed from its end", a.since.Size, a.c.Size)
	}
	return nil
}

func (a *audit) checkSince(tree *compact.Range) {
	if a.since == nil || tree.End() != a.since.Size {
		return
	}
	root, err := rootOf(tree)
	if err != nil || !bytes.Equal(root, a.since.Root) {
		a.rep.find("the log is not a continuation of the older checkpoint: its first %d entries are others now", a.since.Size)
		return
	}
	a.rep.Since = a.since.Size
}

// node takes the next complete node of a level of tiles, which is the root of a full tile below.
func (a *audit) node(level int, h []byte) error {
	if level == len(a.levels) {
		a.levels, a.done = append(a.levels, nil), append(a.done, 0)
	}
	a.levels[level] = append(a.levels[level], h...)
	if len(a.levels[level]) < layout.TileWidth*sha256.Size {
		return nil
	}
	full := a.levels[level]
	if err := a.tile(level); err != nil {
		return err
	}
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for i := range layout.TileWidth {
		if err := r.Append(full[i*sha256.Size:(i+1)*sha256.Size], nil); err != nil {
			return fmt.Errorf("transparency log: %w", err)
		}
	}
	root, err := rootOf(r)
	if err != nil {
		return err
	}
	return a.node(level+1, root)
}

// tile compares a tile's file with what it must hold, and begins the next.
func (a *audit) tile(level int) error {
	want := a.levels[level]
	n := a.done[level]
	a.levels[level] = nil
	a.done[level]++
	if len(want) == 0 {
		return nil
	}
	l := uint64(level) //nolint:gosec // a few
	partial := layout.PartialTileSize(l, n, a.c.Size)
	path := layout.TilePath(l, n, partial)
	got, err := a.files.ReadTile(context.Background(), l, n, partial)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a.rep.find("%s is missing", path)
		return nil
	case err != nil:
		return fmt.Errorf("transparency log: %w", err)
	case len(got) < len(want):
		a.rep.find("%s holds %d bytes instead of %d", path, len(got), len(want))
		return nil
	}
	for i := 0; i < len(want); i += sha256.Size {
		if bytes.Equal(got[i:i+sha256.Size], want[i:i+sha256.Size]) {
			continue
		}
		if level == 0 {
			a.rep.find("entry %d in %s does not have the hash in %s: one of the files was altered", n*layout.TileWidth+uint64(i/sha256.Size), layout.EntriesPath(n, partial), path) //nolint:gosec // a place
		} else {
			a.rep.find("%s: node %d is not the root of the tile below it", path, i/sha256.Size)
		}
	}
	return nil
}

// lookahead is how far entries and records that do not meet are looked for, in records.
const lookahead = 4096

// evidence holds every entry against its record.
func (a *audit) evidence(dir string) error {
	d := &diff{rep: a.rep, have: leaves{files: a.files, size: a.c.Size}}
	err := evlog.Read(dir, func(r evlog.Entry) error {
		e, ok, err := EntryOf(r)
		switch {
		case err != nil:
			a.rep.find("%v", err)
			return nil
		case !ok:
			if !d.begun && r.Seq > 0 {
				d.removed = true
			}
			d.begun = true
			return nil
		}
		if !d.begun && r.Seq > 0 {
			d.removed = true
		}
		d.begun = true
		return d.record(e, r.Seq)
	})
	if err != nil && !errors.Is(err, evlog.ErrTorn) { // the owner may be writing
		if !errors.Is(err, evlog.ErrDamaged) {
			return err
		}
		a.rep.find("%v", err)
	}
	return d.end()
}

// diff runs over entries and records side by side.
type diff struct {
	rep     *Report
	have    leaves
	next    uint64 // entry that is read next
	begun   bool
	removed bool // the evidence does not begin at its beginning: its first records were removed
	aligned bool

	entries []Entry // read and not compared
	records []recordEntry
}

type recordEntry struct {
	Entry
	seq uint64
}

func (d *diff) record(e Entry, seq uint64) error {
	if d.removed && !d.aligned {
		if err := d.align(e); err != nil {
			return err
		}
	}
	d.aligned = true
	d.records = append(d.records, recordEntry{e, seq})
	if len(d.records) < lookahead {
		return nil
	}
	return d.compare(lookahead / 2)
}

// align skips the entries of records that are not there any more.
func (d *diff) align(first Entry) error {
	for i := uint64(0); i < d.have.size; i++ {
		e, err := d.have.at(i)
		if err != nil {
			continue // found already
		}
		if e == first {
			d.next = i
			return nil
		}
	}
	return nil
}

// load reads entries until as many are at hand as records.
func (d *diff) load(want int) error {
	for ; len(d.entries) < want && d.next < d.have.size; d.next++ {
		data, err := d.have.raw(d.next)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				return err
			}
			data = nil // found already
		}
		e, err := ParseEntry(data)
		if err != nil {
			e = Entry{}
		}
		d.entries = append(d.entries, e)
	}
	return nil
}

// first is the index of the first entry at hand.
func (d *diff) first() uint64 { return d.next - uint64(len(d.entries)) }

// compare goes on until only keep records are left.
func (d *diff) compare(keep int) error {
	for len(d.records) > keep {
		if err := d.load(max(len(d.records), lookahead)); err != nil {
			return err
		}
		if len(d.entries) == 0 {
			d.rep.Pending += uint64(len(d.records))
			d.records = d.records[:0]
			return nil
		}
		e, r := d.entries[0], d.records[0]
		if e == r.Entry {
			d.rep.Compared++
			d.entries, d.records = d.entries[1:], d.records[1:]
			continue
		}
		d.differ(e, r)
	}
	return nil
}

// differ names one difference and steps over it.
func (d *diff) differ(e Entry, r recordEntry) {
	entryAt, recordAt := -1, -1 // where the record's entry is in the log, and the entry's record in the evidence
	for i, x := range d.entries {
		if x == r.Entry {
			entryAt = i
			break
		}
	}
	for i, x := range d.records {
		if x.Entry == e {
			recordAt = i
			break
		}
	}
	at := d.first()
	switch {
	case entryAt >= 0 && recordAt >= 0:
		d.rep.find("reordered: the record %d (%s) is entry %d, behind entry %d, whose record %d comes later", r.seq, r.Entry, at+uint64(entryAt), at, d.records[recordAt].seq) //nolint:gosec // a place
		// Both are there: take them out where they are.
		d.entries = append(d.entries[1:entryAt:entryAt], d.entries[entryAt+1:]...)
		rest := append(d.records[1:recordAt:recordAt], d.records[recordAt+1:]...)
		d.entries = append([]Entry{}, d.entries...)
		d.records = append([]recordEntry{}, rest...)
	case entryAt >= 0:
		d.rep.find("extra: entry %d (%s) has no record in the evidence", at, e)
		d.entries = d.entries[1:]
	case recordAt >= 0:
		d.rep.find("missing: record %d (%s) is not in the log; its place is before entry %d", r.seq, r.Entry, at)
		d.records = d.records[1:]
	default:
		d.rep.find("altered: entry %d is %s, and record %d of the evidence is %s", at, e, r.seq, r.Entry)
		d.entries, d.records = d.entries[1:], d.records[1:]
	}
}

// end compares the rest. Entries behind the last record are extra: no checkpoint is ahead of the evidence.
func (d *diff) end() error {
	if err := d.compare(0); err != nil {
		return err
	}
	for {
		if err := d.load(lookahead); err != nil {
			return err
		}
		if len(d.entries) == 0 {
			return nil
		}
		for i, e := range d.entries {
			d.rep.find("extra: entry %d (%s) has no record in the evidence, which ends before it", d.first()+uint64(i), e) //nolint:gosec // a place
		}
		d.entries = nil
	}
}
