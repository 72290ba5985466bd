package fleetui_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/fleettest"
	"github.com/lawnberry/lawnberry/internal/fleetui"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A world is an engine with a view of it and a page.
type world struct {
	ui *fleetui.UI
	p  *fleettest.Publisher

	mu      sync.Mutex
	stopped []string
}

func newWorld(t *testing.T, o fleetui.Options) *world {
	t.Helper()
	s := natstest.Start(t)
	nc, err := nats.Connect(s.URL())
	check(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	check(t, err)
	check(t, fleettest.Setup(testContext(t), js, 1, time.Hour))
	w := &world{p: fleettest.New(js)}
	v := fleet.OpenView(js, fleet.ViewOptions{})
	t.Cleanup(v.Close)
	check(t, v.Wait(testContext(t)))
	o.View = v
	if o.Stop == nil {
		o.Stop = func(_ context.Context, mower, reason string) (fleet.Stopped, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.stopped = append(w.stopped, mower+": "+reason)
			if mower == "gone" {
				return fleet.Stopped{}, &client.CommandError{Code: fleet.CodeOffline, Message: "it is not there"}
			}
			return fleet.Stopped{Engaged: true, Confirmed: true}, nil
		}
	}
	w.ui, err = fleetui.Start(o)
	check(t, err)
	t.Cleanup(func() {
		if err := w.ui.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// enter returns a client with the cookie, and the page's token.
func (w *world) enter(t *testing.T) (*http.Client, string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	check(t, err)
	c := &http.Client{Jar: jar, Transport: &http.Transport{}}
	t.Cleanup(c.CloseIdleConnections)
	for _, url := range []string{w.ui.URL(), w.ui.Address() + "/"} {
		r, err := c.Get(url)
		check(t, err)
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", url, r.Status)
		}
	}
	r, err := c.Get(w.ui.Address() + "/api/session")
	check(t, err)
	defer r.Body.Close()
	var s struct{ Token string }
	check(t, json.NewDecoder(r.Body).Decode(&s))
	return c, s.Token
}

// Whoever has no key, comes by another name, or from another page, gets nothing; and nothing is stopped without the page's token.
func TestEntry(t *testing.T) {
	w := newWorld(t, fleetui.Options{})
	c, token := w.enter(t)
	stranger := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(stranger.CloseIdleConnections)
	for _, tt := range []struct {
		name                string
		c                   *http.Client
		method, path        string
		host, origin, token string
		want                int
	}{
		{"a stranger", stranger, "GET", "/", "", "", "", 403},
		{"a stranger who guesses", stranger, "GET", "/?key=guess", "", "", "", 403},
		{"a stranger at the API", stranger, "GET", "/api/session", "", "", "", 403},
		{"a stranger who stops", stranger, "POST", "/api/mowers/m/stop", "", "", token, 403},
		{"the page", c, "GET", "/", "", "", "", 200},
		{"its mower", c, "GET", "/api/mowers/none", "", "", "", 404},
		{"what is not there", c, "GET", "/api/other", "", "", "", 404},
		{"a name that points here", c, "GET", "/", "evil.example", "", "", 403},
		{"another page", c, "GET", "/api/session", "", "http://evil.example", "", 403},
		{"another page that stops", c, "POST", "/api/mowers/m/stop", "", "http://evil.example", token, 403},
		{"a form without the token", c, "POST", "/api/mowers/m/stop", "", "", "", 403},
		{"a form with another token", c, "POST", "/api/mowers/m/stop", "", "", "x", 403},
		{"a mower that cannot be", c, "POST", "/api/mowers/a.b/stop", "", "", token, 400},
		{"no POST", c, "GET", "/api/mowers/m/stop", "", "", token, 404},
		{"the button", c, "POST", "/api/mowers/m/stop", "", w.ui.Address(), token, 200},
		{"the button for one that is gone", c, "POST", "/api/mowers/gone/stop", "", w.ui.Address(), token, 502},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, w.ui.Address()+tt.path, strings.NewReader(`{"reason": "because"}`))
		check(t, err)
		if tt.host != "" {
			r.Host = tt.host
		}
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		r.Header.Set("X-Lawnberry-Token", tt.token)
		got, err := tt.c.Do(r)
		check(t, err)
		body, _ := io.ReadAll(got.Body)
		_ = got.Body.Close()
		if got.StatusCode != tt.want {
			t.Errorf("%s: %s %s", tt.name, got.Status, body)
		}
		if tt.want == 502 && !strings.Contains(string(body), "it is not there") {
			t.Errorf("%s: %s", tt.name, body)
		}
	}
	if got := strings.Join(w.stopped, ", "); got != "m: because, gone: because" {
		t.Errorf("stopped: %s", got)
	}
	for _, address := range []string{"0.0.0.0:0", "[::]:0", "example.com:1", "nonsense"} {
		if u, err := fleetui.Start(fleetui.Options{Address: address}); err == nil {
			t.Errorf("%s is taken", address)
			_ = u.Stop(context.Background())
		}
	}
}

type frame struct {
	Op   string
	Rows []struct {
		ID string
		B  *float64
		M  bool
	}
	Gone, Yes, No []string
	Last          bool
	Error         string
	At            int
	Number        int
}

// A feed has everything, then what changes, and takes conditions; those that cannot be read are answered with the place.
func TestFeed(t *testing.T) {
	w := newWorld(t, fleetui.Options{MaxBrowsers: 1})
	for i := range 1200 {
		w.p.State(fmt.Sprintf("m%04d", i), "power/battery", fleettest.Sensor(map[string]any{"level": i % 100}, nil))
	}
	check(t, w.p.Flush(testContext(t)))
	c, _ := w.enter(t)
	ctx := testContext(t)
	address := "ws" + strings.TrimPrefix(w.ui.Address(), "http") + "/api/feed"
	ws, _, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: c})
	check(t, err)
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(1 << 20)
	next := func() (f frame) {
		t.Helper()
		_, body, err := ws.Read(ctx)
		check(t, err)
		check(t, json.Unmarshal(body, &f))
		return f
	}
	seen := map[string]float64{}
	take := func(f frame) {
		for _, r := range f.Rows {
			if r.B != nil {
				seen[r.ID] = *r.B
			}
		}
	}
	for len(seen) < 1200 {
		take(next())
	}
	if _, r, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: c}); err == nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Error("a second page is let in")
	}
	check(t, ws.Write(ctx, websocket.MessageText, []byte(`garbage`)))
	check(t, ws.Write(ctx, websocket.MessageText, []byte(`{"op": "where", "text": "battery<<1", "number": 1}`)))
	for f := next(); f.Op != "where" || f.Number != 1 || !strings.Contains(f.Error, "want a value") || f.At != 8; f = next() {
		take(f)
	}
	check(t, ws.Write(ctx, websocket.MessageText, []byte(`{"op": "where", "text": "battery<1", "number": 2}`)))
	f := next()
	for ; f.Op != "where"; f = next() {
		take(f)
	}
	if f.Error != "" || len(f.No) != 1188 {
		t.Errorf("%d are not selected any more, %s", len(f.No), f.Error)
	}
	w.p.State("m0000", "power/battery", fleettest.Sensor(map[string]any{"level": 55}, nil))
	w.p.State("m0001", "power/battery", nil)
	gone := false
	for seen["m0000"] != 55 || !gone {
		f := next()
		take(f)
		for _, r := range f.Rows {
			if r.ID == "m0000" && r.M {
				t.Error("it is selected still")
			}
		}
		gone = gone || len(f.Gone) == 1 && f.Gone[0] == "m0001"
	}
	check(t, w.ui.Stop(ctx)) // tells the page
	for {
		if _, _, err := ws.Read(ctx); err != nil {
			if websocket.CloseStatus(err) != websocket.StatusGoingAway && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			return
		}
	}
}
