package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/identity"
)

// A visitor is somebody with a browser.
type visitor struct {
	t      *testing.T
	url    string
	cookie *http.Cookie
}

func (v *visitor) do(method, path string, body any) (status int, answer map[string]any) {
	v.t.Helper()
	var r io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			v.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	q, err := http.NewRequestWithContext(v.t.Context(), method, v.url+path, r)
	if err != nil {
		v.t.Fatal(err)
	}
	q.Header.Set("Origin", v.url)
	q.Header.Set("Content-Type", "application/json")
	if v.cookie != nil {
		q.AddCookie(v.cookie)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(q)
	if err != nil {
		v.t.Fatal(err)
	}
	defer res.Body.Close()
	for _, c := range res.Cookies() {
		v.cookie = c
	}
	_ = json.NewDecoder(res.Body).Decode(&answer) // there may be none
	return res.StatusCode, answer
}

// login logs in. On a machine that has no time for hashes it is told to wait, and does.
func (v *visitor) login(name string) *visitor {
	v.t.Helper()
	for late := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		status, answer := v.do(http.MethodPost, "/api/login", map[string]string{"name": name, "password": "password of " + name})
		if status == http.StatusOK {
			return v
		}
		if time.Now().After(late) {
			v.t.Fatalf("login of %s: %d %v", name, status, answer)
		}
	}
}

// The bridge lets people in as the broker does, with the rights that their roles and the rules give them, with and without access control; and
// puts out who is no user any more.
func TestBridge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]*config.Config{"with access control": ruled(), "without": settings()} {
		t.Run(name, func(t *testing.T) {
			c.Integration.WebSocketBridge.Enabled, c.Integration.WebSocketBridge.Port = true, 0
			dir := t.TempDir()
			withRoles(t, dir, map[string]string{"vera": "viewer", "olga": "operator", "anna": "admin"})
			a := start(t, Options{Config: c, DataDir: dir, Version: "1.2.3"})
			url := a.Bridge().URLs()[0]
			stranger := &visitor{t: t, url: url}
			if status, _ := stranger.do(http.MethodGet, "/api/services", nil); status != http.StatusUnauthorized {
				t.Errorf("without a login: %d", status)
			}
			if status, _ := stranger.do(http.MethodPost, "/api/login", map[string]string{"name": "anna", "password": "x"}); status != http.StatusUnauthorized {
				t.Errorf("wrong password: %d", status)
			}
			vera, olga, anna := (&visitor{t: t, url: url}).login("vera"), (&visitor{t: t, url: url}).login("olga"), (&visitor{t: t, url: url}).login("anna")
			for who, v := range map[string]*visitor{"vera": vera, "olga": olga, "anna": anna} {
				if status, answer := v.do(http.MethodGet, "/api/services/emergency_stop", nil); status != http.StatusOK || answer["version"] != "1.2.3" {
					t.Errorf("%s looks at a service: %d %v", who, status, answer)
				}
				want := http.StatusOK
				if who == "vera" {
					want = http.StatusForbidden
				}
				if status, answer := v.do(http.MethodPost, "/api/services/web_bridge/commands/ping", map[string]any{}); status != want {
					t.Errorf("%s sends a command: %d %v, want %d", who, status, answer, want)
				}
				if status, answer := v.do(http.MethodPost, "/api/emergency-stop", map[string]any{"engaged": true, "reason": who}); status != http.StatusOK {
					t.Errorf("%s engages: %d %v", who, status, answer)
				}
			}
			for who, v := range map[string]*visitor{"vera": vera, "olga": olga} {
				if status, answer := v.do(http.MethodPost, "/api/emergency-stop", map[string]any{"engaged": false, "sequence": a.Hub().Status().Sequence}); status != http.StatusForbidden {
					t.Errorf("%s releases: %d %v", who, status, answer)
				}
			}
			eventually(t, "released by an admin", func() bool {
				status, _ := anna.do(http.MethodPost, "/api/emergency-stop", map[string]any{"engaged": false, "sequence": a.Hub().Status().Sequence})
				return status == http.StatusOK
			})

			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			ws, res, err := websocket.Dial(ctx, url+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{
				"Origin": {url}, "Cookie": {vera.cookie.Name + "=" + vera.cookie.Value},
			}})
			if err != nil {
				t.Fatal(err)
			}
			if res.Body != nil {
				_ = res.Body.Close()
			}
			if err := identity.Edit(dir, func(b *identity.Book) error { return b.Remove("vera") }); err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, _, err = ws.Read(ctx)
			}
			if closed := (websocket.CloseError{}); !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation {
				t.Errorf("who is no user any more: %v", err)
			}
			if status, _ := vera.do(http.MethodGet, "/api/services", nil); status != http.StatusUnauthorized {
				t.Errorf("who is no user any more asks: %d", status)
			}
			_ = ws.CloseNow()
		})
	}
}

// A port that is taken is named, with the key; or another one is taken, where any will do.
func TestBridgePortTaken(t *testing.T) {
	t.Parallel()
	c := settings()
	c.Integration.WebSocketBridge.Enabled, c.Integration.WebSocketBridge.Port = true, occupy(t)
	if urls := start(t, Options{Config: c, AnyPort: true}).Bridge().URLs(); len(urls) != 1 || !strings.HasPrefix(urls[0], "http://127.0.0.1:") {
		t.Errorf("on any port: %v", urls)
	}
	a, err := Start(t.Context(), Options{Config: c})
	if err == nil {
		_ = a.Stop(context.Background())
	}
	var taken *PortError
	if !errors.As(err, &taken) || taken.Key != "integration.websocket_bridge.port" {
		t.Errorf("got %v", err)
	}
}
