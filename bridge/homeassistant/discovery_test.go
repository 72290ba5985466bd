package homeassistant_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// Removed is removed, with all that was retained, until somebody publishes it again.
func TestRemove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.shows("service_navigation", "OFF")
	w.doing("mowing", `{}`)
	h.shows("mower", "mowing")
	check(t, w.nav.Call(testContext(t), homeassistant.ID, "remove", nil, nil))
	h.shows("mower", "")
	kept, err := homeassistant.Retained(testContext(t), h.c, "homeassistant/#")
	check(t, err)
	if len(kept) > 0 {
		t.Errorf("still retained: %v", kept)
	}
	h.mu.Lock()
	if h.removed["homeassistant/device/lawnberry/config"] == 0 {
		t.Error("no empty payload came")
	}
	h.mu.Unlock()
	w.doing("paused", `{}`)
	h.publish("homeassistant/status", "online", false)
	w.cable.cut(false)
	eventually(t, "the bridge is back", func() bool { return w.nav.Call(testContext(t), homeassistant.ID, "ping", nil, nil) == nil })
	if kept, err = homeassistant.Retained(testContext(t), h.c, "homeassistant/#"); err != nil || len(kept) > 1 || len(kept) == 1 && kept[base+"availability"] == nil {
		t.Errorf("retained again: %v, %v", kept, err) // but for the Will
	}
	eventually(t, "published again", func() bool { return w.nav.Call(testContext(t), homeassistant.ID, "publish", nil, nil) == nil })
	h.shows("mower", "paused")
}

// Topics of single components that describe this mower are replaced by the document, in the order in which Home Assistant wants it; those of
// others stay.
func TestMigrate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, homeassistant.Options{})
	h := w.home
	h.settled("battery")
	ours := map[string]string{
		"homeassistant/sensor/lawnberry_battery/config":         `{"unique_id": "lawnberry_battery", "state_topic": "x"}`,
		"homeassistant/sensor/garden/mower/config":              `{"uniq_id": "something", "stat_t": "x", "dev": {"ids": ["lawnberry"]}}`,
		"homeassistant/binary_sensor/garden/mower_rain/config":  `{"unique_id": "other", "state_topic": "x", "device": {"identifiers": "lawnberry"}}`,
		"homeassistant/button/lawnberry/left_behind/config":     `{"migrate_discovery": true}`,
		"homeassistant/lawn_mower/lawnberry_mower/mower/config": `{"migr_discvry": true}`,
	}
	others := map[string]string{
		"homeassistant/sensor/lawnberrys_battery/config": `{"unique_id": "lawnberrys_battery", "state_topic": "x"}`,
		"homeassistant/sensor/kitchen/config":            `{"unique_id": "kitchen", "state_topic": "x", "device": {"identifiers": ["kitchen"]}}`,
		"homeassistant/sensor/broken/config":             `{`,
		"homeassistant/device/other/config":              `{"device": {"identifiers": ["lawnberry"]}}`,
		"homeassistant/switch/kitchen/migrating/config":  `{"migrate_discovery": true}`,
	}
	h.mu.Lock()
	h.vandals = true
	h.mu.Unlock()
	var order []string
	var mu sync.Mutex // guards order
	_, err := h.c.Subscribe(testContext(t), topic.Absolute("homeassistant/#"), func(_ context.Context, d *client.Delivery) {
		if mu.Lock(); !d.Retained && strings.HasSuffix(d.Topic, "/config") {
			order = append(order, d.Topic+" "+string(d.Message.Payload))
		}
		mu.Unlock()
	})
	check(t, err)
	for _, list := range []map[string]string{ours, others} {
		for name, payload := range list {
			h.publish(name, payload, true)
		}
	}
	var result struct {
		Topic    string   `json:"topic"`
		Replaced []string `json:"replaced"`
	}
	check(t, w.nav.Call(testContext(t), homeassistant.ID, "migrate", nil, &result))
	if len(result.Replaced) != len(ours) || result.Topic != "homeassistant/device/lawnberry/config" {
		t.Errorf("replaced %v", result)
	}
	kept, err := homeassistant.Retained(testContext(t), h.c, "homeassistant/+/+/config", "homeassistant/+/+/+/config")
	check(t, err)
	for name := range ours {
		if kept[name] != nil {
			t.Errorf("%s is still there: %s", name, kept[name])
		}
	}
	for name, payload := range others {
		if string(kept[name]) != payload {
			t.Errorf("%s is %s", name, kept[name])
		}
	}
	if problems := homeassistant.Check(kept["homeassistant/device/lawnberry/config"]); len(problems) > 0 {
		t.Error(problems)
	}
	const name = "homeassistant/sensor/lawnberry_battery/config"
	mu.Lock()
	defer mu.Unlock()
	var steps []string
	for _, line := range order[len(ours)+len(others):] {
		switch {
		case line == name+` {"migrate_discovery":true}`:
			steps = append(steps, "unload")
		case line == name+" ":
			steps = append(steps, "clear")
		case strings.HasPrefix(line, "homeassistant/device/lawnberry/config {") && !slices.Contains(steps, "document"):
			steps = append(steps, "document")
		}
	}
	if fmt.Sprint(steps) != "[unload document clear]" {
		t.Errorf("steps %v of\n%s", steps, strings.Join(order, "\n"))
	}
}

// Without a bridge a program can do the same.
func TestWithoutBridge(t *testing.T) {
	t.Parallel()
	b := startBroker(t, broker.Options{})
	c, err := client.Connect(testContext(t), client.Options{URL: b.URL(), Limits: message.Limits{MaxPayload: homeassistant.MaxPayload}})
	check(t, err)
	stopped(t, c.Close)
	s := homeassistant.Settings{}
	first, err := s.Document(homeassistant.Seen{Services: []string{"a", "b"}})
	check(t, err)
	second, err := s.Document(homeassistant.Seen{Services: []string{"b"}})
	check(t, err)
	h := newHome(t, b.URL(), "homeassistant")
	check(t, homeassistant.Publish(testContext(t), c, s, first))
	h.settled("service_a")
	check(t, homeassistant.Publish(testContext(t), c, s, second))
	h.shows("service_a", "")
	h.settled("service_b")
	h.mu.Lock()
	if h.gone["service_a"] != 1 || h.gone["service_b"] != 0 {
		t.Errorf("named as removed: %v", h.gone)
	}
	h.mu.Unlock()
	check(t, homeassistant.Remove(testContext(t), c, s))
	h.shows("service_b", "")
	replaced, err := homeassistant.Migrate(testContext(t), c, s, first)
	check(t, err)
	if len(replaced) > 0 {
		t.Errorf("replaced %v", replaced)
	}
	h.settled("service_a")
	h.fine()
}
