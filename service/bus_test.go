package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

func asCommandError(err error) *client.CommandError {
	var failed *client.CommandError
	errors.As(err, &failed)
	return failed
}

type readSensor struct {
	SensorID string `json:"sensor_id"`
	Count    int    `json:"count"`
}

type reading struct {
	Value float64 `json:"value"`
}

func TestHandleAndCall(t *testing.T) {
	b := newBroker(t)
	caller := start(t, b, service.Options{ID: "caller"})
	svc := start(t, b, service.Options{ID: "hw", Type: "hardware"})
	service.Handle(svc, "read", func(ctx context.Context, p readSensor) (reading, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a handler without a deadline")
		}
		switch p.SensorID {
		case "broken":
			return reading{}, errors.New("no signal from the sensor")
		case "forbidden":
			return reading{}, &client.CommandError{Service: "hw", Command: "read", Code: client.CodeRefused, Message: "not while mowing"}
		case "panics":
			panic("index out of range")
		case "nan":
			return reading{math.NaN()}, nil
		}
		return reading{float64(p.Count) * 1.5}, nil
	})
	service.Handle(svc, "nothing", func(context.Context, any) (any, error) { return nil, nil })
	service.Handle(svc, "unencodable", func(context.Context, any) (any, error) { return func() {}, nil })
	service.Handle(svc, "empty", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	ctx := testContext(t)

	var r reading
	if err := caller.Call(ctx, "hw", "read", readSensor{"gps", 2}, &r); err != nil || r.Value != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := caller.Call(ctx, "hardware", "read", map[string]any{"count": 4}, &r); err != nil || r.Value != 6 {
		t.Errorf("by its type: %+v, %v", r, err)
	}
	if err := svc.Call(ctx, "hw", "read", readSensor{"gps", 6}, &r); err != nil || r.Value != 9 {
		t.Errorf("by itself: %+v, %v", r, err)
	}
	var nothing any = "something"
	if err := caller.Call(ctx, "hw", "nothing", nil, &nothing); err != nil || nothing != nil {
		t.Errorf("nothing: %v, %v", nothing, err)
	}
	if err := caller.Call(ctx, "hw", "empty", nil, nil); err != nil {
		t.Error(err)
	}

	tests := []struct {
		target, command string
		parameters      any
		code, text      string
	}{
		{"hw", "read", readSensor{"broken", 1}, client.CodeFailed, "no signal from the sensor"},
		{"hw", "read", readSensor{"panics", 1}, client.CodeFailed, "index out of range"},
		{"hw", "read", readSensor{"forbidden", 1}, client.CodeRefused, "not while mowing"},
		{"hw", "read", map[string]any{"count": "two"}, client.CodeBadParameters, "parameters.count must be a whole number, not string"},
		{"hw", "unencodable", nil, client.CodeFailed, ""},
		{"hw", "fly", nil, client.CodeUnknownCommand, `unknown command "fly", known are: empty, nothing, ping, read, shutdown, status, unencodable`},
		{"nobody", "fly", nil, client.CodeNoSuchService, "nobody"},
	}
	for _, test := range tests {
		err := caller.Call(ctx, test.target, test.command, test.parameters, nil)
		failed := asCommandError(err)
		if failed == nil || failed.Code != test.code || !strings.Contains(err.Error(), test.text) || failed.Command != test.command || failed.Service != test.target {
			t.Errorf("%s %s: %#v (%v), want code %s and %q", test.target, test.command, failed, err, test.code, test.text)
		}
	}
	if err := caller.Call(ctx, "hw", "read", readSensor{"nan", 1}, &r); err != nil {
		t.Errorf("NaN in a result: %v", err)
	}

	for name, register := range map[string]func(){
		"ping":  func() { service.Handle(svc, "ping", func(context.Context, any) (any, error) { return nil, nil }) },
		"empty": func() { service.Handle(svc, "", func(context.Context, any) (any, error) { return nil, nil }) },
		"nil":   func() { service.Handle[any, any](svc, "x", nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Handle accepted %s", name)
				}
			}()
			register()
		}()
	}
}

