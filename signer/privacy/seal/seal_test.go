package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sallyport/signer/privacy/seal"
)

func newKey(t testing.TB) *seal.PrivateKey {
	t.Helper()
	k, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var body = seal.Body{Receipt: "rcpt_1", Direction: seal.Response, RequestHash: "hash"}

// sealed writes text in steps of a size, and reads the chunks back from their bytes.
func sealed(t testing.TB, text []byte, step int, keys ...*seal.PrivateKey) []*seal.Chunk {
	t.Helper()
	var to []*seal.PublicKey
	for _, k := range keys {
		to = append(to, k.Public())
	}
	s, err := seal.New(body, to)
	if err != nil {
		t.Fatal(err)
	}
	var out []*seal.Chunk
	emit := func(c *seal.Chunk) error {
		raw := c.AppendBinary(nil)
		if len(raw) > 1<<20 || raw[len(raw)-1] == 0 {
			t.Errorf("no record of the log: %d bytes, ending in %d", len(raw), raw[len(raw)-1])
		}
		back, err := seal.ParseChunk(raw)
		out = append(out, back)
		return err
	}
	for rest := text; len(rest) > 0; {
		n := min(step, len(rest))
		if err := s.Write(rest[:n], emit); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := errors.Join(s.Close(emit), s.Close(emit)); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]byte("x"), emit); !errors.Is(err, seal.ErrEnded) {
		t.Errorf("behind the end: %v", err)
	}
	return out
}

func opened(b seal.Body, k *seal.PrivateKey, chunks []*seal.Chunk) ([]byte, error) {
	o := seal.NewOpener(b, k)
	var out []byte
	for _, c := range chunks {
		text, err := o.Open(c)
		if err != nil {
			return out, err
		}
		out = append(out, text...)
	}
	return out, o.End()
}

func TestSealAndOpen(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for _, size := range []int{0, 1, seal.ChunkBytes - 1, seal.ChunkBytes, seal.ChunkBytes + 1, 3*seal.ChunkBytes + 7} {
		text := bytes.Repeat([]byte("xyz"), size)[:size]
		chunks := sealed(t, text, 10_000, a, b)
		if want := 2 * max(1, (size+seal.ChunkBytes-1)/seal.ChunkBytes); len(chunks) != want {
			t.Errorf("%d bytes: %d chunks, want %d", size, len(chunks), want)
		}
		for _, k := range []*seal.PrivateKey{a, b} {
			if got, err := opened(body, k, chunks); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%d bytes: %d opened, %v", size, len(got), err)
			}
		}
		for _, c := range chunks {
			if size > 10 && bytes.Contains(c.Sealed, text[:10]) {
				t.Error("the text stands in a chunk")
			}
		}
	}
}

