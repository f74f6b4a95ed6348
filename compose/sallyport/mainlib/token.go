package mainlib

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// exampleSubject is the agent of a token that names none: a DID whose key is in a public test vector, so nobody's.
const exampleSubject = "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"

func (a *app) token() *cobra.Command {
	return group("token", "Scoped tokens (CST): what an agent holds", a.tokenIssue(), a.tokenInspect(), a.tokenRevoke())
}

// issueRequest is the body of POST /v1/tokens/issue.
type issueRequest struct {
	Sub        string   `json:"sub"`
	Aud        []string `json:"aud"`
	Scope      []string `json:"scope"`
	TTLSec     int64    `json:"ttl_sec"`
	PolicyHash string   `json:"policy_hash_b64u,omitempty"`
	MissionID  string   `json:"mission_id,omitempty"`
	Nonce      string   `json:"nonce,omitempty"`
}

func (a *app) tokenIssue() *cobra.Command {
	req := issueRequest{}
	ttl := 10 * time.Minute
	full, once := false, false
	cmd := &cobra.Command{
		Use: "issue --policy HASH", Short: "Issue a token for a job; it is printed alone, ready for a variable", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !hashForm.MatchString(req.PolicyHash) {
				return usageError{errors.New("--policy must be a contract's hash (43 characters); `sallyport contract hash FILE` prints it")}
			}
			req.TTLSec = int64(ttl / time.Second)
			if len(req.Aud) == 0 {
				c, err := a.load()
				if err != nil {
					return err
				}
				req.Aud = c.Audience
			}
			if once {
				req.Nonce = newUUID()
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			var answer map[string]any
			if err := c.call(cmd.Context(), http.MethodPost, "/v1/tokens/issue", req, &answer, true); err != nil {
				return err
			}
			if full {
				return a.printJSON(answer)
			}
			fmt.Fprintln(a.out, answer["token"])
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.PolicyHash, "policy", "", "hash of the contract that the token is pinned to")
	f.StringVar(&req.MissionID, "mission", "", "the job that the token belongs to; it is tied to its first user")
	f.StringVar(&req.Sub, "sub", exampleSubject, "the agent")
	f.StringSliceVar(&req.Aud, "aud", nil, "the gateways that may take it (default: this one's)")
	f.StringSliceVar(&req.Scope, "scope", []string{"proxy:call"}, "what it is for")
	f.DurationVar(&ttl, "ttl", ttl, "how long it is good")
	f.BoolVar(&once, "once", false, "good for one call only")
	f.BoolVar(&full, "json", false, "print the issuer's whole answer")
	return cmd
}

func (a *app) tokenInspect() *cobra.Command {
	offline := false
	cmd := &cobra.Command{
		Use: "inspect TOKEN|-", Short: "Show a token's claims, and whether the issuer holds it for good", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := a.tokenArg(args[0])
			if err != nil {
				return err
			}
			shown, err := decodeToken(token)
			if err != nil {
				return err
			}
			if offline {
				shown["note"] = "not verified"
				return a.printJSON(shown)
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			var answer map[string]any
			err = c.call(cmd.Context(), http.MethodPost, "/v1/tokens/introspect", map[string]string{"token": token}, &answer, false)
			var refused *apiError
			switch {
			case errors.As(err, &refused) && refused.Status == http.StatusUnauthorized:
				shown["active"], shown["reason"] = false, refused.Code+": "+refused.Message
			case err != nil:
				return err
			default:
				shown["introspection"], shown["active"] = answer, answer["active"]
			}
			if err := a.printJSON(shown); err != nil {
				return err
			}
			if shown["active"] != true {
				return errSilent
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "only decode; do not ask the issuer")
	return cmd
}

func (a *app) tokenArg(arg string) (string, error) {
	if arg != "-" {
		return strings.TrimSpace(arg), nil
	}
	raw, err := a.readInput(arg)
	return strings.TrimSpace(string(raw)), err
}

// decodeToken shows what stands in a token, without believing it.
func decodeToken(token string) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, usageError{errors.New("that is no token: three parts with dots between them are expected")}
	}
	sum := sha256.Sum256([]byte(token))
	out := map[string]any{"token_hash": hex.EncodeToString(sum[:])}
	for i, name := range []string{"header", "claims"} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, usageError{fmt.Errorf("that is no token: %s: %w", name, err)}
		}
		var v map[string]any
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, usageError{fmt.Errorf("that is no token: %s: %w", name, err)}
		}
		out[name] = v
	}
	return out, nil
}

func (a *app) tokenRevoke() *cobra.Command {
	var hash, mission, policy, reason string
	cmd := &cobra.Command{
		Use: "revoke [TOKEN|-]", Short: "Withdraw a token, a job's tokens or all tokens of a contract, at once", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			body := map[string]string{}
			if len(args) == 1 {
				token, err := a.tokenArg(args[0])
				if err != nil {
					return err
				}
				body["token"] = token
			}
			for name, v := range map[string]string{"token_hash": hash, "mission_id": mission, "policy_hash_b64u": policy} {
				if v != "" {
					body[name] = v
				}
			}
			if len(body) != 1 {
				return usageError{errors.New("name one thing to withdraw: a token, --token-hash, --mission or --policy")}
			}
			if reason != "" {
				body["reason"] = reason
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			var answer map[string]any
			if err := c.call(cmd.Context(), http.MethodPost, "/v1/tokens/revoke", body, &answer, true); err != nil {
				return err
			}
			return a.printJSON(answer)
		},
	}
	cmd.Flags().StringVar(&hash, "token-hash", "", "hex SHA-256 of a token")
	cmd.Flags().StringVar(&mission, "mission", "", "a job")
	cmd.Flags().StringVar(&policy, "policy", "", "a contract's hash")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return cmd
}
