package web_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/message"
)

// A document is openapi.json, as the bridge serves it.
type document struct {
	t     *testing.T
	doc   map[string]any
	comp  *jsonschema.Compiler
	asked map[string]bool // operations
}

func (w *world) openAPI(t *testing.T) *document {
	t.Helper()
	status, body := w.request("GET", "/api/openapi.json", nil)
	if status != 200 {
		t.Fatalf("openapi.json: %d %s", status, body)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	check(t, err)
	d := &document{t: t, doc: v.(map[string]any), comp: jsonschema.NewCompiler(), asked: map[string]bool{}}
	check(t, d.comp.AddResource("openapi.json", v))
	return d
}

// validate checks an answer against what the document says of it.
func (d *document) validate(method, path string, status int, body []byte) {
	d.t.Helper()
	operation := strings.ToLower(method)
	d.asked[operation+" "+path] = true
	code, media := "default", "application/problem+json"
	switch status {
	case 200:
		code, media = "200", "application/json"
	case 204:
		if len(body) > 0 {
			d.t.Errorf("%s %s: 204 with a body", method, path)
		}
		return
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace
	pointer := "openapi.json#/paths/" + escape(path) + "/" + operation + "/responses/" + code + "/content/" + escape(media) + "/schema"
	schema, err := d.comp.Compile(pointer)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		d.t.Errorf("%s %s: %d %s: %v", method, path, status, body, err)
	}
}

// TestAPI asks for everything, sees the right answers, and that each is as openapi.json says; and that it describes what there is, no more and no less.
func TestAPI(t *testing.T) {
	w := newWorld(t, web.Options{Version: "9", Stats: func() any { return map[string]int{"connections": 3} }, Config: func() []web.ConfigValue { return []web.ConfigValue{{Key: "broker.port", Value: 1883}} }})
	d := w.openAPI(t)
	w.sensor("gps", 1)
	check(t, w.svc.EmitAlert(testContext(t), message.Alert{AlertType: "tilt", Severity: "error", Message: "It leans"}))
	eventually(t, "the commands", func() bool {
		s, b := w.request("GET", "/api/services/mover", nil)
		return s == 200 && contains(b, `"Moves it."`)
	})
	eventually(t, "the alert", func() bool { _, b := w.request("GET", "/api/alerts", nil); return contains(b, `"It leans"`) })
	eventually(t, "the reading", func() bool { s, _ := w.request("GET", "/api/topics/sensors/gps/data", nil); return s == 200 })
	const command = "/api/services/{id}/commands/{command}"
	for _, c := range []struct {
		method, path, operation string
		body                    any
		status                  int
		parts                   []string
	}{
		{"GET", "/api/openapi.json", "", nil, 200, []string{`"openapi"`}},
		{"GET", "/api/session", "", nil, 200, []string{`"login":false`}},
		{"POST", "/api/login", "", map[string]string{"name": "x", "password": "y"}, 409, []string{"no login is needed"}},
		{"POST", "/api/logout", "", nil, 204, nil},
		{"GET", "/api/services", "", nil, 200, []string{`"mover"`, `"emergency_stop"`, `"web_bridge"`}},
		{"GET", "/api/services?type=hardware", "/api/services", nil, 200, []string{`"mover"`}},
		{"GET", "/api/services/mover", "/api/services/{id}", nil, 200, []string{`"version":"1.2.3"`, `"metres"`}},
		{"GET", "/api/services/nobody", "/api/services/{id}", nil, 404, []string{"no service nobody"}},
		{"POST", "/api/services/mover/commands/move", command, move{X: 3}, 200, []string{`{"result":{"x":3}}`}},
		{"POST", "/api/services/mover/commands/move", command, nil, 200, []string{`{"result":{"x":0}}`}},
		{"POST", "/api/services/mover/commands/move", command, move{Fails: true}, 502, []string{`"code":"failed"`, "the wheel is stuck"}},
		{"POST", "/api/services/mover/commands/move", command, map[string]string{"x": "far"}, 400, []string{"parameters.x must be a number"}},
		{"POST", "/api/services/mover/commands/move?timeout=100ms", command, move{Hangs: true}, 504, []string{`"code":"timeout"`}},
		{"POST", "/api/services/mover/commands/move?timeout=x", command, move{}, 400, []string{"want a duration"}},
		{"POST", "/api/services/mover/commands/fly", command, nil, 404, []string{`"code":"unknown_command"`}},
		{"POST", "/api/services/nobody/commands/fly", command, nil, 404, []string{`"code":"no_such_service"`}},
		{"GET", "/api/topics", "", nil, 200, []string{`"lawnberry/sensors/gps/data"`, `"stale_after_s":15`, `"stale_after_s":90`, `"stale_after_s":0`}},
		{"GET", "/api/topics?data", "/api/topics", nil, 200, []string{`"sensor_type":"gps"`}},
		{"GET", "/api/topics/sensors/gps/data", "/api/topics/{topic}", nil, 200, []string{`"age_s":`, `"sensor_type":"gps"`, `"limit_per_min":100`, `"stale_after_s":15`}},
		{"GET", "/api/topics/lawnberry/sensors/gps/data", "/api/topics/{topic}", nil, 200, []string{`"sensor_type":"gps"`}},
		{"GET", "/api/topics/sensors%2Fgps%2Fdata", "/api/topics/{topic}", nil, 200, []string{`"sensor_type":"gps"`}},
		{"GET", "/api/topics/sensors/none/data", "/api/topics/{topic}", nil, 404, []string{"nothing has come"}},
		{"GET", "/api/alerts", "", nil, 200, []string{`"alert_type":"tilt"`, `"action":"raised"`}},
		{"POST", "/api/alerts/tilt/ack", "/api/alerts/{id}/ack", nil, 204, nil},
		{"POST", "/api/alerts/none/ack", "/api/alerts/{id}/ack", nil, 404, []string{"no alert none"}},
		{"GET", "/api/health", "", nil, 200, []string{`"connected":true`}},
		{"GET", "/api/stats", "", nil, 200, []string{`"p99_ms"`, `"broker":{"connections":3}`}},
		{"GET", "/api/config", "", nil, 200, []string{`"key":"broker.port"`}},
		{"GET", "/api/emergency-stop", "", nil, 200, []string{`"engaged":true`, "it has never been released"}},
		{"POST", "/api/emergency-stop", "", map[string]any{}, 400, []string{"engaged is missing"}},
		{"POST", "/api/emergency-stop", "", map[string]any{"engaged": false}, 400, []string{"sequence"}},
		{"POST", "/api/emergency-stop", "", map[string]any{"engaged": false, "sequence": 9}, 409, []string{`"code":"refused"`, "its sequence is 1 now"}},
		{"POST", "/api/emergency-stop", "", map[string]any{"engaged": false, "sequence": 1}, 200, []string{`"engaged":false`}},
		{"POST", "/api/emergency-stop", "", map[string]any{"engaged": true, "reason": "a dog"}, 200, []string{`"engaged":true`, "a dog, by somebody on the web page"}},
	} {
		status, body := w.request(c.method, c.path, c.body)
		if status != c.status || !contains(body, c.parts...) {
			t.Errorf("%s %s: %d %s, want %d with %q", c.method, c.path, status, body, c.status, c.parts)
		}
		operation := c.operation
		if operation == "" {
			operation = c.path
		}
		d.validate(c.method, operation, status, body)
	}
	eventually(t, "engaged", func() bool { s := w.hub.Status(); return s.Engaged && strings.Contains(s.Reason, "a dog") })
	n := 0
	for path, operations := range d.doc["paths"].(map[string]any) {
		for method := range operations.(map[string]any) {
			n++
			if !d.asked[method+" "+path] {
				t.Errorf("openapi.json describes %s %s, which was not asked for here", method, path)
			}
		}
	}
	if routes := web.Routes(w.bridge); len(routes) != n {
		t.Errorf("%d routes, %d in openapi.json: %v", len(routes), n, routes)
	}
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n"} {
		if status, body := w.request("GET", path, nil); status != 200 || string(body) != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	check(t, w.broker.Stop(ctx))
	w.gone = true
	eventually(t, "not ready", func() bool { s, b := w.request("GET", "/readyz", nil); return s == 503 && contains(b, "no connection") })
	if status, body := w.request("GET", "/healthz", nil); status != 200 {
		t.Errorf("alive: %d %s", status, body)
	}
}
