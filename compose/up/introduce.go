package up

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sallyport/compose/config"
	"sallyport/compose/role"
	"sallyport/extproc/dialect"
	"sallyport/signer/code"
)

//go:embed example-contract.json
var exampleContract []byte

const (
	exampleTTL     = time.Hour // the issuer's longest
	exampleSubject = "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"
	callTimeout    = 10 * time.Second
	// selfCheck bounds the wait for the gate to refuse as it should.
	selfCheck = 20 * time.Second
	pollReady = 100 * time.Millisecond
	maxAnswer = 1 << 20
)

// Ready is what the ready file says.
type Ready struct {
	GatewayURL        string           `json:"gateway_url"`
	ForwardURL        string           `json:"forward_url,omitempty"` // for HTTPS_PROXY; missing without a forward door
	ControlURL        string           `json:"control_url"`
	AdminTokenFile    string           `json:"admin_token_file"`
	ContractHash      string           `json:"contract_hash"`
	ExampleToken      string           `json:"example_token"`
	GatewaySignerDID  string           `json:"gateway_signer_did"`
	ContractSignerDID string           `json:"contract_signer_did"`
	IssuerJWKSURL     string           `json:"issuer_jwks_url"`
	EvidenceDir       string           `json:"evidence_dir"`
	EnvoyVersion      string           `json:"envoy_version"`
	PIDs              map[string][]int `json:"pids"`
}

// introduce publishes the example, and says ready only when the gate, asked from outside, refuses by itself.
func (s *system) introduce(ctx context.Context) (*Ready, error) {
	c := s.Config.Config
	t, err := role.ReadTrust(c.TrustFile())
	if err != nil {
		return nil, err
	}
	r := &Ready{
		GatewayURL: "http://" + dialable(c.Listen), ControlURL: "http://" + dialable(c.ControlListen),
		AdminTokenFile: c.AdminTokenFile, GatewaySignerDID: t.GatewaySigners[0], ContractSignerDID: t.ContractSigners[0],
		EvidenceDir: c.Evidence.Dir, EnvoyVersion: s.envoyVersion, PIDs: s.pids(),
	}
	if c.Forward() {
		r.ForwardURL = "http://" + dialable(c.ForwardListen)
	}
	r.IssuerJWKSURL = r.ControlURL + "/v1/jwks"
	if s.noExample() == "" {
		if err := s.publishExample(ctx, r); err != nil {
			return nil, err
		}
	}
	if err := everyPart(ctx, r.ControlURL); err != nil {
		return nil, err
	}
	return r, s.selfCheck(ctx, r)
}

// everyPart waits until each process says that it is ready.
func everyPart(ctx context.Context, controlURL string) error {
	ctx, cancel := context.WithTimeout(ctx, selfCheck)
	defer cancel()
	for {
		err := answersReady(ctx, controlURL+"/ready")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not everything is ready: %w", err)
		case <-time.After(pollReady):
		}
	}
}

func answersReady(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := direct().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", bytes.TrimSpace(raw))
	}
	return err
}

// direct is a client without a proxy from the environment: what it calls is our own.
func direct() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// noExample says why there is no example, "" where there is one.
func (s *system) noExample() string {
	_, ok := s.model()
	switch {
	case !slices.Contains(s.Config.Config.TrustedContractSigners, config.Self):
		return "trusted_contract_signers does not name self"
	case !ok:
		return "no upstream is a model"
	}
	return ""
}

// model is the first upstream that is one.
func (s *system) model() (config.Upstream, bool) {
	for _, u := range s.Config.Config.Upstreams {
		if u.Dialect != dialect.MCP {
			return u, true
		}
	}
	return config.Upstream{}, false
}

