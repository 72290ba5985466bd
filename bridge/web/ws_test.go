package web_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lawnberry/lawnberry/bridge/web"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
)

const v1 = "lawnberry.v1"

// TestOldPage gets {"topic", "data"} for each message without asking, as pages always have.
func TestOldPage(t *testing.T) {
	w := newWorld(t, web.Options{})
	p := w.open("")
	p.send(map[string]any{"op": "ping", "id": 1}) // which is answered once the page is there
	p.answer(1)
	w.sensor("gps", 1)
	m := p.on("lawnberry/sensors/gps/data")
	data, _ := m["data"].(map[string]any)
	meta, _ := data["metadata"].(map[string]any)
	payload, _ := data["payload"].(map[string]any)
	if len(m) != 2 || meta["sender"] != "mover" || meta["message_type"] != "sensor_data" || payload["sensor_type"] != "gps" {
		t.Fatalf("got %v", m)
	}
	c := w.client("plain")
	for _, raw := range []string{`17`, `"text in JSON"`, `text`, `{"a": [1]}`, "\xff\x00"} {
		check(t, c.Publish(testContext(t), "sensors/raw/data", message.NewRaw([]byte(raw))))
		got, _ := json.Marshal(p.on("lawnberry/sensors/raw/data")["data"])
		want := map[string]string{"text": `"text"`, `{"a": [1]}`: `{"a":[1]}`, "\xff\x00": `{"base64":"/wA="}`}[raw]
		if want == "" {
			want = raw
		}
		if string(got) != want {
			t.Errorf("%q came as %s", raw, got)
		}
	}
}

func (w *world) client(id string) *client.Client {
	w.t.Helper()
	c, err := client.Connect(testContext(w.t), client.Options{URL: w.broker.URL(), ID: id})
	check(w.t, err)
	w.stopped(c.Close)
	return c
}

// TestSubscribe gets what was subscribed to and nothing else, with the last values if asked for, until it is unsubscribed.
func TestSubscribe(t *testing.T) {
	w := newWorld(t, web.Options{})
	w.sensor("gps", 1)
	eventually(t, "the bridge has it", func() bool { s, _ := w.request("GET", "/api/topics/sensors/gps/data", nil); return s == 200 })
	p := w.open(v1)
	p.send(map[string]any{"op": "subscribe", "id": "a", "filter": "sensors/+/data", "history": true})
	if m := p.answer("a"); m["op"] != "ok" {
		t.Fatalf("answer %v", m)
	}
	if m := p.on("lawnberry/sensors/gps/data"); m["history"] != true || m["age_s"] == nil {
		t.Fatalf("last value %v", m)
	}
	w.sensor("imu", 2)
	check(t, w.svc.EmitEvent(testContext(t), "noise", nil))
	w.sensor("gps", 3)
	seen := []string{}
	for len(seen) < 2 {
		m := p.next(func(m map[string]any) bool { return m["topic"] != nil })
		seen = append(seen, m["topic"].(string))
	}
	if strings.Join(seen, " ") != "lawnberry/sensors/imu/data lawnberry/sensors/gps/data" {
		t.Fatalf("got %v", seen)
	}
	p.send(map[string]any{"op": "unsubscribe", "id": 2, "filter": "lawnberry/sensors/+/data"})
	p.answer(2)
	w.sensor("gps", 4)
	p.send(map[string]any{"op": "subscribe", "id": 3, "filter": "commands/mover"}) // which the bridge does not hear otherwise
	p.answer(3)
	check(t, w.client("someone").Call(testContext(t), "mover", "move", move{X: 1}, nil))
	if m := p.next(func(m map[string]any) bool { return m["topic"] != nil }); m["topic"] != "lawnberry/commands/mover" {
		t.Fatalf("after unsubscribe: %v", m)
	}
	for _, bad := range []map[string]any{
		{"op": "subscribe", "filter": "a/#/b"}, {"op": "subscribe", "filter": ""}, {"op": "subscribe", "filter": "sensors/#", "rate": -1},
		{"op": "unsubscribe", "filter": "sensors/x"}, {"op": "fly"}, {}, {"op": "publish", "topic": "a/#", "data": 1},
		{"op": "call", "service": "a/b", "command": "x"}, {"op": "call", "service": "mover"}, {"op": "call", "service": "mover", "command": "move", "parameters": 7},
		{"op": "cancel", "call": 9},
	} {
		bad["id"] = "bad"
		p.send(bad)
		if m := p.answer("bad"); m["op"] != "error" || m["code"] == "" || m["message"] == "" {
			t.Errorf("%v: %v", bad, m)
		}
	}
	p.send("not JSON")
	p.next(func(m map[string]any) bool { return m["code"] == "bad_request" })
	check(t, p.ws.Write(testContext(t), websocket.MessageBinary, []byte{1, 2}))
	p.next(func(m map[string]any) bool { return m["code"] == "binary" })
}

