package gate

import (
	"strings"
	"testing"
	"time"

	"sallyport/signer/client"
	"sallyport/signer/code"
	"sallyport/signer/keyring"
	"sallyport/signer/token"
	"sallyport/signer/trust"
)

// A token that verified once is still held against the time, the key's end and the newest key set.
func TestVerifiedTokenIsStillChecked(t *testing.T) {
	f := newFixture(t)
	raw := f.token()
	keys := func(version uint64, keys ...keyring.VerifyKey) *client.Trust {
		return client.NewTrust(trust.State{Version: version, Keys: keys}, start)
	}
	good := keyring.VerifyKey{KID: f.key.KID(), Public: f.key.Public()}
	ending := good
	ending.NotAfter = start.Add(time.Minute)
	for name, tc := range map[string]struct {
		trust *client.Trust
		at    time.Time
		want  code.Code
	}{
		"at once":              {keys(1, good), start, ""},
		"newer word":           {keys(2, good), start, ""},
		"key gone":             {keys(2), start, code.TokenUnknownKID},
		"key ended":            {keys(1, ending), start.Add(2 * time.Minute), code.TokenKIDExpired},
		"within the leeway":    {keys(1, good), start.Add(time.Hour + token.Leeway/2), ""},
		"after the leeway":     {keys(1, good), start.Add(time.Hour + 2*token.Leeway), code.TokenExpired},
		"before it was issued": {keys(2, good), start.Add(-time.Hour), code.TokenNotYetValid},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTokens([]string{"gate.example"})
			first, d := c.verify(raw, keys(1, good), start)
			wantCode(t, d, "")
			again, d := c.verify(raw, tc.trust, tc.at)
			wantCode(t, d, tc.want)
			if (again == nil) != (tc.want != "") {
				t.Errorf("token %v with %q", again, tc.want)
			}
			if name == "at once" && again != first {
				t.Error("verified twice")
			}
		})
	}
}

// A changed token is another token, however much of it is remembered.
func TestTokenCacheIsByTheWholeToken(t *testing.T) {
	f := newFixture(t)
	raw, c := f.token(), newTokens([]string{"gate.example"})
	now, known := start, f.recorder.Trust()
	if _, d := c.verify(raw, known, now); d != nil {
		t.Fatal(d)
	}
	dot := strings.LastIndexByte(raw, '.')
	flipped := raw[:dot+1] + map[bool]string{true: "B", false: "A"}[raw[dot+1] == 'A'] + raw[dot+2:]
	if _, d := c.verify(flipped, known, now); codeOf(d) != code.TokenSignatureInvalid {
		t.Errorf("%v", d)
	}
}

func TestCachesAreBounded(t *testing.T) {
	m := map[int]int{}
	for i := range 100 {
		evictOne(m, 10)
		m[i] = i
	}
	if len(m) != 10 || m[99] != 99 {
		t.Errorf("%d entries", len(m))
	}
}
