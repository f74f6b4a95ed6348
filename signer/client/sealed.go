package client

import (
	"context"
	"fmt"

	"sallyport/signer/internal/wire"
	"sallyport/signer/privacy/seal"
)

// Seal records a sealed part of a body. nil means that it is in the log before whatever is recorded later. It is not sent
// again after a loss of the signer, since a chunk that is there twice is no body: the call is cut.
func (c *Client) Seal(ctx context.Context, chunk *seal.Chunk) error {
	l, err := c.current(ctx, patience)
	if err == nil {
		err = l.call(ctx, c.next.Add(1), wire.Sealed, chunk, nil)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecorded, err)
	}
	return nil
}
