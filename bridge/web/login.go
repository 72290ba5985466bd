package web

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/internal/pages"
)

const (
	cookieName  = "lawnberry_session"
	sessionTime = 12 * time.Hour
	maxSessions = 1000
	loginTime   = 10 * time.Second
)

// An identity is who sends a request.
type identity struct {
	name   string // "" when nobody is asked
	role   string
	rights Rights // nil is everything
}

// sessions are those who have logged in, by the hash of their cookie.
type sessions struct {
	mu  sync.Mutex // guards all
	all map[[sha256.Size]byte]session
}

type session struct {
	name    string
	expires time.Time
}

func newSessions() *sessions { return &sessions{all: map[[sha256.Size]byte]session{}} }

// open returns the cookie's value for a user who has logged in.
func (s *sessions) open(name string) string {
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.all) >= maxSessions {
		var oldest [sha256.Size]byte
		first := true
		for k, v := range s.all {
			if now.After(v.expires) {
				delete(s.all, k)
			} else if first || v.expires.Before(s.all[oldest].expires) {
				oldest, first = k, false
			}
		}
		if len(s.all) >= maxSessions {
			delete(s.all, oldest)
		}
	}
	s.all[sha256.Sum256([]byte(token))] = session{name, now.Add(sessionTime)}
	return token
}

func (s *sessions) find(token string) (name string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sha256.Sum256([]byte(token))
	v, ok := s.all[key]
	if ok && time.Now().After(v.expires) {
		delete(s.all, key)
		return "", false
	}
	return v.name, ok
}

func (s *sessions) close(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, sha256.Sum256([]byte(token)))
}

// identify says who sends a request: by the cookie, or by Basic authentication for programs that are no browsers.
func (b *Bridge) identify(r *http.Request) (identity, error) {
	l := b.o.Login
	if l == nil || !l.Needed() {
		return b.withRights("")
	}
	if c, err := r.Cookie(cookieName); err == nil {
		if name, ok := b.sessions.find(c.Value); ok {
			if l.Known(name) {
				return b.withRights(name)
			}
			b.sessions.close(c.Value)
		}
	}
	if name, password, ok := r.BasicAuth(); ok {
		if err := b.check(r, name, password); err != nil {
			return identity{}, err
		}
		return b.withRights(name)
	}
	return identity{}, &httpError{http.StatusUnauthorized, "not logged in", "log in with POST /api/login, or send a user name and a password (Basic)"}
}

func (b *Bridge) check(r *http.Request, name, password string) error {
	ctx, cancel := context.WithTimeout(r.Context(), loginTime)
	defer cancel()
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if err := b.o.Login.Check(ctx, name, password, host); err != nil {
		b.log.Warn("a login to the web bridge was refused", "user", name, "remote", r.RemoteAddr, "error", err)
		return &httpError{http.StatusUnauthorized, "login refused", "wrong user name or password, or too many attempts: wait before the next"}
	}
	return nil
}

func (b *Bridge) withRights(name string) (identity, error) {
	who := identity{name: name}
	if b.o.Login != nil && name != "" {
		who.role = b.o.Login.Role(name)
	}
	if b.o.Rights == nil {
		return who, nil
	}
	var err error
	if who.rights, err = b.o.Rights(name); err != nil {
		return identity{}, &httpError{http.StatusForbidden, "not allowed", err.Error()}
	}
	return who, nil
}

// login is POST /api/login.
func (b *Bridge) login(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Name     string `json:"name"`
		Password string `json:"password"`
	}
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	if b.o.Login == nil || !b.o.Login.Needed() {
		return &httpError{http.StatusConflict, "no login is needed", "there are no users: see \"lawnberry user add\""}
	}
	if err := b.check(r, q.Name, q.Password); err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: b.sessions.open(q.Name), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"), MaxAge: int(sessionTime.Seconds()),
	})
	return writeJSON(w, b.sessionOf(identity{name: q.Name, role: b.o.Login.Role(q.Name)}))
}

// logout is POST /api/logout.
func (b *Bridge) logout(w http.ResponseWriter, r *http.Request) error {
	if c, err := r.Cookie(cookieName); err == nil {
		b.sessions.close(c.Value)
	}
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type sessionView struct {
	Login bool   `json:"login"` // whether one has to log in
	User  string `json:"user"`
	Role  string `json:"role"`
}

func (b *Bridge) sessionOf(who identity) sessionView {
	return sessionView{b.o.Login != nil && b.o.Login.Needed(), who.name, who.role}
}

// foreign reports why a request is none of ours, "" if it is: a name that somebody else points at this machine (DNS rebinding), or a page
// from elsewhere. What changes something, and a WebSocket, has to say where it is from, unless it brings a password of its own: a browser
// adds cookies by itself, but never that.
func (b *Bridge) foreign(r *http.Request) string {
	if name, ours := pages.Host(r, b.o.Hosts); !ours {
		return fmt.Sprintf("the host %q is not this mower's: see broker.websockets.hosts", name)
	}
	page, some := pages.Origin(r, b.o.Origins)
	switch {
	case page:
		return ""
	case some:
		return "pages of that origin are not let in: see broker.websockets.origins"
	}
	_, _, password := r.BasicAuth()
	reads := (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.URL.Path != "/ws"
	if password || reads && !isCrossSite(r) {
		return ""
	}
	return "it does not say where it is from: send the header Origin: http://" + r.Host
}

// isCrossSite reports whether a browser says that another site has made the request.
func isCrossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	}
	return r.Header.Get("Sec-Fetch-Mode") != "navigate"
}

// An httpError is the answer to a request that fails: a problem of RFC 9457.
type httpError struct {
	status int
	title  string
	detail string
}

func (e *httpError) Error() string { return e.title + ": " + e.detail }

// A problemView is application/problem+json.
type problemView struct {
	Type    string   `json:"type"`
	Title   string   `json:"title"`
	Status  int      `json:"status"`
	Detail  string   `json:"detail,omitempty"`
	Code    string   `json:"code,omitempty"`
	Reasons []string `json:"reasons,omitempty"`
}

func writeProblem(w http.ResponseWriter, p problemView) {
	p.Type = "about:blank"
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	if p.Status == http.StatusUnauthorized && p.Code == "" {
		p.Code = "unauthorized"
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the browser is gone if it fails
}
