package mainlib

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/spf13/cobra"

	"sallyport/signer/evlog"
	"sallyport/signer/jcs"
	"sallyport/signer/privacy/seal"
	"sallyport/signer/receipt"
	"sallyport/signer/record"
)

// errNotTheBody says that what was opened is not what the receipt is about.
var errNotTheBody = errors.New("the opened body does not have the hash that the receipt has")

// evidenceOpen opens the sealed bodies of one call.
func (a *app) evidenceOpen() *cobra.Command {
	var keyFile, id, out string
	f := &receiptFlags{}
	cmd := &cobra.Command{
		Use: "open", Short: "Open a call's sealed bodies with the auditor's key, and hold them against its receipt", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			raw, err := os.ReadFile(keyFile)
			if err != nil {
				return fmt.Errorf("auditor key: %w", err)
			}
			key, err := seal.ParsePrivate(raw)
			if err != nil {
				return err
			}
			dir, err := a.evidenceDir(f)
			if err != nil {
				return err
			}
			trusted, err := a.trusted(f)
			if err != nil {
				return err
			}
			rec, err := findReceipt(dir, id, trusted)
			if err != nil {
				return err
			}
			if rec.Metadata.Sallyport.PrivacyMode != record.PrivacyEncrypted {
				return fmt.Errorf("receipt %s keeps hashes only: its bodies were not sealed", id)
			}
			return errors.Join(
				a.openBody(dir, rec, seal.Request, rec.RequestHash, key, out),
				a.openBody(dir, rec, seal.Response, rec.ResponseHash, key, out),
			)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "file of the auditor's private key")
	cmd.Flags().StringVar(&id, "receipt", "", "id of the receipt")
	cmd.Flags().StringVar(&out, "out", "", "write the bodies to FILE.request and FILE.response instead of printing them")
	cmd.Flags().StringVar(&f.evidence, "evidence", "", "evidence directory (default: from the configuration)")
	cmd.Flags().StringSliceVar(&f.trust, "trust", nil, "DIDs of gateways whose receipts are believed (default: this installation's)")
	_ = errors.Join(cmd.MarkFlagRequired("key"), cmd.MarkFlagRequired("receipt"))
	return cmd
}

// findReceipt reads the verified receipt of that id.
func findReceipt(dir, id string, trusted []string) (*receipt.Payload, error) {
	var found *receipt.Payload
	err := evlog.Read(dir, func(e evlog.Entry) error {
		if e.Kind != evlog.KindReceipt || !bytes.Contains(e.Payload, []byte(id)) {
			return nil
		}
		var r struct {
			Payload struct {
				ID string `json:"receipt_id"`
			}
		}
		if json.Unmarshal(e.Payload, &r) != nil || r.Payload.ID != id {
			return nil
		}
		p, err := receipt.Verify(e.Payload, trusted)
		if err != nil {
			return fmt.Errorf("receipt %s: %w", id, err)
		}
		found = &p.Payload
		return nil
	})
	if found != nil {
		return found, nil // damage elsewhere is `receipts verify`'s to name
	}
	if err == nil {
		err = fmt.Errorf("there is no receipt %s in %s", id, dir)
	}
	return nil, err
}

// openBody opens one body. What is written before an error is found is what was there; the error says that it is not whole.
func (a *app) openBody(dir string, rec *receipt.Payload, d seal.Direction, want string, key *seal.PrivateKey, out string) (err error) {
	to := a.out
	if out != "" {
		file, err := os.OpenFile(out+"."+d.String(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		to = file
	} else if _, err := fmt.Fprintf(a.out, "--- %s of %s\n", d, rec.ReceiptID); err != nil {
		return err
	}
	sum := sha256.New()
	if err := unseal(dir, seal.Body{Receipt: rec.ReceiptID, Direction: d, RequestHash: rec.RequestHash}, key, io.MultiWriter(to, sum)); err != nil {
		return err
	}
	if got := b64u(sum); got != want {
		return fmt.Errorf("%w: %s %s, opened %s", errNotTheBody, d, want, got)
	}
	if out == "" {
		_, err = fmt.Fprintf(a.out, "\n--- this is the %s that the receipt has the hash of\n", d)
	}
	return err
}

func b64u(h hash.Hash) string { return jcs.EncodeB64u(h.Sum(nil)) }

func unseal(dir string, b seal.Body, key *seal.PrivateKey, to io.Writer) error {
	o := seal.NewOpener(b, key)
	err := evlog.Read(dir, func(e evlog.Entry) error {
		if e.Kind != evlog.KindSealed {
			return nil
		}
		c, err := seal.ParseChunk(e.Payload)
		if err != nil {
			return fmt.Errorf("segment %s, offset %d: %w", e.Segment, e.Offset, err)
		}
		text, err := o.Open(c)
		if err != nil {
			return fmt.Errorf("segment %s, offset %d: %w", e.Segment, e.Offset, err)
		}
		_, err = to.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	return o.End()
}