// Each fault has its own error.
func TestFaults(t *testing.T) {
	key := newKey(t)
	text := bytes.Repeat([]byte("x"), 3*seal.ChunkBytes)
	for name, tt := range map[string]struct {
		body   func(*seal.Body)
		change func([]*seal.Chunk) []*seal.Chunk
		want   error
	}{
		"altered":              {nil, func(c []*seal.Chunk) []*seal.Chunk { c[1].Sealed[9] ^= 1; return c }, seal.ErrAltered},
		"enc altered":          {nil, func(c []*seal.Chunk) []*seal.Chunk { c[0].Enc[3] ^= 1; return c }, seal.ErrAltered},
		"one missing":          {nil, func(c []*seal.Chunk) []*seal.Chunk { return append(c[:1:1], c[2:]...) }, seal.ErrMissing},
		"the first missing":    {nil, func(c []*seal.Chunk) []*seal.Chunk { return c[1:] }, seal.ErrMissing},
		"all missing":          {nil, func([]*seal.Chunk) []*seal.Chunk { return nil }, seal.ErrMissing},
		"truncated":            {nil, func(c []*seal.Chunk) []*seal.Chunk { return c[:2] }, seal.ErrTruncated},
		"truncated and marked": {nil, func(c []*seal.Chunk) []*seal.Chunk { c[1].Last = true; return c[:2] }, seal.ErrAltered},
		"twice":                {nil, func(c []*seal.Chunk) []*seal.Chunk { return append(c[:1:1], c...) }, seal.ErrAltered},
		"renumbered":           {nil, func(c []*seal.Chunk) []*seal.Chunk { c[2].Number = 1; return append(c[:1:1], c[2]) }, seal.ErrAltered},
		"behind the end": {nil, func(c []*seal.Chunk) []*seal.Chunk {
			return append(c, &seal.Chunk{Receipt: "rcpt_1", Direction: seal.Response, KeyID: key.Public().ID(), Number: 3})
		}, seal.ErrAltered},
		"another request":   {func(b *seal.Body) { b.RequestHash = "other" }, nil, seal.ErrAltered},
		"another receipt":   {func(b *seal.Body) { b.Receipt = "rcpt_2" }, func(c []*seal.Chunk) []*seal.Chunk { return renamed(c) }, seal.ErrAltered},
		"another direction": {func(b *seal.Body) { b.Direction = seal.Request }, nil, seal.ErrMissing},
	} {
		t.Run(name, func(t *testing.T) {
			chunks, b := sealed(t, text, seal.ChunkBytes, key), body
			if tt.change != nil {
				chunks = tt.change(chunks)
			}
			if tt.body != nil {
				tt.body(&b)
			}
			if _, err := opened(b, key, chunks); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := opened(body, newKey(t), sealed(t, text, 99, key)); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := seal.New(body, nil); !errors.Is(err, seal.ErrKey) {
		t.Errorf("nobody to seal to: %v", err)
	}
}

func renamed(list []*seal.Chunk) []*seal.Chunk {
	for _, c := range list {
		c.Receipt = "rcpt_2"
	}
	return list
}

// A body of which a chunk was lost does not go on: the auditor must see that it is not whole.
func TestLostChunkEndsTheBody(t *testing.T) {
	s, err := seal.New(body, []*seal.PublicKey{newKey(t).Public()})
	if err != nil {
		t.Fatal(err)
	}
	lost, emitted := errors.New("lost"), 0
	emit := func(*seal.Chunk) error {
		emitted++
		return lost
	}
	if err := s.Write(make([]byte, 2*seal.ChunkBytes), emit); !errors.Is(err, lost) {
		t.Errorf("%v", err)
	}
	if err := s.Close(emit); !errors.Is(err, lost) || emitted != 1 {
		t.Errorf("%d chunks, %v", emitted, err)
	}
}

func TestKeys(t *testing.T) {
	k := newKey(t)
	private, err1 := seal.MarshalPrivate(k)
	public, err2 := seal.MarshalPublic(k.Public())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	back, err := seal.ParsePrivate(private)
	if err != nil || back.Public().ID() != k.Public().ID() || len(back.Public().ID()) != 16 {
		t.Errorf("private: %v", err)
	}
	if p, err := seal.ParsePublic(public); err != nil || p.ID() != k.Public().ID() {
		t.Errorf("public: %v", err)
	}
	other, err := seal.MarshalPrivate(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	d := func(raw []byte) string { _, d, _ := strings.Cut(string(raw), `"d":"`); return d }
	mixed := strings.Replace(string(private), d(private), d(other), 1)
	for name, err := range map[string]error{
		"a private key for the gateway": func() error { _, err := seal.ParsePublic(private); return err }(),
		"a public key to open with":     func() error { _, err := seal.ParsePrivate(public); return err }(),
		"parts of two keys":             func() error { _, err := seal.ParsePrivate([]byte(mixed)); return err }(),
		"no JSON":                       func() error { _, err := seal.ParsePublic([]byte("x")); return err }(),
		"another curve": func() error {
			_, err := seal.ParsePublic(bytes.Replace(public, []byte("X25519"), []byte("Ed25519"), 1))
			return err
		}(),
		"another name": func() error {
			_, err := seal.ParsePublic(bytes.Replace(public, []byte(k.Public().ID()), []byte("0123456789abcdef"), 1))
			return err
		}(),
	} {
		if !errors.Is(err, seal.ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text := fmt.Sprintf("%v %+v %#v", k, k, k); strings.Contains(text, "0x") || strings.Contains(text, "{") {
		t.Errorf("the key shows: %s", text)
	}
}

func FuzzParseChunk(f *testing.F) {
	f.Add((&seal.Chunk{Receipt: "r", Direction: seal.Request, KeyID: "k", Enc: []byte("e"), Sealed: []byte("s"), Last: true}).AppendBinary(nil))
	f.Add([]byte{1, 1, 0, 0, 0, 0, 1, 1, 'r', 1, 'k', 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := seal.ParseChunk(in)
		if err == nil && !bytes.Equal(c.AppendBinary(nil), in) {
			t.Errorf("%x is another chunk when it is written again", in)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	s, err := seal.New(body, []*seal.PublicKey{newKey(b).Public()})
	if err != nil {
		b.Fatal(err)
	}
	part := make([]byte, seal.ChunkBytes)
	b.SetBytes(seal.ChunkBytes)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Write(part, func(*seal.Chunk) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
