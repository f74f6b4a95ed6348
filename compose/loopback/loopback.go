// Package loopback is the built-in model: it speaks the APIs of OpenAI, Anthropic and Gemini, so that everything can be
// tried without a provider's key, and it remembers what reached it, so that tests can ask. Shapes follow the providers'
// public API references, as far as their SDKs read them.
package loopback

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// maxBody is the longest request body that is read, in bytes: twice what the gateway lets through by default.
const maxBody = 64 << 20

// Config is what a Model needs.
type Config struct {
	RecordFile string           // one JSON line for each request, appended; "" for memory alone
	Log        *slog.Logger     // required
	Now        func() time.Time // nil: time.Now
}

// Validate reports what is wrong with the configuration.
func (c Config) Validate() error {
	if c.Log == nil {
		return errors.New("loopback: no log")
	}
	return nil
}

// Model is the built-in model as an HTTP handler.
type Model struct {
	cfg     Config
	records *records
}

// New opens the record file, if one is named, and returns the model. Close it when it serves no more.
func New(cfg Config) (*Model, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r, err := openRecords(cfg.RecordFile)
	if err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	return &Model{cfg: cfg, records: r}, nil
}

// Close closes the record file.
func (m *Model) Close() error { return m.records.close() }

// api is one provider's way of asking and answering.
type api struct {
	carriers []string // headers that may hold the key, the canonical one first
	fault    func(status int, message string) obj
}

// obj is a JSON object of an answer.
type obj = map[string]any

// exchange is one request and the way to answer it.
type exchange struct {
	model   *Model
	api     *api
	w       http.ResponseWriter
	r       *http.Request
	path    string // without the API version
	hash    []byte // SHA-256 of the body
	ask     ask
	conduct conduct
}

// apiOf finds the provider whose API a path belongs to, and the path below the API version. Upstreams with a base path
// of their own, as /api/v1, are served as well.
func apiOf(r *http.Request) (*api, string) {
	path := strings.TrimPrefix(r.URL.Path, "/api")
	for _, v := range []string{"/v1beta", "/v1"} {
		if rest, ok := strings.CutPrefix(path, v+"/"); ok {
			path = "/" + rest
			if v == "/v1beta" {
				return &geminiAPI, path
			}
			break
		}
	}
	switch {
	case strings.HasPrefix(path, "/models/") && strings.Contains(path, ":"), path == "/models" && r.Header.Get("x-goog-api-key") != "":
		return &geminiAPI, path
	case strings.HasPrefix(path, "/messages"), path == "/models" && r.Header.Get("anthropic-version") != "":
		return &anthropicAPI, path
	default:
		return &openAIAPI, path
	}
}

func (m *Model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/__requests" {
		m.records.serve(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	a, path := apiOf(r)
	x := &exchange{model: m, api: a, w: w, r: r, path: path}
	header, value := credential(r, a.carriers)
	rec := newRecord(m.cfg.Now(), r, body, header, value)
	x.hash = rec.bodyHash
	x.ask = parseAsk(body, path)
	rec.Model = x.ask.model
	if err := m.records.add(rec); err != nil {
		m.cfg.Log.Error("request not recorded", "error", err)
	}
	switch {
	case err != nil:
		x.refuse(http.StatusRequestEntityTooLarge, "the body cannot be read")
	case value == "":
		x.refuse(http.StatusUnauthorized, "no API key came with the request")
	case x.ask.broken && r.Method == http.MethodPost:
		x.refuse(http.StatusBadRequest, "the body is no JSON object")
	default:
		x.conduct = conductOf(x.ask)
		if x.misbehave() {
			return
		}
		x.answer()
	}
}

func (x *exchange) answer() {
	switch x.api {
	case &anthropicAPI:
		x.anthropic()
	case &geminiAPI:
		x.gemini()
	default:
		x.openAI()
	}
}

// credential returns the first header of the list that holds a key, and the key without its scheme.
func credential(r *http.Request, carriers []string) (header, value string) {
	for _, h := range carriers {
		if v := r.Header.Get(h); v != "" {
			return h, strings.TrimPrefix(v, "Bearer ")
		}
	}
	if v := r.URL.Query().Get("key"); v != "" {
		return "?key=", v
	}
	return "", ""
}

// refuse answers an error in the provider's shape.
func (x *exchange) refuse(status int, message string) {
	x.json(status, x.api.fault(status, message))
}

func (x *exchange) notFound() {
	x.refuse(http.StatusNotFound, "the built-in model has no "+x.r.Method+" "+x.r.URL.Path)
}

// json answers with one document, in one piece.
func (x *exchange) json(status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		x.model.cfg.Log.Error("answer not encoded", "error", err)
		http.Error(x.w, "internal fault", http.StatusInternalServerError)
		return
	}
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(status)
	_, _ = x.w.Write(raw) // the client may be gone
}

// is tells whether the request is of this method and path.
func (x *exchange) is(method, path string) bool { return x.r.Method == method && x.path == path }
