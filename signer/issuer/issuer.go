// Package issuer gives out scoped tokens, says what they are worth, and withdraws them, jobs and contracts, over HTTP.
// Paths, bodies and codes are the Claw ecosystem's issuer's (WIRE 3); what differs is noted where it does. It runs in the
// signer process, which alone holds the keys, and is the source of what every replica trusts.
package issuer

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"sallyport/signer/envelope"
	"sallyport/signer/keyring"
	"sallyport/signer/trust"
)

// RevocationStore is where withdrawals are kept; *Revocations is one.
type RevocationStore interface {
	Revoke(rev Revocation) (stands Revocation, already bool, err error)
	Lookup(kind Kind, value string) (Revocation, bool)
	InForce(kind Kind, now time.Time) []string
	Events(cursor string, limit int) (page []Event, complete bool)
}

// Authenticator says who an administrator is. The name goes into records.
type Authenticator interface {
	Authenticate(r *http.Request) (who string, ok bool)
}

// Config is what an issuer needs.
type Config struct {
	Ring        *keyring.Ring   // signs the tokens
	Revocations RevocationStore // nil: revoking answers 503
	Admin       Authenticator   // nil: what needs an administrator answers 503
	Dir         string          // where issuance.jsonl and leaves.jsonl are kept
	Policy      ScopePolicy     // zero means DefaultScopePolicy
	// SignContract seals a contract's payload with the contract ring (package contract has it); nil: signing answers 503.
	SignContract func(payload []byte, at time.Time) (*envelope.Envelope, error)
	CA           Authority // signs leaf certificates; nil: that answers 503
	// GatewayDID and ContractDIDs are published beside the issuer's own key, for whoever verifies.
	GatewayDID   string
	ContractDIDs []string
	Log          *slog.Logger
	Now          func() time.Time // nil means time.Now
	Rand         io.Reader        // nil means crypto/rand; makes jti
}

// Validate names everything that is missing, at once.
func (c *Config) Validate() error {
	var errs []error
	if c.Ring == nil {
		errs = append(errs, errors.New("issuer: no key ring"))
	}
	if c.Dir == "" {
		errs = append(errs, errors.New("issuer: no directory for the record of issued tokens"))
	}
	if c.Log == nil {
		errs = append(errs, errors.New("issuer: no log"))
	}
	return errors.Join(append(errs, c.Policy.Validate())...)
}

// Issuer serves the API and is the source of trust. It is safe for concurrent use.
type Issuer struct {
	cfg    Config
	issued *journal
	leaves *journal // of certificates; nil without an authority

	mu      sync.Mutex
	state   trust.State
	changed chan struct{}
}

var _ trust.Source = (*Issuer)(nil)

// New opens the record of issued tokens and makes an issuer.
func New(cfg Config) (*Issuer, error) {
	if len(cfg.Policy.Tiers) == 0 {
		cfg.Policy = DefaultScopePolicy()
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	i := &Issuer{cfg: cfg, changed: make(chan struct{})}
	var err error
	if i.issued, err = openRecord(cfg, "issuance.jsonl"); err != nil {
		return nil, err
	}
	if cfg.CA != nil {
		if i.leaves, err = openRecord(cfg, "leaves.jsonl"); err != nil {
			return nil, errors.Join(err, i.issued.close())
		}
	}
	i.Refresh()
	return i, nil
}

// openRecord opens a journal of what was given out. It is for auditors; this process does not need it back.
func openRecord(cfg Config, name string) (*journal, error) {
	path := filepath.Join(cfg.Dir, name)
	j, torn, err := openJournal(path, func([]byte) error { return nil })
	if torn > 0 {
		cfg.Log.Warn("the last record was cut off while it was written; what it is about was not given out", slog.String("file", path), slog.Int("bytes", torn))
	}
	return j, err
}

// Close lets go of the records of issued tokens and leaves.
func (i *Issuer) Close() error {
	err := i.issued.close()
	if i.leaves != nil {
		err = errors.Join(err, i.leaves.close())
	}
	return err
}

// Refresh makes a new snapshot of keys and withdrawals and tells whoever waits on Changed. The issuer calls it itself
// after what it changes; call it after the ring was rotated by other hands.
func (i *Issuer) Refresh() {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.cfg.Now()
	s := trust.State{
		// Milliseconds since the epoch, so that a restarted issuer goes on from above where it was.
		Version: max(i.state.Version+1, uint64(max(0, now.UnixMilli()))),
		Keys:    i.cfg.Ring.VerifyKeys(),
	}
	if r := i.cfg.Revocations; r != nil {
		s.RevokedTokens, s.RevokedMissions, s.RevokedPolicies = r.InForce(KindToken, now), r.InForce(KindMission, now), r.InForce(KindPolicy, now)
	}
	i.state = s
	close(i.changed)
	i.changed = make(chan struct{})
}

// Snapshot is what is trusted now. Its slices are shared and must not be changed.
func (i *Issuer) Snapshot() trust.State {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.state
	s.AtMS = i.cfg.Now().UnixMilli()
	return s
}

// Changed is closed when a newer snapshot exists than the one that a later call of Snapshot would have given before.
// Take the channel first, then the snapshot, so that no change falls between them.
func (i *Issuer) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

// Handler is the HTTP API.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/tokens/issue", i.admin(i.issue))
	mux.HandleFunc("POST /v1/tokens/issue/canonical", i.admin(i.issueCanonical))
	mux.HandleFunc("POST /v1/tokens/introspect", open(i.introspect))
	mux.HandleFunc("POST /v1/tokens/revoke", i.admin(i.revoke))
	mux.HandleFunc("GET /v1/revocations/events", i.admin(i.revocationEvents))
	mux.HandleFunc("GET /v1/revocations/stream", i.admin(i.revocationStream))
	mux.HandleFunc("POST /v1/contracts/sign", i.admin(i.signContract))
	mux.HandleFunc("POST /v1/ca/leaf", i.admin(i.caLeaf))
	mux.HandleFunc("POST /v1/ca/certificate", i.admin(i.caCertificate))
	mux.HandleFunc("POST /v1/keys/rotate", i.admin(i.rotate))
	mux.HandleFunc("GET /v1/jwks", open(i.jwks))
	mux.HandleFunc("GET /v1/did", open(i.did))
	mux.HandleFunc("GET /health", open(i.health))
	mux.HandleFunc("/", open(func(r *http.Request, _ string) (any, *refusal) {
		return nil, refuse(http.StatusNotFound, "NOT_FOUND", "the issuer has no %s %s", r.Method, clip(r.URL.Path))
	}))
	return mux
}

func (i *Issuer) health(*http.Request, string) (any, *refusal) {
	return map[string]any{"status": "ok", "service": "issuer", "signing_configured": i.cfg.Ring.Active() != nil}, nil
}

func clip(s string) string {
	const shown = 100
	if len(s) > shown {
		s = s[:shown] + "…"
	}
	return fmt.Sprintf("%q", s)
}
