package mainlib

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"

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
	var keyFile, id, out, archive string
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
			trusted, err := a.trusted(f)
			if err != nil {
				return err
			}
			var rec *receipt.Payload
			var parts sealedParts
			if archive != "" {
				rec, parts, err = inArchive(archive, id, trusted)
			} else {
				rec, parts, err = a.inEvidence(f, id, trusted)
			}
			if err != nil {
				return err
			}
			if rec.Metadata.Sallyport.PrivacyMode != record.PrivacyEncrypted {
				return fmt.Errorf("receipt %s keeps hashes only: its bodies were not sealed", id)
			}
			return errors.Join(
				a.openBody(parts, rec, seal.Request, rec.RequestHash, key, out),
				a.openBody(parts, rec, seal.Response, rec.ResponseHash, key, out),
			)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "file of the auditor's private key")
	cmd.Flags().StringVar(&id, "receipt", "", "id of the receipt")
	cmd.Flags().StringVar(&archive, "archive", "", "archive that holds the bodies, instead of the evidence directory")
	cmd.Flags().StringVar(&out, "out", "", "write the bodies to FILE.request and FILE.response instead of printing them")
	cmd.Flags().StringVar(&f.evidence, "evidence", "", "evidence directory (default: from the configuration)")
	cmd.Flags().StringSliceVar(&f.trust, "trust", nil, "DIDs of gateways whose receipts are believed (default: this installation's)")
	_ = errors.Join(cmd.MarkFlagRequired("key"), cmd.MarkFlagRequired("receipt"))
	return cmd
}

// sealedParts visits the sealed parts of a body, in order, and perhaps those of others.
type sealedParts func(d seal.Direction, visit func(where string, chunk []byte) error) error

// inEvidence finds a receipt in the evidence directory, and its sealed bodies beside it.
func (a *app) inEvidence(f *receiptFlags, id string, trusted []string) (*receipt.Payload, sealedParts, error) {
	dir, err := a.evidenceDir(f)
	if err != nil {
		return nil, nil, err
	}
	rec, err := findReceipt(dir, id, trusted)
	return rec, func(_ seal.Direction, visit func(string, []byte) error) error {
		return evlog.Read(dir, func(e evlog.Entry) error {
			if e.Kind != evlog.KindSealed {
				return nil
			}
			return visit(fmt.Sprintf("segment %s, offset %d", e.Segment, e.Offset), e.Payload)
		})
	}, err
}

// inArchive finds a receipt in an archive, and its sealed bodies beside it. What the receipt says is believed by its own
// signature; whether the archive is whole is `evidence verify`'s to say.
func inArchive(path, id string, trusted []string) (*receipt.Payload, sealedParts, error) {
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = z.Close() }() // only read
	files := map[string][]byte{}
	var rec *receipt.Payload
	for _, f := range z.File {
		wanted := strings.HasPrefix(f.Name, "sealed/"+id+".")
		if !wanted && !strings.HasPrefix(f.Name, "bundle") && f.Name != "client-recorded.jsonl" {
			continue
		}
		raw, err := fs.ReadFile(z, f.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %s: %w", path, f.Name, err)
		}
		if wanted {
			files[f.Name] = raw
		} else if rec == nil {
			if rec, err = receiptIn(raw, id, trusted); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", f.Name, err)
			}
		}
	}
	if rec == nil {
		return nil, nil, fmt.Errorf("there is no receipt %s in %s", id, path)
	}
	return rec, func(d seal.Direction, visit func(string, []byte) error) error {
		name := "sealed/" + id + "." + d.String()
		for rest := files[name]; len(rest) > 0; {
			if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
				return fmt.Errorf("%s: it is cut short", name)
			}
			n := 4 + int(binary.BigEndian.Uint32(rest))
			if err := visit(name, rest[4:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	}, nil
}

// receiptIn looks for a receipt in a proof bundle or in lines of receipts; nil: it is not there.
func receiptIn(raw []byte, id string, trusted []string) (*receipt.Payload, error) {
	var list []json.RawMessage
	var bundle struct {
		Payload struct{ Receipts []json.RawMessage }
	}
	if json.Unmarshal(raw, &bundle) == nil && bundle.Payload.Receipts != nil {
		list = bundle.Payload.Receipts
	} else {
		for line := range bytes.Lines(raw) {
			list = append(list, line)
		}
	}
	for _, env := range list {
		if got, err := evlog.ReceiptID(env); err != nil || got != id {
			continue
		}
		p, err := receipt.Verify(env, trusted)
		if err != nil {
			return nil, fmt.Errorf("receipt %s: %w", id, err)
		}
		return &p.Payload, nil
	}
	return nil, nil
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
func (a *app) openBody(parts sealedParts, rec *receipt.Payload, d seal.Direction, want string, key *seal.PrivateKey, out string) (err error) {
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
	if err := unseal(parts, seal.Body{Receipt: rec.ReceiptID, Direction: d, RequestHash: rec.RequestHash}, key, io.MultiWriter(to, sum)); err != nil {
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

func unseal(parts sealedParts, b seal.Body, key *seal.PrivateKey, to io.Writer) error {
	o := seal.NewOpener(b, key)
	err := parts(b.Direction, func(where string, chunk []byte) error {
		c, err := seal.ParseChunk(chunk)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		text, err := o.Open(c)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		_, err = to.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	return o.End()
}
