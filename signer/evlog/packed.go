package evlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// A segment that nothing is written to any more may be packed: compressed in frames of at most frameBytes, with a table of them
// at its end, in the seekable format that the zstd project defines (contrib/seekable_format). `zstd -d` gives the segment back.
// Records keep the names of their places: whoever asks for N.seg is given N.seg.zst where the former is gone.
const (
	packedSuffix = ".zst"
	frameBytes   = 128 << 10 // what one record costs to read by itself
	// maxFrames bounds what a table may say, far above the largest segment.
	maxFrames = 1 << 16

	tableMagic  = 0x184D2A5E // of a skippable frame
	footerMagic = 0x8F92EAB1
	entrySize   = 4 + 4
	footerSize  = 4 + 1 + 4
)

// segmentFile is a segment as it is read, by the offsets of its plain form.
type segmentFile interface {
	io.ReaderAt
	io.Closer
	// sync makes what was read durable.
	sync() error
}

// openSegment opens a segment, packed or not. Where both are there the plain one counts: the other may be half written.
func openSegment(dir, name string) (segmentFile, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err == nil {
		return plainFile{f}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("evidence log: %w", err)
	}
	p, packedErr := openPacked(filepath.Join(dir, name+packedSuffix))
	if errors.Is(packedErr, fs.ErrNotExist) {
		return nil, fmt.Errorf("evidence log: %w", err)
	}
	if packedErr != nil {
		return nil, fmt.Errorf("segment %s%s: %w", name, packedSuffix, packedErr)
	}
	return p, nil
}

// readWhole is a segment's bytes. Of a damaged packed one they are those before the damage, beside the error.
func readWhole(dir, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	f, err := openSegment(dir, name)
	if err != nil {
		return nil, err
	}
	p, ok := f.(*packedFile)
	if !ok { // it came back meanwhile
		_ = f.Close()
		return os.ReadFile(filepath.Join(dir, name))
	}
	data = make([]byte, 0, p.size())
	for i := range p.frames {
		frame, ferr := p.frame(i)
		if ferr != nil {
			err = fmt.Errorf("segment %s%s: %w", name, packedSuffix, ferr)
			break
		}
		data = append(data, frame...)
	}
	return data, errors.Join(err, p.Close())
}

// statSegment is about a segment's file, packed or not.
func statSegment(dir, name string) (fs.FileInfo, error) {
	info, err := os.Stat(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return os.Stat(filepath.Join(dir, name+packedSuffix))
	}
	return info, err
}

type plainFile struct{ *os.File }

func (f plainFile) sync() error { return unix.Fdatasync(int(f.Fd())) } //nolint:gosec // a file descriptor

// packedFile reads a packed segment. It is for one goroutine.
type packedFile struct {
	f      *os.File
	dec    *zstd.Decoder
	frames []frame
	at     int    // of the frame that is decoded
	plain  []byte // it
}

// frame is where one stands, packed and plain.
type frame struct{ from, to, begins, ends int64 }

func (p *packedFile) sync() error { return nil } // it was before it took its name

func (p *packedFile) Close() error {
	p.dec.Close()
	return p.f.Close()
}

func (p *packedFile) size() int64 {
	if len(p.frames) == 0 {
		return 0
	}
	return p.frames[len(p.frames)-1].ends
}

func openPacked(path string) (_ *packedFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	p := &packedFile{f: f, at: -1}
	if err := p.readTable(); err != nil {
		return nil, err
	}
	p.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<20))
	return p, err
}

func (p *packedFile) readTable() error {
	info, err := p.f.Stat()
	if err != nil {
		return err
	}
	var footer [footerSize]byte
	end := info.Size()
	if end < footerSize {
		return fmt.Errorf("%w: it is cut short", ErrDamaged)
	}
	if _, err := p.f.ReadAt(footer[:], end-footerSize); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(footer[:])
	if binary.LittleEndian.Uint32(footer[5:]) != footerMagic || footer[4] != 0 || n > maxFrames {
		return fmt.Errorf("%w: its table of frames is not where it should be; it may be cut short", ErrDamaged)
	}
	table := make([]byte, 8+int(n)*entrySize)
	begin := end - footerSize - int64(len(table))
	if begin < 0 {
		return fmt.Errorf("%w: it is cut short", ErrDamaged)
	}
	if _, err := p.f.ReadAt(table, begin); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(table) != tableMagic || binary.LittleEndian.Uint32(table[4:]) != n*entrySize+footerSize {
		return fmt.Errorf("%w: its table of frames", ErrDamaged)
	}
	at := frame{}
	for entry := table[8:]; len(entry) > 0; entry = entry[entrySize:] {
		packed, plain := binary.LittleEndian.Uint32(entry), binary.LittleEndian.Uint32(entry[4:])
		if plain > frameBytes || plain == 0 {
			return fmt.Errorf("%w: its table of frames", ErrDamaged)
		}
		at = frame{at.to, at.to + int64(packed), at.ends, at.ends + int64(plain)}
		p.frames = append(p.frames, at)
	}
	if at.to != begin {
		return fmt.Errorf("%w: its frames are not those of its table", ErrDamaged)
	}
	return nil
}

