package dialect

import "net/http"

// gemini is the dialect of Google's Gemini API. It names the model in the path.
var gemini = dialect{
	name:       "gemini",
	credential: "x-goog-api-key",
	format:     "%s",
	requestID:  "x-request-id",
	routes: []route{
		{kind: Generate, method: http.MethodPost, verb: "generateContent"},
		{kind: Generate, method: http.MethodPost, verb: "streamGenerateContent", streams: true},
		{kind: Embeddings, method: http.MethodPost, verb: "embedContent"},
		{kind: Embeddings, method: http.MethodPost, verb: "batchEmbedContents"},
		{kind: CountTokens, method: http.MethodPost, verb: "countTokens"},
		{kind: ListModels, method: http.MethodGet, path: "/models"},
	},
	secondModels: map[string]where{
		"requests":                 inObjects, // batchEmbedContents
		"generateContentRequest":   inObjects, // countTokens
		"generate_content_request": inObjects, // protobuf's JSON reader takes both spellings
	},
	prefixOfModel: "models/",
	usage: usageNames{
		input:      []string{"promptTokenCount"},
		inputMore:  []string{"toolUsePromptTokenCount"},
		output:     []string{"candidatesTokenCount"},
		outputMore: []string{"thoughtsTokenCount"},
	},
}
