package mainlib

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	apiTimeout   = 15 * time.Second
	maxAPIAnswer = 8 << 20
)

// api calls the control API.
type api struct {
	base      string
	adminFile string
	client    *http.Client
}

// apiError is a refusal of the control API.
type apiError struct {
	Status        int
	Code, Message string
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s: %s (status %d)", e.Code, e.Message, e.Status)
}

// api finds the control API and the administrator's key: flags first, then the configuration.
func (a *app) api() (*api, error) {
	out := &api{base: strings.TrimRight(a.controlURL, "/"), adminFile: a.adminFile, client: &http.Client{Timeout: apiTimeout}}
	if out.base != "" && out.adminFile != "" {
		return out, nil
	}
	c, err := a.load()
	if err != nil {
		return nil, err
	}
	if out.base == "" {
		out.base = "http://" + dialable(c.ControlListen)
	}
	if out.adminFile == "" {
		out.adminFile = c.AdminTokenFile
	}
	return out, nil
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

// call sends a request and decodes the answer into out. With admin the administrator's key goes along.
func (c *api) call(ctx context.Context, method, path string, body, out any, admin bool) error {
	var rd io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		rd = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, rd)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if admin {
		key, err := os.ReadFile(c.adminFile)
		if err != nil {
			return fmt.Errorf("administrator's key: %w (is Sallyport running here? else name the file with --admin-token-file)", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("control API: %w (is Sallyport running? `sallyport doctor` looks)", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAPIAnswer))
	if err != nil {
		return fmt.Errorf("control API: %w", err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return readAPIError(resp.StatusCode, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("control API: answer of %s: %w", path, err)
	}
	return nil
}

// readAPIError knows both shapes of the ecosystem: {error, message} of the issuer, {ok, error:{code, message}} of the
// registry.
func readAPIError(status int, raw []byte) error {
	e := &apiError{Status: status, Code: "ERROR", Message: strings.TrimSpace(string(raw))}
	var flat struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
	}
	if json.Unmarshal(raw, &flat) != nil {
		return e
	}
	var nested struct{ Code, Message string }
	var code string
	switch {
	case json.Unmarshal(flat.Error, &code) == nil:
		e.Code, e.Message = code, flat.Message
	case json.Unmarshal(flat.Error, &nested) == nil:
		e.Code, e.Message = nested.Code, nested.Message
	}
	return e
}

// printJSON prints a value for people and programs.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// readInput reads a file, or standard input for "-".
func (a *app) readInput(path string) ([]byte, error) {
	if path != "-" {
		return os.ReadFile(path)
	}
	in := a.in
	if in == nil {
		in = os.Stdin
	}
	return io.ReadAll(io.LimitReader(in, maxAPIAnswer))
}
