package mainlib

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/signer/privacy/seal"
)

func (a *app) evidenceAuditorKey() *cobra.Command {
	return group("auditor-key", "The key that sealed bodies are opened with", a.evidenceAuditorKeyNew())
}

// evidenceAuditorKeyNew makes the auditor's key. It is meant to run on the auditor's machine.
func (a *app) evidenceAuditorKeyNew() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "new", Short: "Make an auditor's key: the private one in a file, the public one beside it", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			key, err := seal.Generate()
			if err != nil {
				return err
			}
			private, err1 := seal.MarshalPrivate(key)
			public, err2 := seal.MarshalPublic(key.Public())
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			beside := strings.TrimSuffix(out, ".json") + ".pub.json"
			if err := errors.Join(writeNew(out, private, 0o600), writeNew(beside, public, 0o644)); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, "auditor key %s\nprivate     %s    keep it away from the gateway\npublic      %s    for evidence.auditor_keys\n", key.Public().ID(), out, beside)
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file of the private key; it must not exist yet")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

// writeNew writes a file that must not be there.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("auditor key: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}