func TestCallOfAServiceThatLeft(t *testing.T) {
	b := newBroker(t)
	caller := start(t, b, service.Options{ID: "caller"})
	gone := start(t, b, service.Options{ID: "gone", Type: "worker"})
	awaitState(t, caller, "gone", service.Healthy)
	stop(t, gone)
	awaitState(t, caller, "gone", service.Offline)
	err := caller.Call(testContext(t), "gone", "ping", nil, nil)
	if failed := asCommandError(err); failed == nil || failed.Code != client.CodeOffline || !strings.Contains(err.Error(), "gone is offline, last seen") {
		t.Errorf("%v", err)
	}
	// A type of that name is another matter.
	start(t, b, service.Options{ID: "new", Type: "gone"})
	awaitState(t, caller, "new", service.Healthy)
	if err := caller.Call(testContext(t), "gone", "ping", nil, nil); err != nil {
		t.Errorf("a type with the id of a service that left: %v", err)
	}
}

func TestBuiltins(t *testing.T) {
	b := newBroker(t)
	caller := start(t, b, service.Options{ID: "caller"})
	start(t, b, service.Options{ID: "a"})
	var ping, status map[string]any
	if err := caller.Call(testContext(t), "a", "ping", nil, &ping); err != nil {
		t.Fatal(err)
	}
	if at, _ := ping["timestamp"].(float64); ping["pong"] != true || ping["service_id"] != "a" || math.Abs(at-message.Seconds(time.Now())) > 10 || ping["uptime"].(float64) < 0 || len(ping) != 4 {
		t.Errorf("ping: %v", ping)
	}
	if err := caller.Call(testContext(t), "a", "status", nil, &status); err != nil {
		t.Fatal(err)
	}
	if status["service_id"] != "a" || status["state"] != "healthy" || len(status) != 5 {
		t.Errorf("status: %v", status)
	}
	if m := status["metrics"].(map[string]any); m["memory_usage"].(float64) <= 0 || m["services"] != 2.0 {
		t.Errorf("metrics: %v", m)
	}
	if m := status["mqtt_stats"].(map[string]any); m["connected"] != true || m["messages_received"].(float64) <= 0 || m["protocol_version"] != 5.0 {
		t.Errorf("mqtt_stats: %v", m)
	}
}

// A program that has nothing but JSON calls a service by its id and by its type, and gets its answers; what is addressed
// to another is not answered.
func TestPlainPeer(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "python", "responses/py")
	svc := start(t, b, service.Options{ID: "gps_1", Type: "sensors"})
	service.Handle(svc, "read", func(_ context.Context, p readSensor) (reading, error) { return reading{float64(p.Count)}, nil })
	ask := func(topic, target, id string) {
		p.say("commands/"+topic, envelope("py", "command", map[string]any{"target": target, "command": "read", "parameters": map[string]any{"count": 7}},
			map[string]any{"correlation_id": id, "message_id": id, "priority": 2}))
	}
	ask("sensors", "somebody_else", "no")
	ask("sensors", "other_type", "neither")
	ask("sensors", "sensors", "by type")
	ask("sensors", "gps_1", "by id on the type's topic")
	ask("gps_1", "gps_1", "by id")
	var answered []string
	for range 3 {
		d := p.next("responses/py")
		answered = append(answered, d.Message.Metadata.CorrelationID)
		r, err := message.Payload[message.Response](d.Message)
		if err != nil || !r.Success || string(r.Result) != `{"value":7}` || r.Error != nil || d.Message.Metadata.Sender != "gps_1" {
			t.Errorf("%s: %+v, %v", d.Message.Payload, r, err)
		}
	}
	slices.Sort(answered)
	if !slices.Equal(answered, []string{"by id", "by id on the type's topic", "by type"}) {
		t.Errorf("answered: %v", answered)
	}
}

