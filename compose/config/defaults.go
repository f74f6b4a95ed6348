package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The defaults. Each is what makes `sallyport up` work on one machine without a file.
const (
	DefaultListen        = "127.0.0.1:8080" // loopback only: opening it to a network is the operator's decision
	DefaultControlListen = "127.0.0.1:8081"
	DefaultLoopback      = "127.0.0.1:8082"
	DefaultForwardListen = "127.0.0.1:8083"
	DefaultDataDir       = ".sallyport"
	DefaultAudience      = "sallyport"
	DefaultMode          = "sealed" // no receipt that a client saw completed is lost by a power cut
	// DefaultCompressAfter is a day, so that what is looked at most is read as fast as it was written.
	DefaultCompressAfter = 24 * time.Hour
	DefaultMaxBodyBytes  = int64(32 << 20)  // fits the largest prompts that models take today
	DefaultReplicas      = 1                // more than one needs a shared store
	DefaultTTL           = 10 * time.Minute // a rotated credential is in use soon, and a file is not read for each call
	DefaultLogLevel      = "info"
	DefaultLogFormat     = "text"
	DefaultInjectFormat  = "%s"

	// Off as forward_listen closes the forward door.
	Off = "off"

	// Self among the trusted contract signers is the contract key of this installation.
	Self = "self"

	// maxSocketPath is the room that Linux gives a Unix socket's path, less the ending zero.
	maxSocketPath = 107
	// longestSocket is the longest name that is used in the run directory.
	longestSocket = "/extproc-00.status.sock"

	// developmentCredential stands for a provider's key where only the built-in model is called. It opens nothing.
	developmentCredential = "static:development-only-not-a-real-key"
)

func (c *Config) applyDefaults(base string) {
	str(&c.Listen, DefaultListen)
	str(&c.ControlListen, DefaultControlListen)
	str(&c.ForwardListen, DefaultForwardListen)
	str(&c.DataDir, DefaultDataDir)
	str(&c.LoopbackModel.Listen, DefaultLoopback)
	str(&c.Evidence.Mode, DefaultMode)
	if c.Evidence.CompressAfter == 0 {
		c.Evidence.CompressAfter = Duration(DefaultCompressAfter)
	}
	str(&c.Log.Level, DefaultLogLevel)
	str(&c.Log.Format, DefaultLogFormat)
	if c.Audience == nil {
		c.Audience = []string{DefaultAudience}
	}
	if c.TrustedContractSigners == nil {
		c.TrustedContractSigners = []string{Self}
	}
	if c.JobBinding == nil {
		c.JobBinding = []string{"run_id", "peer_address"}
	}
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if c.ExtProc.Replicas == 0 {
		c.ExtProc.Replicas = DefaultReplicas
	}
	c.defaultUpstreams()
	c.defaultPaths(base)
	c.defaultLinks(base)
}

// defaultUpstreams leads the four well-known names to the built-in model where no upstream is configured.
func (c *Config) defaultUpstreams() {
	if c.LoopbackModel.Enabled == nil {
		on := c.Upstreams == nil
		c.LoopbackModel.Enabled = &on
	}
	if c.Upstreams == nil && c.LoopbackModel.On() {
		c.developmentUpstreams()
	}
	for i := range c.Upstreams {
		str(&c.Upstreams[i].Provider, c.Upstreams[i].Name)
	}
	for i := range c.SecretClasses {
		s := &c.SecretClasses[i]
		if s.TTL == 0 {
			s.TTL = Duration(DefaultTTL)
		}
		if s.Inject != nil && s.Inject.Header != "" {
			str(&s.Inject.Format, DefaultInjectFormat)
		}
	}
}

