package clawlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
	"sallyport/signer/tlog"
)

// golden is the ecosystem's vector (clawbureau/clawbureau, packages/schema/fixtures, MIT licence).
type golden struct {
	Leaves []string `json:"leaves"`
	Target string   `json:"target_leaf_hash_b64u"`
	Proof  struct {
		AuditPath []string `json:"audit_path"`
		Root      string   `json:"root_hash_b64u"`
	} `json:"proof"`
	Inclusion json.RawMessage `json:"inclusion_proof_v1"`
}

func readGolden(t testing.TB) (g golden) {
	t.Helper()
	raw, err := os.ReadFile("testdata/log_inclusion_proof_golden.v1.json")
	if err == nil {
		err = json.Unmarshal(raw, &g)
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func testKey(t testing.TB) *keyring.Key {
	t.Helper()
	k, err := keyring.Generate(bytes.NewReader(bytes.Repeat([]byte{3}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openT(t testing.TB, dir string) *Log {
	t.Helper()
	l, err := Open(Config{Dir: dir, Signer: testKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func leafOf(i int) string { return jcs.Hash(fmt.Append(nil, "leaf ", i)) }

func leavesOf(from, n int) (out []string) {
	for i := range n {
		out = append(out, leafOf(from+i))
	}
	return out
}

func TestTheEcosystemsVector(t *testing.T) {
	t.Parallel()
	g := readGolden(t)
	p, err := ParseProof(g.Inclusion)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(p); err != nil {
		t.Error(err)
	}
	l := openT(t, t.TempDir())
	if err := l.Append(g.Leaves); err != nil {
		t.Fatal(err)
	}
	ours, err := l.Proof(g.Target)
	if err != nil {
		t.Fatal(err)
	}
	if ours.RootHash != g.Proof.Root || fmt.Sprint(ours.AuditPath) != fmt.Sprint(g.Proof.AuditPath) || *ours.Metadata.LeafIndex != 3 {
		t.Errorf("our tree over the vector's leaves differs: %+v", ours)
	}
	if err := Verify(ours); err != nil {
		t.Error(err)
	}
}

// TestReasonsAndTheirOrder: each change gives the code that the public verifiers give, and the earlier check wins.
func TestReasonsAndTheirOrder(t *testing.T) {
	t.Parallel()
	g := readGolden(t)
	at := func(f float64) *Metadata { return &Metadata{LeafIndex: &f} }
	for name, c := range map[string]struct {
		change func(*Proof)
		want   Code
	}{
		"version":              {func(p *Proof) { p.ProofVersion = "2" }, SchemaValidationFailed},
		"no log":               {func(p *Proof) { p.LogID = "" }, SchemaValidationFailed},
		"leaf not a hash":      {func(p *Proof) { p.LeafHash = "AAAA" }, SchemaValidationFailed},
		"time":                 {func(p *Proof) { p.RootPublishedAt = "yesterday" }, InclusionProofInvalid},
		"no index":             {func(p *Proof) { p.Metadata = nil }, InclusionProofInvalid},
		"empty tree":           {func(p *Proof) { p.TreeSize = 0 }, InclusionProofInvalid},
		"index behind the end": {func(p *Proof) { p.Metadata = at(5) }, InclusionProofInvalid},
		"half an index":        {func(p *Proof) { p.Metadata = at(2.5) }, InclusionProofInvalid},
		"path too short":       {func(p *Proof) { p.AuditPath = p.AuditPath[:2] }, InclusionProofInvalid},
		"path before signer":   {func(p *Proof) { p.AuditPath, p.RootSignature.SignerDID = p.AuditPath[:2], "did:web:x" }, InclusionProofInvalid},
		"signer":               {func(p *Proof) { p.RootSignature.SignerDID = "did:web:example.com" }, InvalidDIDFormat},
		"signature":            {func(p *Proof) { p.RootSignature.Signature = strings.Repeat("A", 86) }, SignatureInvalid},
		"root":                 {func(p *Proof) { p.RootHash = leafOf(0) }, SignatureInvalid},
		"other leaf":           {func(p *Proof) { p.LeafHash = leafOf(0) }, InclusionProofInvalid},
		"other place":          {func(p *Proof) { p.Metadata = at(2) }, InclusionProofInvalid},
	} {
		p, err := ParseProof(g.Inclusion)
		if err != nil {
			t.Fatal(err)
		}
		c.change(p)
		var e *Error
		if err := Verify(p); !errors.As(err, &e) || e.Code != c.want {
			t.Errorf("%s: %v; want %s", name, err, c.want)
		}
	}
	var e *Error
	if _, err := ParseProof([]byte(`{"proof_version":"1","extra":1}`)); !errors.As(err, &e) || e.Code != SchemaValidationFailed {
		t.Errorf("an unknown member: %v", err)
	}
}

// naive is the rule as it is written down: all levels, from all leaves.
func naive(leaves []hash, index int) (path []hash, root hash) {
	if len(leaves) == 0 {
		return nil, sha256.Sum256(nil)
	}
	for len(leaves) > 1 {
		if len(leaves)%2 == 1 {
			leaves = append(leaves[:len(leaves):len(leaves)], leaves[len(leaves)-1])
		}
		path = append(path, leaves[index^1])
		var up []hash
		for i := 0; i < len(leaves); i += 2 {
			up = append(up, sha256.Sum256(append(append([]byte{}, leaves[i][:]...), leaves[i+1][:]...)))
		}
		leaves, index = up, index/2
	}
	return path, leaves[0]
}

// TestLikeTheNaiveTree: batches of any size, with reopening between them, against the rule as it is written down.
func TestLikeTheNaiveTree(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(base, "log")
		if err != nil {
			rt.Fatal(err)
		}
		l := openT(t, dir)
		var all []hash
		for _, n := range rapid.SliceOfN(rapid.IntRange(1, 20), 1, 8).Draw(rt, "batches") {
			from := len(all)
			if err := l.Append(leavesOf(from, n)); err != nil {
				rt.Fatal(err)
			}
			for i := range n {
				h, _ := decodeHash(leafOf(from + i))
				all = append(all, h)
			}
			if rapid.Bool().Draw(rt, "reopen") {
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				l = openT(t, dir)
			}
			for i := from; i < len(all); i++ {
				want, root := naive(all, i)
				p, err := l.Proof(leafOf(i))
				if err != nil {
					rt.Fatal(err)
				}
				if err := Verify(p); err != nil || p.RootHash != jcs.EncodeB64u(root[:]) || l.Root().RootHash != p.RootHash {
					rt.Fatalf("leaf %d of %d: root %s, %v", i, len(all), p.RootHash, err)
				}
				for k, h := range want {
					if p.AuditPath[k] != jcs.EncodeB64u(h[:]) {
						rt.Fatalf("leaf %d of %d: node %d of the path differs", i, len(all), k)
					}
				}
			}
		}
		if err := l.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestWhatACrashLeftIsTakenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openT(t, dir)
	for i := range 7 {
		if err := l.Append(leavesOf(3*i, 3)); err != nil {
			t.Fatal(err)
		}
	}
	first, err := l.Proof(leafOf(4))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// The last three leaves have lines and no offsets, and a torn line; a node above was never written.
	cut := func(name string, by int64) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err == nil {
			err = os.Truncate(filepath.Join(dir, name), info.Size()-by)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cut(offsetsFile, 3*offsetLen+5)
	cut("level-01", 40)
	cut(proofsFile, 17)
	l = openT(t, dir)
	if l.Size() != 15 { // whole batches
		t.Fatalf("size %d", l.Size())
	}
	if err := l.Append(leavesOf(15, 6)); err != nil {
		t.Fatal(err)
	}
	for i := range 21 {
		p, err := l.Proof(leafOf(i))
		if err == nil {
			err = Verify(p)
		}
		if err != nil {
			t.Errorf("leaf %d: %v", i, err)
		}
	}
	if again, err := l.Proof(leafOf(4)); err != nil || fmt.Sprint(*again.Metadata.LeafIndex, again.RootHash) != fmt.Sprint(*first.Metadata.LeafIndex, first.RootHash) {
		t.Errorf("a proof that was given out changed: %v, %v", again, err)
	}
	lines, err := os.ReadFile(filepath.Join(dir, proofsFile))
	if err != nil || bytes.Count(lines, []byte("\n")) != 21 {
		t.Errorf("%d lines, %v", bytes.Count(lines, []byte("\n")), err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// A flipped bit in a leaf is damage: nothing above it can be made again.
	path := filepath.Join(dir, "level-00")
	data, err := os.ReadFile(path)
	if err == nil {
		data[5] ^= 1
		err = os.WriteFile(path, data, 0o600)
	}
	for level := 1; err == nil && level < 5; level++ {
		err = os.Remove(filepath.Join(dir, fmt.Sprintf("level-%02d", level)))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir, Signer: testKey(t)}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a flipped bit: %v", err)
	}
}

func TestOneLeafOnceInOneSpelling(t *testing.T) {
	t.Parallel()
	l := openT(t, t.TempDir())
	if err := l.Append(leavesOf(0, 2)); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(leavesOf(1, 2)); !errors.Is(err, ErrExists) || l.Size() != 2 {
		t.Errorf("a leaf again: %v", err)
	}
	if err := l.Append([]string{leafOf(5), leafOf(5)}); !errors.Is(err, ErrExists) {
		t.Errorf("a leaf twice: %v", err)
	}
	// The last character of a hash has two bits that no byte uses.
	s := leafOf(0)
	other := s[:42] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", s[42])|1])
	if err := l.Append([]string{other}); err == nil || errors.Is(err, ErrExists) {
		t.Errorf("another spelling: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFollowTakesReceiptsOnceAndGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(i uint64) (tlog.Entry, error) {
		kind := tlog.Receipt
		if i%3 == 1 {
			kind = tlog.Decision
		}
		return tlog.Entry{Kind: kind, PayloadHash: leafOf(int(i))}, nil //nolint:gosec // small
	}
	for round := range uint64(4) {
		l := openT(t, dir)
		size := 2500 * (round + 1)
		if err := l.Follow(size, at); err != nil {
			t.Fatal(err)
		}
		if want := size - (size+1)/3; l.Size() != want {
			t.Errorf("%d leaves, want %d", l.Size(), want)
		}
		if _, err := l.Proof(leafOf(1)); !errors.Is(err, ErrNotFound) {
			t.Errorf("a refusal has a proof: %v", err)
		}
		if round == 1 {
			if err := os.Remove(filepath.Join(dir, positionFile)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAPI(t *testing.T) {
	t.Parallel()
	l := openT(t, t.TempDir())
	h := Handler(l, func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer admin" }, slog.New(slog.DiscardHandler))
	if err := l.Append(leavesOf(0, 5)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, auth, body string
		status                   int
		want                     string // in the answer
	}{
		{"GET", "/v1/rt/root", "", "", 200, `"tree_size":5`},
		{"GET", "/v1/logs/receipt-transparency/root", "", "", 200, `"log_id":"receipt-transparency"`},
		{"GET", "/v1/logs/other/root", "", "", 400, "INVALID_LOG_ID"},
		{"GET", "/v1/rt/proof/" + leafOf(3), "", "", 200, `"leaf_index":3`},
		{"GET", "/v1/rt/proof/" + leafOf(9), "", "", 404, "LEAF_NOT_FOUND"},
		{"GET", "/v1/rt/proof/short", "", "", 400, "INVALID_LEAF_HASH"},
		{"POST", "/v1/rt/submit", "", `{}`, 401, "UNAUTHORIZED"},
		{"POST", "/v1/rt/submit", "Bearer admin", `[`, 400, "INVALID_JSON"},
		{"POST", "/v1/rt/submit", "Bearer admin", `{}`, 400, "MISSING_REQUIRED_FIELD"},
		{"POST", "/v1/rt/submit", "Bearer admin", `{"receipt_hash_b64u":"x"}`, 400, "INVALID_RECEIPT_HASH"},
		{"POST", "/v1/rt/submit", "Bearer admin", `{"receipt_hash_b64u":"` + leafOf(2) + `"}`, 201, `"log_inclusion_proof":{`},
		{"POST", "/v1/rt/submit", "Bearer admin", `{"receipt_hash_b64u":"` + leafOf(8) + `"}`, 404, "LEAF_NOT_FOUND"},
		{"POST", "/v1/logs/receipt-transparency/append", "Bearer admin", `{"leaf_hash_b64u":"` + leafOf(2) + `"}`, 409, `"leaf_index":2`},
		{"DELETE", "/v1/rt/root", "", "", 405, ""},
		{"GET", "/v1/rt/nothing", "", "", 404, ""},
	} {
		req := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		if c.auth != "" {
			req.Header.Set("Authorization", c.auth)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, w.Code, w.Body)
		}
		if c.status < 300 && strings.Contains(c.path, "/proof/") {
			p, err := ParseProof(w.Body.Bytes())
			if err == nil {
				err = Verify(p)
			}
			if err != nil {
				t.Errorf("%s: %v", c.path, err)
			}
		}
	}
	if l.Size() != 5 {
		t.Errorf("the API added leaves: %d", l.Size())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add([]byte(readGolden(f).Inclusion))
	f.Add([]byte(`{"metadata":{"leaf_index":1e300}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err != nil {
			return
		}
		if Verify(p) != nil {
			return
		}
		out, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseProof(out)
		if err != nil || Verify(again) != nil {
			t.Errorf("holds, and not once it is written again: %s", out)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l, err := Open(Config{Dir: b.TempDir(), Signer: testKey(b), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; i < b.N; i += maxBatch {
		if err := l.Append(leavesOf(i, min(maxBatch, b.N-i))); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leaves/s")
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// TestLineIsWhatItsTypeSays: lines are written by hand, and are what encoding/json makes of a Line.
func TestLineIsWhatItsTypeSays(t *testing.T) {
	r := Root{LogID: "a \"log\"", TreeSize: 1 << 40, RootHash: "root", PublishedAt: "2026-01-01T00:00:00.000Z", Signature: RootSignature{"did:key:z", "sig"}}
	for _, path := range [][]hash{nil, {{1}}, {{1}, {2, 3}, {}}} {
		want, err := json.Marshal(Line{proofOf(r, "leaf", 1<<40-1, path), "leaf"})
		if err != nil {
			t.Fatal(err)
		}
		if got := appendLine([]byte("x"), r, "leaf", 1<<40-1, path); string(got) != "x"+string(want) {
			t.Errorf("%s\nwant %s", got[1:], want)
		}
	}
}