// Peers announce themselves in many ways; the topic says who they are.
func TestOddPeers(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "python")
	svc := start(t, b, service.Options{ID: "a"})
	retained := client.WithRetain(true)
	p.say("system/services/minimal/status", envelope("minimal", "status", map[string]any{"status": "healthy"}), retained)
	p.say("system/services/named/status", envelope("x", "status", map[string]any{"status": "healthy", "details": map[string]any{"service_id": "somebody_else"}}), retained)
	p.say("system/services/plain/status", "healthy", retained)
	p.say("system/services/custom/status", envelope("custom", "status", map[string]any{"status": "warming_up"}), retained)
	p.say("system/services/beat/status", envelope("beat", "heartbeat", map[string]any{"n": 1}), retained)
	p.say("system/services//status", envelope("empty", "status", map[string]any{"status": "healthy"}), retained)
	p.say("system/services/junk/status", "\x00\x01", retained)
	p.say("system/services/number/status", "17", retained)
	p.say("system/services/z/status", envelope("z", "status", map[string]any{"status": "healthy"}), retained)
	if err := svc.WaitFor(testContext(t), "z"); err != nil {
		t.Fatal(err)
	}
	want := map[string]service.State{"a": "healthy", "beat": "unknown", "custom": "warming_up", "minimal": "healthy", "named": "healthy", "plain": "healthy", "z": "healthy"}
	for i := range svc.Services("") {
		if want[i.ID] != i.State {
			t.Errorf("%s is %s, want %q", i.ID, i.State, want[i.ID])
		}
		delete(want, i.ID)
	}
	if len(want) > 0 {
		t.Errorf("unknown: %v", want)
	}
	p.say("system/services/minimal/status", "", retained)
	eventually(t, "minimal is forgotten", func() bool { _, known := svc.Service("minimal"); return !known })
}

func TestEvents(t *testing.T) {
	b := newBroker(t)
	ctx := testContext(t)
	svc := start(t, b, service.Options{ID: "a"})
	other := start(t, b, service.Options{ID: "other"})
	var mu sync.Mutex
	var all, some []service.Event
	note := func(to *[]service.Event) func(context.Context, service.Event) {
		return func(_ context.Context, e service.Event) {
			if e.EventType == "service_state_change" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			*to = append(*to, e)
		}
	}
	if _, err := other.OnEvent(ctx, "", note(&all)); err != nil {
		t.Fatal(err)
	}
	sub, err := other.OnEvent(ctx, "stripe", note(&some))
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, b, "python")
	p.say("system/events/stripe", "not an event")
	p.say("system/events/stripe", envelope("python", "status", map[string]any{"status": "healthy"}))
	p.say("system/events/stripe", envelope("python", "event", map[string]any{"event_data": map[string]any{"n": -1}}))
	for i := range 50 {
		if err := svc.EmitEvent(ctx, "stripe", map[string]int{"n": i}); err != nil {
			t.Fatal(err)
		}
	}
	rainy := newPeer(t, b, "rainy", "system/events/rain")
	if err := svc.EmitEvent(ctx, "rain", nil, service.WithCategory("weather"), service.WithPriority(message.Critical)); err != nil {
		t.Fatal(err)
	}
	if d := rainy.next("system/events/rain"); d.QoS != 2 {
		t.Errorf("a critical event came at QoS %d", d.QoS)
	}
	eventually(t, "all events", func() bool { mu.Lock(); defer mu.Unlock(); return len(all) == 52 && len(some) == 51 })
	mu.Lock()
	if e := some[0]; e.EventType != "stripe" || e.Sender != "python" {
		t.Errorf("of a plain peer: %+v", e)
	}
	for i, e := range some[1:] {
		if string(e.EventData) != fmt.Sprintf(`{"n":%d}`, i) || e.Source != "a" || e.Sender != "a" || e.Category != "system" || time.Since(e.Time) > time.Minute {
			t.Errorf("%d: %+v", i, e)
		}
	}
	if e := all[51]; e.EventType != "rain" || e.Category != "weather" || e.Priority != message.Critical || all[50].Priority != message.Normal || string(e.EventData) != `{}` {
		t.Errorf("%+v", e)
	}
	mu.Unlock()
	if err := sub.Unsubscribe(ctx); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "a/b", "+", "#", "a\x00"} {
		if err := svc.EmitEvent(ctx, name, nil); err == nil || !strings.Contains(err.Error(), "event type") {
			t.Errorf("event type %q: %v", name, err)
		}
	}
	if _, err := svc.OnEvent(ctx, "a/#", note(&some)); err == nil {
		t.Error("OnEvent accepted a filter")
	}
	if err := svc.EmitEvent(ctx, "x", func() {}); err == nil || !strings.Contains(err.Error(), "event x") {
		t.Errorf("unencodable data: %v", err)
	}
}

