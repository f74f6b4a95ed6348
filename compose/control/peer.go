package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// errUnreachable leaves out the URL, which names a host that does not exist.
func errUnreachable(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("does not answer: %w", op.Err)
	}
	return fmt.Errorf("does not answer: %w", err)
}

// readinessError turns another process's /ready into why it is not, or nil.
func readinessError(resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	var r Readiness
	if json.Unmarshal(raw, &r) != nil || len(r.Checks) == 0 {
		return fmt.Errorf("status %d: %.100s", resp.StatusCode, strings.TrimSpace(string(raw)))
	}
	var failed []string
	for name, answer := range r.Checks {
		if answer != "ok" {
			failed = append(failed, name+": "+answer)
		}
	}
	slices.Sort(failed)
	return errors.New(strings.Join(failed, "; "))
}
