package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Leaf is a certificate for one host. The key is a secret: nothing here logs it.
type Leaf struct {
	ChainPEM, KeyPEM []byte // PEM; the chain begins with the leaf
	NotAfter         time.Time
}

// Minter makes leaf certificates. It refuses a host that no contract in force reads with an error that wraps
// ErrLeafRefused; the refusal is not kept, so the next handshake asks again.
type Minter interface {
	Leaf(ctx context.Context, host string) (*Leaf, error)
}

// ErrLeafRefused says that a host gets no leaf. Any other error of a Minter is a fault, after which a leaf that is in use is
// kept to its end.
var ErrLeafRefused = errors.New("no leaf for this host")

// DefaultMaxLeaves bounds the leaves that are kept, a few KiB each.
const DefaultMaxLeaves = 4096

const (
	mintTimeout  = 10 * time.Second // a handshake waits for it; clients give up after about as long
	mintParallel = 16               // requests to the signer at a time; others wait
	renewMin     = time.Second      // between two tries to renew a leaf
	maxHostName  = 253              // bytes, RFC 1035
	refusalGap   = 20 * time.Millisecond

	// answeredNo stands in a stream's versions for a name that it was told is removed.
	answeredNo = "no"
)

// secrets serves leaves by name, as one of the mux's caches. A refused name is answered as removed, on which Envoy
// 1.40.0 fails the handshake and ends the subscription, so that nothing is left of it on either side.
type secrets struct {
	minter  Minter
	max     int
	log     *slog.Logger
	metrics *metrics
	slots   chan struct{}

	mu      sync.Mutex
	version uint64
	minted  uint64
	leaves  map[string]*leaf
	watches map[*watch]struct{}
	logged  time.Time // the last refusal that was written to the log
}

// leaf is one name's certificate.
type leaf struct {
	version string // empty: it is being made for the first time
	packed  *anypb.Any
	order   uint64 // the smallest is the oldest
	end     time.Time
	renew   *time.Timer
}

// watch is a stream that waits for something new. It is answered once; the stream's next request makes another.
type watch struct {
	req   *cachev3.DeltaRequest
	known map[string]string // by subscribed name: what the stream has; empty: nothing yet
	out   chan cachev3.DeltaResponse
}

func newSecrets(cfg Config, m *metrics) *secrets {
	s := &secrets{
		minter: cfg.Minter, max: cfg.MaxLeaves, log: cfg.Log, metrics: m, slots: make(chan struct{}, mintParallel),
		leaves: map[string]*leaf{}, watches: map[*watch]struct{}{},
	}
	if s.minter == nil {
		s.minter = noLeaves{}
	}
	if s.max == 0 {
		s.max = DefaultMaxLeaves
	}
	return s
}

// noLeaves refuses every host.
type noLeaves struct{}

// Leaf refuses.
func (noLeaves) Leaf(context.Context, string) (*Leaf, error) { return nil, ErrLeafRefused }

// CreateWatch is for the state-of-the-world protocol, which is not served.
func (s *secrets) CreateWatch(*cachev3.Request, cachev3.Subscription, chan cachev3.Response) (func(), error) {
	return nil, errors.New("secrets are served over the delta protocol only")
}

// Fetch is for the REST protocol, which is not served.
func (s *secrets) Fetch(context.Context, *cachev3.Request) (cachev3.Response, error) {
	return nil, errors.New("secrets are served over the delta protocol only")
}

// CreateDeltaWatch takes a stream's request: it answers what is there and waits for the rest.
func (s *secrets) CreateDeltaWatch(req *cachev3.DeltaRequest, sub cachev3.Subscription, out chan cachev3.DeltaResponse) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	returned := sub.ReturnedResources()
	w := &watch{req: req, out: out, known: make(map[string]string, len(returned))}
	for name := range sub.SubscribedResources() {
		w.known[name] = returned[name]
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		// Asked for anew, whatever was answered before. A server name with a star, which the protocol would take for a
		// subscription to many, must be answered too, or its handshake would wait in vain.
		w.known[name] = ""
	}
	var ready, gone []string
	for name, known := range w.known {
		switch l := s.leaves[name]; {
		case known == answeredNo:
		case l == nil && known != "": // put out for newer ones, or made by a process before this one
			gone = append(gone, name)
		case l == nil && !s.start(name):
			gone = append(gone, name)
		case l != nil && l.version != "" && l.version != known:
			ready = append(ready, name)
		}
	}
	if len(ready)+len(gone) > 0 {
		s.answer(w, ready, gone)
		return nil, nil
	}
	s.watches[w] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, w)
	}, nil
}

