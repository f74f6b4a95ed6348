package replay

import (
	"context"
	"crypto/sha1" // names a script for EVALSHA; it protects nothing
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed claim.lua
var claimSource string

//go:embed settle.lua
var settleSource string

type script struct{ source, sha string }

func newScript(source string) script {
	sum := sha1.Sum([]byte(source))
	return script{source, hex.EncodeToString(sum[:])}
}

// Redis is the store of a fleet: every replica that uses the same Redis and prefix shares it.
//
// All commands go through go-redis's autopipeline, which sends what arrives at the same time as one batch. Its deferred
// face is used because only there the wait can end with the caller's context; a command whose caller went away is still
// carried out, which takes a claim that nobody uses and is the safe side.
type Redis struct {
	cfg      RedisConfig
	client   redis.UniversalClient
	pipe     *redis.AutoPipeliner
	claimer  script
	settler  script
	prepared atomic.Bool
	turn     chan struct{} // one preparation at a time; a channel, so that waiting for it ends with the context
}

var _ Store = (*Redis)(nil)

// NewRedis makes a store. Its error is about the configuration only: a Redis that does not answer yet shows in Ready,
// and until it answers every claim is an error.
func NewRedis(cfg RedisConfig) (*Redis, error) {
	cfg.defaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.quiet()
	client, err := cfg.client()
	if err != nil {
		return nil, err
	}
	pipe, err := client.AsyncAutoPipelineWithOptions(&redis.AutoPipelineOptions{
		MaxBatchSize:         300,
		MaxConcurrentBatches: 1,    // deep batches; measured by the library's authors as fastest and shortest
		Unordered:            true, // claims of different exchanges have no order, and striped queues contend less
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("replay: autopipeline: %w", err), client.Close())
	}
	return &Redis{
		cfg: cfg, client: client, pipe: pipe,
		claimer: newScript(claimSource), settler: newScript(settleSource),
		turn: make(chan struct{}, 1),
	}, nil
}

// Name is "redis".
func (r *Redis) Name() string { return "redis" }

// Close frees the connections.
func (r *Redis) Close() error {
	if err := r.client.Close(); err != nil { // closes the autopipeline first
		return fmt.Errorf("replay: closing Redis: %w", err)
	}
	return nil
}

// Ready asks Redis, within OpTimeout.
func (r *Redis) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.OpTimeout)
	defer cancel()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	info, err := r.client.Info(ctx, "memory").Result()
	if err == nil {
		err = mayNotEvict(info)
	}
	return unavailable(err)
}

// Claim implements Store, in one round trip within OpTimeout.
func (r *Redis) Claim(ctx context.Context, c Claim) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	n := c.names()
	nonceTTL, issued := int64(0), int64(0)
	if n.nonce != "" {
		nonceTTL = milliseconds(c.NonceTTL)
		if !c.IssuedAt.IsZero() {
			issued = max(1, c.IssuedAt.Unix())
		}
	}
	keys := []string{r.key(n.tag, orNone(n.binding)), r.key(n.tag, orNone(n.nonce)), r.key(n.tag, orNone(n.idem)), r.key(n.tag, "since")}
	reply, err := r.run(ctx, &r.claimer, keys,
		c.RequestID, n.binder, milliseconds(c.BindTTL), nonceTTL, issued, n.fingerprint, milliseconds(c.IdemTTL))
	if err != nil {
		return Result{}, err
	}
	return readResult(reply)
}

// Settle implements Store.
func (r *Redis) Settle(ctx context.Context, c Claim, o Outcome) error {
	if err := c.validateSettle(o); err != nil {
		return err
	}
	n := c.names()
	released := 0
	if o.Released {
		released = 1
	}
	_, err := r.run(ctx, &r.settler, []string{r.key(n.tag, n.idem)},
		c.RequestID, n.fingerprint, released, max(0, o.Status), o.ReceiptID, milliseconds(c.IdemTTL))
	return err
}

