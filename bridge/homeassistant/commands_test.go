package homeassistant_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
)

// Commands get to the service, and how they end is an event with the reason.
func TestCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("service_navigation")
	h.press("mower", "start_mowing")
	h.event("command", 0, map[string]any{"event_type": "succeeded", "entity": "mower", "command": "start_mowing", "target": "navigation"})
	h.press("mower", "dock")
	h.event("command", 0, map[string]any{"event_type": "failed", "command": "dock", "reason": "the way is blocked", "code": "failed"})
	h.press("ping", "")
	h.event("command", 0, map[string]any{"event_type": "succeeded", "entity": "ping"})

	// The latest counts: it does not wait for one that hangs, nor is it overtaken.
	w.hang.Store(true)
	h.press("mower", "start_mowing")
	eventually(t, "it runs", func() bool { return w.did("start_mowing") == 2 })
	n := h.countEvents("command")
	h.press("mower", "pause")
	h.event("command", n, map[string]any{"event_type": "failed", "command": "start_mowing", "code": "cancelled", "reason": "overtaken by another command"})
	h.event("command", n, map[string]any{"event_type": "succeeded", "command": "pause"})

	for _, kind := range []string{"tilt", "rain"} {
		check(t, w.nav.EmitAlert(testContext(t), message.Alert{AlertType: kind, Severity: "warning", Message: "it is so"}))
		h.event("alert", 0, map[string]any{"event_type": "raised", "alert_type": kind, "severity": "warning"})
	}
	h.press("acknowledge", "")
	for _, kind := range []string{"tilt", "rain"} {
		h.event("alert", 0, map[string]any{"event_type": "acknowledged", "alert_type": kind, "acknowledged": true})
	}
	h.event("command", n, map[string]any{"event_type": "succeeded", "entity": "acknowledge"})

	check(t, w.nav.Stop(testContext(t)))
	h.shows("mower", "unavailable")
	n = h.countEvents("command")
	h.press("mower", "dock")
	h.event("command", n, map[string]any{"event_type": "failed", "command": "dock", "code": "offline"})
	h.press("ping", "")
	h.event("command", n, map[string]any{"event_type": "failed", "entity": "ping", "code": "offline"})
	h.shows("latency", "unknown")
}

// Commands may have other names, and go to another service.
func TestChosenCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{Settings: homeassistant.Settings{StartCommand: "pause", MowerService: "mission"}})
	h := w.home
	h.settled("mower")
	h.shows("mower", "unavailable")
	h.press("mower", "start_mowing")
	h.event("command", 0, map[string]any{"event_type": "failed", "command": "pause", "target": "mission", "code": "no_such_service"})
}

// What is retained is not executed: neither what was there before, nor what is published as such, nor what comes again after a lost connection.
// With the check of the flag taken out of the bridge this fails.
func TestRetainedCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("service_navigation")
	release(t, w)
	all := map[string]string{"mower": "start_mowing", "ping": "PRESS", "acknowledge": "PRESS", "engage": "PRESS"}
	for entity, payload := range all {
		h.publish(base+entity+"/set", payload, true)
	}
	h.press("mower", "pause")
	h.event("command", 0, map[string]any{"event_type": "succeeded", "command": "pause"})
	w.cable.cut(false)
	eventually(t, "the bridge is back", func() bool { return w.nav.Call(testContext(t), homeassistant.ID, "ping", nil, nil) == nil })
	n := h.countEvents("command")
	pressed := time.Time{}
	eventually(t, "it obeys again", func() bool { // its other connection may come back later, and what was pressed before is gone
		if time.Since(pressed) > time.Second {
			h.press("mower", "pause")
			pressed = time.Now()
		}
		return h.countEvents("command") > n
	})
	h.event("command", n, map[string]any{"event_type": "succeeded", "command": "pause"})
	check(t, w.bridge.Stop(testContext(t)))
	w.start(homeassistant.Options{})
	n = h.countEvents("command")
	h.press("mower", "pause")
	h.event("command", n, map[string]any{"event_type": "succeeded", "command": "pause"})
	if got := w.did("start_mowing"); got != 0 {
		t.Errorf("the mower was started %d times", got)
	}
	if w.hub.Status().Engaged {
		t.Error("the emergency stop was engaged")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events[base+"command/state"] {
		if e["command"] != "pause" {
			t.Errorf("this was executed: %v", e)
		}
	}
}

