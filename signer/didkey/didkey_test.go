package didkey

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/mr-tron/base58"
	"pgregory.net/rapid"
)

// The golden key is the public key of RFC 8032 section 7.1, test 1, which the ecosystem's vector also uses.
const (
	goldenHex = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
	goldenDID = "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"
)

func TestGolden(t *testing.T) {
	key, err := hex.DecodeString(goldenHex)
	if err != nil {
		t.Fatal(err)
	}
	if got := Encode(key); got != goldenDID {
		t.Errorf("Encode gives %s", got)
	}
	if got, err := Decode(goldenDID); err != nil || !bytes.Equal(got, key) {
		t.Errorf("Decode gives %x, %v", got, err)
	}
	if got, want := KID(key), "21fe31dfa154a261"; got != want {
		t.Errorf("KID is %s, want %s", got, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	key, _ := hex.DecodeString(goldenHex)
	encoded := func(parts ...[]byte) string { return "did:key:z" + base58.Encode(bytes.Join(parts, nil)) }
	for name, did := range map[string]string{
		"empty":              "",
		"did:web":            "did:web:example.com",
		"other multibase":    "did:key:u7QHXWpgBgrEKt9VL_tPJZAc6DuFy89qmIyWvAhpo9wdRGg",
		"fragment":           goldenDID + "#" + strings.TrimPrefix(goldenDID, "did:key:"),
		"upper case method":  strings.Replace(goldenDID, "did:key", "DID:KEY", 1),
		"not base58":         goldenDID[:len(goldenDID)-1] + "0",
		"white space":        " " + goldenDID,
		"P-256 code":         encoded([]byte{0x80, 0x24}, key),
		"key one byte short": encoded([]byte{0xed, 0x01}, key[1:]),
		"key one byte long":  encoded([]byte{0xed, 0x01}, key, []byte{0}),
		"leading ones":       "did:key:z1" + goldenDID[len("did:key:z"):],
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Decode(did); !errors.Is(err, ErrFormat) {
				t.Errorf("%s gives %x, %v", did, got, err)
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := ed25519.PublicKey(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		did := Encode(key)
		if len(did) != length || !strings.HasPrefix(did, prefix) {
			t.Fatalf("%s is not in the usual form", did)
		}
		if got, err := Decode(did); err != nil || !bytes.Equal(got, key) {
			t.Fatalf("%x, %v", got, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(goldenDID)
	f.Add("did:key:z6Mk")
	f.Fuzz(func(t *testing.T, did string) {
		if key, err := Decode(did); err == nil && Encode(key) != did {
			t.Fatalf("%s has a second form", did)
		}
	})
}