func (r *Redis) key(tag uint8, name string) string {
	return r.cfg.Prefix + ":" + hashTag(tag) + ":" + name
}

// orNone keeps the number of keys the same; the script does not touch a key whose argument is empty.
func orNone(name string) string {
	if name == "" {
		return "none"
	}
	return name
}

// milliseconds rounds up, so that a short life does not become none.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

func readResult(reply any) (Result, error) {
	row, ok := reply.([]any)
	if !ok || len(row) != 4 {
		return Result{}, fmt.Errorf("%w: Redis answered %T", ErrUnavailable, reply)
	}
	status, ok0 := row[0].(int64)
	holder, ok1 := row[1].(string)
	receipt, ok2 := row[2].(string)
	upstream, ok3 := row[3].(int64)
	if _, known := statusNames[Status(status)]; !ok0 || !ok1 || !ok2 || !ok3 || !known {
		return Result{}, fmt.Errorf("%w: Redis answered with an unknown status", ErrUnavailable)
	}
	return Result{Status: Status(status), Holder: holder, ReceiptID: receipt, UpstreamStatus: int(upstream)}, nil
}

// run sends a script by its hash. It repeats in two cases: Redis does not know the script, so nothing was done; or the
// connection broke, when it may have been done, which the scripts bear (see the package comment). Both at most once.
func (r *Redis) run(ctx context.Context, s *script, keys []string, args ...any) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.OpTimeout)
	defer cancel()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	command, text, broken := "evalsha", s.sha, false
	for {
		reply, err := r.send(ctx, command, text, keys, args)
		switch {
		case err == nil:
			return reply, nil
		case command == "evalsha" && redis.HasErrorPrefix(err, "NOSCRIPT"):
			command, text = "eval", s.source // EVAL runs it and keeps it, on just the server that lacked it
		case !broken && connectionBroke(ctx, err):
			broken = true
		default:
			return nil, unavailable(err)
		}
	}
}

func (r *Redis) send(ctx context.Context, command, text string, keys []string, args []any) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	line := make([]any, 0, 3+len(keys)+len(args))
	line = append(line, command, text, len(keys))
	for _, k := range keys {
		line = append(line, k)
	}
	cmd := redis.NewCmd(ctx, append(line, args...)...)
	cmd.SetFirstKeyPos(3)
	if err := r.pipe.Submit(ctx, cmd).WaitContext(ctx); err != nil {
		return nil, err // cmd must not be read: it may still be under way
	}
	return cmd.Val(), nil
}

// connectionBroke tells a dead connection, which a second try may well get past, from a Redis that answered or hangs.
func connectionBroke(ctx context.Context, err error) bool {
	var answered redis.Error
	var timeout interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil, errors.As(err, &answered), errors.Is(err, redis.ErrClosed):
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return false
	}
	return true
}

// prepare does once what the first contact needs: loads the scripts, and marks since when each place remembers.
func (r *Redis) prepare(ctx context.Context) error {
	if r.prepared.Load() {
		return nil
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return unavailable(ctx.Err())
	}
	if r.prepared.Load() {
		return nil
	}
	for _, s := range []script{r.claimer, r.settler} {
		sha, err := r.client.ScriptLoad(ctx, s.source).Result()
		if err != nil {
			return unavailable(err)
		}
		if !strings.EqualFold(sha, s.sha) {
			return unavailable(errors.New("redis names the script differently"))
		}
	}
	now, err := r.client.Time(ctx).Result()
	if err != nil {
		return unavailable(err)
	}
	since := strconv.FormatInt(now.Unix(), 10)
	_, err = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for tag := range tags {
			p.SetNX(ctx, r.key(uint8(tag), "since"), since, 0)
		}
		return nil
	})
	if err != nil {
		return unavailable(err)
	}
	r.prepared.Store(true)
	return nil
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: redis: %w", ErrUnavailable, err)
}
