package gate

import (
	"encoding/base64"
	"path"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sallyport/extproc/message"
	"sallyport/signer/code"
	"sallyport/signer/token"
)

// shaped has the form of a token and nothing else: n tells one from another.
func shaped(n string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(`{"alg":"EdDSA"}`)) + "." + b64([]byte(`{"n":"`+n+`"}`)) + "." + b64([]byte("not a signature"))
}

// headersOf makes Envoy's header list of names and values in turn.
func headersOf(nameValue ...string) *corev3.HeaderMap {
	hm := &corev3.HeaderMap{}
	for i := 0; i+1 < len(nameValue); i += 2 {
		hm.Headers = append(hm.Headers, &corev3.HeaderValue{Key: nameValue[i], RawValue: []byte(nameValue[i+1])})
	}
	return hm
}

// listOf is the same as the gate reads it.
func listOf(nameValue ...string) []message.Header {
	var list []message.Header
	for i := 0; i+1 < len(nameValue); i += 2 {
		list = append(list, message.Header{Name: nameValue[i], Value: nameValue[i+1]})
	}
	return list
}

func unknown(string) bool { return false }

// codeOf is "" for a nil denial.
func codeOf(d *code.Denial) code.Code {
	if d == nil {
		return ""
	}
	return d.Code
}

func wantCode(t *testing.T, d *code.Denial, want code.Code) {
	t.Helper()
	if got := codeOf(d); got != want {
		t.Errorf("code %q, want %q (%v)", got, want, d)
	}
}

func TestReadHeadersRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		headers []string
		want    code.Code
	}{
		"nothing special":            {[]string{":method", "POST", "accept", "*/*", "accept", "text/html"}, ""},
		"our scope":                  {[]string{"x-sallyport-scope", "all"}, code.HeaderReserved},
		"our receipt, empty":         {[]string{"x-sallyport-receipt", ""}, code.HeaderReserved},
		"a header of ours to come":   {[]string{"x-sallyport-anything", "1"}, code.HeaderReserved},
		"a header like ours":         {[]string{"x-sallyporting", "1"}, ""},
		"two tokens in one header":   {[]string{"x-cst", "a", "x-cst", "a"}, code.HeaderDuplicate},
		"two authorizations":         {[]string{"authorization", "a", "authorization", "b"}, code.HeaderDuplicate},
		"joined authorization":       {[]string{"authorization", "Bearer a,Bearer b"}, code.HeaderDuplicate},
		"joined authority":           {[]string{":authority", "a.example,b.example"}, code.HeaderDuplicate},
		"two authorities":            {[]string{":authority", "a.example", ":authority", "a.example"}, code.HeaderDuplicate},
		"joined content encoding":    {[]string{"content-encoding", "identity,gzip"}, code.HeaderDuplicate},
		"two content types":          {[]string{"content-type", "a/b", "content-type", "a/b"}, code.HeaderDuplicate},
		"two content lengths":        {[]string{"content-length", "1", "content-length", "2"}, code.HeaderDuplicate},
		"two paths":                  {[]string{":path", "/a", ":path", "/b"}, code.HeaderDuplicate},
		"two methods":                {[]string{":method", "GET", ":method", "POST"}, code.HeaderDuplicate},
		"two run ids":                {[]string{runIDHeader, "a", runIDHeader, "b"}, code.HeaderDuplicate},
		"two idempotency keys":       {[]string{idempotencyHeader, "a", idempotencyHeader, "a"}, code.HeaderDuplicate},
		"two pins":                   {[]string{policyHashHeader, "a", policyHashHeader, "b"}, code.HeaderDuplicate},
		"a comma where it may stand": {[]string{"accept", "a,b", "x-api-key", "a,b"}, ""},
		"the first fault is named":   {[]string{"x-cst", "a", "x-cst", "b", "x-sallyport-scope", "x"}, code.HeaderDuplicate},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := readHeaders(listOf(tc.headers...))
			wantCode(t, d, tc.want)
			if r == nil {
				t.Fatal("no request: a refusal needs what was read so far")
			}
		})
	}
}

// Every security header must be single, so that no reader after us can take another one than we did.
func TestEveryStrippedHeaderIsSingle(t *testing.T) {
	for h, tr := range traits {
		if tr&isRemoved == 0 {
			continue
		}
		_, d := readHeaders(listOf(h, "a", h, "a"))
		if codeOf(d) != code.HeaderDuplicate {
			t.Errorf("%s may come twice", h)
		}
	}
}

