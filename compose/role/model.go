package role

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"sallyport/compose/loopback"
)

// Model runs the built-in model.
func (p *Process) Model(ctx context.Context) error {
	if err := Prepare(p.Config); err != nil {
		return err
	}
	h, err := loopback.New(loopback.Config{RecordFile: filepath.Join(p.Config.DataDir, "model-requests.jsonl"), Log: p.Log})
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()
	l, err := net.Listen("tcp", p.Config.LoopbackModel.Listen)
	if err != nil {
		return fmt.Errorf("loopback_model.listen: %w", err)
	}
	s := newServices(ctx)
	if err := p.status(s); err != nil {
		return err
	}
	s.http(l, h, p.Log)
	return s.wait()
}
