package bundle

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"time"

	"sallyport/signer/chain"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/record"
	"sallyport/signer/runs"
)

// manifest is the payload of the archive's manifest.json, its members in canonical order.
type manifest struct {
	AgentDID   string `json:"agent_did"`
	Version    string `json:"archive_version"`
	CreatedAt  string `json:"created_at"` // the time of the last record, so that the same evidence gives the same bytes
	Files      []file `json:"files"`
	GatewayDID string `json:"gateway_did"`
	Job        string `json:"job"`
	Parts      int    `json:"parts"`
	RunID      string `json:"run_id"`
}

type file struct {
	Path string `json:"path"`
	Hash string `json:"sha256_b64u"`
	Size int    `json:"size_bytes"`
}

// maxSealed bounds the sealed bodies of one archive, in bytes, since an archive is made in memory.
const maxSealed = 128 << 20

// Archive writes the archive of a run: its bundles and what they refer to, as files of a zip that are not compressed. Sealed
// bodies go with it where they are wanted.
func (m *Maker) Archive(w io.Writer, r *runs.Run, sealed bool) error {
	s, err := m.split(r)
	if err != nil {
		return err
	}
	files := map[string][]byte{}
	if err := m.fill(files, s); err != nil {
		return err
	}
	if sealed && m.Sealed != nil {
		if err := m.seal(files, s.CallList); err != nil {
			return err
		}
	}
	created := time.Time{}
	for _, part := range s.parts {
		created = later(created, part...)
	}
	created = later(created, s.own...)
	for _, d := range s.Decisions {
		created = laterOf(created, d)
	}
	list := manifest{
		AgentDID: s.agent.DID(), Version: "1", CreatedAt: envelope.FormatTime(created), GatewayDID: s.gateway, Job: s.Job, Parts: len(s.parts), RunID: s.Run.Run,
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		list.Files = append(list.Files, file{name, jcs.Hash(files[name]), len(files[name])})
	}
	env, err := envelope.Seal(envelope.TypeArchive, list, m.Gateway, created)
	if err != nil {
		return err
	}
	if files["manifest.json"], err = env.Encode(); err != nil {
		return err
	}
	return write(w, files)
}

// seal adds the sealed bodies: for each the parts in order, each with its length in front (4 bytes, big-endian).
func (m *Maker) seal(files map[string][]byte, calls []runs.Call) error {
	left := maxSealed
	for i := range calls {
		id := calls[i].Intent.ID
		if calls[i].Intent.PrivacyMode != record.PrivacyEncrypted {
			continue
		}
		err := m.Sealed(id, func(raw []byte) error {
			c, err := seal.ParseChunk(raw)
			if err != nil {
				return fmt.Errorf("sealed body of %s: %w", id, err)
			}
			if left -= len(raw); left < 0 {
				return ErrTooLarge
			}
			name := "sealed/" + id + "." + c.Direction.String()
			files[name] = append(binary.BigEndian.AppendUint32(files[name], uint32(len(raw))), raw...) //nolint:gosec // a record of the log
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// union is what is in either list, each once.
func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// later is the latest time at which one of the receipts was issued.
func later(t time.Time, calls ...runs.Call) time.Time {
	for _, c := range calls {
		t = laterOf(t, c.Receipt)
	}
	return t
}

func laterOf(t time.Time, env []byte) time.Time {
	var e struct {
		IssuedAt time.Time `json:"issued_at"`
	}
	if json.Unmarshal(env, &e) == nil && e.IssuedAt.After(t) {
		return e.IssuedAt
	}
	return t
}

func (m *Maker) fill(files map[string][]byte, s *run) error {
	for n := range s.parts {
		env, err := s.bundle(n + 1)
		if err != nil {
			return err
		}
		if files[bundleName(n+1)], err = env.Encode(); err != nil {
			return err
		}
	}
	var events, own, decisions bytes.Buffer
	var hashes []string
	for _, part := range s.parts {
		for _, c := range part {
			events.Write(chain.Payload(nil, c.Intent.Intent.AppendJSON(nil), c.Intent.Chain.Continues))
			events.WriteByte('\n')
			hashes = append(hashes, hashOf(c.Receipt))
		}
	}
	for _, c := range s.own {
		own.Write(c.Receipt)
		own.WriteByte('\n')
		hashes = append(hashes, hashOf(c.Receipt))
	}
	for _, d := range s.Decisions {
		decisions.Write(d)
		decisions.WriteByte('\n')
		hashes = append(hashes, hashOf(d))
	}
	for name, b := range map[string]*bytes.Buffer{"events.jsonl": &events, "client-recorded.jsonl": &own, "decisions.jsonl": &decisions} {
		if b.Len() > 0 {
			files[name] = b.Bytes()
		}
	}
	for _, hash := range union(s.policies, s.PolicyHashes) {
		raw, err := m.Contract(hash)
		if errors.Is(err, fs.ErrNotExist) && !slices.Contains(s.policies, hash) {
			continue // only refusals name it, perhaps because it never was
		}
		if err != nil {
			return fmt.Errorf("contract %s: %w", hash, err)
		}
		files["contracts/"+hash+".json"] = raw
	}
	trust, err := jcs.Marshal(m.Trust)
	if err != nil {
		return err
	}
	files["trust.json"] = trust
	return m.prove(files, hashes)
}

func (m *Maker) prove(files map[string][]byte, hashes []string) error {
	if m.Proofs == nil {
		return nil
	}
	p, err := m.Proofs(hashes)
	if err != nil {
		return fmt.Errorf("proofs of the logs: %w", err)
	}
	var out bytes.Buffer
	for _, l := range p.Lines {
		line, err := jcs.Marshal(l)
		if err != nil {
			return err
		}
		out.Write(append(line, '\n'))
	}
	files["proofs.jsonl"], files["checkpoint"] = out.Bytes(), p.Checkpoint
	return nil
}

func hashOf(env []byte) string {
	var e struct {
		Hash string `json:"payload_hash_b64u"`
	}
	_ = json.Unmarshal(env, &e) // one that is none has no proof
	return e.Hash
}

func bundleName(part int) string {
	if part == 1 {
		return "bundle.json"
	}
	return fmt.Sprintf("bundle-%d.json", part)
}

// noDate is 1980-01-01, the first that a zip can say: an archive's time stands in its manifest.
const noDate = 1<<5 | 1

func write(w io.Writer, files map[string][]byte) error {
	z := zip.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store, ModifiedDate: noDate}) //nolint:staticcheck // Modified would add a field to each entry
		if err != nil {
			return err
		}
		if _, err := f.Write(files[name]); err != nil {
			return err
		}
	}
	return z.Close()
}