func TestReadHeadersReads(t *testing.T) {
	r, d := readHeaders([]message.Header{
		{Name: ":method", Value: "POST"},
		{Name: ":path", Value: "/openai/v1/responses?a=1&b=2?3"},
		{Name: ":authority", Value: "gate.example"},
		{Name: "content-encoding", Value: "identity"},
		{Name: "upgrade", Value: "websocket"},
		{Name: runIDHeader, Value: "run"},
		{Name: eventHashHeader, Value: "event"},
		{Name: idempotencyHeader, Value: "idem"},
		{Name: policyHashHeader, Value: "pin"},
		{Name: clientDIDHeader, Value: "did"},
		{Name: "x-openai-api", Value: "responses"},
		{Name: "x-api-key", Value: "  "},
		{Name: "accept", Value: "*/*"},
		{Name: "", Value: "nameless"},
	})
	wantCode(t, d, "")
	got := []string{r.method, r.path, r.query, r.authority, r.contentEncoding, r.upgrade, r.runID, r.eventHash, r.idempotencyKey, r.policyHash, r.clientDID, r.openAIAPI}
	want := []string{"POST", "/openai/v1/responses", "a=1&b=2?3", "gate.example", "identity", "websocket", "run", "event", "idem", "pin", "did", "responses"}
	if !slices.Equal(got, want) {
		t.Errorf("read %q\nwant %q", got, want)
	}
	if len(r.credentials) != 0 {
		t.Errorf("a blank key counts as a credential: %v", r.credentials)
	}
	for _, h := range []string{"x-api-key", runIDHeader, policyHashHeader, "x-openai-api"} {
		if !slices.Contains(r.strip, h) {
			t.Errorf("%s is not stripped", h)
		}
	}
	if slices.Contains(r.strip, "accept") || slices.Contains(r.strip, "") || slices.Contains(r.strip, ":path") {
		t.Errorf("strips too much: %q", r.strip)
	}
}

func TestScopedTokenFromEveryCarrier(t *testing.T) {
	tok := shaped("a")
	for _, h := range carriers {
		for _, value := range []string{tok, " " + tok + " ", "Bearer " + tok, "bearer  " + tok, "BEARER " + tok} {
			r, d := readHeaders(listOf(":path", "/openai/v1/models", h, value))
			wantCode(t, d, "")
			got, d := r.scopedToken("", unknown)
			if d != nil || got != tok {
				t.Errorf("%s: %.12q… gives %.12q, %v", h, value, got, d)
			}
			if !slices.Contains(r.strip, h) {
				t.Errorf("%s goes on to the upstream", h)
			}
		}
	}
}

func TestScopedToken(t *testing.T) {
	a, b := shaped("a"), shaped("b")
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, tc := range map[string]struct {
		query   string
		headers []string
		want    code.Code
	}{
		"none":                          {"", nil, code.TokenRequired},
		"an empty ?key=":                {"key=", nil, code.TokenRequired},
		"another parameter":             {"keys=" + a, nil, code.TokenRequired},
		"?key=":                         {"alt=sse&key=" + a, nil, ""},
		"the same in several places":    {"key=" + a, []string{"authorization", "Bearer " + a, "x-api-key", a, "x-goog-api-key", a}, ""},
		"two tokens":                    {"", []string{"x-cst", a, "authorization", "Bearer " + b}, code.TokenConflict},
		"another one in ?key=":          {"key=" + b, []string{"x-cst", a}, code.TokenConflict},
		"two of ?key=":                  {"key=" + a + "&key=" + b, nil, code.TokenConflict},
		"password of a proxy's user":    {"", []string{proxyAuthHeader, basic("label:" + a)}, ""},
		"password of no user":           {"", []string{proxyAuthHeader, basic(":" + a)}, ""},
		"user without a password":       {"", []string{proxyAuthHeader, basic(a)}, code.TokenNotCST},
		"broken base64":                 {"", []string{proxyAuthHeader, "Basic ***"}, code.TokenNotCST},
		"Basic at another place":        {"", []string{"authorization", basic("label:" + a)}, code.TokenNotCST},
		"a provider's key":              {"", []string{"authorization", "Bearer not-a-real-key"}, code.TokenNotCST},
		"a provider's key in ?key=":     {"key=not-a-real-key", nil, code.TokenNotCST},
		"a provider's key and a token":  {"", []string{"x-cst", a, "x-api-key", "not-a-real-key"}, code.TokenNotCST},
		"X-CST that is none":            {"", []string{"x-cst", "not-a-real-key"}, code.TokenMalformed},
		"X-Scoped-Token that is none":   {"", []string{"x-scoped-token", "a.b.c"}, code.TokenMalformed},
		"another scheme":                {"", []string{"authorization", "Token " + a}, code.TokenNotCST},
		"too large":                     {"", []string{"x-cst", a + strings.Repeat("A", token.MaxBytes)}, code.TokenTooLarge},
		"too large is not read further": {"", []string{"x-api-key", strings.Repeat("!", token.MaxBytes+1)}, code.TokenTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := readHeaders(listOf(append([]string{":path", "/openai/v1/models?" + tc.query}, tc.headers...)...))
			wantCode(t, d, "")
			got, d := r.scopedToken("", unknown)
			wantCode(t, d, tc.want)
			if tc.want == "" && got != a {
				t.Errorf("took %.20q", got)
			}
			if d != nil && (got != "" || strings.Contains(d.Detail, "not-a-real-key")) {
				t.Errorf("a refusal shows the credential: %q, %q", got, d.Detail)
			}
		})
	}
}

