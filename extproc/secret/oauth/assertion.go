package oauth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	"golang.org/x/oauth2"

	"sallyport/extproc/secret"
	"sallyport/extproc/secret/internal/remote"
)

// assertionLife is how long the server may take to look at an assertion of ours.
const assertionLife = 2 * time.Minute

// assertion is a JWT by which the client shows that it has its key (RFC 7523, section 2.2).
func (s *Source) assertion(ctx context.Context) (secret.Value, error) {
	file, err := secret.File(s.cfg.Auth.KeyFile).Fetch(ctx)
	if err != nil {
		return secret.Value{}, fmt.Errorf("key_file: %w", err)
	}
	key, cert, err := parseKey([]byte(file.Value.Reveal()))
	if err != nil {
		return secret.Value{}, fmt.Errorf("key_file %s: %w", s.cfg.Auth.KeyFile, err)
	}
	alg, err := algorithm(key)
	if err != nil {
		return secret.Value{}, fmt.Errorf("key_file %s: %w", s.cfg.Auth.KeyFile, err)
	}
	opts := &jose.SignerOptions{}
	if s.cfg.Auth.KeyID != "" {
		opts = opts.WithHeader("kid", s.cfg.Auth.KeyID)
	}
	if cert != nil {
		sum := sha256.Sum256(cert.Raw)
		opts = opts.WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(sum[:]))
	}
	aud := s.cfg.Auth.Audience
	if aud == "" {
		aud = s.cfg.TokenURL
	}
	// The audience is one text, not a list of one: some servers take nothing else.
	now := s.cfg.Now()
	return sign(jose.SigningKey{Algorithm: alg, Key: key}, opts, map[string]any{
		"iss": s.cfg.ClientID, "sub": s.cfg.ClientID, "aud": aud, "jti": uuid.NewString(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
}

func sign(key jose.SigningKey, opts *jose.SignerOptions, claims map[string]any) (secret.Value, error) {
	signer, err := jose.NewSigner(key, opts.WithType("JWT"))
	if err != nil {
		return secret.Value{}, errors.New("the private key cannot sign")
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		return secret.Value{}, errors.New("the private key cannot sign")
	}
	return secret.NewValue(text), nil
}

// parseKey finds the private key and, where there is one, the first certificate.
func parseKey(text []byte) (key any, cert *x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		switch {
		case block.Type == "CERTIFICATE" && cert == nil:
			if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, nil, errors.New("the certificate cannot be read")
			}
		case strings.HasSuffix(block.Type, "PRIVATE KEY") && key == nil:
			if key = privateKey(block.Bytes); key == nil {
				return nil, nil, errors.New("the private key cannot be read; keep it in PEM, without a password")
			}
		}
	}
	if key == nil {
		return nil, nil, errors.New("it holds no private key in PEM")
	}
	return key, cert, nil
}

func privateKey(der []byte) any {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return k
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k
	}
	return nil
}

// algorithm is the one for a kind of key that servers, Entra ID among them, recommend.
func algorithm(key any) (jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return jose.PS256, nil
	case ed25519.PrivateKey:
		return jose.EdDSA, nil
	case *ecdsa.PrivateKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return jose.ES256, nil
		case 384:
			return jose.ES384, nil
		case 521:
			return jose.ES512, nil
		}
	}
	return "", errors.New("use an RSA, an ECDSA (P-256, P-384, P-521) or an Ed25519 key")
}

// jwtEnd is the end that a token itself names, where it is a JWT. It is not verified: it can only make the token's use
// shorter.
func jwtEnd(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp *float64 `json:"exp"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil || claims.Exp == nil || *claims.Exp < 0 || *claims.Exp > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(*claims.Exp), 0), true
}

var (
	errorCode = regexp.MustCompile(`^[a-z][a-z_]{1,40}$`)
	entraCode = regexp.MustCompile(`^AADSTS[0-9]{1,9}`)
)

// plain says what went wrong with the server's codes alone: the rest of an answer may quote what was sent.
func plain(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return remote.Reason(err)
	}
	what := ""
	if errorCode.MatchString(refused.ErrorCode) {
		what = ": " + refused.ErrorCode
	}
	if code := entraCode.FindString(refused.ErrorDescription); code != "" {
		what += " " + code
	}
	status := 0
	if refused.Response != nil {
		status = refused.Response.StatusCode
	}
	return fmt.Errorf("the server gives no token (%d%s)", status, what)
}
