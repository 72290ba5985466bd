package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/bridge/web"
)

// TestStrangers refuses what other sites, names that were pointed here, and programs that do not say where they are from ask for; and commands over GET.
func TestStrangers(t *testing.T) {
	w := newWorld(t, web.Options{Origins: []string{"https://mower.example"}, Hosts: []string{"garden.example"}})
	host := strings.TrimPrefix(w.url, "http://")
	port := host[strings.LastIndex(host, ":"):]
	const command = "/api/services/mover/commands/move"
	for name, c := range map[string]struct {
		method, path string
		header       []string
		status       int
	}{
		"own page":             {"POST", command, nil, 200},
		"page of another port": {"POST", command, []string{"Origin", "http://127.0.0.1:1"}, 403},
		"other site":           {"POST", command, []string{"Origin", "http://evil.example"}, 403},
		"no origin":            {"POST", command, []string{"Origin", ""}, 403},
		"opaque origin":        {"POST", command, []string{"Origin", "null"}, 403},
		"site that is let in":  {"POST", command, []string{"Origin", "https://mower.example"}, 200},
		"rebinding":            {"POST", command, []string{"Host", "evil.example" + port, "Origin", "http://evil.example" + port}, 403},
		"rebinding, reading":   {"GET", "/api/services", []string{"Host", "evil.example" + port}, 403},
		"name of ours":         {"GET", "/api/services", []string{"Host", "garden.example" + port}, 200},
		"localhost":            {"GET", "/api/services", []string{"Host", "localhost" + port}, 200},
		"other site, reading":  {"GET", "/api/services", []string{"Origin", "http://evil.example"}, 403},
		"other site's image":   {"GET", "/api/services", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		"a link to us":         {"GET", "/api/services", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
		"command over GET":     {"GET", command, nil, 405},
		"ack over GET":         {"GET", "/api/alerts/tilt/ack", nil, 405},
		"form":                 {"POST", "/api/emergency-stop", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		"text":                 {"POST", "/api/emergency-stop", []string{"Content-Type", "text/plain"}, 415},
		"command by PUT":       {"PUT", command, nil, 405},
		"nothing":              {"GET", "/api/nothing", nil, 404},
	} {
		var body any
		if c.method == "POST" {
			body = map[string]any{}
		}
		status, answer := w.request(c.method, c.path, body, c.header...)
		if status != c.status {
			t.Errorf("%s: %d %s, want %d", name, status, answer, c.status)
		}
	}
	for name, header := range map[string][]string{
		"no origin":  {"Origin", ""},
		"other site": {"Origin", "http://evil.example"},
		"opaque":     {"Origin", "null"},
	} {
		if _, err := w.dial(v1, header...); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("WebSocket, %s: %v", name, err)
		}
	}
	if _, err := w.dial(v1, "Origin", "https://mower.example"); err != nil {
		t.Errorf("a site that is let in: %v", err)
	}
}

// accounts are users for tests: role by name. The password is the name and "-password".
type accounts map[string]string

func (a accounts) Needed() bool { return len(a) > 0 }
func (a accounts) Check(_ context.Context, name, password, _ string) error {
	if _, ok := a[name]; ok && password == name+"-password" {
		return nil
	}
	return errors.New("wrong")
}
func (a accounts) Known(name string) bool  { return a[name] != "gone" }
func (a accounts) Role(name string) string { return a[name] }

// rights are those of viewers and operators.
type rights struct{ role string }

func (r rights) MayReceive(topic string) bool {
	return !strings.HasPrefix(topic, "lawnberry/commands/") && !strings.HasPrefix(topic, "lawnberry/responses/") && topic != "lawnberry/system/events/secret"
}

func (r rights) MaySend(_ string, payload []byte) error {
	if r.role == "viewer" || strings.Contains(string(payload), `"release"`) {
		return errors.New("a " + r.role + " may not")
	}
	return nil
}

// TestLogin lets nobody in who has not logged in, and gives each what their role may.
func TestLogin(t *testing.T) {
	users := accounts{"vera": "viewer", "olga": "operator", "anna": "admin"}
	w := newWorld(t, web.Options{Login: users, Rights: func(user string) (web.Rights, error) {
		if users[user] == "admin" {
			return nil, nil //nolint:nilnil // everything
		}
		return rights{users[user]}, nil
	}})
	for _, path := range []string{"/api/services", "/api/topics", "/api/emergency-stop", "/api/stats"} {
		if status, body := w.request("GET", path, nil); status != 401 || !contains(body, "POST /api/login") {
			t.Errorf("%s without a login: %d %s", path, status, body)
		}
	}
	if _, err := w.dial(v1); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("WebSocket without a login: %v", err)
	}
	if status, body := w.request("POST", "/api/login", map[string]string{"name": "vera", "password": "x"}); status != 401 {
		t.Errorf("wrong password: %d %s", status, body)
	}
	login := func(name string) string {
		t.Helper()
		raw, err := json.Marshal(map[string]string{"name": name, "password": name + "-password"})
		check(t, err)
		q, err := http.NewRequestWithContext(testContext(t), http.MethodPost, w.url+"/api/login", bytes.NewReader(raw))
		check(t, err)
		q.Header.Set("Origin", w.url)
		q.Header.Set("Content-Type", "application/json")
		res, err := httpClient.Do(q)
		check(t, err)
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK || len(res.Cookies()) != 1 {
			t.Fatalf("login: %d, %v", res.StatusCode, res.Cookies())
		}
		c := res.Cookies()[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || len(c.Value) < 20 {
			t.Errorf("cookie %v", c)
		}
		return c.Name + "=" + c.Value
	}
	vera, olga, anna := login("vera"), login("olga"), login("anna")
	if status, body := w.request("GET", "/api/session", nil, "Cookie", vera); status != 200 || !contains(body, `"user":"vera"`, `"role":"viewer"`) {
		t.Errorf("session: %d %s", status, body)
	}
	const command = "/api/services/mover/commands/move"
	for cookie, want := range map[string]int{vera: 403, olga: 200, anna: 200} {
		if status, body := w.request("POST", command, move{X: 1}, "Cookie", cookie); status != want {
			t.Errorf("command: %d %s, want %d", status, body, want)
		}
	}

	// Everybody may engage, and who may not release it cannot.
	for _, cookie := range []string{vera, olga} {
		if status, body := w.request("POST", "/api/emergency-stop", map[string]any{"engaged": true, "reason": "test"}, "Cookie", cookie); status != 200 {
			t.Errorf("engage: %d %s", status, body)
		}
		if status, body := w.request("POST", "/api/emergency-stop", map[string]any{"engaged": false, "sequence": w.hub.Status().Sequence}, "Cookie", cookie); status != 403 {
			t.Errorf("release: %d %s", status, body)
		}
	}
	eventually(t, "the reason", func() bool {
		causes := w.hub.Status().Causes
		return strings.Contains(causes[len(causes)-1].Reason, "by olga on the web page")
	})
	eventually(t, "released", func() bool {
		status, _ := w.request("POST", "/api/emergency-stop", map[string]any{"engaged": false, "sequence": w.hub.Status().Sequence}, "Cookie", anna)
		return status == 200
	})
	if by := w.hub.Status().By; !strings.Contains(by, "anna") {
		t.Errorf("released by %q", by)
	}

	// What a viewer may not receive does not come.
	p, err := w.dial(v1, "Cookie", vera)
	check(t, err)
	p.send(map[string]any{"op": "subscribe", "id": 1, "filter": "#", "history": true})
	p.answer(1)
	check(t, w.svc.EmitEvent(testContext(t), "secret", nil))
	check(t, w.svc.EmitEvent(testContext(t), "open", nil))
	if m := p.next(func(m map[string]any) bool {
		name, _ := m["topic"].(string)
		return name == "lawnberry/system/events/secret" || name == "lawnberry/system/events/open"
	}); m["topic"] != "lawnberry/system/events/open" {
		t.Errorf("got %v", m)
	}
	p.send(map[string]any{"op": "publish", "id": 2, "topic": "system/events/x", "data": 1})
	if m := p.answer(2); m["code"] != "forbidden" {
		t.Errorf("a viewer publishes: %v", m)
	}
	if status, _ := w.request("GET", "/api/topics/system/events/secret", nil, "Cookie", vera); status != 404 {
		t.Errorf("the secret: %d", status)
	}

	// A password of its own instead of a cookie, as programs send it, needs no origin.
	q, err := http.NewRequestWithContext(testContext(t), http.MethodPost, w.url+command, strings.NewReader(`{"x": 7}`))
	check(t, err)
	q.SetBasicAuth("olga", "olga-password")
	q.Header.Set("Content-Type", "application/json")
	res, err := httpClient.Do(q)
	check(t, err)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("a program: %d", res.StatusCode)
	}
	if status, _ := w.request("POST", "/api/logout", nil, "Cookie", olga); status != 204 {
		t.Errorf("logout: %d", status)
	}
	if status, _ := w.request("GET", "/api/services", nil, "Cookie", olga); status != 401 {
		t.Errorf("after logout: %d", status)
	}
}