// release releases the emergency stop.
func release(t *testing.T, w *world) {
	t.Helper()
	eventually(t, "released", func() bool {
		s := w.hub.Status()
		return !s.Engaged || safety.Release(testContext(t), w.nav, "the test", s.Sequence) == nil
	})
	w.home.shows("emergency_stop", "OFF")
}

// Whatever is sent is bounded: it is executed if it is known, and nothing else happens.
func TestHostileCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("service_navigation")
	release(t, w)
	for _, payload := range []string{
		"START_MOWING", "start_mowing ", "resume", "shutdown", "release", "{\"command\": \"start_mowing\"}", strings.Repeat("x", 100_000), "\x00\xff", "None",
		`{"metadata": {"timestamp": 1}, "payload": {}}`,
	} {
		n := h.countEvents("command")
		h.publish(base+"mower/set", payload, false)
		h.event("command", n, map[string]any{"event_type": "failed", "entity": "mower", "code": "unknown_command"})
	}
	for _, entity := range []string{"ping", "acknowledge"} {
		n := h.countEvents("command")
		h.publish(base+entity+"/set", "press", false)
		h.event("command", n, map[string]any{"event_type": "failed", "entity": entity, "code": "unknown_command"})
	}
	for range 300 { // more than events may tell of
		h.publish(base+"mower/set", "garbage", false)
	}
	h.publish(base+"nothing/set", "PRESS", false)
	h.publish(base+"battery/state", "PRESS", false)
	eventually(t, "the mower still obeys", func() bool {
		h.press("mower", "pause")
		return w.did("pause") > 0
	})
	if w.did("start_mowing")+w.did("dock") > 0 {
		t.Errorf("executed: %v", w.calls)
	}
	if w.hub.Status().Engaged {
		t.Error("garbage to others engages the emergency stop")
	}
	if n := h.countEvents("command"); n > 200 {
		t.Errorf("%d events", n)
	}
}

// Home Assistant can engage the emergency stop, whatever it sends there. It cannot release it: not with any payload on any topic that the bridge
// hears, retained or not.
func TestNothingReleases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("service_navigation")
	release(t, w)
	n := h.countEvents("command")
	h.press("engage", "")
	h.shows("emergency_stop", "ON")
	h.event("command", n, map[string]any{"event_type": "succeeded", "entity": "engage"})
	eventually(t, "it is known who has", func() bool {
		a := h.attributes("emergency_stop")
		return a["by"] == "Home Assistant" && strings.Contains(fmt.Sprint(a["reason"]), "from Home Assistant") && a["known"] == true
	})

	// Whatever is sent there engages, also what is broken.
	for i, payload := range []string{"x", `{"metadata": 1, "payload": 2}`, "\xff", strings.Repeat("STOP", 100_000/4)} {
		release(t, w)
		h.publish(base+"engage/set", payload, false)
		eventually(t, fmt.Sprint("engaged by payload ", i), func() bool { return w.hub.Status().Engaged })
		h.shows("emergency_stop", "ON")
	}

	h.mu.Lock()
	h.vandals = true
	topics := []string{"homeassistant/status", base + "availability", base + "emergency_stop/state", base + "emergency_stop/set", "homeassistant/device/lawnberry/config"}
	for _, c := range h.configs {
		for name, v := range c {
			if strings.HasSuffix(name, "command_topic") {
				topics = append(topics, v.(string))
			}
		}
	}
	h.mu.Unlock()
	if len(topics) < 9 {
		t.Fatalf("only %v", topics)
	}
	payloads := []string{
		"release", "RELEASE", "OFF", "off", "PRESS", "0", "false", "", "None", "start_mowing", "offline",
		`{"engaged": false}`, `{"command": "release"}`, fmt.Sprintf(`{"command": "release", "parameters": {"sequence": %d}}`, w.hub.Status().Sequence), "\xff\x00",
	}
	for _, name := range topics {
		for _, payload := range payloads {
			for _, retain := range []bool{false, true} {
				h.publish(name, payload, retain)
				if !w.hub.Status().Engaged {
					t.Fatalf("%q on %s released it", payload, name)
				}
			}
		}
	}
	// All of that has been dealt with when something that is sent afterwards is.
	before := w.did("pause")
	eventually(t, "the mower obeys", func() bool {
		h.publish(base+"mower/set", "pause", false)
		return w.did("pause") > before
	})
	if s := w.hub.Status(); !s.Engaged || s.Sequence == 0 {
		t.Errorf("released: %+v", s)
	}
}
