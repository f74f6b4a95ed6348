package envoy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Admin speaks to Envoy's admin interface on its Unix socket.
type Admin struct{ client *http.Client }

// maxAdminAnswer bounds what is read of one answer, in bytes.
const maxAdminAnswer = 8 << 20

// NewAdmin makes a client for the socket at path. Nothing is dialled yet.
func NewAdmin(path string) *Admin {
	return &Admin{client: &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}},
	}}
}

// ErrNotReady says that Envoy runs but cannot carry calls yet.
var ErrNotReady = errors.New("envoy is not ready")

// Ready is nil when Envoy has its configuration and at least one listener that accepts.
func (a *Admin) Ready(ctx context.Context) error {
	state, err := a.do(ctx, http.MethodGet, "/ready")
	if err != nil {
		return err
	}
	if strings.TrimSpace(state) != "LIVE" {
		return fmt.Errorf("%w: %s", ErrNotReady, strings.TrimSpace(state))
	}
	ls, err := a.Listeners(ctx)
	if err != nil {
		return err
	}
	if len(ls) == 0 {
		return fmt.Errorf("%w: no listener", ErrNotReady)
	}
	return nil
}

// Listeners are the addresses that Envoy listens on, with the ports that the system chose where none was named.
func (a *Admin) Listeners(ctx context.Context) ([]netip.AddrPort, error) {
	text, err := a.do(ctx, http.MethodGet, "/listeners?format=json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Statuses []struct {
			Local struct {
				Socket *struct {
					Address string `json:"address"`
					Port    uint16 `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("envoy: admin: listeners: %w", err)
	}
	var out []netip.AddrPort
	for _, s := range list.Statuses {
		if s.Local.Socket == nil {
			continue
		}
		addr, err := netip.ParseAddr(s.Local.Socket.Address)
		if err != nil {
			return nil, fmt.Errorf("envoy: admin: listeners: %w", err)
		}
		out = append(out, netip.AddrPortFrom(addr, s.Local.Socket.Port))
	}
	return out, nil
}

// StopListening closes the listeners. Calls that are under way go on.
func (a *Admin) StopListening(ctx context.Context) error {
	_, err := a.do(ctx, http.MethodPost, "/drain_listeners")
	return err
}

// ActiveRequests is how many calls are under way.
func (a *Admin) ActiveRequests(ctx context.Context) (int, error) {
	text, err := a.do(ctx, http.MethodGet, `/stats?filter=%5Ehttp%5C..*%5C.downstream_rq_active$`)
	if err != nil {
		return 0, err
	}
	total := 0
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(name, "http.admin.") { // this very request
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return 0, fmt.Errorf("envoy: admin: %s: %w", name, err)
		}
		total += n
	}
	return total, nil
}

func (a *Admin) do(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, nil)
	if err != nil {
		return "", fmt.Errorf("envoy: admin: %w", err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("envoy: admin: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return "", fmt.Errorf("envoy: admin: %w", err)
	}
	if resp.StatusCode != http.StatusOK && path != "/ready" {
		return "", fmt.Errorf("envoy: admin: %s: %s", path, resp.Status)
	}
	return string(body), nil
}
