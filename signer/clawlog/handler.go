package clawlog

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"sallyport/signer/jcs"
)

// maxBody bounds a request, in bytes.
const maxBody = 4 << 10

// answers of the API that are not successes: status, code and sentence.
type refusal struct {
	status  int
	code    string
	message string
	field   string
	more    map[string]any // members beside error
}

// Handler is the ecosystem's API of the log: the root and proofs for everybody, writing for administrators. Only this gateway
// adds to its log, and by itself: what an administrator submits must be in it. So /v1/rt/submit answers with the proof that is
// there, and append with 409 for what is there; everything else is LEAF_NOT_FOUND.
func Handler(l *Log, admin func(*http.Request) bool, log *slog.Logger) http.Handler {
	h := &handler{l, admin, log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/logs/{id}/root", h.named(h.root))
	mux.HandleFunc("GET /v1/logs/{id}/proof/{leaf}", h.named(h.proof))
	mux.HandleFunc("POST /v1/logs/{id}/append", h.write(h.named(h.add)))
	mux.HandleFunc("GET /v1/rt/root", h.root)
	mux.HandleFunc("GET /v1/rt/proof/{leaf}", h.proof)
	mux.HandleFunc("POST /v1/rt/submit", h.write(h.submit))
	return mux // its own 404 and 405 are text/plain, as the ecosystem's are
}

type handler struct {
	log   *Log
	admin func(*http.Request) bool
	slog  *slog.Logger
}

func (h *handler) named(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("id") != h.log.cfg.ID {
			refuse(w, refusal{status: http.StatusBadRequest, code: "INVALID_LOG_ID", message: "this gateway has the log " + h.log.cfg.ID + " only"})
			return
		}
		next(w, r)
	}
}

func (h *handler) write(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if h.admin == nil {
			refuse(w, refusal{status: http.StatusServiceUnavailable, code: "DEPENDENCY_NOT_CONFIGURED", message: "there is no administrator key, so nobody can write"})
			return
		}
		if !h.admin(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, refusal{status: http.StatusUnauthorized, code: "UNAUTHORIZED", message: "send the administrator key as Authorization: Bearer"})
			return
		}
		next(w, r)
	}
}

func (h *handler) root(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, struct {
		OK bool `json:"ok"`
		Root
	}{true, h.log.Root()})
}

func (h *handler) proof(w http.ResponseWriter, r *http.Request) {
	leaf := r.PathValue("leaf")
	if !jcs.IsHash(leaf) {
		refuse(w, refusal{status: http.StatusBadRequest, code: "INVALID_LEAF_HASH", message: "not the base64url of a SHA-256", field: "leaf_hash_b64u"})
		return
	}
	p, err := h.log.Proof(leaf)
	if err != nil {
		h.failed(w, err)
		return
	}
	answer(w, http.StatusOK, p)
}

func (h *handler) add(w http.ResponseWriter, r *http.Request) {
	leaf, no := readHash(r, "leaf_hash_b64u", "INVALID_LEAF_HASH")
	if no != nil {
		refuse(w, *no)
		return
	}
	i, err := h.log.Find(leaf)
	if err != nil {
		h.failed(w, err)
		return
	}
	refuse(w, refusal{status: http.StatusConflict, code: "LEAF_ALREADY_EXISTS", message: "the log has this leaf",
		more: map[string]any{"leaf_index": i, "tree_size": h.log.Size()}})
}

func (h *handler) submit(w http.ResponseWriter, r *http.Request) {
	leaf, no := readHash(r, "receipt_hash_b64u", "INVALID_RECEIPT_HASH")
	if no != nil {
		refuse(w, *no)
		return
	}
	p, err := h.log.Proof(leaf)
	if err != nil {
		h.failed(w, err)
		return
	}
	answer(w, http.StatusCreated, map[string]any{"ok": true, "log_inclusion_proof": p})
}

func (h *handler) failed(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrNotFound) {
		refuse(w, refusal{status: http.StatusNotFound, code: "LEAF_NOT_FOUND", message: "no receipt of this gateway has this hash; the gateway adds its receipts by itself, within a second"})
		return
	}
	h.slog.Error("the receipt log cannot answer", slog.Any("error", err))
	refuse(w, refusal{status: http.StatusInternalServerError, code: "INTERNAL_ERROR", message: "the log cannot be read; its operator finds the reason in the signer's log"})
}

// readHash reads the one member of a body.
func readHash(r *http.Request, member, invalid string) (string, *refusal) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return "", &refusal{status: http.StatusBadRequest, code: "INVALID_JSON", message: "the body cannot be read, or is too large"}
	}
	v, err := jcs.Parse(data)
	body, ok := v.(map[string]any)
	if err != nil || !ok {
		return "", &refusal{status: http.StatusBadRequest, code: "INVALID_JSON", message: "the body is not a JSON object"}
	}
	s, ok := body[member].(string)
	if !ok || s == "" {
		return "", &refusal{status: http.StatusBadRequest, code: "MISSING_REQUIRED_FIELD", message: "send " + member, field: member}
	}
	if !jcs.IsHash(s) {
		return "", &refusal{status: http.StatusBadRequest, code: invalid, message: "not the base64url of a SHA-256, in its one spelling", field: member}
	}
	return s, nil
}

func refuse(w http.ResponseWriter, no refusal) {
	e := map[string]any{"code": no.code, "message": no.message}
	if no.field != "" {
		e["field"] = no.field
	}
	body := map[string]any{"ok": false, "error": e}
	for k, v := range no.more {
		body[k] = v
	}
	answer(w, no.status, body)
}

func answer(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"ok":false,"error":{"code":"INTERNAL_ERROR","message":"the answer cannot be encoded"}}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the reader left; nothing to do about it
}
