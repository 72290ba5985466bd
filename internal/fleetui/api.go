package fleetui

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
)

// dist is the page as "make ui" builds it from bridge/web/ui/fleet.
//
//go:embed dist
var dist embed.FS

// serveFile serves a file of the page. It returns false if there is none at that path.
func serveFile(w http.ResponseWriter, r *http.Request) bool {
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
	kinds := map[string]string{"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
	if kind := kinds[name[strings.LastIndexByte(name, '.')+1:]]; kind != "" {
		w.Header().Set("Content-Type", kind)
	}
	http.ServeFileFS(w, r, files, name)
	return true
}

// tokenHeader has the page's token, in what changes something.
const tokenHeader = "X-Lawnberry-Token"

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who has gone is not told
}

func fail(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]string{"error": text})
}

// session tells the page its token, and what it can do.
func (u *UI) session(w http.ResponseWriter, _ *http.Request) {
	type field struct {
		Name string `json:"name"`
		Doc  string `json:"doc"`
	}
	var fields []field
	for _, f := range fleet.WhereFields() {
		fields = append(fields, field{f.Name, f.Doc})
	}
	answer(w, http.StatusOK, struct {
		Token  string  `json:"token"`
		Stops  bool    `json:"stops"`
		Fields []field `json:"fields"`
	}{u.token, u.o.Stop != nil, fields})
}

// mower tells all that is known of one.
func (u *UI) mower(w http.ResponseWriter, r *http.Request) {
	m, known := u.o.View.Mower(r.PathValue("id"))
	if !known && !u.o.View.Link().Current {
		fail(w, http.StatusServiceUnavailable, "the engine does not say whether it knows such a mower")
		return
	}
	if !known {
		fail(w, http.StatusNotFound, "the engine knows no such mower")
		return
	}
	answer(w, http.StatusOK, m.Report(time.Now()))
}

// stop engages the emergency stop of a mower.
func (u *UI) stop(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !same(r.Header.Get(tokenHeader), u.token) {
		fail(w, http.StatusForbidden, "not stopped: this page is of another run, load it anew")
		return
	}
	if err := fleet.CheckMower(id); err != nil {
		fail(w, http.StatusBadRequest, "not stopped: "+err.Error())
		return
	}
	if u.o.Stop == nil {
		fail(w, http.StatusForbidden, "not stopped: this page only shows")
		return
	}
	var ask struct {
		Reason string `json:"reason"`
	}
	_ = json.NewDecoder(r.Body).Decode(&ask) // a stop without a reason that can be read is one all the same
	if ask.Reason == "" {
		ask.Reason = "from the fleet's page"
	}
	// It goes on when the page is closed meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), stopTime)
	defer cancel()
	began := time.Now()
	s, err := u.o.Stop(ctx, id, ask.Reason)
	u.log.Info("emergency stop from the fleet's page", "mower", id, "took", time.Since(began), "error", err)
	if err != nil {
		code := "failed"
		if e := new(client.CommandError); errors.As(err, &e) {
			code = e.Code
		}
		answer(w, http.StatusBadGateway, map[string]string{"error": err.Error(), "code": code})
		return
	}
	answer(w, http.StatusOK, s)
}
