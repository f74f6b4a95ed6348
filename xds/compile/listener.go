package compile

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Defaults of a Door.
const (
	DefaultMaxBody        = 32 << 20         // bytes; prompts with images stay below, and each call may hold this much in Envoy
	DefaultMessageTimeout = 10 * time.Second // one answer of the processor; Envoy's own default is 200 ms

	// MetadataNamespace is where the processor puts what Envoy's own filters and its access log read.
	MetadataNamespace = "sallyport"
	// VerdictKey must hold VerdictAllow in that namespace, or the guard filter stops the request.
	VerdictKey   = "verdict"
	VerdictAllow = "allow"
	// ReceiptKey is written to the access log.
	ReceiptKey = "receipt"

	// maxHeadersKB lets a token of 8 KiB, the SDKs' own headers and cookies through; more gets 431.
	maxMaxBody = 1 << 30 // bytes; HTTP/2 windows end at 2 GiB

	maxHeadersKB    = 96
	maxHeaders      = 128
	requestTimeout  = 5 * time.Minute // for the whole request to arrive; a 32 MiB body over a slow line needs 2
	headersTimeout  = 10 * time.Second
	connectionIdle  = 15 * time.Minute
	h2Streams       = 256
	bufferHeadroom  = 64 << 10
	listenerName    = "door/reverse"
	scopedRoutesSet = "contracts"
)

// Door says how the reverse door (base URL) listens and with which processor.
type Door struct {
	Address        netip.AddrPort
	ExtProcCluster string        // the bootstrap's cluster of processors
	MaxBody        int64         // bytes; 0: DefaultMaxBody
	MessageTimeout time.Duration // 0: DefaultMessageTimeout
	AccessLog      string        // absolute path of the access log; empty: standard output of Envoy
	Egress         *EgressConfig // how hosts beside the upstreams are reached; nil: they are not
}

// Validate reports everything that is wrong with d, joined.
func (d Door) Validate() error {
	var errs []error
	if !d.Address.IsValid() {
		errs = append(errs, errors.New("door: the listen address is missing"))
	}
	if d.ExtProcCluster == "" {
		errs = append(errs, errors.New("door: the processor's cluster is missing"))
	}
	if d.MaxBody < 0 || d.MaxBody > maxMaxBody {
		errs = append(errs, errors.New("door: the body limit must be between 1 byte and 1 GiB"))
	}
	if d.MessageTimeout < 0 {
		errs = append(errs, errors.New("door: the processor's timeout is negative"))
	}
	if d.AccessLog != "" && !filepath.IsAbs(d.AccessLog) {
		errs = append(errs, fmt.Errorf("door: access log %q must be an absolute path, because Envoy writes it", d.AccessLog))
	}
	if d.Egress != nil {
		errs = append(errs, d.Egress.Validate())
	}
	return errors.Join(errs...)
}

func (d Door) withDefaults() Door {
	if d.MaxBody == 0 {
		d.MaxBody = DefaultMaxBody
	}
	if d.MessageTimeout == 0 {
		d.MessageTimeout = DefaultMessageTimeout
	}
	return d
}

// Listener compiles the reverse door.
func Listener(d Door) (*listenerv3.Listener, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	d = d.withDefaults()
	chain, err := filterChain(d, reverse)
	if err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	return listener(listenerName, d, chain)
}

// listener is a listener of d's with these chains; without an address, an internal one that only a cluster of ours reaches.
func listener(name string, d Door, chains ...*listenerv3.FilterChain) (*listenerv3.Listener, error) {
	l := &listenerv3.Listener{Name: name, FilterChains: chains}
	if d.Address.IsValid() {
		l.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address:       d.Address.Addr().String(),
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(d.Address.Port())},
		}}}
	} else {
		l.ListenerSpecifier = &listenerv3.Listener_InternalListener{InternalListener: &listenerv3.Listener_InternalListenerConfig{}}
	}
	// The processor reads the whole body before it decides, so Envoy must be able to hold it.
	l.PerConnectionBufferLimitBytes = wrapperspb.UInt32(uint32(d.MaxBody + bufferHeadroom))
	if err := l.ValidateAll(); err != nil {
		return nil, fmt.Errorf("door: %w", err)
	}
	return l, nil
}
