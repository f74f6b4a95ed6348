package role

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"

	"k8s.io/klog/v2"

	"sallyport/compose/config"
	"sallyport/signer/clawlog"
	"sallyport/signer/evlog"
	"sallyport/signer/issuer"
	"sallyport/signer/tlog"
)

// LogDir is where the transparency log is, below the directory of the evidence.
func LogDir(evidence string) string { return filepath.Join(evidence, "tlog") }

// ReceiptLogDir is where the ecosystem's receipt log is, below the directory of the evidence.
func ReceiptLogDir(evidence string) string { return filepath.Join(evidence, "clawlog") }

// logKeys sign the checkpoints of the transparency log.
type logKeys struct {
	keys      *tlog.Keys
	origin    string
	verifiers tlog.Verifiers
}

// openLogKeys opens the log's keys, made if need be. They are none of the rings: a log keeps its keys as long as it lives.
func openLogKeys(c *config.Config, keys *Keys) (*logKeys, error) {
	k, err := tlog.OpenOrCreateKeys(filepath.Join(c.KeysDir(), "log-root"), rand.Reader)
	if err != nil {
		return nil, err
	}
	fresh := c.Evidence.LogOrigin
	if fresh == "" {
		fresh = "sallyport/" + strings.TrimPrefix(keys.Gateway.Active().DID(), "did:key:")
	}
	origin, err := tlog.OriginOf(LogDir(c.Evidence.Dir), fresh)
	if err != nil {
		return nil, err
	}
	return &logKeys{k, origin, k.Verifiers(origin)}, nil
}

// logs are the transparency log and the ecosystem's receipt log, which follow the evidence log.
type logs struct {
	dir      string
	log      *tlog.Log    // nil where it could not be opened
	receipts *clawlog.Log // likewise
	admin    *issuer.AdminKey
	slog     *slog.Logger
}

// openLogs opens both logs. One that another process has is an error; one that is damaged, or does not agree with the evidence,
// is left as it is and told by the status: the evidence itself must go on.
func (p *Process) openLogs(ctx context.Context, evidence *evlog.Log, keys *Keys, lk *logKeys) (*logs, error) {
	quietTessera(p.Log)
	dir := p.Config.Evidence.Dir
	admin, err := issuer.LoadAdminKey(p.Config.AdminTokenFile)
	if err != nil {
		return nil, err
	}
	l := &logs{dir: LogDir(dir), admin: admin, slog: p.Log}
	receipts, err := clawlog.Open(clawlog.Config{Dir: ReceiptLogDir(dir), Signer: keys.Gateway.Active()})
	if err != nil {
		l.broken(p, "receipt_log", err)
	} else {
		l.receipts = receipts
	}
	cfg := tlog.Config{Dir: l.dir, Evidence: dir, Source: evidence, Keys: lk.keys, Origin: lk.origin, Slog: p.Log, Metrics: p.Status.Registry}
	if l.receipts != nil {
		cfg.Grown = l.receipts.Follow
	}
	l.log, err = tlog.Open(ctx, cfg)
	switch {
	case errors.Is(err, tlog.ErrLocked):
		l.close()
		return nil, err
	case err != nil:
		l.log = nil
		l.broken(p, "transparency_log", err)
	default:
		p.Status.Tell("transparency_log", func(context.Context) error { return l.log.Status() })
	}
	return l, nil
}

func (l *logs) broken(p *Process, name string, err error) {
	p.Log.Error("a log over the evidence is not kept until this is looked into; the evidence goes on", slog.String("log", name), slog.Any("error", err))
	p.Status.Tell(name, func(context.Context) error { return err })
}

// run follows the evidence until ctx ends.
func (l *logs) run(ctx context.Context) error {
	if l.log == nil {
		<-ctx.Done()
		return nil
	}
	return l.log.Run(ctx)
}

func (l *logs) close() {
	var errs []error
	if l.log != nil {
		errs = append(errs, l.log.Close())
	}
	if l.receipts != nil {
		errs = append(errs, l.receipts.Close())
	}
	if err := errors.Join(errs...); err != nil {
		l.slog.Error("the logs over the evidence did not close cleanly", slog.Any("error", err))
	}
}

// handler puts the logs beside the issuer's API: the tiles and checkpoints under /log/, the receipt log under the ecosystem's
// paths. Both are public: they hold hashes only.
func (l *logs) handler(rest http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", rest)
	mux.Handle("/log/", http.StripPrefix("/log", tlog.Handler(l.dir)))
	receipts := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintln(w, `{"ok":false,"error":{"code":"DEPENDENCY_NOT_CONFIGURED","message":"the receipt log is not kept; the signer's status says why"}}`)
	}))
	if l.receipts != nil {
		receipts = clawlog.Handler(l.receipts, func(r *http.Request) bool { _, ok := l.admin.Authenticate(r); return ok }, l.slog)
	}
	mux.Handle("/v1/logs/", receipts)
	mux.Handle("/v1/rt/", receipts)
	return mux
}

var tesseraLog sync.Once

// quietTessera takes Tessera's own log into ours: its errors as they are, all else for debugging. What matters of it the
// transparency log's status says too.
func quietTessera(log *slog.Logger) {
	tesseraLog.Do(func() { klog.SetSlogLogger(slog.New(quietHandler{log.Handler()})) })
}

type quietHandler struct{ next slog.Handler }

func (q quietHandler) level(l slog.Level) slog.Level {
	if l < slog.LevelError {
		return slog.LevelDebug
	}
	return l
}

func (q quietHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return q.next.Enabled(ctx, q.level(l))
}

func (q quietHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = q.level(r.Level)
	return q.next.Handle(ctx, r)
}

func (q quietHandler) WithAttrs(a []slog.Attr) slog.Handler { return quietHandler{q.next.WithAttrs(a)} }
func (q quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{q.next.WithGroup(name)}
}