func TestAlerts(t *testing.T) {
	b := newBroker(t)
	ctx := testContext(t)
	svc := start(t, b, service.Options{ID: "a"})
	var mu sync.Mutex
	heard := map[string][]service.Alert{}
	listen := func(who string) {
		if _, err := svc.OnAlert(ctx, func(_ context.Context, a service.Alert) {
			mu.Lock()
			defer mu.Unlock()
			heard[who] = append(heard[who], a)
		}); err != nil {
			t.Fatal(err)
		}
	}
	count := func(who string, n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s hears %d alerts", who, n), func() bool { mu.Lock(); defer mu.Unlock(); return len(heard[who]) == n })
	}
	p := newPeer(t, b, "watcher", "safety/alerts/+")
	listen("early")
	for _, severity := range []string{"warning", "critical"} {
		err := svc.EmitAlert(ctx, message.Alert{AlertType: "tilt_" + severity, Severity: severity, Message: "30 degrees", Context: json.RawMessage(`{"deg":30}`)})
		if err != nil {
			t.Fatal(err)
		}
	}
	count("early", 2)
	if d := p.next("safety/alerts/tilt_warning"); d.Message.Metadata.Priority != message.High || d.QoS != 2 {
		t.Errorf("%+v", d)
	}
	if d := p.next("safety/alerts/tilt_critical"); d.Message.Metadata.Priority != message.Critical {
		t.Errorf("%+v", d)
	}
	listen("late")
	count("late", 2)
	mu.Lock()
	if a := heard["early"][0]; a.Retained || a.AlertType != "tilt_warning" || a.Sender != "a" || a.Message != "30 degrees" || string(a.Context) != `{"deg":30}` {
		t.Errorf("%+v", a)
	}
	for _, a := range heard["late"] {
		if !a.Retained {
			t.Errorf("not marked as raised before: %+v", a)
		}
	}
	mu.Unlock()
	if err := svc.ClearAlert(ctx, "tilt_warning"); err != nil {
		t.Fatal(err)
	}
	p.say("safety/alerts/odd", "raw text")
	listen("later")
	count("later", 1)
	mu.Lock()
	defer mu.Unlock()
	if len(heard["early"]) != 2 || heard["later"][0].AlertType != "tilt_critical" {
		t.Errorf("after clearing: %+v", heard)
	}
	for _, bad := range []message.Alert{{AlertType: "a/b", Severity: "info"}, {Severity: "info"}, {AlertType: "x", Severity: "loud"}} {
		if err := svc.EmitAlert(ctx, bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
	if err := svc.ClearAlert(ctx, "+"); err == nil {
		t.Error("ClearAlert accepted a filter")
	}
}

func TestPublishSensor(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "sensors/+/data")
	svc := start(t, b, service.Options{ID: "a"})
	if err := svc.PublishSensor(testContext(t), message.SensorData{SensorType: "tof", Data: map[string]float64{"mm": 120}}); err != nil {
		t.Fatal(err)
	}
	d := p.next("sensors/tof/data")
	if r, err := message.SensorOf[map[string]float64](d.Message); err != nil || r["mm"] != 120 || d.Message.Metadata.Sender != "a" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, kind := range []string{"", "a/b"} {
		if err := svc.PublishSensor(testContext(t), message.SensorData{SensorType: kind, Data: 1}); err == nil || !strings.Contains(err.Error(), "sensor type") {
			t.Errorf("%q: %v", kind, err)
		}
	}
	heard := make(chan *client.Delivery, 1)
	if _, err := svc.Subscribe(testContext(t), "power/battery", func(_ context.Context, d *client.Delivery) { heard <- d }); err != nil {
		t.Fatal(err)
	}
	if err := svc.Publish(testContext(t), "power/battery", message.NewRaw([]byte("12.6")), client.WithRetain(false)); err != nil {
		t.Fatal(err)
	}
	if d := <-heard; string(d.Message.Payload) != "12.6" || d.Retained {
		t.Errorf("%+v", d)
	}
}
