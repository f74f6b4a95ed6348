package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
)

// tracker follows what each Envoy has been sent and what it answered. It is the server's callbacks.
type tracker struct {
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex
	streams map[int64]*stream
	changed chan struct{} // closed and replaced at each acknowledgement, refusal and disconnection
}

type stream struct {
	node  string
	sent  map[string]sent   // by nonce, until answered
	acked map[string]uint64 // by type URL: the newest version accepted
	nack  map[string]nack   // by type URL: the newest refusal
}

type sent struct {
	typeURL string
	version uint64
}

type nack struct {
	version uint64
	message string
}

var _ delta.Callbacks = (*tracker)(nil)

func newTracker(log *slog.Logger, m *metrics) *tracker {
	return &tracker{log: log, metrics: m, streams: map[int64]*stream{}, changed: make(chan struct{})}
}

// OnDeltaStreamOpen notes a new Envoy.
func (t *tracker) OnDeltaStreamOpen(_ context.Context, id int64, _ string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams[id] = &stream{sent: map[string]sent{}, acked: map[string]uint64{}, nack: map[string]nack{}}
	t.metrics.connected.Set(float64(len(t.streams)))
	return nil
}

// OnDeltaStreamClosed forgets an Envoy.
func (t *tracker) OnDeltaStreamClosed(id int64, node *corev3.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.streams, id)
	t.metrics.connected.Set(float64(len(t.streams)))
	t.wake()
	t.log.Info("envoy disconnected", slog.String("node", node.GetId()), slog.Int64("stream", id))
}

// OnStreamDeltaResponse notes what is about to be sent.
func (t *tracker) OnStreamDeltaResponse(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kind := short(r.GetTypeUrl())
	t.metrics.responses.WithLabelValues(kind).Inc()
	t.metrics.sent.WithLabelValues(kind).Add(float64(len(r.GetResources())))
	if s := t.streams[id]; s != nil {
		version, _ := strconv.ParseUint(r.GetSystemVersionInfo(), 10, 64) // our caches count in plain numbers
		s.sent[r.GetNonce()] = sent{r.GetTypeUrl(), version}
	}
	t.log.Debug("sent to envoy", slog.String("type", kind), slog.Int("resources", len(r.GetResources())),
		slog.Int("removed", len(r.GetRemovedResources())), slog.String("nonce", r.GetNonce()))
}

// OnStreamDeltaRequest takes acknowledgements and refusals. Envoy keeps what it had when it refuses, so a refusal is an
// alarm here, not an outage there.
func (t *tracker) OnStreamDeltaRequest(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.streams[id]
	if s == nil {
		return nil
	}
	if n := r.GetNode().GetId(); n != "" && s.node == "" {
		s.node = n
		t.log.Info("envoy connected", slog.String("node", n), slog.Int64("stream", id), slog.String("version", userAgent(r.GetNode())))
	}
	m, ok := s.sent[r.GetResponseNonce()]
	if !ok {
		return nil
	}
	delete(s.sent, r.GetResponseNonce())
	if e := r.GetErrorDetail(); e != nil {
		s.nack[m.typeURL] = nack{m.version, e.GetMessage()}
		t.metrics.nacks.WithLabelValues(short(m.typeURL)).Inc()
		t.log.Error("envoy refused resources and keeps those it has", slog.String("node", s.node), slog.String("type", short(m.typeURL)),
			slog.Uint64("version", m.version), slog.String("reason", e.GetMessage()))
	} else {
		s.acked[m.typeURL] = max(s.acked[m.typeURL], m.version)
	}
	t.wake()
	return nil
}

func (t *tracker) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *tracker) connected() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.streams)
}

// ErrRefused says that an Envoy did not accept what it was sent.
var ErrRefused = errors.New("envoy refused the resources")

// wait returns when each stream has acknowledged want, by type.
func (t *tracker) wait(ctx context.Context, want map[string]uint64) error {
	for {
		t.mu.Lock()
		pending, err := t.pending(want)
		changed := t.changed
		t.mu.Unlock()
		if err != nil || pending == "" {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", pending, ctx.Err())
		}
	}
}

// pending names one stream and type that is not there yet, or nothing.
func (t *tracker) pending(want map[string]uint64) (string, error) {
	for id, s := range t.streams {
		for typeURL, version := range want {
			if version == 0 || s.acked[typeURL] >= version {
				continue
			}
			if n, ok := s.nack[typeURL]; ok && n.version >= version {
				return "", fmt.Errorf("%w: %s: %s", ErrRefused, short(typeURL), n.message)
			}
			return fmt.Sprintf("envoy %q (stream %d) to accept %s version %d", s.node, id, short(typeURL), version), nil
		}
	}
	return "", nil
}

func userAgent(n *corev3.Node) string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	return fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
}

// short is the last part of a type URL, e.g. Cluster; the label of metrics and logs.
func short(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

// cacheLog carries go-control-plane's log lines. Its informational lines are one per watch, so they are debug here.
type cacheLog struct{ log *slog.Logger }

func (l cacheLog) Debugf(string, ...any) {}
func (l cacheLog) Infof(string, ...any)  {}
func (l cacheLog) Warnf(format string, a ...any) {
	l.log.Warn("xds cache", slog.String("text", fmt.Sprintf(format, a...)))
}
func (l cacheLog) Errorf(format string, a ...any) {
	l.log.Error("xds cache", slog.String("text", fmt.Sprintf(format, a...)))
}
