package audit

import (
	"archive/zip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"

	"sallyport/signer/clawverify"
	"sallyport/signer/jcs"
)

// Limits of an archive.
const (
	maxEntries   = 1 << 20
	maxLine      = 1 << 20 // bytes of a line in a .jsonl file
	maxSmallFile = 4 << 20 // bytes of contracts, checkpoint and trust.json
)

const manifestName = "manifest.json"

// names are all that an archive may hold.
var names = regexp.MustCompile(`^(manifest\.json|bundle(-([2-9]|[1-9][0-9]{1,5}))?\.json|contracts/[A-Za-z0-9_-]{43}\.json|events\.jsonl|decisions\.jsonl|client-recorded\.jsonl|proofs\.jsonl|checkpoint|trust\.json|sealed/[A-Za-z0-9_-]{1,200}\.(request|response))$`)

// errArchive is wrapped by errors about the zip itself.
var errArchive = errors.New("archive")

// bag is the opened archive. Since nothing in it is compressed, what is read is never more than the file has.
type bag struct{ files map[string]*zip.File }

// openBag opens an archive and refuses what has more than one reading: compressed, encrypted, overlapping, doubled or
// strangely named entries.
func openBag(r io.ReaderAt, size int64) (*bag, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; it may be cut short", errArchive, err)
	}
	if len(z.File) > maxEntries {
		return nil, fmt.Errorf("%w: %d entries; the limit is %d", errArchive, len(z.File), maxEntries)
	}
	b := &bag{files: make(map[string]*zip.File, len(z.File))}
	type span struct{ from, to int64 }
	var spans []span
	before := ""
	for _, f := range z.File {
		if !names.MatchString(f.Name) {
			return nil, fmt.Errorf("%w: %.100q is no name of a file that belongs here", errArchive, f.Name)
		}
		if b.files[f.Name] != nil {
			return nil, fmt.Errorf("%w: %s is there twice", errArchive, f.Name)
		}
		if f.Name < before {
			return nil, fmt.Errorf("%w: %s stands behind %s; entries are sorted by name", errArchive, f.Name, before)
		}
		before = f.Name
		if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.Flags&1 != 0 {
			return nil, fmt.Errorf("%w: %s is compressed or encrypted; entries are stored as they are", errArchive, f.Name)
		}
		from, err := f.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errArchive, f.Name, err)
		}
		if f.UncompressedSize64 > uint64(size) {
			return nil, fmt.Errorf("%w: %s says that it is larger than the archive", errArchive, f.Name)
		}
		spans = append(spans, span{from, from + int64(f.UncompressedSize64)}) //nolint:gosec // bounded above
		b.files[f.Name] = f
	}
	slices.SortFunc(spans, func(x, y span) int { return int(min(max(x.from-y.from, -1), 1)) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return nil, fmt.Errorf("%w: entries overlap", errArchive)
		}
	}
	return b, nil
}

// read returns a whole file.
func (b *bag) read(name string, most int64) ([]byte, error) {
	f := b.files[name]
	if f == nil {
		return nil, fmt.Errorf("%w: %s is missing", errArchive, name)
	}
	if f.UncompressedSize64 > uint64(most) { //nolint:gosec // a constant
		return nil, fmt.Errorf("%w: %s has %d bytes; the limit is %d", errArchive, name, f.UncompressedSize64, most)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errArchive, name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errArchive, name, err)
	}
	return data, nil
}

// hash returns a file's hash, without holding the file.
func (b *bag) hash(name string) (string, error) {
	r, err := b.files[name].Open()
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", errArchive, name, err)
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("%w: %s: %w", errArchive, name, err)
	}
	return jcs.EncodeB64u(h.Sum(nil)), nil
}

// readBundle returns a part's bundle.
func (b *bag) readBundle(part int) ([]byte, error) {
	return b.read(bundleName(part), clawverify.MaxBytes)
}

func bundleName(part int) string {
	if part == 1 {
		return "bundle.json"
	}
	return fmt.Sprintf("bundle-%d.json", part)
}
