package harness

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"

	"sallyport/signer/decision"
	"sallyport/signer/evlog"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// Evidence is what the log holds.
type Evidence struct {
	Intents  map[string]record.Intent
	Receipts map[string]StoredReceipt
	Refusals []record.Refusal
}

// StoredReceipt is a receipt as it stands in the log, not yet verified.
type StoredReceipt []byte

// Verify checks it offline against the gateway's key.
func (r StoredReceipt) Verify(gatewayDID string) error {
	_, err := receipt.Verify(r, []string{gatewayDID})
	return err
}

// Payload is the receipt's payload, unverified.
func (r StoredReceipt) Payload() receipt.Payload {
	var e struct{ Payload receipt.Payload }
	_ = json.Unmarshal(r, &e) // an unreadable one has no outcome, which tests notice
	return e.Payload
}

// Outcome is completed or cut.
func (r StoredReceipt) Outcome() string { return string(r.Payload().Metadata.Sallyport.Outcome) }

// Open are the intents without a receipt.
func (e *Evidence) Open() []string {
	var out []string
	for id := range e.Intents {
		if _, ok := e.Receipts[id]; !ok {
			out = append(out, id)
		}
	}
	return out
}

// Evidence reads the log from its files, as an auditor would, also while the system runs.
func (s *System) Evidence() *Evidence {
	s.t.Helper()
	e := &Evidence{Intents: map[string]record.Intent{}, Receipts: map[string]StoredReceipt{}}
	err := evlog.Read(s.EvidenceDir, func(entry evlog.Entry) error {
		switch entry.Kind {
		case evlog.KindIntent:
			var i record.Intent
			if err := json.Unmarshal(entry.Payload, &i); err != nil {
				return err
			}
			e.Intents[i.ID] = i
		case evlog.KindReceipt:
			id, err := evlog.ReceiptID(entry.Payload)
			if err != nil {
				return err
			}
			if _, twice := e.Receipts[id]; twice {
				s.t.Errorf("receipt %s stands in the log twice", id)
			}
			e.Receipts[id] = append(StoredReceipt(nil), entry.Payload...)
		case evlog.KindRefusal:
			r, _, err := decision.Read(entry.Payload)
			if err != nil {
				return err
			}
			e.Refusals = append(e.Refusals, *r)
		case evlog.KindControl, evlog.KindTombstone, evlog.KindSealed:
		}
		return nil
	})
	if err != nil && !errors.Is(err, evlog.ErrTorn) { // the owner may be in the middle of a write
		s.t.Fatalf("evidence: %v", err)
	}
	return e
}

// RefusalCodes counts the refusals in the log by code.
func (s *System) RefusalCodes() map[string]int {
	out := map[string]int{}
	for _, r := range s.Evidence().Refusals {
		out[r.Code]++
	}
	return out
}

// EnvoyConfigHas looks for a text in the configuration that Envoy has in force, asked over its admin socket.
func (s *System) EnvoyConfigHas(text string) bool {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.Dir, "data", "run", "envoy.sock"))
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://envoy/config_dump?include_eds")
	must(s.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return strings.Contains(string(raw), text)
}
