// Package trustpulse keeps what agents report of themselves (WIRE 11): a summary of tools and files that nobody has signed or
// checked. It is shown as self-reported and raises nothing.
package trustpulse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/signer/jcs"
)

// MaxBytes bounds a document.
const MaxBytes = 64 << 10

const (
	maxTools, maxFiles = 128, 512
	maxName, maxPath   = 128, 1024
)

// Errors. Each is wrapped with what is wrong.
var (
	ErrInvalid  = errors.New("trust pulse invalid")
	ErrTooLarge = errors.New("trust pulse too large")
	ErrBinding  = errors.New("trust pulse is of another run")
	ErrNotFound = errors.New("no trust pulse")
	ErrCorrupt  = errors.New("stored trust pulse damaged")
)

// Document is a trust pulse of version 1. Its schema is closed.
type Document struct {
	Version       string   `json:"trust_pulse_version"`
	ID            string   `json:"trust_pulse_id,omitempty"`
	RunID         string   `json:"run_id"`
	AgentDID      string   `json:"agent_did"`
	IssuedAt      string   `json:"issued_at"`
	StartedAt     string   `json:"started_at,omitempty"`
	EndedAt       string   `json:"ended_at,omitempty"`
	DurationMS    *float64 `json:"duration_ms,omitempty"`
	EvidenceClass string   `json:"evidence_class"` // "self_reported"
	TierUplift    *bool    `json:"tier_uplift"`    // false
	Tools         []Tool   `json:"tools"`
	Files         []File   `json:"files"`
}

// Tool is one that the agent says it called.
type Tool struct {
	Name  string `json:"name"`
	Calls *int64 `json:"calls"`
}

// File is one that the agent says it touched, by a relative path.
type File struct {
	Path    string `json:"path"`
	Touches *int64 `json:"touches"`
}

// Parse reads a document and says what is wrong with it.
func Parse(raw []byte) (*Document, error) {
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes; the limit is %d", ErrTooLarge, len(raw), MaxBytes)
	}
	d := &Document{}
	if err := jcs.Unmarshal(raw, d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if what := d.fault(); what != "" {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, what)
	}
	return d, nil
}

func (d *Document) fault() string {
	switch {
	case d.Version != "1":
		return `trust_pulse_version must be "1"`
	case d.RunID == "":
		return "run_id is missing"
	case !strings.HasPrefix(d.AgentDID, "did:"):
		return "agent_did must be a DID"
	case d.EvidenceClass != "self_reported":
		return `evidence_class must be "self_reported"`
	case d.TierUplift == nil || *d.TierUplift:
		return "tier_uplift must be false"
	case d.Tools == nil || len(d.Tools) > maxTools:
		return fmt.Sprintf("tools must be a list of at most %d", maxTools)
	case d.Files == nil || len(d.Files) > maxFiles:
		return fmt.Sprintf("files must be a list of at most %d", maxFiles)
	case d.DurationMS != nil && *d.DurationMS < 0:
		return "duration_ms must not be negative"
	}
	for name, t := range map[string]string{"issued_at": d.IssuedAt, "started_at": d.StartedAt, "ended_at": d.EndedAt} {
		if _, err := time.Parse(time.RFC3339Nano, t); err != nil && (t != "" || name == "issued_at") {
			return name + " must be an RFC 3339 time"
		}
	}
	for i, t := range d.Tools {
		if t.Name == "" || len(t.Name) > maxName || t.Calls == nil || *t.Calls < 0 {
			return fmt.Sprintf("tools[%d]: a name of 1 to %d bytes and a number of calls are needed", i, maxName)
		}
	}
	for i, f := range d.Files {
		if !relative(f.Path) || f.Touches == nil || *f.Touches < 0 {
			return fmt.Sprintf("files[%d]: a relative path of 1 to %d bytes, without .. and backslashes, and a number of touches are needed", i, maxPath)
		}
	}
	return ""
}

func relative(path string) bool {
	if path == "" || len(path) > maxPath || strings.ContainsAny(path[:1], "/~") || strings.Contains(path, `\`) {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return false
		}
	}
	return true
}

// Stored is a document as it was taken.
type Stored struct {
	RunID     string          `json:"run_id"`
	AgentDID  string          `json:"agent_did"`
	Hash      string          `json:"hash_b64u"` // SHA-256 of the document as JSON.stringify writes it
	Status    string          `json:"status"`    // "unverified", always
	CreatedAt string          `json:"created_at"`
	Document  json.RawMessage `json:"trust_pulse"`
}

// Unverified is the one status: no gateway can check what an agent says of itself.
const Unverified = "unverified"

// Store keeps documents as files that never change, one directory for each run.
type Store struct{ Dir string }

// Put keeps a document of the run that key names. A document that is there already stays as it is.
func (s Store) Put(key string, raw []byte, d *Document, now time.Time) (*Stored, error) {
	plain, err := jcs.Compact(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	out := &Stored{
		RunID: d.RunID, AgentDID: d.AgentDID, Hash: jcs.Hash(plain), Status: Unverified, CreatedAt: now.UTC().Format("2006-01-02T15:04:05.000Z"), Document: plain,
	}
	dir := filepath.Join(s.Dir, key)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	names, err := s.names(key)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if old, err := s.read(key, name); err == nil && old.Hash == out.Hash {
			return old, nil
		}
	}
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false) // the document stays as it was hashed
	if err := enc.Encode(out); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return out, os.Link(f.Name(), filepath.Join(dir, fmt.Sprintf("%06d.json", len(names)+1)))
}

// names are a run's documents, the oldest first.
func (s Store) names(key string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			out = append(out, e.Name())
		}
	}
	return out, err
}

func (s Store) read(key, name string) (*Stored, error) {
	raw, err := os.ReadFile(filepath.Join(s.Dir, key, name))
	if err != nil {
		return nil, err
	}
	out := &Stored{}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, name, err)
	}
	if sum, err := jcs.HashJSONOrder(out.Document); err != nil || sum != out.Hash {
		return nil, fmt.Errorf("%w: %s does not have its hash", ErrCorrupt, name)
	}
	return out, nil
}

// Newest is the run's newest document.
func (s Store) Newest(key string) (*Stored, error) {
	names, err := s.names(key)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, ErrNotFound
	}
	return s.read(key, names[len(names)-1])
}
