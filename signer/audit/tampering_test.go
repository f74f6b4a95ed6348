package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport/signer/audit"
	"sallyport/signer/clawverify"
	"sallyport/signer/internal/testarchive"
	"sallyport/signer/jcs"
)

var (
	update     = flag.Bool("update", false, "write the golden files anew")
	everywhere = flag.Bool("everywhere", false, "tamper with each place of a kind, not with the first of them")
)

// uncovered are the places that no signature and no other check covers but the manifest's: the inner tests change them
// under a manifest that was signed anew, and nothing more can notice.
var uncovered = map[string]string{
	"contracts issued_at":             "an envelope's time is outside its signature (WIRE 1); nothing is decided by it",
	"decisions.jsonl issued_at":       "an envelope's time is outside its signature (WIRE 1); the signed timestamp counts",
	"client-recorded.jsonl issued_at": "an envelope's time is outside its signature (WIRE 1); the signed timestamp counts",
	"trust.json":                      "for information; a verifier believes only what it was given",
}

// fakeLeaf stands for a log: a proof is the hash of all that it must cover.
func fakeLeaf(kind, hash string, index uint64, checkpoint []byte) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d %s", kind, hash, index, checkpoint))
	return sum[:]
}

func withLogs(c *audit.Config) *audit.Config {
	c.TLog = func(kind, hash string, index uint64, inclusion [][]byte, checkpoint []byte) error {
		if len(inclusion) != 1 || !bytes.Equal(inclusion[0], fakeLeaf(kind, hash, index, checkpoint)) {
			return errors.New("the path does not lead to the checkpoint's root")
		}
		return nil
	}
	c.ClawLog = func(proof []byte) (string, error) {
		var p struct {
			Leaf string `json:"leaf_hash_b64u"`
			Root string `json:"root_hash_b64u"`
		}
		if err := jcs.Unmarshal(proof, &p); err != nil {
			return "", err
		}
		if p.Root != jcs.Hash([]byte(p.Leaf)) {
			return "", errors.New("the path does not lead to the root")
		}
		return p.Leaf, nil
	}
	return c
}

// sample is an archive that has everything in it, in two parts.
func sample(t testing.TB) *testarchive.Archive {
	t.Helper()
	a := testarchive.New(testarchive.Options{Calls: 3, PartSize: 2, Refused: 2, ClientRecorded: 1})
	a.Files["checkpoint"] = []byte("origin\n9\nroot\n")
	var out bytes.Buffer
	index := uint64(0)
	line := func(kind string, envelope []byte) {
		h := payloadHash(t, envelope)
		p := map[string]any{"payload_hash_b64u": h, "kind": kind, "tlog": map[string]any{
			"index": index, "inclusion": []string{base64.StdEncoding.EncodeToString(fakeLeaf(kind, h, index, a.Files["checkpoint"]))},
		}}
		if kind == "receipt" {
			p["log_inclusion_proof"] = map[string]any{"leaf_hash_b64u": h, "root_hash_b64u": jcs.Hash([]byte(h))}
		}
		raw, err := jcs.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(raw, '\n'))
		index++
	}
	for _, name := range []string{"bundle.json", "bundle-2.json"} {
		for _, raw := range receiptsOf(t, a.Files[name]) {
			line("receipt", raw)
		}
	}
	for name, kind := range map[string]string{"client-recorded.jsonl": "receipt", "decisions.jsonl": "decision"} {
		for raw := range bytes.Lines(a.Files[name]) {
			line(kind, raw)
		}
	}
	a.Files["proofs.jsonl"] = out.Bytes()
	a.Files["sealed/rcpt_0.request"] = []byte("sealed")
	return a
}

// row is a line of the table.
type row struct{ who, file, path, how, check, code string }

// tamper tries every change of every file and returns the table. Each must be caught, and what is said of it must name the
// file; verify is told the files as they are then.
func tamper(t *testing.T, who string, files map[string][]byte, verify func(map[string][]byte) *clawverify.Report) []row {
	t.Helper()
	seen, tried := map[row]bool{}, map[row]int{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		tryAll := func(prefix, suffix, text []byte) {
			for _, m := range mutations(text) {
				at := row{who: who, file: short(name), path: plain(m.path), how: m.how}
				if tried[at]++; tried[at] > 1 && !*everywhere {
					continue
				}
				changed := maps.Clone(files)
				changed[name] = slices.Concat(prefix, m.text, suffix)
				r := verify(changed)
				if excuse(at) != "" {
					at.check, at.code = "-", "see below"
				} else {
					at.check, at.code = caught(t, r, name, m)
				}
				seen[at] = true
			}
		}
		switch {
		case strings.HasSuffix(name, ".jsonl"):
			lines := slices.Collect(bytes.Lines(files[name]))
			for i, l := range lines {
				tryAll(bytes.Join(lines[:i], nil), append([]byte("\n"), bytes.Join(lines[i+1:], nil)...), bytes.TrimSuffix(l, []byte("\n")))
			}
			for how, changed := range map[string][][]byte{
				"the first line deleted": lines[1:],
				"a line doubled":         slices.Concat(lines[:1], lines),
				"lines reversed":         reversed(lines),
				"the last line deleted":  lines[:len(lines)-1],
				"the end cut off":        {files[name][:len(files[name])-3]},
			} {
				if len(lines) == 1 && how == "lines reversed" || name == "proofs.jsonl" && how == "lines reversed" && who != "anybody" {
					continue // the same file, or one whose order says nothing
				}
				c := maps.Clone(files)
				c[name] = bytes.Join(changed, nil)
				check, code := caught(t, verify(c), name, mutation{"", how, nil})
				seen[row{who, name, "(lines)", how, check, code}] = true
			}
		case strings.HasSuffix(name, ".json"):
			tryAll(nil, nil, files[name])
		default:
			c := maps.Clone(files)
			c[name] = append(slices.Clone(files[name]), 'x')
			check, code := "-", "see below"
			if at := (row{who: who, file: short(name)}); excuse(at) == "" {
				check, code = caught(t, verify(c), name, mutation{"", "changed", nil})
			}
			seen[row{who, short(name), "(bytes)", "changed", check, code}] = true
		}
	}
	return joined(seen)
}