func (s *system) publishExample(ctx context.Context, r *Ready) error {
	var published struct {
		Hash string `json:"policy_hash_b64u"`
	}
	if err := s.admin(ctx, r, "/v1/wpc", map[string]any{"wpc": json.RawMessage(exampleContract)}, &published); err != nil {
		return fmt.Errorf("publish the example contract: %w", err)
	}
	var issued struct {
		Token string `json:"token"`
	}
	if err := s.admin(ctx, r, "/v1/tokens/issue", map[string]any{
		"sub": exampleSubject, "aud": s.Config.Config.Audience, "scope": []string{"proxy:call"},
		"ttl_sec": int64(exampleTTL / time.Second), "policy_hash_b64u": published.Hash,
	}, &issued); err != nil {
		return fmt.Errorf("issue the example token: %w", err)
	}
	r.ContractHash, r.ExampleToken = published.Hash, issued.Token
	return role.WriteFile(exampleTokenFile(s.Config.Config), []byte(issued.Token+"\n"), 0o600)
}

func exampleTokenFile(c *config.Config) string { return filepath.Join(c.DataDir, "example-token") }

// admin calls the control API as the administrator.
func (s *system) admin(ctx context.Context, r *Ready, path string, body, out any) error {
	key, err := os.ReadFile(r.AdminTokenFile)
	if err != nil {
		return err
	}
	status, raw, err := post(ctx, r.ControlURL+path, strings.TrimSpace(string(key)), body)
	if err != nil {
		return err
	}
	if status >= http.StatusBadRequest {
		return fmt.Errorf("%s answers %d: %.500s", path, status, raw)
	}
	return json.Unmarshal(raw, out)
}

func post(ctx context.Context, url, bearer string, body any) (int, []byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := direct().Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, answer, err
}

// selfCheck sends a call without a token through the gateway's own listener. Only the gate's own refusal will do: an
// error would also keep the call out, but would not show that somebody decides.
func (s *system) selfCheck(ctx context.Context, r *Ready) error {
	ctx, cancel := context.WithTimeout(ctx, selfCheck)
	defer cancel()
	u, ok := s.model()
	if !ok {
		u = s.Config.Config.Upstreams[0]
	}
	url := r.GatewayURL + doorOf(u) + examplePath(u.Dialect)
	var last error
	for {
		if last = refuses(ctx, url); last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the gateway does not refuse a call without a token as it must: %w", last)
		case <-time.After(pollReady):
		}
	}
}

func refuses(ctx context.Context, url string) error {
	status, raw, err := post(ctx, url, "", map[string]any{"model": "self-check"})
	if err != nil {
		return err
	}
	// A model's door names the code in error.code, a tool server's, where that is a number, in error.data.code.
	var answer struct {
		Error struct {
			Code any
			Data struct{ Code string }
		}
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Error.Code != string(code.TokenRequired) && answer.Error.Data.Code != string(code.TokenRequired) {
		return fmt.Errorf("status %d, body %.300q, want %s", status, raw, code.TokenRequired)
	}
	if want := code.Lookup(code.TokenRequired).Status; status != want {
		return fmt.Errorf("status %d, want %d", status, want)
	}
	return nil
}

// doorOf is the path below which an upstream is reached.
func doorOf(u config.Upstream) string {
	if u.Dialect == dialect.MCP {
		return "/mcp/" + u.Name
	}
	return "/" + u.Name
}

// examplePath is a path below an upstream's door that takes a call.
func examplePath(speaks string) string {
	switch speaks {
	case "anthropic":
		return "/v1/messages"
	case "gemini":
		return "/v1beta/models/gemini-2.5-flash:generateContent"
	case dialect.MCP:
		return ""
	default:
		return "/v1/chat/completions"
	}
}

// dialable turns an address to listen on into one to call: all interfaces become this machine.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// announce writes the ready file and prints what to paste.
func (s *system) announce(r *Ready) error {
	if s.ReadyFile != "" {
		raw, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		// It holds a token, so it is for this user only.
		if err := role.WriteFile(s.ReadyFile, append(raw, '\n'), 0o600); err != nil {
			return err
		}
	}
	text, err := s.text(r)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(s.Out, text); err != nil {
		return errors.Join(errors.New("the ready text cannot be printed"), err)
	}
	return nil
}