func (c *Config) developmentUpstreams() {
	host, _, err := net.SplitHostPort(c.LoopbackModel.Listen)
	if err != nil {
		return // Validate says what is wrong with it
	}
	have := map[string]bool{}
	for _, s := range c.SecretClasses {
		have[s.Name] = true
	}
	for _, u := range []Upstream{
		{Name: "openai", Provider: "openai", Dialect: "openai"},
		{Name: "anthropic", Provider: "anthropic", Dialect: "anthropic"},
		{Name: "gemini", Provider: "google", Dialect: "gemini"},
		{Name: "openrouter", Provider: "openrouter", Dialect: "openai"},
	} {
		u.URL, u.SecretClass = "http://"+c.LoopbackModel.Listen, u.Name+"_key"
		c.Upstreams = append(c.Upstreams, u)
		if !have[u.SecretClass] {
			c.SecretClasses = append(c.SecretClasses, SecretClass{Name: u.SecretClass, From: Origin{Local: developmentCredential}, Hosts: []string{host}})
		}
	}
}

func (c *Config) defaultPaths(base string) {
	abs(&c.DataDir, base)
	str(&c.ContractsDir, filepath.Join(c.DataDir, "contracts"))
	str(&c.Evidence.Dir, filepath.Join(c.DataDir, "evidence"))
	str(&c.AdminTokenFile, filepath.Join(c.DataDir, "admin-token"))
	str(&c.ViewerTokenFile, filepath.Join(c.DataDir, "viewer-token"))
	str(&c.Envoy.Dir, filepath.Join(c.DataDir, "envoy"))
	str(&c.ExtProc.RedactionSecretFile, filepath.Join(c.DataDir, "redaction-secret"))
	for _, p := range []*string{&c.ContractsDir, &c.Evidence.Dir, &c.AdminTokenFile, &c.ViewerTokenFile, &c.Envoy.Path, &c.Envoy.Dir, &c.Egress.CAFile, &c.ExtProc.RedactionSecretFile} {
		abs(p, base)
	}
	for i := range c.Evidence.AuditorKeys {
		abs(&c.Evidence.AuditorKeys[i], base)
	}
	for i := range c.Upstreams {
		abs(&c.Upstreams[i].CAFile, base)
	}
	for i := range c.SecretClasses {
		c.SecretClasses[i].From.applyDefaults(base)
	}
}

func (c *Config) defaultLinks(base string) {
	for name, l := range map[string]*Link{"signer": &c.Signer, "registry": &c.Registry, "xds": &c.XDS} {
		str(&l.Listen, "unix:"+c.Socket(name))
		for _, a := range []*string{&l.Listen, &l.Address} {
			if p, ok := strings.CutPrefix(*a, "unix:"); ok {
				abs(&p, base)
				*a = "unix:" + p
			}
		}
		str(&l.Address, l.Listen)
		if l.TLS != nil {
			for _, p := range []*string{&l.TLS.CertFile, &l.TLS.KeyFile, &l.TLS.CAFile} {
				abs(p, base)
			}
		}
	}
}

// RunDir is the directory of run-time sockets: run in the data directory or, where that path leaves no room for the
// names of Unix sockets, a directory in the system's temporary one whose name is made from the data directory's.
// Nothing in it outlives the processes.
func (c *Config) RunDir() string {
	run := filepath.Join(c.DataDir, "run")
	if len(run)+len(longestSocket) <= maxSocketPath {
		return run
	}
	sum := sha256.Sum256([]byte(c.DataDir))
	return filepath.Join(os.TempDir(), fmt.Sprintf("sallyport-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6])))
}

// Socket is the path of a run-time socket.
func (c *Config) Socket(name string) string { return filepath.Join(c.RunDir(), name+".sock") }

// ExtProcSockets are the sockets of the ext_proc processes, one each.
func (c *Config) ExtProcSockets() []string {
	out := make([]string, c.ExtProc.Replicas)
	for i := range out {
		out[i] = c.Socket(fmt.Sprintf("extproc-%d", i))
	}
	return out
}

func str(p *string, def string) {
	if *p == "" {
		*p = def
	}
}

func abs(p *string, base string) {
	if *p != "" && !filepath.IsAbs(*p) {
		*p = filepath.Join(base, *p)
	}
}
