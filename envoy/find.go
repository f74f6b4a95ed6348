package envoy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ErrNotFound says that no Envoy binary is at hand.
var ErrNotFound = errors.New("envoy is not installed")

// Find returns the Envoy to run: the one the variable ENVOY names, else the one that Install put into dir, else the
// first in PATH. The path is absolute.
func Find(dir string) (string, error) {
	if named := os.Getenv("ENVOY"); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("%w: ENVOY names %q: %w", ErrNotFound, named, err)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath(filepath.Join(dir, "envoy")); err == nil {
		return filepath.Abs(path)
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", fmt.Errorf("%w: set ENVOY, put envoy into PATH, or install it into %s", ErrNotFound, dir)
	}
	return filepath.Abs(path)
}
