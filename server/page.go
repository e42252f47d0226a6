package server

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

//go:embed page
var pageFiles embed.FS

// pages are the routes of the page's files. They have no secrets in them: whoever opens the page is asked for the token.
func pages() []route {
	entries, err := pageFiles.ReadDir("page")
	if err != nil {
		panic("server: " + err.Error())
	}
	var routes []route
	for _, e := range entries {
		at := "/" + e.Name()
		if e.Name() == "index.html" {
			at = "/"
		}
		routes = append(routes, route{method: "GET", path: at, page: true, open: true, serve: pageFile(e.Name())})
	}
	return routes
}

func pageFile(name string) func(http.ResponseWriter, *http.Request) error {
	text, err := pageFiles.ReadFile("page/" + name)
	if err != nil {
		panic("server: " + err.Error())
	}
	sum := sha256.Sum256(text)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	// Named here, for a machine's own table of types may differ.
	kind := map[string]string{".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[path.Ext(name)]
	return func(w http.ResponseWriter, r *http.Request) error {
		h := w.Header()
		h.Set("Content-Type", kind+"; charset=utf-8")
		h.Set("Cache-Control", "no-cache") // ask, and be told that it is the same
		h.Set("ETag", tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(text))
		return nil
	}
}
