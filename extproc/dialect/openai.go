package dialect

import "net/http"

// openAI is the dialect of the OpenAI API, of OpenRouter and of all who took it over.
var openAI = dialect{
	name:       "openai",
	credential: "authorization",
	format:     "Bearer %s",
	requestID:  "x-request-id",
	routes: []route{
		{kind: Chat, method: http.MethodPost, path: "/chat/completions"},
		// Codex opens a WebSocket by GET first and falls back to POST at once if it gets 426 (measured).
		{kind: Responses, method: http.MethodPost, path: "/responses", socket: true},
		{kind: Embeddings, method: http.MethodPost, path: "/embeddings"},
		{kind: ListModels, method: http.MethodGet, path: "/models"},
	},
	secondModels: map[string]where{
		"models":     inList,  // OpenRouter's fallback list
		"tools":      inTools, // the image generation tool names its own model
		"moderation": inObjects,
		"image":      inTools,
		"input":      inToolsOfItems, // tools that a tool search brought
	},
	usage: usageNames{
		input:  []string{"prompt_tokens", "input_tokens"},
		output: []string{"completion_tokens", "output_tokens"},
	},
}
