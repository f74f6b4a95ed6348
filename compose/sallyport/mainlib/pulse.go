package mainlib

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// pulse prints where the page is.
func (a *app) pulse() *cobra.Command {
	return &cobra.Command{
		Use: "pulse", Short: "Print a link to Trust Pulse, the page that shows and verifies runs; the link carries the viewer's key", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			key, err := os.ReadFile(c.ViewerTokenFile)
			if err != nil {
				return fmt.Errorf("viewer's key: %w (is Sallyport running here?)", err)
			}
			at := a.controlURL
			if at == "" {
				at = "http://" + dialable(c.ControlListen)
			}
			// What stands behind the # is not sent to any server.
			_, err = fmt.Fprintf(a.out, "%s/pulse/#key=%s\n", strings.TrimSuffix(at, "/"), strings.TrimSpace(string(key)))
			return err
		},
	}
}
