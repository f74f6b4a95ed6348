package server

import (
	"fmt"
	"log/slog"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/proto"
)

// typed is one type's cache, and what was put in it, so that an unchanged resource is not sent again. The Server's lock
// guards it.
type typed struct {
	cache   *cachev3.LinearCache
	have    map[string]types.Resource
	url     string
	version uint64 // counts as LinearCache does: one for each change
	metrics *metrics
}

func newTyped(url string, log *slog.Logger, m *metrics) *typed {
	return &typed{
		cache: cachev3.NewLinearCache(url, cachev3.WithLogger(cacheLog{log})),
		have:  map[string]types.Resource{}, url: url, metrics: m,
	}
}

// put adds or replaces the resources that differ from those in force.
func (t *typed) put(resources map[string]types.Resource) error { return t.update(resources, nil) }

// replace makes resources the whole set.
func (t *typed) replace(resources map[string]types.Resource) error {
	var gone []string
	for name := range t.have {
		if _, ok := resources[name]; !ok {
			gone = append(gone, name)
		}
	}
	return t.update(resources, gone)
}

func (t *typed) remove(name string) error { return t.update(nil, []string{name}) }

func (t *typed) update(resources map[string]types.Resource, gone []string) error {
	changed := map[string]types.Resource{}
	for name, r := range resources {
		if old, ok := t.have[name]; !ok || !proto.Equal(old, r) {
			changed[name] = r
		}
	}
	var removed []string
	for _, name := range gone {
		if _, ok := t.have[name]; ok {
			removed = append(removed, name)
		}
	}
	if len(changed) == 0 && len(removed) == 0 {
		return nil
	}
	t.version++
	if err := t.cache.UpdateResources(changed, removed); err != nil {
		return fmt.Errorf("xds server: %s: %w", t.url, err)
	}
	for name, r := range changed {
		t.have[name] = r
	}
	for _, name := range removed {
		delete(t.have, name)
	}
	t.metrics.resources.WithLabelValues(short(t.url)).Set(float64(len(t.have)))
	return nil
}