func TestStripCopies(t *testing.T) {
	tok := shaped("a")
	r, d := readHeaders(listOf(":path", "/"+tok, "x-cst", tok, "cookie", "s="+tok+"; t=1", "x-custom-key", "Key "+tok, "accept", "*/*"))
	wantCode(t, d, "")
	r.stripCopies(tok)
	if want := []string{"x-cst", "cookie", "x-custom-key"}; !slices.Equal(r.strip, want) {
		t.Errorf("strips %q, want %q", r.strip, want)
	}
}

func TestCanonicalPath(t *testing.T) {
	for _, p := range []string{"/", "/v1", "/v1/", "/openai/v1/chat/completions", "/google/v1beta/models/gemini-2.5-flash:generateContent", "/a/...", "/a/.hidden", "/a..b/c"} {
		if d := canonicalPath(p); d != nil {
			t.Errorf("%q is refused: %v", p, d)
		}
	}
	for name, p := range map[string]string{
		"empty":             "",
		"relative":          "v1/models",
		"absolute form":     "http://gate.example/v1/models",
		"asterisk":          "*",
		"doubled slash":     "/openai//v1",
		"doubled at front":  "//openai/v1",
		"doubled at end":    "/openai/v1//",
		"dot":               "/openai/./v1",
		"dot at end":        "/openai/.",
		"dots":              "/openai/../anthropic",
		"dots at end":       "/openai/..",
		"encoded slash":     "/openai%2Fv1",
		"encoded dots":      "/openai/%2e%2e/v1",
		"encoded letter":    "/%6fpenai/v1",
		"lone percent":      "/openai/%",
		"path parameter":    "/openai;x=1/v1",
		"backslash":         `/openai\v1`,
		"fragment":          "/openai/v1#x",
		"space":             "/openai/v1 ",
		"tab":               "/openai/\tv1",
		"line break":        "/openai/v1\r\nx: y",
		"NUL":               "/openai/v1\x00",
		"delete":            "/openai/v1\x7f",
		"UTF-8":             "/openai/é",
		"full-width slash":  "/openai／v1",
		"overlong encoding": "/openai/\xc0\xae\xc0\xae/v1",
	} {
		if got := codeOf(canonicalPath(p)); got != code.PathNotCanonical {
			t.Errorf("%s: %q gives %q", name, p, got)
		}
	}
}

func TestWithoutPort(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:54321":     "192.0.2.1",
		"[2001:db8::1]:54321": "[2001:db8::1]",
		"/run/a:b.sock":       "/run/a:b.sock",
		"@abstract:1":         "@abstract:1",
		"192.0.2.1":           "192.0.2.1",
		":1":                  ":1",
		"":                    "",
	} {
		if got := withoutPort(in); got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	if got := clip(strings.Repeat("a", 1000)); len(got) != 256 {
		t.Errorf("%d bytes are kept", len(got))
	}
	if got := clip("short"); got != "short" {
		t.Errorf("%q", got)
	}
}

func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/v1/", "/a/../b", "//", "/a%2e", "/a/.", "/a;b", "/é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if canonicalPath(p) != nil {
			return
		}
		if clean := path.Clean(p); p != clean && p != clean+"/" {
			t.Errorf("%q passes and is really %q", p, clean)
		}
		if strings.ContainsAny(p, `%;\#`) {
			t.Errorf("%q passes", p)
		}
	})
}

// FuzzReadHeaders reads one header name and value per pair of lines.
func FuzzReadHeaders(f *testing.F) {
	f.Add(":path\n/v1/models?key=a\nx-cst\na.b.c")
	f.Add("authorization\nBearer a,b\nauthorization\nBasic YTpi")
	f.Add("x-sallyport-scope\nx")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		r, d := readHeaders(listOf(lines...))
		if r == nil {
			t.Fatal("no request")
		}
		counts := map[string]int{}
		for i := 0; i+1 < len(lines); i += 2 {
			counts[lines[i]]++
			if d == nil && strings.HasPrefix(lines[i], reservedPrefix) {
				t.Errorf("%q passes", lines[i])
			}
			if traits[lines[i]]&isRemoved != 0 && !slices.Contains(r.strip, lines[i]) {
				t.Errorf("%q goes on to the upstream", lines[i])
			}
		}
		for _, h := range carriers {
			if d == nil && counts[h] > 1 {
				t.Errorf("%s passes %d times", h, counts[h])
			}
		}
		tok, d := r.scopedToken("", unknown)
		if d == nil && (!token.Looks(tok) || len(tok) > token.MaxBytes) {
			t.Errorf("%q is taken for a token", tok)
		}
	})
}