// TestRate gets the latest of many values, a few times a second.
func TestRate(t *testing.T) {
	w := newWorld(t, web.Options{})
	c := w.client("fast")
	p := w.open(v1)
	p.send(map[string]any{"op": "subscribe", "id": 1, "filter": "sensors/+/data", "rate": 5})
	p.answer(1)
	const n = 500
	began := time.Now()
	for i := 1; i <= n; i++ {
		for _, s := range []string{"a", "b"} {
			m, err := message.NewSensorData("fast", message.SensorData{SensorType: s, Data: map[string]int{"value": i}, Quality: 1, Status: "healthy"})
			check(t, err)
			r := c.PublishAsync("sensors/"+s+"/data", m, client.Unlimited())
			if i == n {
				check(t, r.Wait(testContext(t)))
			}
		}
		time.Sleep(time.Millisecond)
	}
	got, last := 0, map[string]bool{}
	for len(last) < 2 {
		m := p.next(func(m map[string]any) bool { return m["topic"] != nil })
		got++
		raw, _ := json.Marshal(m["data"])
		if strings.Contains(string(raw), `"value":500`) {
			last[m["topic"].(string)] = true
		}
	}
	if most := 2 * (int(time.Since(began).Seconds()*5) + 2); got > most {
		t.Errorf("%d messages of %d came at 5 a second, want %d at most", got, 2*n, most)
	}
}

// TestCalls sends commands: with progress, to nobody, failing, cancelled, and too many at once.
func TestCalls(t *testing.T) {
	w := newWorld(t, web.Options{})
	p := w.open(v1)
	p.send(map[string]any{"op": "call", "id": 1, "service": "mover", "command": "move", "parameters": move{X: 2}, "progress": true})
	if m := p.next(func(m map[string]any) bool { return equal(m["id"], 1) }); m["op"] != "progress" || !equal(m["value"], 50) {
		t.Fatalf("progress: %v", m)
	}
	if m := p.answer(1); m["op"] != "result" || !equal(m["result"], map[string]int{"x": 2}) {
		t.Fatalf("result: %v", m)
	}
	for want, q := range map[string]map[string]any{
		"failed":          {"service": "mover", "command": "move", "parameters": move{Fails: true}},
		"no_such_service": {"service": "nobody", "command": "move"},
		"unknown_command": {"service": "mover", "command": "fly"},
		"bad_parameters":  {"service": "mover", "command": "move", "parameters": map[string]any{"x": "far"}},
		"timeout":         {"service": "mover", "command": "move", "parameters": move{Hangs: true}, "timeout": 0.1},
	} {
		q["op"], q["id"] = "call", want
		p.send(q)
		if m := p.answer(want); m["op"] != "error" || m["code"] != want || m["message"] == "" {
			t.Errorf("want %s: %v", want, m)
		}
	}
	for i := range 17 {
		p.send(map[string]any{"op": "call", "id": 100 + i, "service": "mover", "command": "move", "parameters": move{Hangs: true}})
	}
	if m := p.answer(116); m["code"] != "too_many" {
		t.Errorf("the seventeenth at once: %v", m)
	}
	p.send(map[string]any{"op": "cancel", "id": "c", "call": 100})
	if m := p.next(func(m map[string]any) bool { return equal(m["id"], 100) && m["op"] == "error" }); m["code"] != "cancelled" {
		t.Errorf("cancelled: %v", m)
	}
	p.send(map[string]any{"op": "publish", "id": "p", "topic": "system/events/hello", "data": map[string]any{"a": 1}})
	if m := p.answer("p"); m["op"] != "ok" {
		t.Errorf("publish: %v", m)
	}
}

// TestTooManyPages says why the eleventh is not let in, and lets one in when another leaves.
func TestTooManyPages(t *testing.T) {
	w := newWorld(t, web.Options{MaxConnections: 2})
	w.open(v1)
	p := w.open("")
	eventually(t, "two are there", func() bool { return w.bridge.Stats().Connections == 2 })
	third := w.open(v1)
	_, _, err := third.ws.Read(testContext(t))
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusTryAgainLater || !strings.Contains(closed.Reason, "too many connections: 2") {
		t.Fatalf("the third: %v", err)
	}
	check(t, p.ws.Close(websocket.StatusNormalClosure, ""))
	eventually(t, "one has left", func() bool { return w.bridge.Stats().Connections == 1 })
	again := w.open(v1)
	again.send(map[string]any{"op": "ping", "id": 1})
	again.answer(1)
}

// TestOddNumbers sends times and rates that no clock holds, and a stop that has the id of something that waits.
func TestOddNumbers(t *testing.T) {
	w := newWorld(t, web.Options{})
	p := w.open(v1)
	p.send(`{"op":"call","id":1,"service":"mover","command":"move","parameters":{"hangs":true},"timeout":1e300,"progress":true}`)
	p.next(func(m map[string]any) bool { return m["op"] == "progress" })
	p.send(`{"op":"engage","id":1,"timeout":1e300}`)
	if a := p.answer(1); a["op"] != "ok" {
		t.Errorf("engage: %v", a)
	}
	p.send(`{"op":"cancel","id":2,"call":1}`)
	if a := p.answer(2); a["op"] != "ok" {
		t.Errorf("the call waits no more: %v", a)
	}

	slow := w.open(v1)
	slow.send(`{"op":"subscribe","id":3,"filter":"system/events/slow","rate":1e-300}`)
	slow.answer(3)
	slow.send(`{"op":"subscribe","id":4,"filter":"system/events/other"}`)
	slow.answer(4)
	for i, topic := range []string{"slow", "slow", "slow", "other"} {
		p.send(fmt.Sprintf(`{"op":"publish","id":%d,"topic":"system/events/%s","data":1}`, 10+i, topic))
		if a := p.answer(10 + i); a["op"] != "ok" {
			t.Fatalf("publish: %v", a)
		}
	}
	var got []string
	for !slices.Contains(got, "lawnberry/system/events/other") {
		got = append(got, slow.next(func(m map[string]any) bool { return m["topic"] != nil })["topic"].(string))
	}
	if !slices.Equal(got, []string{"lawnberry/system/events/slow", "lawnberry/system/events/other"}) {
		t.Errorf("it got %v", got)
	}
}
