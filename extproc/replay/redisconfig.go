package replay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Defaults of RedisConfig.
const (
	// DefaultPrefix starts every key.
	DefaultPrefix = "sallyport"
	// DefaultDialTimeout and DefaultOpTimeout bound how long a gone or hung Redis may keep a caller waiting.
	DefaultDialTimeout = 300 * time.Millisecond
	// DefaultOpTimeout bounds one call of the store from beginning to end, its one repetition included.
	DefaultOpTimeout = 500 * time.Millisecond
	// poolSize is small: one batch is under way at a time, and the rest is for readiness.
	poolSize = 4
)

// RedisConfig says which Redis holds the state. Zero durations and names mean the defaults.
type RedisConfig struct {
	// URL is redis://, rediss:// or unix:// for one server; redis-cluster:// and rediss-cluster:// for a Cluster
	// (further seeds as ?addr=host:port), redis-sentinel:// and rediss-sentinel:// for Sentinels
	// (?master_name=…&addr=host:port). It may hold a password, so it is never logged.
	URL         string
	TLS         *tls.Config // roots and client certificate for the schemes with TLS; nil means the system's
	Prefix      string
	DialTimeout time.Duration
	OpTimeout   time.Duration
	Log         *slog.Logger // for what the client library has to say; nil means nowhere
}

var plainPrefix = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,64}$`)

// Validate names everything that is wrong, at once.
func (c *RedisConfig) Validate() error {
	var errs []error
	if c.URL == "" {
		errs = append(errs, errors.New("replay: no Redis URL"))
	}
	if !plainPrefix.MatchString(c.Prefix) {
		errs = append(errs, fmt.Errorf("replay: the key prefix %q must be 1 to 64 characters of A-Z a-z 0-9 _ . : -", c.Prefix))
	}
	if c.DialTimeout < 0 || c.OpTimeout < 0 {
		errs = append(errs, errors.New("replay: a timeout is negative; a store that may wait forever is not allowed"))
	}
	return errors.Join(errs...)
}

func (c *RedisConfig) defaults() {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = DefaultDialTimeout
	}
	if c.OpTimeout == 0 {
		c.OpTimeout = DefaultOpTimeout
	}
}

// client makes the client that the URL asks for. It does not connect.
func (c *RedisConfig) client() (redis.UniversalClient, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("replay: the Redis URL cannot be read") // the error would quote the password
	}
	scheme, kind, _ := strings.Cut(u.Scheme, "-")
	u.Scheme = scheme
	switch kind {
	case "":
		o, err := redis.ParseURL(u.String())
		if err != nil {
			return nil, fmt.Errorf("replay: Redis URL: %w", err)
		}
		c.tune(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.PoolTimeout)
		o.ContextTimeoutEnabled, o.DisableIdentity, o.OnConnect = true, true, refuseEviction
		o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		o.TLSConfig = c.tls(o.TLSConfig)
		return redis.NewClient(o), nil
	case "cluster":
		o, err := redis.ParseClusterURL(u.String())
		if err != nil {
			return nil, fmt.Errorf("replay: Redis Cluster URL: %w", err)
		}
		c.tune(&o.MaxRetries, new(int), &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.PoolTimeout)
		o.ContextTimeoutEnabled, o.DisableIdentity, o.OnConnect = true, true, refuseEviction
		o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
		o.TLSConfig = c.tls(o.TLSConfig)
		return redis.NewClusterClient(o), nil
	case "sentinel":
		o, err := redis.ParseFailoverURL(u.String())
		if err != nil {
			return nil, fmt.Errorf("replay: Redis Sentinel URL: %w", err)
		}
		if o.MasterName == "" {
			return nil, errors.New("replay: a Redis Sentinel URL needs ?master_name=")
		}
		c.tune(&o.MaxRetries, &o.DialerRetries, &o.PoolSize, &o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.PoolTimeout)
		o.ContextTimeoutEnabled, o.DisableIdentity, o.OnConnect = true, true, refuseEviction
		o.TLSConfig = c.tls(o.TLSConfig)
		return redis.NewFailoverClient(o), nil
	}
	return nil, fmt.Errorf("replay: unknown scheme %q: use redis, rediss or unix, or redis-cluster, redis-sentinel", u.Scheme+"-"+kind)
}

// tune sets what the store relies on: no retries but its own, one dial at a time, and short bounds everywhere.
// The three kinds of client have the same fields in different structs.
func (c *RedisConfig) tune(retries, dials, pool *int, dial, read, write, wait *time.Duration) {
	*retries, *dials, *pool = -1, 1, poolSize
	*dial, *read, *write, *wait = c.DialTimeout, c.OpTimeout, c.OpTimeout, c.OpTimeout
}

// tls merges the operator's roots and certificate into what the URL asks for; without TLS in the URL there is none.
func (c *RedisConfig) tls(fromURL *tls.Config) *tls.Config {
	if fromURL == nil || c.TLS == nil {
		return fromURL
	}
	merged := c.TLS.Clone()
	if merged.ServerName == "" {
		merged.ServerName = fromURL.ServerName
	}
	return merged
}

// refuseEviction looks at every new connection, so that it sees a failed-over server too: a Redis that throws keys away
// when memory is short forgets used nonces without a word.
func refuseEviction(ctx context.Context, cn *redis.Conn) error {
	info, err := cn.Info(ctx, "memory").Result()
	if err != nil {
		return fmt.Errorf("the Redis user must be allowed INFO, to see that no key can be evicted: %w", err)
	}
	return mayNotEvict(info)
}

func mayNotEvict(info string) error {
	limit, policy := infoField(info, "maxmemory"), infoField(info, "maxmemory_policy")
	if limit != "0" && policy != "noeviction" {
		return fmt.Errorf("redis has maxmemory %q with policy %q and would forget used nonces: set maxmemory-policy noeviction", limit, policy)
	}
	return nil
}

func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// libraryLog takes what go-redis prints, which is about connections, into slog.
type libraryLog struct{ log *slog.Logger }

// Printf implements go-redis's logger.
func (l libraryLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "redis client", slog.String("says", fmt.Sprintf(format, args...)))
}

// go-redis has one logger for the whole process and reads it without a lock, so it is set once, before the first client.
var setLibraryLog sync.Once

func (c *RedisConfig) quiet() {
	setLibraryLog.Do(func() {
		log := c.Log
		if log == nil {
			log = slog.New(slog.DiscardHandler)
		}
		redis.SetLogger(libraryLog{log})
	})
}
