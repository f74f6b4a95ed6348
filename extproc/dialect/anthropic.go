package dialect

import "net/http"

// anthropic is the dialect of the Anthropic Messages API.
var anthropic = dialect{
	name:       "anthropic",
	credential: "x-api-key",
	format:     "%s",
	requestID:  "request-id",
	routes: []route{
		{kind: Messages, method: http.MethodPost, path: "/messages"},
		{kind: CountTokens, method: http.MethodPost, path: "/messages/count_tokens"},
		{kind: ListModels, method: http.MethodGet, path: "/models"},
	},
	secondModels: map[string]where{
		"fallbacks": inObjects, // beta: other models that may answer in the first one's place
		"tools":     inTools,   // beta: the advisor tool names its own model
	},
	usage: usageNames{
		input: []string{"input_tokens"},
		// Anthropic counts cached tokens beside input_tokens; the other providers count them within.
		inputMore: []string{"cache_creation_input_tokens", "cache_read_input_tokens"},
		output:    []string{"output_tokens"},
	},
}
