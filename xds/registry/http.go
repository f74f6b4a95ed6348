package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"sallyport/signer/code"
	"sallyport/signer/envelope"
	"sallyport/signer/jcs"
)

// maxContract bounds the body of a request with a contract in it, in bytes.
const maxContract = 1 << 20

// The codes of the registry's HTTP interface, as the ecosystem has them; they are not refusals of calls.
const (
	codePayloadTooLarge = "PAYLOAD_TOO_LARGE"
	codeInvalidJSON     = "INVALID_JSON"
	codeInvalidRequest  = "INVALID_REQUEST"
	codeInvalidWPC      = "INVALID_WPC"
	codeInvalidHash     = "INVALID_POLICY_HASH"
	codeBodyRead        = "BODY_READ_FAILED"
	codeNotFound        = "WPC_NOT_FOUND"
	codeCorrupted       = "WPC_CORRUPTED"
	codeNoSigning       = "SIGNING_NOT_CONFIGURED"
	codeSigningFailed   = "SIGNING_FAILED"
	codeUnauthorized    = "UNAUTHORIZED"
	codeNoAdmin         = "ADMIN_KEY_NOT_CONFIGURED"
	codeStore           = "WPC_STORE_FAILED"
)

// Authenticator says who an administrator is. The name goes into the log.
type Authenticator interface {
	Authenticate(r *http.Request) (who string, ok bool)
}

// HandlerConfig is what the HTTP interface needs besides the registry.
type HandlerConfig struct {
	Admin Authenticator // nil: what needs an administrator answers 503
	// Check says what is wrong with an unsigned contract's payload; package contract's Parse does. Required.
	Check func(payload []byte) error
	// Sign seals a payload that Check accepted; nil: only contracts that are signed already are taken.
	Sign func(ctx context.Context, payload []byte) (*envelope.Envelope, error)
	// Published is told of each contract that was put, new or not, before the answer; its error becomes "applied": false.
	// It puts the contract in force. May be nil.
	Published func(ctx context.Context, hash string, e *envelope.Envelope) error
}

type api struct {
	reg *Registry
	cfg HandlerConfig
}

// Handler serves the registry: POST /v1/wpc (administrator), GET /v1/wpc/{hash} (everybody) and GET /v1/wpc (administrator).
func (r *Registry) Handler(cfg HandlerConfig) (http.Handler, error) {
	if cfg.Check == nil {
		return nil, errors.New("registry: nothing to check contracts with")
	}
	a := &api{r, cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/wpc", a.admin(a.put))
	mux.HandleFunc("GET /v1/wpc", a.admin(a.list))
	mux.HandleFunc("GET /v1/wpc/{hash}", func(w http.ResponseWriter, r *http.Request) { a.answer(w, r, a.get) })
	return mux, nil
}

// failure is an answer that is not a success.
type failure struct {
	status  int
	code    string
	message string
}

func fail(status int, code, format string, args ...any) *failure {
	return &failure{status, code, fmt.Sprintf(format, args...)}
}

// stored is the answer to a contract that was put or fetched.
type stored struct {
	OK       bool               `json:"ok"`
	Existed  *bool              `json:"existed,omitempty"`
	Applied  *bool              `json:"applied,omitempty"` // whether every connected Envoy has its routes
	Hash     string             `json:"policy_hash_b64u"`
	Envelope *envelope.Envelope `json:"envelope"`
}

// listed is one line of the list.
type listed struct {
	Hash     string `json:"policy_hash_b64u"`
	Signer   string `json:"signer_did,omitempty"`
	IssuedAt string `json:"issued_at,omitempty"`
	Problem  string `json:"problem,omitempty"` // why it is not used
}

type handler func(r *http.Request) (status int, body any, no *failure)

func (a *api) admin(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.answer(w, r, func(r *http.Request) (int, any, *failure) {
			if a.cfg.Admin == nil {
				return 0, nil, fail(http.StatusServiceUnavailable, codeNoAdmin, "this registry has no administrator key, so nobody can be one")
			}
			who, ok := a.cfg.Admin.Authenticate(r)
			if !ok {
				a.reg.cfg.Log.Warn("registry request without the administrator's key", slog.String("path", r.URL.Path), slog.String("peer", r.RemoteAddr))
				return 0, nil, fail(http.StatusUnauthorized, codeUnauthorized, "send the administrator key as Authorization: Bearer")
			}
			a.reg.cfg.Log.Info("registry request", slog.String("administrator", who), slog.String("method", r.Method), slog.String("path", r.URL.Path))
			return h(r)
		})
	}
}

func (a *api) answer(w http.ResponseWriter, r *http.Request, h handler) {
	status, body, no := h(r)
	if no != nil {
		status = no.status
		body = map[string]any{"ok": false, "error": map[string]string{"code": no.code, "message": no.message}}
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		a.reg.cfg.Log.Debug("the answer did not reach the client", slog.String("error", err.Error()))
	}
}

