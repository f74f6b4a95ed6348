package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"sallyport/signer/jcs"
)

// maxBody bounds requests about tokens, maxContractBody those with a contract in them, in bytes.
const (
	maxBody         = 64 << 10
	maxContractBody = 1 << 20
)

// refusal is an answer that is not a success: the ecosystem's code, and a sentence for the person who reads it.
type refusal struct {
	status  int
	code    string
	message string
}

func refuse(status int, code, format string, args ...any) *refusal {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

func bad(code, format string, args ...any) *refusal {
	return refuse(http.StatusBadRequest, code, format, args...)
}

// handler answers one request with a value that becomes JSON, or with a refusal. Who is the administrator, if any.
type handler func(r *http.Request, who string) (any, *refusal)

// cached is an answer that may be kept by caches for a while.
type cached struct {
	value   any
	control string
}

// open lets everybody in.
func open(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, no := h(r, "")
		answer(w, value, no)
	}
}

// admin lets administrators in.
func (i *Issuer) admin(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if i.cfg.Admin == nil {
			answer(w, nil, refuse(http.StatusServiceUnavailable, "ADMIN_KEY_NOT_CONFIGURED", "this issuer has no administrator key, so nobody can be one"))
			return
		}
		who, ok := i.cfg.Admin.Authenticate(r)
		if !ok {
			i.cfg.Log.Warn("administrator request without the administrator's key", slog.String("path", r.URL.Path), slog.String("peer", r.RemoteAddr))
			w.Header().Set("WWW-Authenticate", "Bearer")
			answer(w, nil, refuse(http.StatusUnauthorized, "UNAUTHORIZED", "send the administrator key as Authorization: Bearer"))
			return
		}
		value, no := h(r, who)
		answer(w, value, no)
	}
}

func answer(w http.ResponseWriter, value any, no *refusal) {
	status, control := http.StatusOK, "no-store"
	switch v := value.(type) {
	case cached:
		value, control = v.value, v.control
	default:
	}
	if no != nil {
		status = no.status
		value = map[string]string{"error": no.code, "message": no.message}
	}
	body, err := json.Marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"INTERNAL_ERROR","message":"the answer cannot be encoded"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", control)
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the reader left; nothing to do about it
}

// readBody reads a request whole, up to limit bytes.
func readBody(r *http.Request, limit int64) ([]byte, *refusal) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, limit))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, refuse(http.StatusRequestEntityTooLarge, "INVALID_REQUEST", "the body is larger than %d bytes", limit)
	case err != nil:
		return nil, bad("INVALID_REQUEST", "the body cannot be read")
	}
	return data, nil
}

// decode reads a JSON body into v: INVALID_JSON for what is no JSON, INVALID_REQUEST, with the path, for what is not
// this request.
func decode(data []byte, v any) *refusal {
	parsed, err := jcs.Parse(data)
	if err != nil {
		return bad("INVALID_JSON", "the body is not JSON: %v", err)
	}
	if _, ok := parsed.(map[string]any); !ok {
		return bad("INVALID_REQUEST", "the body is not a JSON object")
	}
	if err := jcs.Unmarshal(data, v); err != nil {
		return bad("INVALID_REQUEST", "the body is not this request: %v", err)
	}
	return nil
}
