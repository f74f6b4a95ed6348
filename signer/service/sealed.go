package service

import (
	"fmt"

	"sallyport/signer/evlog"
	"sallyport/signer/internal/wire"
	"sallyport/signer/privacy/seal"
)

// sealed writes a sealed part of a body. It is only written, in every mode: the receipt stands behind it in the same log, and
// what syncs the receipt syncs it too.
func (s *Service) sealed(c *conn, f wire.Frame) error {
	chunk, err := seal.ParseChunk(f.Payload)
	if err != nil {
		return fmt.Errorf("%w: %w", wire.ErrFrame, err)
	}
	id, done := chunk.Receipt, c.acknowledge(f.N)
	s.cfg.Log.Append(evlog.KindSealed, f.Payload, evlog.Written, func(err error) {
		if err != nil {
			s.metrics.failed.Inc()
			s.cfg.Slog.Error("sealed body not recorded", "receipt", id, "error", err)
		}
		done(err)
	})
	return nil
}
