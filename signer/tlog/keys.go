package tlog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"golang.org/x/mod/sumdb/note"
)

// rootSize is the length of the root secret of the log's keys, in bytes.
const rootSize = 32

// Signature types of signed notes (C2SP signed-note). 0xff is for types without a byte of their own, and a name follows it.
const (
	typeEd25519 = "\x01"
	typeMLDSA65 = "\xffML-DSA-65"
)

// ErrKeys is wrapped by errors about the log's keys.
var ErrKeys = errors.New("keys of the transparency log")

// Keys sign checkpoints: one Ed25519 key, which every verifier of signed notes knows, and one ML-DSA-65 key (FIPS 204, pure,
// empty context), whose signatures still count when Ed25519 can be broken. Both are derived from one root secret.
type Keys struct {
	ed25519 ed25519.PrivateKey
	mldsa   *mldsa65.PrivateKey
	mldsaPK *mldsa65.PublicKey
}

// OpenOrCreateKeys reads the root secret from a file that only its owner may read, or makes it from 32 bytes of rand. An
// existing file is never replaced: a log keeps its keys.
func OpenOrCreateKeys(file string, rand io.Reader) (*Keys, error) {
	root, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		root = make([]byte, rootSize)
		if _, err = io.ReadFull(rand, root); err == nil {
			err = replaceFile(file, root)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s must be accessible to its owner only: run chmod 600 on it", ErrKeys, file)
	}
	if len(root) != rootSize {
		return nil, fmt.Errorf("%w: %s has %d bytes instead of %d; restore it from a copy", ErrKeys, file, len(root), rootSize)
	}
	return newKeys(root)
}

