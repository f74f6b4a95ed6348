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

const (
	benchSubject = "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"
	tokenTTL     = time.Hour // the longest that the issuer gives; tokens are made anew for each cell
)

// issue asks the control API for a token of one job, pinned to the example contract. Naming the mission makes the gate
// bind the token in its replay store.
func (r *readyFile) issue(ctx context.Context, client *http.Client, mission string) (string, error) {
	admin, err := os.ReadFile(r.AdminTokenFile)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]any{
		"sub": benchSubject, "aud": "sallyport", "scope": []string{"proxy:call"},
		"ttl_sec": int(tokenTTL.Seconds()), "policy_hash_b64u": r.ContractHash, "mission_id": mission,
	})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.ControlURL+"/v1/tokens/issue", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(admin)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	var out struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(raw, &out); err != nil || resp.StatusCode >= 300 || out.Token == "" {
		return "", fmt.Errorf("the control API does not issue a token: %d %.300q", resp.StatusCode, raw)
	}
	return out.Token, nil
}
