package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"sallyport/signer/envelope"
)

type bearer string

func (b bearer) Authenticate(r *http.Request) (string, bool) {
	return "admin", r.Header.Get("authorization") == "Bearer "+string(b)
}

const adminKey = "not-a-real-key"

type reply struct {
	OK       bool
	Existed  *bool
	Applied  *bool
	Hash     string `json:"policy_hash_b64u"`
	Envelope json.RawMessage
	Error    struct{ Code, Message string }
	List     []listed `json:"contracts"`
}

func ask(t *testing.T, h http.Handler, method, path, auth, body string) (int, reply) {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if auth != "" {
		req.Header.Set("authorization", "Bearer "+auth)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	var out reply
	if rec.Header().Get("content-type") == "application/json" {
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
			t.Fatalf("%s: %v", rec.Body, err)
		}
	}
	return rec.Code, out
}

func serve(t *testing.T, f *fixture, change func(*HandlerConfig)) http.Handler {
	t.Helper()
	cfg := HandlerConfig{
		Admin: bearer(adminKey),
		Check: func(p []byte) error {
			if !strings.Contains(string(p), "policy_id") {
				return errors.New("$.policy_id: missing")
			}
			return nil
		},
		Sign: func(_ context.Context, p []byte) (*envelope.Envelope, error) {
			return envelope.Seal(envelope.TypeContract, json.RawMessage(p), f.key, at)
		},
	}
	if change != nil {
		change(&cfg)
	}
	h, err := f.reg.Handler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHTTPPublishAndFetch(t *testing.T) {
	f := open(t)
	var published []string
	fail := false
	h := serve(t, f, func(c *HandlerConfig) {
		c.Published = func(_ context.Context, hash string, _ *envelope.Envelope) error {
			published = append(published, hash)
			if fail {
				return errors.New("envoy is away")
			}
			return nil
		}
	})
	status, first := ask(t, h, "POST", "/v1/wpc", adminKey, `{"wpc":{"b":1,"policy_id":"x"}}`)
	if status != 201 || !first.OK || *first.Existed || !*first.Applied {
		t.Fatalf("first: %d %+v", status, first)
	}
	fail = true
	status, again := ask(t, h, "POST", "/v1/wpc", adminKey, ` {"wpc": {"policy_id":"x", "b":1.0}} `)
	if status != 200 || !*again.Existed || *again.Applied || again.Hash != first.Hash || string(again.Envelope) != string(first.Envelope) {
		t.Fatalf("again: %d %+v", status, again)
	}
	status, got := ask(t, h, "GET", "/v1/wpc/"+first.Hash, "", "")
	if status != 200 || !got.OK || got.Existed != nil || string(got.Envelope) != string(first.Envelope) {
		t.Errorf("fetched without a key: %d %+v", status, got)
	}
	signed, err := seal(t, f.key, "signed").Encode()
	if err != nil {
		t.Fatal(err)
	}
	if status, put := ask(t, h, "POST", "/v1/wpc", adminKey, `{"envelope":`+string(signed)+`}`); status != 201 || !put.OK {
		t.Errorf("a signed one: %d %+v", status, put)
	}
	status, list := ask(t, h, "GET", "/v1/wpc", adminKey, "")
	if status != 200 || len(list.List) != 2 || list.List[0].Signer != f.key.DID() {
		t.Errorf("list: %d %+v", status, list)
	}
	if len(published) != 3 || published[0] != first.Hash {
		t.Errorf("published %v", published)
	}
}

func TestHTTPRefusals(t *testing.T) {
	f := open(t)
	corrupt := f.put(t, "corrupt")
	if err := os.WriteFile(f.reg.path(corrupt), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign, err := seal(t, key(t, 9), "foreign").Encode()
	if err != nil {
		t.Fatal(err)
	}
	plain := serve(t, f, nil)
	noSigner := serve(t, f, func(c *HandlerConfig) { c.Sign = nil })
	noAdmin := serve(t, f, func(c *HandlerConfig) { c.Admin = nil })
	failing := serve(t, f, func(c *HandlerConfig) {
		c.Sign = func(context.Context, []byte) (*envelope.Envelope, error) { return nil, errors.New("signer is away") }
	})
	const good = `{"wpc":{"policy_id":"x"}}`
	for name, tc := range map[string]struct {
		h                        http.Handler
		method, path, auth, body string
		status                   int
		code                     string
	}{
		"no key":            {plain, "POST", "/v1/wpc", "", good, 401, codeUnauthorized},
		"wrong key":         {plain, "POST", "/v1/wpc", "wrong", good, 401, codeUnauthorized},
		"list without key":  {plain, "GET", "/v1/wpc", "", "", 401, codeUnauthorized},
		"nobody is admin":   {noAdmin, "POST", "/v1/wpc", adminKey, good, 503, codeNoAdmin},
		"not JSON":          {plain, "POST", "/v1/wpc", adminKey, `{"wpc":`, 400, codeInvalidJSON},
		"duplicate key":     {plain, "POST", "/v1/wpc", adminKey, `{"wpc":{"policy_id":"x","policy_id":"y"}}`, 400, codeInvalidJSON},
		"empty":             {plain, "POST", "/v1/wpc", adminKey, ``, 400, codeInvalidJSON},
		"unknown member":    {plain, "POST", "/v1/wpc", adminKey, `{"wpc":{},"force":true}`, 400, codeInvalidRequest},
		"neither":           {plain, "POST", "/v1/wpc", adminKey, `{}`, 400, codeInvalidRequest},
		"both":              {plain, "POST", "/v1/wpc", adminKey, `{"wpc":{"policy_id":"x"},"envelope":{}}`, 400, codeInvalidRequest},
		"too large":         {plain, "POST", "/v1/wpc", adminKey, `{"wpc":{"policy_id":"` + strings.Repeat("x", maxContract) + `"}}`, 413, codePayloadTooLarge},
		"not a contract":    {plain, "POST", "/v1/wpc", adminKey, `{"wpc":{}}`, 400, codeInvalidWPC},
		"null":              {plain, "POST", "/v1/wpc", adminKey, `{"wpc":null}`, 400, codeInvalidWPC},
		"not an envelope":   {plain, "POST", "/v1/wpc", adminKey, `{"envelope":{"x":1}}`, 400, "WPC_ENVELOPE_INVALID"},
		"empty envelope":    {plain, "POST", "/v1/wpc", adminKey, `{"envelope":{}}`, 400, codeInvalidHash},
		"foreign signer":    {plain, "POST", "/v1/wpc", adminKey, `{"envelope":` + string(foreign) + `}`, 403, "WPC_SIGNER_NOT_ALLOWED"},
		"cannot sign":       {noSigner, "POST", "/v1/wpc", adminKey, good, 503, codeNoSigning},
		"signer away":       {failing, "POST", "/v1/wpc", adminKey, good, 503, codeSigningFailed},
		"corrupted":         {plain, "GET", "/v1/wpc/" + corrupt, "", "", 500, codeCorrupted},
		"publish corrupted": {plain, "POST", "/v1/wpc", adminKey, `{"wpc":{"policy_id":"corrupt"}}`, 500, codeCorrupted},
		"bad hash":          {plain, "GET", "/v1/wpc/abc", "", "", 400, codeInvalidHash},
		"unknown hash":      {plain, "GET", "/v1/wpc/" + strings.Repeat("A", 43), "", "", 404, codeNotFound},
		"delete":            {plain, "DELETE", "/v1/wpc/" + corrupt, adminKey, "", 405, ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, got := ask(t, tc.h, tc.method, tc.path, tc.auth, tc.body)
			if status != tc.status || got.Error.Code != tc.code || got.OK {
				t.Errorf("got %d %+v, want %d %s", status, got.Error, tc.status, tc.code)
			}
		})
	}
	if _, err := f.reg.Handler(HandlerConfig{}); err == nil {
		t.Error("a handler without a check was made")
	}
}