func (a *api) put(r *http.Request) (int, any, *failure) {
	e, no := a.read(r)
	if no != nil {
		return 0, nil, no
	}
	hash, existed, err := a.reg.Put(e)
	if err != nil {
		return 0, nil, a.problem(err)
	}
	if existed { // the first envelope stays
		if e, err = a.reg.Get(hash); err != nil {
			return 0, nil, a.problem(err)
		}
	}
	out := stored{OK: true, Existed: &existed, Hash: hash, Envelope: e}
	if a.cfg.Published != nil {
		err := a.cfg.Published(r.Context(), hash, e)
		applied := err == nil
		out.Applied = &applied
		if err != nil {
			a.reg.cfg.Log.Error("the contract is kept but not in force everywhere", slog.String("policy_hash", hash), slog.String("error", err.Error()))
		}
	}
	if existed {
		return http.StatusOK, out, nil
	}
	return http.StatusCreated, out, nil
}

// read takes the contract out of the request and signs it where it is not signed yet.
func (a *api) read(r *http.Request) (*envelope.Envelope, *failure) {
	data, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxContract))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fail(http.StatusRequestEntityTooLarge, codePayloadTooLarge, "a contract may have %d bytes", maxContract)
	}
	if err != nil {
		return nil, fail(http.StatusBadRequest, codeBodyRead, "the body could not be read")
	}
	if _, err := jcs.Parse(data); err != nil {
		return nil, fail(http.StatusBadRequest, codeInvalidJSON, "%s", err)
	}
	var body struct {
		WPC      json.RawMessage `json:"wpc"`
		Envelope json.RawMessage `json:"envelope"`
	}
	if err := jcs.Unmarshal(data, &body); err != nil {
		return nil, fail(http.StatusBadRequest, codeInvalidRequest, "%s", err)
	}
	switch {
	case (body.WPC == nil) == (body.Envelope == nil):
		return nil, fail(http.StatusBadRequest, codeInvalidRequest, "send either wpc (a contract to be signed) or envelope (a signed one)")
	case body.Envelope != nil:
		e, err := envelope.Parse(body.Envelope)
		if err != nil {
			return nil, fail(http.StatusBadRequest, string(code.WPCEnvelopeInvalid), "%s", err)
		}
		return e, nil
	default:
		return a.sign(r.Context(), body.WPC)
	}
}

// sign gives the envelope that is kept for this payload, or a fresh one.
func (a *api) sign(ctx context.Context, payload []byte) (*envelope.Envelope, *failure) {
	if err := a.cfg.Check(payload); err != nil {
		return nil, fail(http.StatusBadRequest, codeInvalidWPC, "%s", err)
	}
	hash, err := jcs.HashCanonical(payload)
	if err != nil {
		return nil, fail(http.StatusBadRequest, codeInvalidWPC, "%s", err)
	}
	if e, err := a.reg.Get(hash); err == nil {
		return e, nil
	} else if !errors.Is(err, ErrNotFound) {
		return nil, a.problem(err)
	}
	if a.cfg.Sign == nil {
		return nil, fail(http.StatusServiceUnavailable, codeNoSigning, "this registry cannot sign; send an envelope")
	}
	e, err := a.cfg.Sign(ctx, payload)
	if err != nil {
		a.reg.cfg.Log.Error("the contract could not be signed", slog.String("policy_hash", hash), slog.String("error", err.Error()))
		return nil, fail(http.StatusServiceUnavailable, codeSigningFailed, "the signer did not sign the contract")
	}
	return e, nil
}

func (a *api) get(r *http.Request) (int, any, *failure) {
	hash := r.PathValue("hash")
	e, err := a.reg.Get(hash)
	if err != nil {
		return 0, nil, a.problem(err)
	}
	return http.StatusOK, stored{OK: true, Hash: hash, Envelope: e}, nil
}

func (a *api) list(*http.Request) (int, any, *failure) {
	hashes, err := a.reg.Hashes()
	if err != nil {
		return 0, nil, a.problem(err)
	}
	out := make([]listed, 0, len(hashes))
	for _, hash := range hashes {
		l := listed{Hash: hash}
		if e, err := a.reg.Get(hash); err != nil {
			l.Problem = a.problem(err).code
		} else {
			l.Signer, l.IssuedAt = e.SignerDID, e.IssuedAt
		}
		out = append(out, l)
	}
	return http.StatusOK, map[string]any{"ok": true, "contracts": out}, nil
}

// problem classifies what the registry answered.
func (a *api) problem(err error) *failure {
	var d *code.Denial
	switch {
	case errors.As(err, &d) && d.Code == code.WPCSignerNotAllowed:
		return fail(http.StatusForbidden, string(d.Code), "%s", d.Message())
	case errors.As(err, &d):
		return fail(http.StatusBadRequest, string(d.Code), "%s", d.Message())
	case errors.Is(err, ErrHash):
		return fail(http.StatusBadRequest, codeInvalidHash, "%s", ErrHash)
	case errors.Is(err, ErrNotFound):
		return fail(http.StatusNotFound, codeNotFound, "%s", ErrNotFound)
	case errors.Is(err, ErrCorrupted):
		return fail(http.StatusInternalServerError, codeCorrupted, "%s", ErrCorrupted)
	default:
		a.reg.cfg.Log.Error("the registry's store failed", slog.String("error", err.Error()))
		return fail(http.StatusInternalServerError, codeStore, "the contract could not be read or written")
	}
}