// frame decodes one; what it returns is good until the next call.
func (p *packedFile) frame(i int) ([]byte, error) {
	if p.at == i {
		return p.plain, nil
	}
	f := p.frames[i]
	packed := make([]byte, f.to-f.from)
	if _, err := p.f.ReadAt(packed, f.from); err != nil {
		return nil, err
	}
	p.at = -1
	plain, err := p.dec.DecodeAll(packed, p.plain[:0])
	if err == nil && int64(len(plain)) != f.ends-f.begins {
		err = errors.New("another length")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d of %d, at byte %d: %w", ErrDamaged, i+1, len(p.frames), f.from, err)
	}
	p.at, p.plain = i, plain
	return plain, nil
}

// ReadAt reads by the offsets of the plain segment.
func (p *packedFile) ReadAt(b []byte, off int64) (n int, err error) {
	i := sort.Search(len(p.frames), func(i int) bool { return p.frames[i].ends > off })
	for ; n < len(b); i++ {
		if i >= len(p.frames) {
			return n, io.EOF
		}
		plain, err := p.frame(i)
		if err != nil {
			return n, err
		}
		n += copy(b[n:], plain[off+int64(n)-p.frames[i].begins:])
	}
	return n, nil
}

// Pack packs the segments of a directory that were last written to before a time, but never the last one, and says how many.
// It may be stopped at any moment: a segment is removed only when its packed form is on the disk, has its name, and was read
// back whole. Only the owner of the log may pack.
func Pack(dir string, before time.Time) (packed int, err error) {
	names, err := segments(dir)
	if err != nil {
		return 0, err
	}
	for i, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // packed already
		case err != nil:
			return packed, fmt.Errorf("evidence log: %w", err)
		case i == len(names)-1, !info.ModTime().Before(before):
			return packed, nil
		}
		if err := packSegment(dir, name, info.ModTime()); err != nil {
			return packed, fmt.Errorf("segment %s is not packed: %w", name, err)
		}
		packed++
	}
	return packed, nil
}

func packSegment(dir, name string, written time.Time) error {
	path := filepath.Join(dir, name)
	// What is damaged stays as it is: nobody should have to ask whether packing did it.
	if _, _, err := readSegment(dir, name, func(Entry) error { return nil }); err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	tmp := path + packedSuffix + ".tmp"
	defer func() { _ = os.Remove(tmp) }()
	if err := writePacked(tmp, data); err != nil {
		return err
	}
	if err := samePacked(tmp, data); err != nil {
		return err
	}
	if err := errors.Join(os.Chtimes(tmp, written, written), os.Rename(tmp, path+packedSuffix), syncDir(dir)); err != nil {
		return err
	}
	return errors.Join(os.Remove(path), syncDir(dir))
}

func writePacked(path string, data []byte) error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return err
	}
	defer func() { _ = enc.Close() }()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	var table []byte
	frames := uint32(0)
	for rest := data; len(rest) > 0 && err == nil; frames++ {
		plain := rest[:min(frameBytes, len(rest))]
		rest = rest[len(plain):]
		out := enc.EncodeAll(plain, nil)
		table = binary.LittleEndian.AppendUint32(table, uint32(len(out)))   //nolint:gosec // of a frame
		table = binary.LittleEndian.AppendUint32(table, uint32(len(plain))) //nolint:gosec // of a frame
		_, err = f.Write(out)
	}
	end := binary.LittleEndian.AppendUint32(nil, tableMagic)
	end = binary.LittleEndian.AppendUint32(end, uint32(len(table)+footerSize)) //nolint:gosec // of a table
	end = append(end, table...)
	end = append(binary.LittleEndian.AppendUint32(end, frames), 0)
	end = binary.LittleEndian.AppendUint32(end, footerMagic)
	if err == nil {
		_, err = f.Write(end)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// samePacked reads a packed segment back.
func samePacked(path string, data []byte) error {
	p, err := openPacked(path)
	if err != nil {
		return err
	}
	for i, f := range p.frames {
		plain, err := p.frame(i)
		if err == nil && (f.ends > int64(len(data)) || !bytes.Equal(plain, data[f.begins:f.ends])) {
			err = errors.New("it reads back as something else")
		}
		if err != nil {
			return errors.Join(err, p.Close())
		}
	}
	if p.size() != int64(len(data)) {
		return errors.Join(errors.New("it reads back shorter"), p.Close())
	}
	return p.Close()
}

// segmentOf is the name of the segment that a file holds, plain or packed; "" where it holds none.
func segmentOf(file string) string {
	name := strings.TrimSuffix(file, packedSuffix)
	if !strings.HasSuffix(name, ".seg") {
		return ""
	}
	return name
}
