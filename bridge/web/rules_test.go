package web_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
)

// get asks for something and returns the answer without its body.
func (w *world) get(path string) *http.Response {
	w.t.Helper()
	q, err := http.NewRequestWithContext(testContext(w.t), http.MethodGet, w.url+path, nil)
	check(w.t, err)
	res, err := httpClient.Do(q)
	check(w.t, err)
	_ = res.Body.Close()
	return res
}

// TestHeaders has browsers take nothing for what it is not, run no script but ours, show us in no frame, and keep nothing but what never changes.
func TestHeaders(t *testing.T) {
	w := newWorld(t, web.Options{})
	_, page := w.request("GET", "/", nil)
	assets := regexp.MustCompile(`/assets/[^"]+`).FindAllString(string(page), -1)
	if len(assets) < 2 {
		t.Fatalf("the page names no script or style: %s", page)
	}
	want := map[string][2]string{ // Cache-Control and type
		"/":                 {"no-cache", "text/html; charset=utf-8"},
		"/api/services":     {"no-store", "application/json"},
		"/api/openapi.json": {"no-cache", "application/json"},
		"/api/nothing":      {"no-store", "application/problem+json"},
		"/assets/none.js":   {"no-store", "application/problem+json"},
	}
	for _, a := range assets {
		kind := "text/javascript; charset=utf-8"
		if strings.HasSuffix(a, ".css") {
			kind = "text/css; charset=utf-8"
		}
		want[a] = [2]string{"public, max-age=31536000, immutable", kind}
	}
	for path, x := range want {
		h := w.get(path).Header
		for name, value := range map[string]string{
			"Cache-Control": x[0], "Content-Type": x[1], "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Access-Control-Allow-Origin": "",
		} {
			if got := h.Get(name); got != value {
				t.Errorf("%s: %s is %q, want %q", path, name, got, value)
			}
		}
		policy := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'self'", "object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the content policy %q lacks %q", path, policy, part)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
			t.Errorf("%s: the content policy %q lets in too much", path, policy)
		}
	}
}

// TestPostsAreJSON refuses whatever else is posted, also where nothing is to be read: a form on a foreign page sends no JSON.
func TestPostsAreJSON(t *testing.T) {
	w := newWorld(t, web.Options{})
	n := 0
	for _, pattern := range web.Routes(w.bridge) {
		path, post := strings.CutPrefix(pattern, "POST ")
		if !post {
			continue
		}
		n++
		path = strings.NewReplacer("{id}", "mover", "{command}", "move").Replace(path)
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "x", "application/json2", ""} {
			if status, body := w.request("POST", path, map[string]any{"engaged": true}, "Content-Type", kind); status != http.StatusUnsupportedMediaType || !contains(body, `"status":415`) {
				t.Errorf("%s as %q: %d %s", path, kind, status, body)
			}
		}
		if status, body := w.request("POST", path, map[string]any{}, "Content-Type", "application/json; charset=utf-8"); status == http.StatusUnsupportedMediaType {
			t.Errorf("%s as JSON: %d %s", path, status, body)
		}
	}
	if n < 5 || w.hub.Status().Sequence != 1 {
		t.Errorf("%d paths, the emergency stop is at %d", n, w.hub.Status().Sequence)
	}
}

// TestConfigIsForAdmins shows the configuration to admins only, where people log in.
func TestConfigIsForAdmins(t *testing.T) {
	users := accounts{"vera": "viewer", "olga": "operator", "anna": "admin"}
	w := newWorld(t, web.Options{Login: users, Config: func() []web.ConfigValue { return []web.ConfigValue{{Key: "broker.port", Value: 1883}} }})
	for name, want := range map[string]int{"vera": 403, "olga": 403, "anna": 200, "": 401} {
		header := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+name+"-password"))}
		status, body := w.request("GET", "/api/config", nil, header...)
		if status != want || (status == 200) != contains(body, "broker.port") {
			t.Errorf("%q: %d %s, want %d", name, status, body, want)
		}
		if want == 403 && !contains(body, `"title":"not allowed"`, `"code":"forbidden"`, "for admins") {
			t.Errorf("%q is told %s", name, body)
		}
	}
}

// TestReleaseIsRefused says what stands against a release.
func TestReleaseIsRefused(t *testing.T) {
	w := newWorld(t, web.Options{})
	watch, err := safety.OpenLatch(testContext(t), w.svc.Client(), safety.LatchOptions{})
	check(t, err)
	w.stopped(watch.Close)
	check(t, watch.SetHazard(testContext(t), "person", "somebody is 2 m away"))
	eventually(t, "the hub knows of it", func() bool { return len(w.hub.Status().Against) > 0 })
	d := w.openAPI(t)
	status, body := w.request("POST", "/api/emergency-stop", map[string]any{"engaged": false, "sequence": w.hub.Status().Sequence})
	d.validate("POST", "/api/emergency-stop", status, body)
	var p struct {
		Status  int      `json:"status"`
		Code    string   `json:"code"`
		Reasons []string `json:"reasons"`
	}
	check(t, json.Unmarshal(body, &p))
	if status != 409 || p.Status != 409 || p.Code != "refused" || !strings.Contains(strings.Join(p.Reasons, "; "), "somebody is 2 m away") || !w.hub.Status().Engaged {
		t.Fatalf("%d %s", status, body)
	}
	watch.ClearHazard("person")
	eventually(t, "released", func() bool {
		status, _ := w.request("POST", "/api/emergency-stop", map[string]any{"engaged": false, "sequence": w.hub.Status().Sequence})
		return status == 200 && !w.hub.Status().Engaged
	})
}

// TestOldValues has a bridge start where something is retained: its age counts from when it was sent, and it is no latency.
func TestOldValues(t *testing.T) {
	w := newWorld(t, web.Options{})
	m, err := message.NewSensorData("mover", message.SensorData{SensorType: "position", Data: map[string]int{"x": 1}, Quality: 1, Status: "healthy"})
	check(t, err)
	m.Metadata.Timestamp = message.Seconds(time.Now().Add(-100 * time.Second))
	check(t, w.client("old").Publish(testContext(t), "navigation/position", m))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check(t, w.bridge.Stop(ctx))
	w.bridge, err = web.Start(ctx, web.Options{Client: client.Options{URL: w.broker.URL()}, Addresses: []string{"127.0.0.1:0"}})
	check(t, err)
	w.stopped(w.bridge.Stop)
	w.url = w.bridge.URLs()[0]
	var v struct {
		Age   float64 `json:"age_s"`
		Stale float64 `json:"stale_after_s"`
	}
	eventually(t, "it is there", func() bool {
		status, body := w.request("GET", "/api/topics/navigation/position", nil)
		return status == 200 && json.Unmarshal(body, &v) == nil
	})
	if v.Age < 100 || v.Age > 200 || v.Stale != 10 {
		t.Errorf("its age is %v, stale after %v", v.Age, v.Stale)
	}
	p := w.open(v1)
	p.send(map[string]any{"op": "subscribe", "id": 1, "filter": "navigation/#", "history": true})
	if f := p.on("lawnberry/navigation/position"); f["history"] != true || f["age_s"].(float64) < 100 {
		t.Errorf("history: %v", f)
	}
	var s struct {
		OneWay struct {
			Max float64 `json:"max_ms"`
		} `json:"one_way"`
	}
	_, body := w.request("GET", "/api/stats", nil)
	check(t, json.Unmarshal(body, &s))
	if s.OneWay.Max > 50_000 {
		t.Errorf("it counts as a latency: %s", body)
	}
}
