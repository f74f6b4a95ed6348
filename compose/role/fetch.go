package role

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"sallyport/compose/config"
	"sallyport/extproc/gate"
	"sallyport/signer/envelope"
)

const (
	registryTimeout = 2 * time.Second
	// maxContractAnswer is above any contract (64 KiB) with its envelope.
	maxContractAnswer = 256 << 10
)

// fetcher gets contracts from the registry of the xds role over HTTP.
type fetcher struct {
	client *http.Client
	base   string
}

var _ gate.Fetcher = (*fetcher)(nil)

func newFetcher(c *config.Config) (*fetcher, error) {
	conf, err := clientTLS(c.Registry)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	network, address := dialAddress(c.Registry)
	f := &fetcher{base: "http://registry"}
	t := &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, DisableCompression: true}
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	if conf != nil {
		f.base = "https://" + address
	}
	f.client = &http.Client{Transport: t, Timeout: registryTimeout}
	return f, nil
}

// Fetch returns gate.ErrNoContract where the registry answers 404; any other failure is a fault of the registry.
func (f *fetcher) Fetch(ctx context.Context, hash string) (*envelope.Envelope, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.base+"/v1/wpc/"+hash, nil)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxContractAnswer))
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, gate.ErrNoContract
	default:
		return nil, fmt.Errorf("registry: status %d: %.200s", resp.StatusCode, raw)
	}
	var answer struct {
		Envelope json.RawMessage `json:"envelope"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return envelope.Parse(answer.Envelope)
}

// instanceName names an ext_proc process so that the signer can tell a process that came back over a new connection
// from one that was started anew: the random part changes with the process.
func instanceName(index int) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	var r [8]byte
	if _, err := rand.Read(r[:]); err != nil {
		return "", fmt.Errorf("instance name: %w", err)
	}
	return fmt.Sprintf("%s/%s/%s", host, ExtProcName(index), hex.EncodeToString(r[:])), nil
}
