package dialect

import (
	"net/http"
	"regexp"
	"strings"

	"sallyport/signer/code"
)

// route is one endpoint as the dialects' tables write it, without the API version. Exactly one of path and verb is set.
type route struct {
	kind    Kind
	method  string
	path    string // e.g. /chat/completions
	verb    string // Gemini: /models/MODEL:verb
	streams bool   // the path alone says that the answer is a stream
	socket  bool   // a GET of it asks for a WebSocket
}

const (
	// modelSegment is what may stand for a model in a path: one segment that means the same to every reader. Its length
	// is bounded by Route, since Envoy takes no regex that counts so far.
	modelSegment = `[A-Za-z0-9][A-Za-z0-9._-]*`
	// geminiVersions are the API versions of Gemini that clients use; the others have one.
	geminiVersions = `/v1(?:beta)?`
)

var (
	geminiModel   = regexp.MustCompile(`^/models/(` + modelSegment + `):([A-Za-z]{1,64})$`)
	geminiVersion = regexp.MustCompile(`^` + geminiVersions + `/`)
)

func (r route) endpoint(d *dialect) Endpoint {
	e := Endpoint{Kind: r.kind, Method: r.method}
	switch {
	case r.verb != "":
		e.Regex = geminiVersions + `/models/` + modelSegment + `:` + r.verb
	case d == &gemini:
		e.Regex = geminiVersions + regexp.QuoteMeta(r.path)
	default:
		e.Path = "/v1" + r.path
	}
	return e
}

func (r route) call(d *dialect, version, path, model string) Call {
	return Call{
		Endpoint: r.endpoint(d), Kind: r.kind, UpstreamPath: version + path, ModelInPath: model,
		NeedsBody: r.method != http.MethodGet, StreamByPath: r.streams,
	}
}

func (d *dialect) Endpoints() []Endpoint {
	out := make([]Endpoint, 0, len(d.routes))
	for _, r := range d.routes {
		out = append(out, r.endpoint(d))
	}
	return out
}

func (d *dialect) Route(method, path string) (Call, *code.Denial) {
	version, below := d.split(path)
	model, verb := "", ""
	if d == &gemini {
		if m := geminiModel.FindStringSubmatch(below); m != nil && len(m[1]) <= maxModel {
			model, verb = m[1], m[2]
		}
	}
	for _, r := range d.routes {
		if (r.verb == "" && r.path != below) || (r.verb != "" && r.verb != verb) {
			continue
		}
		switch {
		case r.method == method:
			return r.call(d, version, below, model), nil
		case r.socket && method == http.MethodGet:
			return Call{}, code.Deny(code.UpgradeNotSupported, "%s", path)
		default:
			return Call{}, code.Deny(code.EndpointNotAllowed, "%.16s %s; use %s", method, path, r.method)
		}
	}
	return Call{}, code.Deny(code.EndpointNotAllowed, "%.16s %.128s in the %s dialect", method, path, d.name)
}

// split takes the API version off a path. Clients leave it out where their base URL is meant to have it; OpenRouter's
// have /api before it.
func (d *dialect) split(path string) (version, below string) {
	if d == &gemini {
		if v := geminiVersion.FindString(path); v != "" {
			v = v[:len(v)-1]
			return v, path[len(v):]
		}
		return "/v1beta", path
	}
	if rest, ok := strings.CutPrefix(path, "/api/v1/"); ok && d == &openAI {
		return "/v1", "/" + rest
	}
	if rest, ok := strings.CutPrefix(path, "/v1/"); ok {
		return "/v1", "/" + rest
	}
	return "/v1", path
}

// versionSegment is a segment of a URL's path that names an API version, as v1, v1beta or v2alpha1.
var versionSegment = regexp.MustCompile(`^v[0-9]+(?:(?:alpha|beta)[0-9]*)?$`)

// hasVersion tells whether a base path decides the API version itself, as https://host/api/v1 does.
func hasVersion(base string) bool {
	for seg := range strings.SplitSeq(base, "/") {
		if versionSegment.MatchString(seg) {
			return true
		}
	}
	return false
}

// JoinPath puts a Call's UpstreamPath below the path of an upstream's base URL. A base path that names an API version
// decides the version, so that the same upstream path is right below https://api.example.com,
// https://openrouter.example/api/v1 and https://host.example/v1beta/openai.
func JoinPath(base, upstreamPath string) string {
	base = strings.TrimRight(base, "/")
	if hasVersion(base) {
		if first, rest, ok := strings.Cut(strings.TrimPrefix(upstreamPath, "/"), "/"); ok && versionSegment.MatchString(first) {
			upstreamPath = "/" + rest
		}
	}
	return base + upstreamPath
}

// Under is the endpoint as it stands below a base path: what a reader that puts base in front of Path or Regex needs so
// that it matches exactly what JoinPath makes.
func (e Endpoint) Under(base string) Endpoint {
	if !hasVersion(base) {
		return e
	}
	e.Path = strings.TrimPrefix(e.Path, "/v1")
	e.Regex = strings.TrimPrefix(e.Regex, geminiVersions)
	return e
}
