package mainlib

import (
	"fmt"
	"slices"

	"sallyport/signer/audit"
	"sallyport/signer/clawlog"
	"sallyport/signer/jcs"
	"sallyport/signer/tlog"
)

// trustLogs has an audit believe the transparency log of these verifier keys, and the receipt logs of the gateways.
func trustLogs(c *audit.Config, keys []string) error {
	if len(keys) > 0 {
		v, err := tlog.ParseVerifiers(keys...)
		if err != nil {
			return fmt.Errorf("--trust-log: %w", err)
		}
		c.TLog = func(kind, payloadHash string, index uint64, inclusion [][]byte, checkpoint []byte) error {
			return tlog.VerifyInclusion(tlog.Kind(kind), payloadHash, index, inclusion, checkpoint, v)
		}
	}
	if len(c.GatewaySigners) == 0 {
		return nil
	}
	c.ClawLog = func(raw []byte) (string, error) {
		var p clawlog.Proof
		if err := jcs.Unmarshal(raw, &p); err != nil {
			return "", err
		}
		if err := clawlog.Verify(&p); err != nil {
			return "", err
		}
		// The ecosystem takes any signer of a root; this takes those that receipts are believed of.
		if !slices.Contains(c.GatewaySigners, p.RootSignature.SignerDID) {
			return "", fmt.Errorf("the log's root is signed by %s, which is not trusted", p.RootSignature.SignerDID)
		}
		return p.LeafHash, nil
	}
	return nil
}
