package tlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/transparency-dev/tessera/api/layout"
)

// position pairs a place in the log with one in the evidence: the entry with this index is of the first record from Seq on
// that has one. It may be behind; without it the evidence is read from its beginning.
type position struct {
	Entries uint64 `json:"entries"`
	Seq     uint64 `json:"evidence_seq"`
}

func readPosition(dir string) (position, error) {
	raw, err := os.ReadFile(filepath.Join(dir, positionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return position{}, nil
	}
	var p position
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil {
		return position{}, fmt.Errorf("transparency log: %s: %w; remove the file to have the evidence read from its beginning", positionFile, err)
	}
	return p, nil
}

func writePosition(dir string, p position) error {
	raw, err := json.Marshal(p)
	if err == nil {
		err = replaceFile(filepath.Join(dir, positionFile), raw)
	}
	if err != nil {
		return fmt.Errorf("transparency log: %w", err)
	}
	return nil
}

// checkOrigin says why a text cannot be the name of a log.
func checkOrigin(origin string) error {
	if origin == "" || strings.ContainsRune(origin, '+') || strings.ContainsFunc(origin, unicode.IsSpace) || strings.ContainsFunc(origin, unicode.IsControl) {
		return fmt.Errorf("transparency log: %q is no origin: it must be a URL without a scheme, without spaces and plus signs", origin)
	}
	return nil
}

// OriginOf is the origin of the log in dir, or the one that a new log is to have.
func OriginOf(dir, fresh string) (string, error) {
	origin, err := existingOrigin(dir)
	if err != nil || origin != "" {
		return origin, err
	}
	return fresh, checkOrigin(fresh)
}

// existingOrigin is the origin of the log in dir, "" if there is none.
func existingOrigin(dir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, layout.CheckpointPath))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("transparency log: %w", err)
	}
	c, err := parseCheckpoint(raw)
	if err != nil {
		return "", err
	}
	return c.Origin, nil
}
