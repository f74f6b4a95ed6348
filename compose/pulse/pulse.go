// Package pulse serves Trust Pulse: a page that lists runs, shows what a run did, and verifies its evidence in the browser. The
// page is static and needs nothing from elsewhere; its data comes from the evidence API, with the viewer's key, and from files
// that somebody opens in it.
package pulse

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed web
var files embed.FS

// policy lets the page load what is served beside it and nothing else, and lets nobody frame it. What comes from evidence is set
// as text; were it ever not, trusted types would stop it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Handler serves the page below its own path, which ends in a slash.
func Handler() http.Handler {
	web, err := fs.Sub(files, "web")
	if err != nil {
		panic(err) // the name stands above
	}
	server := http.FileServerFS(web)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the page takes GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache") // a new binary has a new page
		server.ServeHTTP(w, r)
	})
}
