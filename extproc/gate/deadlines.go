package gate

import (
	"context"
	"sync/atomic"
	"time"
)

// deadlines gives many waits one context, which ends between 15/16 of a time and that time from now: a timer for each
// would cost more than what is waited for.
type deadlines struct {
	after time.Duration
	now   atomic.Pointer[shared]
}

type shared struct {
	ctx    context.Context
	cancel context.CancelFunc // never called: the context ends by itself
	until  time.Time          // it is given out
}

func (d *deadlines) context() context.Context {
	at := time.Now()
	if s := d.now.Load(); s != nil && at.Before(s.until) {
		return s.ctx
	}
	s := &shared{until: at.Add(d.after / 16)}
	s.ctx, s.cancel = context.WithDeadline(context.Background(), at.Add(d.after))
	d.now.Store(s)
	return s.ctx
}
