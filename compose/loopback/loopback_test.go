package loopback_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"sallyport/compose/loopback"
	"sallyport/extproc/dialect"
)

const key = "not-a-real-key"

func serve(t *testing.T, file string) *httptest.Server {
	t.Helper()
	m, err := loopback.New(loopback.Config{RecordFile: file, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(m)
	t.Cleanup(func() {
		s.Close()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

type answer struct {
	status int
	media  string
	body   string
	err    error // of reading the body
}

func ask(t *testing.T, s *httptest.Server, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Content-Type"), string(raw), err}
}

func post(t *testing.T, s *httptest.Server, path, body string) answer {
	t.Helper()
	return ask(t, s, http.MethodPost, path, body, "Authorization", "Bearer "+key, "X-Goog-Api-Key", key)
}

// TestAnswersAreMetered holds the model and the gate's dialects against each other: each answer must parse, name the
// model and report tokens that the meter finds.
func TestAnswersAreMetered(t *testing.T) {
	const chat = `"model":"gpt-4o-mini","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Say hello."}]}]`
	for _, c := range []struct {
		name, dialect, path, body, model string
		input                            int64
	}{
		{"chat", "openai", "/v1/chat/completions", `{` + chat + `}`, "gpt-4o-mini", 6},
		{"chat stream", "openai", "/v1/chat/completions", `{` + chat + `,"stream":true,"stream_options":{"include_usage":true}}`, "gpt-4o-mini", 6},
		{"below another base", "openai", "/api/v1/chat/completions", `{` + chat + `}`, "gpt-4o-mini", 6},
		{"responses", "openai", "/v1/responses", `{"model":"gpt-5","input":"Say hello."}`, "gpt-5", 3},
		{"responses stream", "openai", "/v1/responses", `{"model":"gpt-5","input":[{"role":"user","content":[{"type":"input_text","text":"Say hello."}]}],"stream":true}`, "gpt-5", 3},
		{"embeddings", "openai", "/v1/embeddings", `{"model":"e","input":["a","b"]}`, "e", 2},
		{"messages", "anthropic", "/v1/messages", `{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"Say hello."}]}`, "claude-x", 3},
		{"messages stream", "anthropic", "/v1/messages", `{"model":"claude-x","max_tokens":9,"messages":[{"role":"user","content":"Say hello."}],"stream":true}`, "claude-x", 3},
		{"generate", "gemini", "/v1beta/models/gemini-3:generateContent", `{"contents":[{"parts":[{"text":"Say hello."}]}]}`, "gemini-3", 3},
		{"generate stream", "gemini", "/v1/models/gemini-3:streamGenerateContent?alt=sse", `{"contents":[{"parts":[{"text":"Say hello."}]}]}`, "gemini-3", 3},
		{"generate stream as a list", "gemini", "/v1beta/models/gemini-3:streamGenerateContent", `{"contents":[{"parts":[{"text":"Say hello."}]}]}`, "gemini-3", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := post(t, serve(t, ""), c.path, c.body)
			if a.status != http.StatusOK || a.err != nil {
				t.Fatalf("%+v", a)
			}
			d, _ := dialect.ByName(c.dialect)
			m := d.NewMeter(a.media)
			m.Write([]byte(a.body))
			u := m.Usage()
			if !u.Reported || u.Input != c.input || u.Model != c.model || (u.Output == 0) != (c.name == "embeddings") {
				t.Errorf("usage %+v of %s", u, a.body)
			}
			if !strings.HasPrefix(a.media, "text/event-stream") && !json.Valid([]byte(a.body)) {
				t.Errorf("no JSON: %s", a.body)
			}
			if again := post(t, serve(t, ""), c.path, c.body); stripTimes(again.body) != stripTimes(a.body) {
				t.Errorf("the second answer differs:\n%s\n%s", a.body, again.body)
			}
		})
	}
}

// stripTimes takes the times of creation out, which are all that may differ.
func stripTimes(s string) string {
	for _, name := range []string{`"created":`, `"created_at":`} {
		parts := strings.Split(s, name)
		for i := range parts[1:] {
			parts[i+1] = strings.TrimLeft(parts[i+1], "0123456789")
		}
		s = strings.Join(parts, name)
	}
	return s
}

func TestOtherEndpoints(t *testing.T) {
	s := serve(t, "")
	for _, c := range []struct{ name, method, path, body, header, want string }{
		{"OpenAI's models", "GET", "/v1/models", "", "Authorization", `"object":"list"`},
		{"Anthropic's models", "GET", "/v1/models", "", "Anthropic-Version", `"has_more":false`},
		{"Gemini's models", "GET", "/v1beta/models", "", "X-Goog-Api-Key", `"models":[`},
		{"Anthropic counts", "POST", "/v1/messages/count_tokens", `{"model":"m","messages":[{"role":"user","content":"12345678"}]}`, "X-Api-Key", `{"input_tokens":2}`},
		{"Gemini counts", "POST", "/v1beta/models/m:countTokens", `{"contents":[{"parts":[{"text":"12345678"}]}]}`, "X-Goog-Api-Key", `{"totalTokens":2}`},
		{"Gemini embeds", "POST", "/v1beta/models/m:embedContent", `{"content":{"parts":[{"text":"a"}]}}`, "X-Goog-Api-Key", `"embedding":{"values":[`},
		{"Gemini embeds several", "POST", "/v1beta/models/m:batchEmbedContents", `{"requests":[{"content":{"parts":[{"text":"a"}]}}]}`, "X-Goog-Api-Key", `{"embeddings":[{"values":[`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ask(t, s, c.method, c.path, c.body, "Authorization", "Bearer "+key, c.header, key)
			if a.status != http.StatusOK || !strings.Contains(a.body, c.want) {
				t.Errorf("%+v, want %s", a, c.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s := serve(t, "")
	for _, c := range []struct {
		name, method, path, body, key string
		status                        int
		want                          string
	}{
		{"no key, OpenAI", "POST", "/v1/chat/completions", `{"model":"m"}`, "", 401, `"code":"invalid_api_key"`},
		{"no key, Anthropic", "POST", "/v1/messages", `{"model":"m"}`, "", 401, `"type":"authentication_error"`},
		{"no key, Gemini", "POST", "/v1beta/models/m:generateContent", `{}`, "", 401, `"status":"UNAUTHENTICATED"`},
		{"unknown path", "POST", "/v1/files", `{}`, key, 404, `"error"`},
		{"unknown verb", "POST", "/v1beta/models/m:predict", `{}`, key, 404, `"NOT_FOUND"`},
		{"wrong method", "DELETE", "/v1/messages", ``, key, 404, `not_found_error`},
		{"no JSON", "POST", "/v1/chat/completions", `hello`, key, 400, `"error"`},
		{"status by model", "POST", "/v1/chat/completions", `{"model":"status-503"}`, key, 503, `server_error`},
		{"status by metadata", "POST", "/v1/messages", `{"model":"m","metadata":{"loopback":"status-429"}}`, key, 429, `rate_limit_error`},
		{"status by label", "POST", "/v1beta/models/m:generateContent", `{"labels":{"loopback":"status-500"}}`, key, 500, `"INTERNAL"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var header []string
			if c.key != "" {
				header = []string{"Authorization", "Bearer " + c.key, "X-Goog-Api-Key", c.key}
			}
			a := ask(t, s, c.method, c.path, c.body, header...)
			if a.status != c.status || !strings.Contains(a.body, c.want) || a.media != "application/json" {
				t.Errorf("%+v, want %d %s", a, c.status, c.want)
			}
		})
	}
}

func TestConduct(t *testing.T) {
	s := serve(t, "")
	chat := func(model, more string) answer {
		return post(t, s, "/v1/chat/completions", `{"model":"`+model+`","messages":[{"role":"user","content":"hi"}]`+more+`}`)
	}
	t.Run("big", func(t *testing.T) {
		if a := chat("big-100", ""); len(a.body) < 100<<10 || len(a.body) > 101<<10 {
			t.Errorf("%d bytes", len(a.body))
		}
	})
	t.Run("chunks", func(t *testing.T) {
		a := chat("chunks-40", `,"stream":true`)
		if n := strings.Count(a.body, `"delta":{"content":`); n != 41 { // and the empty first one
			t.Errorf("%d chunks", n)
		}
	})
	t.Run("slow", func(t *testing.T) {
		if a := chat("slow-1", ""); a.status != 200 || !json.Valid([]byte(a.body)) {
			t.Errorf("%+v", a)
		}
	})
	t.Run("combined", func(t *testing.T) {
		a := chat("gpt-4o-mini", `,"stream":true,"metadata":{"loopback":"big-8 chunks-3 slow-1"}`)
		if n := strings.Count(a.body, `"delta":{"content":`); n != 4 || len(a.body) < 8<<10 {
			t.Errorf("%d chunks, %d bytes", n, len(a.body))
		}
	})
	t.Run("abort", func(t *testing.T) {
		for _, more := range []string{"", `,"stream":true`} {
			a := chat("abort", more)
			if a.err == nil || a.status != 200 || a.body == "" || strings.Contains(a.body, "[DONE]") {
				t.Errorf("%+v", a)
			}
		}
	})
	t.Run("echo-headers", func(t *testing.T) {
		a := chat("echo-headers", "")
		if !strings.Contains(a.body, "content-length: ") || !strings.Contains(a.body, "authorization: sha256:"+hash(key)) || strings.Contains(a.body, key) {
			t.Errorf("%s", a.body)
		}
	})
	t.Run("hang", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/v1/chat/completions", strings.NewReader(`{"model":"hang"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", key)
		end := make(chan error, 1)
		go func() {
			resp, err := s.Client().Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			end <- err
		}()
		for !strings.Contains(ask(t, s, "GET", "/__requests", "").body, `"model":"hang"`) {
			runtime.Gosched() // the model has the request once it is on the list
		}
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Errorf("answered: %v", err)
		}
	})
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// TestRecords asks the model what reached it, as the end-to-end tests do.
func TestRecords(t *testing.T) {
	file := filepath.Join(t.TempDir(), "requests.jsonl")
	s := serve(t, file)
	const body = `{"model":"gpt-4o-mini","messages":[]}`
	ask(t, s, "POST", "/v1/chat/completions?alt=sse&key=secret-in-query", body, "Authorization", "Bearer "+key, "X-Extra", "secret-in-header")
	ask(t, s, "GET", "/v1/models", "")

	var got struct {
		Total    int64             `json:"total"`
		Requests []loopback.Record `json:"requests"`
	}
	list := ask(t, s, "GET", "/__requests", "")
	if err := json.Unmarshal([]byte(list.body), &got); err != nil || got.Total != 2 || len(got.Requests) != 2 {
		t.Fatalf("%v: %+v", err, list)
	}
	r := got.Requests[0]
	sum := sha256.Sum256([]byte(body))
	if r.N != 1 || r.Method != "POST" || r.Path != "/v1/chat/completions" || r.Host != strings.TrimPrefix(s.URL, "http://") || r.Model != "gpt-4o-mini" ||
		r.CredentialHeader != "authorization" || r.CredentialSHA256 != hash(key) || r.BodyBytes != len(body) ||
		r.BodyHash != base64.RawURLEncoding.EncodeToString(sum[:]) || !slices.Equal(r.QueryNames, []string{"alt", "key"}) || !slices.Contains(r.Headers, "x-extra") {
		t.Errorf("%+v", r)
	}
	if r := got.Requests[1]; r.CredentialHeader != "" || r.CredentialSHA256 != "" || r.Method != "GET" {
		t.Errorf("%+v", r)
	}
	since := ask(t, s, "GET", "/__requests?since=1", "")
	if err := json.Unmarshal([]byte(since.body), &got); err != nil || len(got.Requests) != 1 || got.Requests[0].N != 2 {
		t.Errorf("%v: %+v", err, since)
	}
	if a := ask(t, s, "POST", "/__requests", ""); a.status != http.StatusMethodNotAllowed {
		t.Errorf("%+v", a)
	}

	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(raw, []byte("\n")); n != 2 {
		t.Errorf("%d lines in the file", n)
	}
	for _, text := range []string{string(raw), list.body} {
		if strings.Contains(text, key) || strings.Contains(text, "secret-in") {
			t.Errorf("a secret is kept: %s", text)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := loopback.New(loopback.Config{}); err == nil {
		t.Error("no log is accepted")
	}
	if _, err := loopback.New(loopback.Config{Log: slog.New(slog.DiscardHandler), RecordFile: t.TempDir()}); err == nil {
		t.Error("a directory is accepted as the file")
	}
}

// FuzzModel: whatever comes, the model answers, in JSON or as a stream.
func FuzzModel(f *testing.F) {
	m, err := loopback.New(loopback.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range []string{"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/v1beta/models/m:streamGenerateContent", "/v1beta/models/m:batchEmbedContents"} {
		f.Add(path, []byte(`{"model":"chunks-9","stream":true,"input":[1,2],"dimensions":3,"messages":[{"content":[{"text":"é"}]}],"requests":[{}]}`))
	}
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if len(body) > 1<<10 || strings.Contains(string(body), "big-") || strings.Contains(path+string(body), "hang") || strings.Contains(path+string(body), "slow") || strings.Contains(string(body), `\u`) {
			return // would wait, as it should
		}
		req := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		req.URL.Path = path
		req.Header.Set("Authorization", key)
		req.Header.Set("X-Goog-Api-Key", key)
		w := httptest.NewRecorder()
		m.ServeHTTP(w, req)
		if w.Header().Get("Content-Type") == "application/json" && w.Code == 200 && !strings.Contains(string(body), "abort") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%q %q: %s", path, body, w.Body)
		}
	})
}