// answer sends w what it does not have.
func (s *secrets) answer(w *watch, ready, gone []string) {
	delete(s.watches, w)
	s.version++
	resp := &discoveryv3.DeltaDiscoveryResponse{
		TypeUrl: resourcev3.SecretType, SystemVersionInfo: strconv.FormatUint(s.version, 10), RemovedResources: gone,
	}
	next := maps.Clone(w.known)
	maps.DeleteFunc(next, func(_, version string) bool { return version == "" })
	for _, name := range ready {
		l := s.leaves[name]
		resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: name, Version: l.version, Resource: l.packed})
		next[name] = l.version
	}
	for _, name := range gone {
		if name != "*" && !strings.HasSuffix(name, "/*") { // the protocol keeps no such name, so nothing would ever forget it here
			next[name] = answeredNo
		}
	}
	w.out <- &cachev3.DeltaPassthroughResponse{DeltaRequest: w.req, NextVersionMap: next, DeltaDiscoveryResponse: resp}
}

// tell answers every watch that wants name.
func (s *secrets) tell(name string, gone bool) (told int) {
	for w := range s.watches {
		if known, ok := w.known[name]; ok && known != answeredNo {
			told++
			if gone {
				s.answer(w, nil, []string{name})
			} else {
				s.answer(w, []string{name}, nil)
			}
		}
	}
	return told
}

// start makes room for name and begins to make its leaf; false: it gets none.
func (s *secrets) start(name string) bool {
	if !hostName(name) {
		s.refused(name, fmt.Errorf("%w: not a host name in lower case", ErrLeafRefused))
		return false
	}
	if len(s.leaves) >= s.max && !s.evict() {
		s.refused(name, errors.New("as many leaves are being made as may be kept"))
		return false
	}
	s.minted++
	s.leaves[name] = &leaf{order: s.minted}
	s.count()
	go s.mint(name)
	return true
}

// evict drops the oldest leaf that was finished. Connections that use it go on; the next handshake asks again.
func (s *secrets) evict() bool {
	oldest := ""
	for name, l := range s.leaves {
		if l.version != "" && (oldest == "" || l.order < s.leaves[oldest].order) {
			oldest = name
		}
	}
	if oldest == "" {
		return false
	}
	s.metrics.leafAnswers.WithLabelValues("evicted").Inc()
	s.drop(oldest)
	return true
}

func (s *secrets) drop(name string) {
	if l := s.leaves[name]; l != nil && l.renew != nil {
		l.renew.Stop()
	}
	delete(s.leaves, name)
	s.count()
	s.tell(name, true)
}

// mint makes name's leaf, for the first time or again.
func (s *secrets) mint(name string) {
	s.slots <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), mintTimeout)
	made, err := s.minter.Leaf(ctx, name)
	cancel()
	<-s.slots
	if err == nil && (made == nil || !time.Now().Before(made.NotAfter)) {
		err = errors.New("the leaf has expired already; look at the clocks")
	}
	var packed *anypb.Any
	if err == nil {
		packed, err = secret(name, made)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leaves[name]
	if l == nil { // put out meanwhile
		return
	}
	if err != nil {
		s.failed(name, l, err)
		return
	}
	sum := sha256.Sum256(made.ChainPEM)
	l.packed, l.version, l.end = packed, hex.EncodeToString(sum[:16]), made.NotAfter
	s.renewIn(name, l, 2*time.Until(made.NotAfter)/3)
	s.metrics.leafAnswers.WithLabelValues("minted").Inc()
	s.tell(name, false)
}

// failed keeps a leaf that is in use to its end through faults, and nothing else.
func (s *secrets) failed(name string, l *leaf, err error) {
	s.refused(name, err)
	left := time.Until(l.end)
	if l.version == "" || errors.Is(err, ErrLeafRefused) || left < 2*renewMin {
		s.drop(name)
		return
	}
	s.renewIn(name, l, left/2)
}

func (s *secrets) renewIn(name string, l *leaf, d time.Duration) {
	l.renew = time.AfterFunc(max(d, renewMin), func() {
		if s.wanted(name, l) {
			s.mint(name)
		}
	})
}

// wanted drops l if no stream waits for news of it.
func (s *secrets) wanted(name string, l *leaf) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaves[name] != l {
		return false
	}
	for w := range s.watches {
		if _, ok := w.known[name]; ok {
			return true
		}
	}
	s.drop(name)
	return false
}

// refused counts and says that a name got no leaf, at most fifty times a second: the name is the client's.
func (s *secrets) refused(name string, err error) {
	result := "failed"
	if errors.Is(err, ErrLeafRefused) {
		result = "refused"
	}
	s.metrics.leafAnswers.WithLabelValues(result).Inc()
	if now := time.Now(); now.Sub(s.logged) >= refusalGap {
		s.logged = now
		s.log.Warn("a host gets no leaf", slog.String("host", name), slog.String("error", err.Error()))
	}
}

func (s *secrets) count() { s.metrics.leaves.Set(float64(len(s.leaves))) }

// hostName says whether a client's server name may be asked for. In one case only, so that one host is one leaf.
func hostName(name string) bool {
	if name == "" || len(name) > maxHostName || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

func secret(name string, l *Leaf) (*anypb.Any, error) {
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	packed, err := anypb.New(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(l.ChainPEM), PrivateKey: inline(l.KeyPEM),
	}}})
	if err != nil {
		return nil, fmt.Errorf("xds server: secret: %w", err)
	}
	return packed, nil
}
