// Package fleetui is the page for those who look after a fleet: a view of it in browsers of this machine, and the emergency stop of one mower.
//
// It listens on loopback only, without TLS. Other users of the machine can reach that too, so whoever wants in brings the key in the URL that [UI.URL]
// returns; the browser gets a cookie for it. What changes something besides needs the page's own token, and the page's own origin.
package fleetui

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/pages"
)

// Options configure a page.
type Options struct {
	View *fleet.View
	// Stop engages the emergency stop of a mower; nil is a page that only shows.
	Stop    func(ctx context.Context, mower, reason string) (fleet.Stopped, error)
	Address string // host:port of loopback; "" is 127.0.0.1:0
	// MaxBrowsers bounds how many pages are open; 0 is 20.
	MaxBrowsers int
	Logger      *slog.Logger // nil is discarded
}

// A UI is a page that is served. Its methods may be called concurrently.
type UI struct {
	o        Options
	log      *slog.Logger
	listener net.Listener
	server   *http.Server
	key      string // lets in
	token    string // of the page
	cookie   string // its name: browsers do not tell ports apart
	ctx      context.Context
	end      context.CancelFunc
	work     sync.WaitGroup

	mu       sync.Mutex // guards browsers
	browsers int
}

const (
	defaultAddress = "127.0.0.1:0"
	defaultMax     = 20
	maxHeader      = 16 << 10
	maxBody        = 64 << 10
	stopTime       = 10 * time.Second // for an emergency stop
)

// Start serves the page.
func Start(o Options) (*UI, error) {
	if o.Address == "" {
		o.Address = defaultAddress
	}
	if o.MaxBrowsers <= 0 {
		o.MaxBrowsers = defaultMax
	}
	if err := checkLoopback(o.Address); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("fleet page: %w", err)
	}
	u := &UI{o: o, log: o.Logger, listener: l, key: rand.Text(), token: rand.Text()}
	if u.log == nil {
		u.log = slog.New(slog.DiscardHandler)
	}
	u.cookie = "lawnberry_fleet_" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // it listens on TCP
	u.ctx, u.end = context.WithCancel(context.Background())
	u.server = &http.Server{
		Handler: u.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(u.log.Handler(), slog.LevelDebug),
	}
	u.work.Go(func() {
		if err := u.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			u.log.Error("fleet page", "error", err)
		}
	})
	return u, nil
}

// checkLoopback refuses addresses that others than this machine can reach.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("fleet page: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("fleet page: %s can be reached by others, and the page has no TLS: listen on 127.0.0.1, and let them in by a tunnel or a proxy", address)
	}
	return nil
}

// URL is where the page is, with the key that lets in.
func (u *UI) URL() string { return u.Address() + "/?key=" + u.key }

// Address is where the page is, such as http://127.0.0.1:8080.
func (u *UI) Address() string { return "http://" + u.listener.Addr().String() }

// Stop ends the page, within ctx or 2 s. It is idempotent.
func (u *UI) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	u.end()
	err := errors.Join(u.server.Shutdown(ctx), u.server.Close())
	u.work.Wait()
	return err
}

func (u *UI) handler() http.Handler {
	api := http.NewServeMux()
	api.HandleFunc("GET /api/session", u.session)
	api.HandleFunc("GET /api/feed", u.feed)
	api.HandleFunc("GET /api/mowers/{id}", u.mower)
	api.HandleFunc("POST /api/mowers/{id}/stop", u.stop)
	api.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) { fail(w, http.StatusNotFound, "there is no such thing") })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if name, ours := pages.Host(r, nil); !ours {
			fail(w, http.StatusForbidden, fmt.Sprintf("%.60q is no name of this machine", name))
			return
		}
		if ours, some := pages.Origin(r, nil); some && !ours {
			fail(w, http.StatusForbidden, "another page may not use this one")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		switch key := r.URL.Query().Get("key"); {
		case key != "" && r.Method == http.MethodGet && r.URL.Path == "/":
			if !same(key, u.key) {
				fail(w, http.StatusForbidden, "this key was of another run: open the URL that lawnberry fleet ui has printed")
				return
			}
			http.SetCookie(w, &http.Cookie{Name: u.cookie, Value: u.key, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			// Not a redirect: a cookie that is strict does not come along when another program has opened the URL.
			h.Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(`<!doctype html><title>Lawnberry fleet</title><link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url=/"><a href="/">The fleet</a>`))
			return
		case !u.knows(r):
			fail(w, http.StatusForbidden, "open the URL that lawnberry fleet ui has printed: it has the key in it")
			return
		}
		if !serveFile(w, r) {
			api.ServeHTTP(w, r)
		}
	})
}

// knows reports whether a request has the cookie.
func (u *UI) knows(r *http.Request) bool {
	c, err := r.Cookie(u.cookie)
	return err == nil && same(c.Value, u.key)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
