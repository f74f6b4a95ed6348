package role

import (
	"errors"
	"log/slog"

	"sallyport/compose/config"
)

// Check says what the parts have against a configuration beyond what the file's own rules say, without starting anything.
func Check(c *config.Config) error {
	_, brokerErr := newBroker(c, slog.New(slog.DiscardHandler))
	_, upsErr := compileUpstreams(c)
	_, linkErr := newFetcher(c)
	_, signerTLS := clientTLS(c.Signer)
	_, xdsTLS := serverTLS(c.XDS)
	return errors.Join(brokerErr, upsErr, linkErr, signerTLS, xdsTLS)
}