// joined puts the changes of one place that the same check catches into one row.
func joined(seen map[row]bool) []row {
	hows := map[row][]string{}
	for r := range seen {
		how := r.how
		r.how = ""
		hows[r] = append(hows[r], how)
	}
	var out []row
	for r, all := range hows {
		slices.Sort(all)
		r.how = strings.Join(all, ", ")
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b row) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return out
}

func reversed(lines [][]byte) [][]byte {
	out := slices.Clone(lines)
	slices.Reverse(out)
	return out
}

// caught says what caught a change: the first check that failed, and its code.
func caught(t *testing.T, r *clawverify.Report, file string, m mutation) (check, code string) {
	t.Helper()
	if r.Status == clawverify.Pass {
		t.Errorf("%s: %s %s: not caught", file, m.path, m.how)
		return "NOT CAUGHT", "-"
	}
	res := r.Verification.(*audit.Result)
	named := false
	for _, k := range res.Checks {
		if k.Verdict != audit.Failed {
			continue
		}
		if check == "" {
			check, code = k.Name, string(k.Code)
		}
		for _, text := range append([]string{k.Field + " " + k.Reason}, k.More...) {
			named = named || strings.Contains(text, file)
		}
	}
	if !named {
		t.Errorf("%s: %s %s: caught by %s, but nothing names the file: %s", file, m.path, m.how, check, r.Reason)
	}
	return check, code
}

// short leaves the hash out of a contract's name.
func short(name string) string {
	if dir, _, ok := strings.Cut(name, "/"); ok {
		return dir
	}
	return name
}

// excuse is why a change is not caught under a manifest signed anew.
func excuse(r row) string {
	if r.who != "who holds the gateway's key" {
		return ""
	}
	if why := uncovered[r.file]; why != "" {
		return why
	}
	if r.file == "sealed" {
		return "what is sealed shows only to who has the auditor's key: `sallyport evidence open` holds it against the receipt"
	}
	if r.how != "changed" {
		return ""
	}
	return uncovered[r.file+" "+r.path]
}

// TestTampering changes every field of every file of an archive, one at a time, in three worlds: by anybody; in a bundle
// alone; and by somebody who holds the gateway's key for manifests and signs the changed archive anew, so that only what
// stands below the manifest can notice.
func TestTampering(t *testing.T) {
	t.Parallel()
	a := sample(t)
	c := withLogs(trusting(a))
	manifest := a.SignedManifest()
	var table []row
	all := maps.Clone(a.Files)
	all["manifest.json"] = manifest
	if r, _ := run(a.Zip(manifest), c); r.Status != clawverify.Pass {
		t.Fatalf("the archive itself: %s %s", r.ReasonCode, r.Reason)
	}
	table = append(table, tamper(t, "anybody", all, func(files map[string][]byte) *clawverify.Report {
		b := *a
		b.Files = maps.Clone(files)
		delete(b.Files, "manifest.json")
		data := b.Zip(files["manifest.json"])
		return audit.ManifestOnly(bytes.NewReader(data), int64(len(data)), c)
	})...)
	table = append(table, tamper(t, "bundle alone", map[string][]byte{"bundle.json": a.Files["bundle.json"]}, func(files map[string][]byte) *clawverify.Report {
		r := audit.Bundle(files["bundle.json"], c, "")
		for _, k := range r.Verification.(*audit.Result).Checks {
			k.Field = strings.Replace(k.Field, "bundle", "bundle.json", 1)
		}
		return r
	})...)
	table = append(table, tamper(t, "who holds the gateway's key", a.Files, func(files map[string][]byte) *clawverify.Report {
		b := *a
		b.Files = files
		r, _ := run(b.Seal(), c)
		return r
	})...)
	golden(t, "tampering.md", table)
}

func golden(t *testing.T, name string, table []row) {
	t.Helper()
	var out strings.Builder
	out.WriteString("# What is changed, by whom, and what notices\n\nWritten by TestTampering. Each line is one kind of place.\n\n| who | file | field | change | caught by | code |\n|---|---|---|---|---|---|\n")
	excused := 0
	for _, r := range table {
		if r.check == "-" {
			excused++
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s |\n", r.who, r.file, r.path, r.how, r.check, r.code)
	}
	fmt.Fprintf(&out, "\n%d lines, %d of them not caught once the manifest is signed anew by the gateway's own key:\n\n", len(table), excused)
	for _, place := range slices.Sorted(maps.Keys(uncovered)) {
		fmt.Fprintf(&out, "- %s: %s\n", place, uncovered[place])
	}
	fmt.Fprintf(&out, "- sealed: %s\n", excuse(row{who: "who holds the gateway's key", file: "sealed"}))
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != out.String() {
		t.Errorf("%s is not what the checks do now; look at the difference after go test -update", path)
	}
	t.Logf("%d lines of %s", len(table), path)
}
