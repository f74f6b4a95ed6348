package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/signer/jcs"
)

// TokenRevocationTTL is how long the revocation of a single token is kept in force (WIRE 3.3). It is far longer than any
// token may live, so nothing comes back to life. Missions and contracts stay revoked for good.
const TokenRevocationTTL = 30 * 24 * time.Hour

// Kind says what a revocation withdraws.
type Kind string

// The kinds. The ecosystem knows the first only.
const (
	KindToken   Kind = "token"   // one token, by its hash
	KindMission Kind = "mission" // every token of a job, by mission_id
	KindPolicy  Kind = "policy"  // every token under a contract, by policy_hash_b64u
)

// Revocation is one withdrawal, as it stands in the file.
type Revocation struct {
	Kind      Kind   `json:"kind"`
	Value     string `json:"value"`      // token hash (64 lower-case hex digits), mission id or policy hash
	RevokedAt int64  `json:"revoked_at"` // Unix seconds
	Reason    string `json:"reason,omitempty"`
	RevokedBy string `json:"revoked_by"`
}

// eventsPrefix and newestFirst make the ecosystem's event keys, which sort the newest first.
const (
	eventsPrefix = "events:revocations:"
	newestFirst  = 9_999_999_999
)

// EventKey names the event; keys sort with the newest first.
func (r *Revocation) EventKey() string {
	name := r.Value
	if r.Kind != KindToken {
		name = string(r.Kind) + ":" + r.Value
	}
	return fmt.Sprintf("%s%010d:%s", eventsPrefix, newestFirst-r.RevokedAt, name)
}

const maxReason, maxMission = 256, 256

var tokenHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// validate is applied to what is read back too, so that a damaged file is not half believed.
func (r *Revocation) validate() error {
	switch r.Kind {
	case KindToken:
		if !tokenHash.MatchString(r.Value) {
			return errors.New("value is no token hash")
		}
	case KindMission:
		if !plainText(r.Value, maxMission) {
			return errors.New("value is no mission id")
		}
	case KindPolicy:
		if _, err := jcs.DecodeHash(r.Value); err != nil {
			return fmt.Errorf("value is no policy hash: %w", err)
		}
	default:
		return fmt.Errorf("kind %q is unknown", r.Kind)
	}
	if r.RevokedAt <= 0 || r.RevokedAt > newestFirst {
		return errors.New("revoked_at is no time")
	}
	return nil
}

// plainText is text that is the same however it is trimmed, without control characters.
func plainText(s string, limit int) bool {
	return s != "" && len(s) <= limit && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfeff })
}

// Revocations is the withdrawals of this issuer: in memory, and in a file that only grows.
type Revocations struct {
	file *journal

	mu  sync.RWMutex
	all map[Kind]map[string]Revocation
}

// OpenRevocations reads dir/revocations.jsonl, and makes it where there is none. A file that is not whole is an error,
// except for a last line whose writing was cut off, which nobody was told of.
func OpenRevocations(dir string, log *slog.Logger) (*Revocations, error) {
	r := &Revocations{all: map[Kind]map[string]Revocation{KindToken: {}, KindMission: {}, KindPolicy: {}}}
	path := filepath.Join(dir, "revocations.jsonl")
	file, torn, err := openJournal(path, func(line []byte) error {
		var rev Revocation
		if err := jcs.Unmarshal(line, &rev); err != nil {
			return err
		}
		if err := rev.validate(); err != nil {
			return err
		}
		r.put(rev)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if torn > 0 {
		log.Warn("the last revocation was cut off while it was written and was not acknowledged", slog.String("file", path), slog.Int("bytes", torn))
	}
	r.file = file
	return r, nil
}

// put keeps the first revocation of a thing: what was revoked stays revoked since then.
func (r *Revocations) put(rev Revocation) {
	if _, known := r.all[rev.Kind][rev.Value]; !known {
		r.all[rev.Kind][rev.Value] = rev
	}
}

// Revoke puts a withdrawal in force. It returns nil only when the withdrawal is on disk. Already says that it was in
// force before; stands is the one that counts.
func (r *Revocations) Revoke(rev Revocation) (stands Revocation, already bool, err error) {
	if err := rev.validate(); err != nil {
		return Revocation{}, false, err
	}
	line, err := json.Marshal(rev)
	if err != nil {
		return Revocation{}, false, fmt.Errorf("%w: %w", ErrJournal, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.all[rev.Kind][rev.Value]; ok {
		return known, true, nil
	}
	if err := r.file.append(line); err != nil {
		return Revocation{}, false, err
	}
	r.put(rev)
	return rev, false, nil
}

// Lookup finds the withdrawal of one thing.
func (r *Revocations) Lookup(kind Kind, value string) (Revocation, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rev, ok := r.all[kind][value]
	return rev, ok
}

// InForce lists the values of a kind, sorted. Tokens that must have ended long ago are left out.
func (r *Revocations) InForce(kind Kind, now time.Time) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	values := make([]string, 0, len(r.all[kind]))
	for v, rev := range r.all[kind] {
		if kind == KindToken && now.Sub(time.Unix(rev.RevokedAt, 0)) > TokenRevocationTTL {
			continue
		}
		values = append(values, v)
	}
	slices.Sort(values)
	return values
}

// Event is a withdrawal with its key.
type Event struct {
	Key    string
	Record Revocation
}

// Events lists up to limit withdrawals after the cursor, the newest first. Complete says that none are left.
func (r *Revocations) Events(cursor string, limit int) (page []Event, complete bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, kind := range []Kind{KindToken, KindMission, KindPolicy} {
		for _, rev := range r.all[kind] {
			if key := rev.EventKey(); key > cursor {
				page = append(page, Event{key, rev})
			}
		}
	}
	slices.SortFunc(page, func(a, b Event) int { return strings.Compare(a.Key, b.Key) })
	if len(page) > limit {
		return page[:limit], false
	}
	return page, true
}

// Close lets go of the file.
func (r *Revocations) Close() error { return r.file.close() }
