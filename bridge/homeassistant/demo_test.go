package homeassistant_test

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/demo"
	"github.com/lawnberry/lawnberry/safety"
)

// A program that knows nothing but Home Assistant's rules finds the simulated mower, sees all of it, and drives it by every entity that can be
// pressed. Somebody at the mower (the demo's operator) releases the emergency stop; nothing here can.
func TestDemo(t *testing.T) {
	t.Parallel()
	w := &world{t: t}
	w.broker = startBroker(t, broker.Options{SysInterval: 100 * time.Millisecond})
	w.cable.url = w.broker.URL()
	ctx := testContext(t)
	hub, err := safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: w.broker.URL()}, File: filepath.Join(t.TempDir(), "stop.json")})
	check(t, err)
	stopped(t, hub.Stop)
	w.hub = hub
	d, err := demo.Start(ctx, demo.Options{Client: client.Options{URL: w.broker.URL()}, Seed: 7, Operator: true, Alone: true, Logger: logger(t)})
	check(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = d.Stop(ctx) // one of its services was shut down
	})
	h := newHome(t, w.broker.URL(), "homeassistant")
	w.home = h
	w.start(homeassistant.Options{PingEvery: time.Second})
	t.Cleanup(h.fine)
	person, err := client.Connect(ctx, client.Options{URL: w.broker.URL()})
	check(t, err)
	stopped(t, person.Close)

	// Everything is there.
	for _, id := range append(demo.ServiceIDs(), "emergency_stop", "home_assistant") {
		h.settled("service_" + id)
		h.shows("service_"+id, "OFF")
	}
	h.shows("emergency_stop", "OFF")
	h.shows("mower", "mowing")
	h.shows("activity", "mowing")
	within := func(key string, least, most float64) {
		t.Helper()
		eventually(t, key+" has a value", func() bool {
			v, err := strconv.ParseFloat(h.state(key), 64)
			return err == nil && v >= least && v <= most
		})
	}
	for _, s := range []struct {
		key         string
		least, most float64
	}{
		{"battery", 50, 100}, {"battery_voltage", 20, 32}, {"battery_temperature", 0, 60}, {"solar", 0, 100}, {"consumption", 1, 300},
		{"temperature", -20, 50}, {"progress", 0, 100}, {"latency", 0, 5000}, {"link_quality", 1, 100}, {"message_rate", 1, 1e6},
	} {
		within(s.key, s.least, s.most)
	}
	eventually(t, "rain is known", func() bool { s := h.state("rain"); return s == "ON" || s == "OFF" })
	eventually(t, "it is in Zürich", func() bool {
		a := h.attributes("location")
		lat, _ := a["latitude"].(float64)
		lon, _ := a["longitude"].(float64)
		_, known := a["gps_accuracy"]
		return lat > 47.37 && lat < 47.38 && lon > 8.54 && lon < 8.55 && known
	})
	before := h.attributes("location")
	eventually(t, "it moves", func() bool {
		a := h.attributes("location")
		return a["latitude"] != before["latitude"] || a["longitude"] != before["longitude"]
	})

	// The mower obeys.
	orders := func(action string, want ...string) { // again and again, as a person does: on a busy machine the demo may stop for want of readings
		t.Helper()
		for end := time.Now().Add(60 * time.Second); time.Now().Before(end); {
			h.press("mower", action)
			for again := time.Now().Add(5 * time.Second); time.Now().Before(again); time.Sleep(quantum) {
				if slices.Contains(want, h.state("mower")) {
					return
				}
			}
		}
		t.Fatalf("%s: the mower is %q, never %v", action, h.state("mower"), want)
	}
	orders("pause", "paused")
	h.event("command", 0, map[string]any{"event_type": "succeeded", "command": "pause", "target": "navigation"})
	orders("start_mowing", "mowing")
	h.shows("activity", "mowing")
	orders("dock", "returning", "docked") // it is not far
	h.event("command", 0, map[string]any{"event_type": "succeeded", "command": "dock"})
	orders("start_mowing", "mowing")
	h.press("ping", "")
	h.event("command", 0, map[string]any{"event_type": "succeeded", "entity": "ping"})

	// The emergency stop is engaged from here, and released by somebody there.
	h.press("engage", "")
	h.shows("emergency_stop", "ON")
	h.event("command", 0, map[string]any{"event_type": "succeeded", "entity": "engage"})
	h.shows("emergency_stop", "OFF")
	orders("start_mowing", "mowing")

	// An alert: somebody lifts the mower.
	lift := func(up bool) {
		t.Helper()
		check(t, person.Call(ctx, "hardware_interface", "simulate", map[string]any{"lifted": up}, nil))
	}
	lift(true)
	h.event("alert", 0, map[string]any{"event_type": "raised", "alert_type": "lifted", "severity": "critical", "raised_by": "safety"})
	h.shows("problem", "ON")
	h.shows("mower", "error")
	h.shows("emergency_stop", "ON")
	n := h.countEvents("command")
	h.press("mower", "start_mowing") // not while it is held
	if e := h.event("command", n, map[string]any{"event_type": "failed", "command": "start_mowing"}); e["reason"] == "" {
		t.Errorf("no reason: %v", e)
	}
	h.press("acknowledge", "")
	h.event("alert", 0, map[string]any{"event_type": "acknowledged", "alert_type": "lifted"})
	lift(false)
	h.event("alert", 0, map[string]any{"event_type": "cleared", "alert_type": "lifted"})
	h.shows("problem", "OFF")
	h.shows("emergency_stop", "OFF")

	// The mower's service ends: its entities are unavailable, and a command fails with the reason. The emergency stop still works.
	check(t, person.Call(ctx, "navigation", "shutdown", nil, nil))
	h.shows("mower", "unavailable")
	h.shows("location", "unavailable")
	h.shows("service_navigation", "ON")
	eventually(t, "it is gone", func() bool { return h.attributes("service_navigation")["service_state"] == "offline" })
	n = h.countEvents("command")
	h.press("mower", "dock")
	e := h.event("command", n, map[string]any{"event_type": "failed", "command": "dock", "code": "offline"})
	if reason, _ := e["reason"].(string); !strings.Contains(reason, "offline") {
		t.Errorf("the reason is %q", reason)
	}
	h.press("engage", "")
	h.shows("emergency_stop", "ON")

	// The bridge is killed: everything is unavailable, by its Will.
	w.cable.cut(true)
	for _, key := range []string{"battery", "emergency_stop", "problem", "version", "service_power"} {
		h.shows(key, "unavailable")
	}
	w.cable.cut(false)
	within("battery", 50, 100)
}
