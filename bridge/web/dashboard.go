package web

import (
	"embed"
	"io/fs"
	"net/http"
	"strings"
)

// dist is the dashboard as "make ui" builds it from the sources in ui.
//
//go:embed dist
var dist embed.FS

// serveDashboard serves the dashboard's files. It returns false if there is none at that path. Files under assets have a hash of what is in
// them in their names, so browsers may keep them.
func serveDashboard(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	if name == "" {
		name = "index.html"
	}
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		return false
	}
	if info, err := fs.Stat(files, name); err != nil || info.IsDir() {
		return false
	}
	keep := "no-cache"
	if strings.HasPrefix(name, "assets/") {
		keep = "public, max-age=31536000, immutable"
	}
	w.Header().Set("Cache-Control", keep)
	kinds := map[string]string{"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
	if kind := kinds[name[strings.LastIndex(name, ".")+1:]]; kind != "" {
		w.Header().Set("Content-Type", kind)
	}
	http.ServeFileFS(w, r, files, name)
	return true
}
