// Package export says what a contract means in the words of an agent runtime's own settings, and what such settings allow
// beyond a contract: a shell or a file cannot be seen on the network, so there the runtime's tool policy has to hold.
// README.md here has the tables; each runtime's facts come from its package in the version that its file names.
package export

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"sallyport/signer/contract"
)

// DefaultBaseURL is where a gateway listens that is configured no further.
const DefaultBaseURL = "http://127.0.0.1:8080"

// ErrRuntime is wrapped by the error about a runtime that is not known.
var ErrRuntime = errors.New("unknown agent runtime")

// Options are what the contract does not say.
type Options struct {
	BaseURL string // the gateway's reverse door, without a path; "" means DefaultBaseURL
	Doors   []Door // the gateway's model doors; nil means those of the well-known providers
}

// Door is one of the gateway's ways to a model provider: BaseURL/Name speaks Dialect and leads to Provider.
type Door struct{ Name, Provider, Dialect string }

var wellKnownDoors = []Door{
	{"openai", "openai", "openai"}, {"anthropic", "anthropic", "anthropic"}, {"gemini", "google", "gemini"}, {"openrouter", "openrouter", "openai"},
}

// Note is something about an export that its reader has to know: what could not be written, and what is left to do.
type Note struct {
	Path    string `json:"path"` // in the contract
	Message string `json:"message"`
}

// Settings are one runtime's settings.
type Settings struct {
	File  []byte // what the runtime reads
	Notes []Note
}

// Finding is one place where settings allow more than the contract.
type Finding struct {
	Path     string `json:"path"`     // in the settings
	Allows   string `json:"allows"`   // what stands there means
	Contract string `json:"contract"` // what the contract says of it
	Instead  string `json:"instead"`  // what to write
}

// runtime is an agent program with settings of its own.
type runtime struct {
	export func(*rights) ([]byte, error)
	check  func(config []byte, r *rights) ([]Finding, error)
}

var runtimes = map[string]runtime{
	"openclaw":    {exportOpenClaw, checkOpenClaw},
	"claude-code": {exportClaude, checkClaude},
	"codex":       {exportCodex, checkCodex},
}

// Runtimes are the names that Export and Check know, sorted.
func Runtimes() []string { return slices.Sorted(maps.Keys(runtimes)) }

// Export writes the settings that the contract means. The same contract and options give the same bytes.
func Export(name string, c *contract.Contract, o Options) (*Settings, error) {
	rt, r, err := start(name, c, o)
	if err != nil {
		return nil, err
	}
	r.describe()
	file, err := rt.export(r)
	if err != nil {
		return nil, err
	}
	return &Settings{File: file, Notes: r.notes}, nil
}

// Check lists where settings allow more than the contract, in the settings' order of sections. What cannot be judged
// counts as more.
func Check(name string, config []byte, c *contract.Contract, o Options) ([]Finding, error) {
	rt, r, err := start(name, c, o)
	if err != nil {
		return nil, err
	}
	return rt.check(config, r)
}

func start(name string, c *contract.Contract, o Options) (runtime, *rights, error) {
	rt, ok := runtimes[name]
	if !ok {
		return rt, nil, fmt.Errorf("%w %q; known are %s", ErrRuntime, name, strings.Join(Runtimes(), ", "))
	}
	if o.BaseURL == "" {
		o.BaseURL = DefaultBaseURL
	}
	if o.Doors == nil {
		o.Doors = wellKnownDoors
	}
	o.BaseURL = strings.TrimRight(o.BaseURL, "/")
	u, err := url.Parse(o.BaseURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return rt, nil, fmt.Errorf("base URL %q: write the gateway's scheme, host and port alone, such as %s", o.BaseURL, DefaultBaseURL)
	}
	return rt, newRights(c, o), nil
}
