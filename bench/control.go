package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// readyFile is what we use of the file that `sallyport up --ready-file` writes.
type readyFile struct {
	GatewayURL       string           `json:"gateway_url"`
	ForwardURL       string           `json:"forward_url"` // "" where there is no forward door
	ControlURL       string           `json:"control_url"`
	AdminTokenFile   string           `json:"admin_token_file"`
	ContractHash     string           `json:"contract_hash"`
	GatewaySignerDID string           `json:"gateway_signer_did"`
	EvidenceDir      string           `json:"evidence_dir"`
	PIDs             map[string][]int `json:"pids"`
}

// readReady reads the ready file; it is an error while the file is not there or not complete.
func readReady(path string) (*readyFile, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r readyFile
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("ready file: %w", err)
	}
	for name, value := range map[string]string{
		"gateway_url": r.GatewayURL, "control_url": r.ControlURL, "admin_token_file": r.AdminTokenFile,
		"contract_hash": r.ContractHash, "gateway_signer_did": r.GatewaySignerDID, "evidence_dir": r.EvidenceDir,
	} {
		if value == "" {
			return nil, fmt.Errorf("ready file: %s is missing", name)
		}
	}
	if len(r.PIDs) == 0 {
		return nil, errors.New("ready file: pids is missing")
	}
	return &r, nil
}

func (r *readyFile) control() control {
	return control{URL: r.ControlURL, AdminTokenFile: r.AdminTokenFile, ContractHash: r.ContractHash}
}

// control is where a deployment's administrators get tokens, and for which contract.
type control struct {
	URL            string
	AdminTokenFile string
	ContractHash   string
	Audience       string // "" for defaultAudience
}

const (
	benchSubject    = "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"
	defaultAudience = "sallyport"
	tokenTTL        = time.Hour // the longest that the issuer gives; tokens are made anew for each cell
	controlTimeout  = 10 * time.Second
)

// admin calls the control API as its administrator.
type admin struct {
	control
	key    string
	client *http.Client
}

func newAdmin(c control) (*admin, error) {
	key, err := os.ReadFile(c.AdminTokenFile)
	if err != nil {
		return nil, err
	}
	if c.Audience == "" {
		c.Audience = defaultAudience
	}
	return &admin{control: c, key: strings.TrimSpace(string(key)), client: &http.Client{
		Timeout: controlTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: issuers},
	}}, nil
}

// post sends JSON and reads the answer into out.
func (a *admin) post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("the control API answers %s with %d %.300q", path, resp.StatusCode, raw)
	}
	return json.Unmarshal(raw, out)
}

// authority is the certificate authority that programs under a contract have to trust, in PEM.
func (a *admin) authority(ctx context.Context, contract string) ([]byte, error) {
	return getURL(ctx, a.client, a.URL+"/v1/ca.pem?policy_hash="+contract)
}

// ask is a token to be issued.
type ask struct {
	Contract string        // hash
	Mission  string        // naming it makes the gate bind the token in its replay store; "" for none
	Nonce    string        // makes the token good for one call; "" for many
	TTL      time.Duration // whole seconds
}

func (a *admin) issue(ctx context.Context, t ask) (string, error) {
	in := map[string]any{
		"sub": benchSubject, "aud": a.Audience, "scope": []string{"proxy:call"},
		"ttl_sec": int(t.TTL.Seconds()), "policy_hash_b64u": t.Contract,
	}
	if t.Mission != "" {
		in["mission_id"] = t.Mission
	}
	if t.Nonce != "" {
		in["nonce"] = t.Nonce
	}
	var out struct {
		Token string `json:"token"`
	}
	err := a.post(ctx, "/v1/tokens/issue", in, &out)
	if err == nil && out.Token == "" {
		err = errors.New("the control API issues no token")
	}
	return out.Token, err
}

// publish puts a contract in force and returns its hash.
func (a *admin) publish(ctx context.Context, contract any) (string, error) {
	var out struct {
		Hash string `json:"policy_hash_b64u"`
	}
	err := a.post(ctx, "/v1/wpc", map[string]any{"wpc": contract}, &out)
	if err == nil && out.Hash == "" {
		err = errors.New("the control API gives no hash of a published contract")
	}
	return out.Hash, err
}
