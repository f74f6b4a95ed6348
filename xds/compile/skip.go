package compile

import (
	"slices"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
)

// where is a header and its whole value.
type where struct{ header, value string }

// skipWhere leaves a filter out for the requests that have one of the headers with its value.
func skipWhere(name string, cfg proto.Message, any ...where) (proto.Message, error) {
	skip, err := pack(&skipv3.SkipFilter{})
	if err != nil {
		return nil, err
	}
	packed, err := pack(cfg)
	if err != nil {
		return nil, err
	}
	var tree *xdsmatcherv3.Matcher
	for _, w := range slices.Backward(any) {
		input, err := pack(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: w.header})
		if err != nil {
			return nil, err
		}
		next := &xdsmatcherv3.Matcher{
			MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
				Input: &xdscorev3.TypedExtensionConfig{Name: "header", TypedConfig: input},
				TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{
					Map: map[string]*xdsmatcherv3.Matcher_OnMatch{w.value: {OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
						Action: &xdscorev3.TypedExtensionConfig{Name: "skip", TypedConfig: skip},
					}}},
				}},
			}},
		}
		if tree != nil {
			next.OnNoMatch = &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Matcher{Matcher: tree}}
		}
		tree = next
	}
	return &matchingv3.ExtensionWithMatcher{
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: packed},
		XdsMatcher:      tree,
	}, nil
}