func newKeys(root []byte) (*Keys, error) {
	ed, err := hkdf.Key(sha256.New, root, nil, "sallyport checkpoint key v1 Ed25519", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	ml, err := hkdf.Key(sha256.New, root, nil, "sallyport checkpoint key v1 ML-DSA-65", mldsa65.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	k := &Keys{ed25519: ed25519.NewKeyFromSeed(ed)}
	k.mldsaPK, k.mldsa = mldsa65.NewKeyFromSeed((*[mldsa65.SeedSize]byte)(ml))
	return k, nil
}

// String keeps the private parts out of logs.
func (k *Keys) String() string { return "keys of the transparency log" }

// Verifiers are the public keys under a log's origin.
func (k *Keys) Verifiers(origin string) Verifiers {
	return Verifiers{origin: origin,
		ed25519: k.ed25519.Public().(ed25519.PublicKey), mldsa: k.mldsaPK} //nolint:forcetypeassert // an Ed25519 key has one
}

// keyHash is the key id of a signed note's signature line.
func keyHash(name, typ string, public []byte) uint32 {
	h := sha256.Sum256(slices.Concat([]byte(name+"\n"+typ), public))
	return binary.BigEndian.Uint32(h[:])
}

// signer is a note.Signer.
type signer struct {
	name string
	hash uint32
	sign func(msg []byte) ([]byte, error)
}

func (s *signer) Name() string                    { return s.name }
func (s *signer) KeyHash() uint32                 { return s.hash }
func (s *signer) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

// signers make the two signature lines of a checkpoint. Each message goes past allow first.
func (k *Keys) signers(origin string, allow func(msg []byte) error) (classic, quantum note.Signer) {
	v := k.Verifiers(origin)
	classic = &signer{origin, keyHash(origin, typeEd25519, v.ed25519), func(msg []byte) ([]byte, error) {
		if err := allow(msg); err != nil {
			return nil, err
		}
		return ed25519.Sign(k.ed25519, msg), nil
	}}
	quantum = &signer{origin, keyHash(origin, typeMLDSA65, v.mldsa.Bytes()), func(msg []byte) ([]byte, error) {
		if err := allow(msg); err != nil {
			return nil, err
		}
		sig := make([]byte, mldsa65.SignatureSize)
		return sig, mldsa65.SignTo(k.mldsa, msg, nil, false, sig)
	}}
	return classic, quantum
}

// Verifiers are the keys that a log's checkpoints are believed by. Both signatures are required where both keys are known.
type Verifiers struct {
	origin  string
	ed25519 ed25519.PublicKey
	mldsa   *mldsa65.PublicKey // nil: not known, and not checked
}

// Origin is the log's name, the first line of its checkpoints.
func (v Verifiers) Origin() string { return v.origin }

// Keys are the verifier keys in the text form of signed notes (name+hash+base64), Ed25519 first. The first is what other
// programs read; the second has a signature type of ours.
func (v Verifiers) Keys() []string {
	text := func(typ string, public []byte) string {
		return fmt.Sprintf("%s+%08x+%s", v.origin, keyHash(v.origin, typ, public), base64.StdEncoding.EncodeToString(slices.Concat([]byte(typ), public)))
	}
	out := []string{text(typeEd25519, v.ed25519)}
	if v.mldsa != nil {
		out = append(out, text(typeMLDSA65, v.mldsa.Bytes()))
	}
	return out
}

// ParseVerifiers reads verifier keys of one log. An Ed25519 key is required; an ML-DSA-65 key is checked too where it is given.
func ParseVerifiers(keys ...string) (Verifiers, error) {
	var v Verifiers
	for _, k := range keys {
		if err := v.add(strings.TrimSpace(k)); err != nil {
			return Verifiers{}, fmt.Errorf("%w: verifier key %.60q: %w", ErrKeys, k, err)
		}
	}
	if v.ed25519 == nil {
		return Verifiers{}, fmt.Errorf("%w: no Ed25519 verifier key given", ErrKeys)
	}
	return v, nil
}

func (v *Verifiers) add(key string) error {
	// A name holds no plus; base64 may.
	name, rest, _ := strings.Cut(key, "+")
	id, data, ok := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(data)
	hash, hexErr := hex.DecodeString(id)
	if !ok || name == "" || err != nil || hexErr != nil || len(hash) != 4 {
		return errors.New("it must be NAME+HASH+BASE64, as `sallyport evidence log keys` prints it")
	}
	if v.origin != "" && v.origin != name {
		return fmt.Errorf("it is of another log than %s", v.origin)
	}
	v.origin = name
	var typ string
	var public []byte
	switch {
	case bytes.HasPrefix(raw, []byte(typeEd25519)) && len(raw) == 1+ed25519.PublicKeySize && v.ed25519 == nil:
		typ, public = typeEd25519, raw[1:]
		v.ed25519 = public
	case bytes.HasPrefix(raw, []byte(typeMLDSA65)) && v.mldsa == nil:
		typ, public = typeMLDSA65, raw[len(typeMLDSA65):]
		v.mldsa = new(mldsa65.PublicKey)
		if err := v.mldsa.UnmarshalBinary(public); err != nil {
			return err
		}
	default:
		return errors.New("it is a second key of its type, or of a type that is not known here")
	}
	if keyHash(name, typ, public) != binary.BigEndian.Uint32(hash) {
		return errors.New("its hash is not that of its name and key: a part of it was altered")
	}
	return nil
}

// verifier is a note.Verifier.
type verifier struct {
	signer
	verify func(msg, sig []byte) bool
}

func (v *verifier) Verify(msg, sig []byte) bool { return v.verify(msg, sig) }

// notes are the verifiers for package note.
func (v Verifiers) notes() []note.Verifier {
	out := []note.Verifier{&verifier{signer{name: v.origin, hash: keyHash(v.origin, typeEd25519, v.ed25519)},
		func(msg, sig []byte) bool { return ed25519.Verify(v.ed25519, msg, sig) }}}
	if v.mldsa != nil {
		out = append(out, &verifier{signer{name: v.origin, hash: keyHash(v.origin, typeMLDSA65, v.mldsa.Bytes())},
			func(msg, sig []byte) bool { return mldsa65.Verify(v.mldsa, msg, nil, sig) }})
	}
	return out
}
