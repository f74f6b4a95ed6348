package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

// Each broken file has one golden message, so that a message is changed on purpose only.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no broken files: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(name, raw, "/base")
			if err == nil {
				t.Fatal("accepted")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(golden)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("message is\n%swant\n%s", got, want)
			}
			var ps Problems
			if !errors.As(err, &ps) {
				t.Fatalf("%T is not Problems", err)
			}
			for _, p := range ps {
				if p.Line == 0 || p.Remedy == "" {
					t.Errorf("no line or no remedy: %+v", p)
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	c, err := Defaults("/base")
	if err != nil {
		t.Fatal(err)
	}
	if !c.LoopbackModel.On() || len(c.Upstreams) != 4 || len(c.SecretClasses) != 4 {
		t.Fatalf("defaults: %+v", c)
	}
	for _, u := range c.Upstreams {
		if u.URL != "http://"+DefaultLoopback {
			t.Errorf("%s leads to %s, not to the built-in model", u.Name, u.URL)
		}
	}
	if c.Upstreams[2].Name != "gemini" || c.Upstreams[2].Provider != "google" {
		t.Errorf("gemini's provider is %q", c.Upstreams[2].Provider)
	}
	for _, s := range c.SecretClasses {
		if !strings.Contains(s.From.Local, "not-a-real-key") {
			t.Errorf("%s does not say that it is not real: %s", s.Name, s.From)
		}
	}
	for what, path := range map[string]string{"data": c.DataDir, "contracts": c.ContractsDir, "evidence": c.Evidence.Dir, "admin": c.AdminTokenFile} {
		if !strings.HasPrefix(path, "/base/.sallyport") {
			t.Errorf("%s is at %s", what, path)
		}
	}
	if c.Signer.Address != "unix:/base/.sallyport/run/signer.sock" {
		t.Errorf("signer address %s", c.Signer.Address)
	}
}

func TestExample(t *testing.T) {
	c, err := Load("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if c.LoopbackModel.On() {
		t.Error("the built-in model is on although upstreams are configured")
	}
	if c.Upstreams[0].Provider != "openai" || c.Upstreams[2].Provider != "google" {
		t.Errorf("providers %q %q", c.Upstreams[0].Provider, c.Upstreams[2].Provider)
	}
	dir, _ := os.Getwd()
	if want := "file:" + filepath.Join(dir, "gemini.key"); c.SecretClasses[2].From.Local != want {
		t.Errorf("from is %s, want %s", c.SecretClasses[2].From, want)
	}
	if time.Duration(c.SecretClasses[2].TTL) != 5*time.Minute || time.Duration(c.SecretClasses[0].TTL) != DefaultTTL {
		t.Error("ttl")
	}
	if c.SecretClasses[2].Inject.Format != "%s" || c.SecretClasses[0].Inject != nil {
		t.Error("inject")
	}
}

func TestEmptyFileIsTheDefaults(t *testing.T) {
	for _, raw := range []string{"", "# nothing\n"} {
		c, err := Parse("x.yaml", []byte(raw), "/base")
		if err != nil || c.Listen != DefaultListen {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestEmptyTrustMeansNobody(t *testing.T) {
	c, err := Parse("x.yaml", []byte("trusted_contract_signers: []\n"), "/base")
	if err != nil {
		t.Fatal(err)
	}
	if c.TrustedContractSigners == nil || len(c.TrustedContractSigners) != 0 {
		t.Errorf("an empty list became %v", c.TrustedContractSigners)
	}
}

func TestRunDirFitsSockets(t *testing.T) {
	short := &Config{DataDir: "/var/lib/sallyport"}
	if got := short.RunDir(); got != "/var/lib/sallyport/run" {
		t.Errorf("short: %s", got)
	}
	long := &Config{DataDir: "/" + strings.Repeat("d", 150)}
	if got := long.Socket("extproc-63"); len(got) > maxSocketPath || !strings.HasPrefix(got, os.TempDir()) {
		t.Errorf("long: %s", got)
	}
	other := &Config{DataDir: "/" + strings.Repeat("e", 150)}
	if long.RunDir() == other.RunDir() {
		t.Error("two data directories share a run directory")
	}
}

func TestNearest(t *testing.T) {
	known := []string{"listen", "control_listen", "log"}
	for name, want := range map[string]string{"lissten": "listen", "controllisten": "control_listen", "zebra": "", "LOG": ""} {
		if got := nearest(name, known); got != want {
			t.Errorf("nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestHostsOfSecretClasses(t *testing.T) {
	c, err := Parse("x.yaml", []byte(`
upstreams:
  - {name: a, dialect: openai, url: "http://127.0.0.1:9001/base", secret_class: k}
  - {name: b, dialect: openai, url: "https://eu.example.com", secret_class: k}
  - {name: c, dialect: openai, url: "https://other.example.net:8443"}
secret_classes:
  - {name: k, from: "env:K", hosts: ["127.0.0.1", "*.example.com", "api.example.org:8443"]}
`), "/base")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(c.Authorities(c.SecretClasses[0]), " ")
	if want := "*.example.com 127.0.0.1 127.0.0.1:9001 api.example.org:8443 eu.example.com"; got != want {
		t.Errorf("authorities %s, want %s", got, want)
	}
}

// FuzzParse: no input may panic, and what is accepted is complete and says nothing twice.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/broken/*.yaml")
	for _, file := range append(files, "example.yaml") {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Parse("fuzz.yaml", raw, "/base")
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("accepted, then invalid: %v", err)
		}
		if c.LoopbackModel.Enabled == nil || !filepath.IsAbs(c.DataDir) || len(c.Upstreams) == 0 {
			t.Fatalf("incomplete: %+v", c)
		}
	})
}
