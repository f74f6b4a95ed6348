package issuer

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"sallyport/signer/didkey"
	"sallyport/signer/jcs"
	"sallyport/signer/keyring"
)

// jwksCache is how long a key set may be kept (WIRE 3).
const jwksCache = "public, max-age=300"

func (i *Issuer) jwks(*http.Request, string) (any, *refusal) {
	return cached{i.cfg.Ring.JWKS(i.cfg.Now()), jwksCache}, nil
}

// didAnswer names the issuer's signing key, and the other signers of this installation for whoever verifies.
type didAnswer struct {
	DID          string   `json:"did"`
	KID          string   `json:"kid"`
	PublicKey    string   `json:"public_key_b64u"`
	GatewayDID   string   `json:"gateway_did,omitempty"`
	ContractDIDs []string `json:"contract_signer_dids,omitempty"`
}

func (i *Issuer) did(*http.Request, string) (any, *refusal) {
	k := i.cfg.Ring.Active()
	if k == nil {
		return nil, noSigning()
	}
	return didAnswer{
		DID: didkey.Encode(k.Public()), KID: k.KID(), PublicKey: jcs.EncodeB64u(k.Public()),
		GatewayDID: i.cfg.GatewayDID, ContractDIDs: i.cfg.ContractDIDs,
	}, nil
}

func noSigning() *refusal {
	return refuse(http.StatusServiceUnavailable, "SIGNING_NOT_CONFIGURED", "this issuer has no key for that")
}

// overlap bounds how long the old key still verifies after a rotation.
const defaultOverlap, maxOverlap = time.Hour, 30 * 24 * time.Hour

type rotateRequest struct {
	OverlapSeconds *int64 `json:"overlap_seconds"`
}

type rotateAnswer struct {
	ActiveKID    string              `json:"active_kid"`
	AcceptedKeys []keyring.VerifyKey `json:"accepted_keys"`
}

// rotate makes a new signing key. Tokens of the old one are good until the overlap ends; it is ours, not upstream's.
func (i *Issuer) rotate(r *http.Request, who string) (any, *refusal) {
	data, no := readBody(r, maxBody)
	if no != nil {
		return nil, no
	}
	var q rotateRequest
	if no := decode(data, &q); no != nil {
		return nil, no
	}
	overlap := defaultOverlap
	if q.OverlapSeconds != nil {
		if *q.OverlapSeconds < 0 || *q.OverlapSeconds > int64(maxOverlap/time.Second) {
			return nil, bad("INVALID_REQUEST", "overlap_seconds: 0 to %d", int64(maxOverlap/time.Second))
		}
		overlap = time.Duration(*q.OverlapSeconds) * time.Second
	}
	if err := i.cfg.Ring.Rotate(i.cfg.Rand, i.cfg.Now().Add(overlap)); err != nil {
		i.cfg.Log.Error("key rotation failed", slog.Any("error", err))
		return nil, refuse(http.StatusInternalServerError, "ROTATION_FAILED", "the keys cannot be rotated; see the log of the signer")
	}
	i.Refresh()
	a := rotateAnswer{ActiveKID: i.cfg.Ring.Active().KID(), AcceptedKeys: i.cfg.Ring.VerifyKeys()}
	i.cfg.Log.Info("keys rotated", slog.String("active_kid", a.ActiveKID), slog.String("by", who))
	return a, nil
}

type signRequest struct {
	WPC json.RawMessage `json:"wpc"`
}

type signAnswer struct {
	PolicyHash string `json:"policy_hash_b64u"`
	Envelope   any    `json:"envelope"`
}

// signContract seals a contract. What is wrong with one is said in full, since its author is who reads it.
func (i *Issuer) signContract(r *http.Request, who string) (any, *refusal) {
	if i.cfg.SignContract == nil {
		return nil, noSigning()
	}
	data, no := readBody(r, maxContractBody)
	if no != nil {
		return nil, no
	}
	var q signRequest
	if no := decode(data, &q); no != nil {
		return nil, no
	}
	if len(q.WPC) == 0 || q.WPC[0] != '{' {
		return nil, bad("INVALID_REQUEST", "wpc: it must be the contract's payload, a JSON object")
	}
	env, err := i.cfg.SignContract(q.WPC, i.cfg.Now())
	if err != nil {
		return nil, bad("INVALID_WPC", "%v", err)
	}
	i.cfg.Log.Info("contract signed", slog.String("policy_hash", env.PayloadHashB64u), slog.String("signer", env.SignerDID), slog.String("by", who))
	return signAnswer{env.PayloadHashB64u, env}, nil
}
