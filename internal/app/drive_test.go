package app

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/internal/demo"
)

// A tab is the WebSocket of a visitor.
type tab struct {
	t  *testing.T
	ws *websocket.Conn
}

func (v *visitor) open() *tab {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 20*time.Second)
	defer cancel()
	ws, res, err := websocket.Dial(ctx, v.url+"/ws", &websocket.DialOptions{Subprotocols: []string{"lawnberry.v1"}, HTTPHeader: http.Header{
		"Origin": {v.url}, "Cookie": {v.cookie.Name + "=" + v.cookie.Value},
	}})
	if err != nil {
		v.t.Fatal(err)
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	ws.SetReadLimit(1 << 20)
	v.t.Cleanup(func() { _ = ws.CloseNow() })
	return &tab{v.t, ws}
}

func (p *tab) send(text string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	if err := p.ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next frame in which all of parts are.
func (p *tab) next(parts ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, frame, err := p.ws.Read(ctx)
		if err != nil {
			p.t.Fatalf("waiting for %q: %v", parts, err)
		}
		all := true
		for _, part := range parts {
			all = all && strings.Contains(string(frame), part)
		}
		if all {
			return string(frame)
		}
	}
}

// The demo's mower is driven from a page by an operator, not by a viewer, and not while navigation drives; and stands when the page is gone.
func TestBridgeDrivesDemo(t *testing.T) {
	c := settings() // not in parallel: the logins of other tests need the processor
	c.Integration.WebSocketBridge.Enabled, c.Integration.WebSocketBridge.Port = true, 0
	dir := t.TempDir()
	withRoles(t, dir, map[string]string{"vera": "viewer", "olga": "operator"})
	a := start(t, Options{Config: c, DataDir: dir, Demo: &demo.Options{Seed: 1, Alone: true}})
	url := a.Bridge().URLs()[0]
	vera, olga := (&visitor{t: t, url: url}).login("vera"), (&visitor{t: t, url: url}).login("olga")
	watching := vera.open()
	watching.send(`{"op":"drive","id":1,"service":"hardware_interface"}`)
	if frame := watching.next(`"id":1`); !strings.Contains(frame, `"code":"forbidden"`) {
		t.Errorf("a viewer: %s", frame)
	}
	p := olga.open()
	p.send(`{"op":"drive","id":1,"service":"hardware_interface"}`)
	if frame := p.next(`"id":1`); strings.Contains(frame, `"op":"driving"`) { // on a busy machine the mowing may be interrupted for want of readings
		p.send(`{"op":"undrive","id":3}`)
		p.next(`"id":3`, `"op":"ok"`)
	} else if !strings.Contains(frame, `"code":"refused"`) { // by navigation, or somebody is near the mower
		t.Errorf("while it mows: %s", frame)
	}
	watching.send(`{"op":"subscribe","id":2,"filter":"sensors/motors/data"}`)
	watching.next(`"id":2`)
	var motors struct {
		Data struct {
			Payload struct {
				Data struct {
					Driver string  `json:"driver"`
					Linear float64 `json:"linear"`
				} `json:"data"`
			} `json:"payload"`
		} `json:"data"`
	}
	// reading reads until the motors are as they should be, 20 readings at most.
	reading := func(ok func(driver string, linear float64) bool) bool {
		t.Helper()
		for range 20 {
			motors.Data.Payload.Data.Driver, motors.Data.Payload.Data.Linear = "", 0
			if err := json.Unmarshal([]byte(watching.next(`"sensor_type":"motors"`)), &motors); err != nil {
				t.Fatal(err)
			}
			if ok(motors.Data.Payload.Data.Driver, motors.Data.Payload.Data.Linear) {
				return true
			}
		}
		return false
	}
	moved := false
	for end := time.Now().Add(time.Minute); !moved && time.Now().Before(end); { // people come near it, and the demo has it go on then
		if status, answer := olga.do(http.MethodPost, "/api/services/navigation/commands/pause", map[string]any{}); status != http.StatusOK {
			t.Logf("pause: %d %v", status, answer)
		}
		p.send(`{"op":"drive","id":2,"service":"hardware_interface"}`)
		if !strings.Contains(p.next(`"id":2`), `"op":"driving"`) {
			continue
		}
		pace := time.NewTicker(50 * time.Millisecond) // of a page
		for range 10 {
			p.send(`{"op":"setpoint","linear":0.2,"angular":0}`)
			<-pace.C
		}
		pace.Stop()
		moved = reading(func(driver string, linear float64) bool {
			return strings.HasPrefix(driver, "web_bridge-") && linear > 0
		})
		if !moved {
			p.send(`{"op":"undrive","id":3}`)
			p.next(`"id":3`)
		}
	}
	if !moved {
		t.Fatal("it cannot be driven")
	}
	_ = p.ws.CloseNow()
	if !reading(func(driver string, linear float64) bool {
		return !strings.HasPrefix(driver, "web_bridge-") && linear == 0
	}) {
		t.Error("it is driven by nobody")
	}
}
