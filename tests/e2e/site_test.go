package e2e

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/tests/harness"
)

// site is what the test's own TLS server holds: models, files, and the registries of pip, git, npm and MCP, each once
// below /public, which contracts allow, and once below /secret, which none does.
type site struct {
	chat  http.Handler
	files http.Handler
	wheel []byte
	pack  []byte
	base  string // https://HOST:PORT
}

// serve has the server answer as a site.
func serve(t *testing.T, u *harness.Upstream) {
	t.Helper()
	s := &site{chat: http.HandlerFunc(u.Chat), wheel: wheel(t), pack: nodePackage(t), base: "https://" + dataHost + ":" + u.Port()}
	s.files = http.FileServer(http.Dir(repository(t)))
	u.Handle = s.ServeHTTP
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/messages") {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"id":"msg_1","type":"message","role":"assistant","model":"claude-3-5-haiku","content":[{"type":"text","text":"Hello."}],"stop_reason":"end_turn","usage":{"input_tokens":7,"output_tokens":3}}`)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		s.chat.ServeHTTP(w, r)
		return
	}
	_, below, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	top := strings.TrimSuffix(r.URL.Path, below)
	switch {
	case below == "to-metadata": // a redirect to where a machine's own credentials are
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
	case below == "mcp":
		mcpAnswer(w, r)
	case strings.HasPrefix(below, "simple/"):
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!DOCTYPE html><html><body><a href="%sfiles/tiny-1.0.0-py3-none-any.whl">tiny-1.0.0-py3-none-any.whl</a></body></html>`, top)
	case strings.HasSuffix(below, ".whl"):
		_, _ = w.Write(s.wheel)
	case below == "npm/tiny":
		w.Header().Set("Content-Type", "application/json")
		sum := sha512.Sum512(s.pack)
		_ = json.NewEncoder(w).Encode(map[string]any{"name": "tiny", "dist-tags": map[string]string{"latest": "1.0.0"}, "versions": map[string]any{
			"1.0.0": map[string]any{"name": "tiny", "version": "1.0.0", "dist": map[string]string{
				"tarball": s.base + top + "npm/tiny-1.0.0.tgz", "integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
			}},
		}})
	case strings.HasSuffix(below, ".tgz"):
		_, _ = w.Write(s.pack)
	case strings.HasPrefix(below, "repo.git/"):
		r.URL.Path = "/" + below
		s.files.ServeHTTP(w, r)
	default:
		fmt.Fprintf(w, "this is %s\n", r.URL.Path)
	}
}

// mcpAnswer is a server of one tool, of the 2025-11-25 revision, without sessions.
func mcpAnswer(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	var ask struct {
		ID     json.RawMessage
		Method string
	}
	if err != nil || r.Method != http.MethodPost || json.Unmarshal(raw, &ask) != nil {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if ask.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch ask.Method {
	case "initialize":
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"test","version":"1"}}}`, ask.ID)
	case "tools/list":
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}}`, ask.ID)
	case "tools/call":
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"echoed"}]}}`, ask.ID)
	default:
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, ask.ID)
	}
}

func wheel(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{
		"tiny.py":                       "answer = 42\n",
		"tiny-1.0.0.dist-info/WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		"tiny-1.0.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0.0\n",
		"tiny-1.0.0.dist-info/RECORD":   "",
	} {
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write([]byte(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func nodePackage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	tw := tar.NewWriter(gz)
	text := []byte(`{"name":"tiny","version":"1.0.0"}`)
	err := tw.WriteHeader(&tar.Header{Name: "package/package.json", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = tw.Write(text)
	}
	for _, closer := range []io.Closer{tw, gz} {
		if err == nil {
			err = closer.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// repository is a directory with repo.git, ready to be served as files.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	work := filepath.Join(dir, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "hello.txt"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", work},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "-q", "-m", "Begin"},
		{"clone", "-q", "--bare", work, filepath.Join(dir, "repo.git")},
		{"-C", filepath.Join(dir, "repo.git"), "update-server-info"},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	return dir
}
