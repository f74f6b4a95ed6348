package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Programs is a directory with other people's programs, installed below .tools for the tests alone.
type Programs struct {
	Dir string
}

// PythonPackages installs what a requirements file below tests/ names, in an environment of its own, made once for each
// version of the file. In CI packages that cannot be installed fail the test; elsewhere they skip it.
func PythonPackages(t testing.TB, requirements string) Programs {
	t.Helper()
	file := filepath.Join(Root(), "tests", requirements)
	return install(t, "venv", []string{file}, func(dir string) [][]string {
		return [][]string{
			{"python3", "-m", "venv", "--clear", dir},
			{filepath.Join(dir, "bin", "python3"), "-m", "pip", "install", "--quiet", "-r", file},
		}
	})
}

// NodePackages installs what tests/programs/package.json names, with the Node that p holds, and puts the scripts beside it.
func (p Programs) NodePackages(t testing.TB, folder string) Programs {
	t.Helper()
	from := filepath.Join(Root(), "tests", folder)
	scripts, err := filepath.Glob(filepath.Join(from, "*.mjs"))
	must(t, err)
	sources := append([]string{filepath.Join(from, "package.json")}, scripts...)
	return install(t, "node", sources, func(dir string) [][]string {
		return [][]string{
			append(append([]string{"cp"}, sources...), dir),
			{p.Bin("npm"), "install", "--prefix", dir, "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", "--ignore-scripts"},
		}
	})
}

// Bin is the path of a program.
func (p Programs) Bin(name string) string { return filepath.Join(p.Dir, "bin", name) }

// installing keeps tests that run side by side from installing the same.
var installing sync.Mutex

// install runs commands that fill a directory, once for each content of the sources.
func install(t testing.TB, kind string, sources []string, commands func(dir string) [][]string) Programs {
	t.Helper()
	sum := sha256.New()
	for _, s := range sources {
		raw, err := os.ReadFile(s)
		must(t, err)
		fmt.Fprintf(sum, "%d\n%s", len(raw), raw)
	}
	installing.Lock()
	defer installing.Unlock()
	must(t, os.MkdirAll(filepath.Join(Root(), ".tools"), 0o755))
	tools, err := filepath.EvalSymlinks(filepath.Join(Root(), ".tools"))
	must(t, err)
	p := Programs{filepath.Join(tools, kind, hex.EncodeToString(sum.Sum(nil)[:6]))}
	// What is installed names the place it was installed in, so that a checkout that was moved has it installed again.
	done := filepath.Join(p.Dir, "complete")
	if at, err := os.ReadFile(done); err == nil && string(at) == p.Dir {
		return p
	}
	must(t, os.RemoveAll(p.Dir))
	must(t, os.MkdirAll(p.Dir, 0o755))
	for _, args := range commands(p.Dir) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(args[0])+string(os.PathListSeparator)+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
			}
			t.Skipf("cannot be installed: %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	must(t, os.WriteFile(done, []byte(p.Dir), 0o600))
	return p
}
