package config

import (
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/topic"
)

func TestRegistry(t *testing.T) {
	r, err := mustLoad(t, `
topics:
  namespace: garden
  qos: {sensor_data: 0, alerts: 0, command: 1}
  retained: [power/consumption, garden/system/events/+, "own/#", commands/+]
  rate_limits:
    "sensors/#": 500
    sensors/gps/data: 300
    sensors/+/status: 7
    garden/navigation/path: 0
    "safety/#": 1
    own/topic: 9
`).Registry()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		topic, pattern string
		qos            byte
		retain         bool
		rate           int
		class          topic.Class
	}{
		{"sensors/imu/data", "sensors/+/data", 0, false, 500, topic.Sensor},      // by sensors/#
		{"sensors/gps/data", "sensors/gps/data", 0, false, 300, topic.Sensor},    // its own, otherwise like the others
		{"sensors/gps/status", "sensors/+/status", 1, true, 7, topic.State},      // the more specific pattern wins
		{"sensors/x/y/z", "sensors/#", 1, false, 500, topic.Event},               // of no standard topic
		{"navigation/path", "navigation/path", 1, true, 0, topic.State},          // full pattern, no limit
		{"navigation/position", "navigation/position", 1, true, 20, topic.State}, // untouched
		{"safety/emergency_stop", "safety/emergency_stop", 2, true, 0, topic.Safety},
		{"safety/hazards", "safety/hazards", 2, false, 50, topic.Safety},
		{"power/consumption", "power/consumption", 1, true, 60, topic.Sensor},
		{"system/events/start", "system/events/+", 1, true, 60, topic.Event},
		{"own/topic", "own/topic", 1, true, 9, topic.Event}, // retained by own/#
		{"own/other", "own/#", 1, true, 0, topic.Event},
		{"commands/navigation", "commands/+", 1, false, 0, topic.Command},
	}
	for _, tt := range tests {
		d, ok := r.Lookup("garden/" + tt.topic)
		if !ok || d.Pattern != tt.pattern || d.QoS != tt.qos || d.Retain != tt.retain || d.Rate != tt.rate || d.Class != tt.class {
			t.Errorf("%s is %+v, want %+v", tt.topic, d, tt)
		}
	}
	n := 0
	for range r.All() {
		n++
	}
	if n != 26+4 {
		t.Errorf("%d topics, want 30", n)
	}
}

// A service's status is stale when the service counts as offline; a topic that the configuration narrows keeps what it had.
func TestRegistryStaleAfter(t *testing.T) {
	c := Default()
	c.Services.HeartbeatTimeout = 31 * time.Second
	c.Topics.RateLimits = map[string]int{"sensors/gps/data": 600}
	r, err := c.Registry()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Duration{
		"system/services/gps/status": 31 * time.Second, "sensors/gps/data": 15 * time.Second, "system/events/x": 0,
	} {
		if d, ok := r.Lookup(name); !ok || d.StaleAfter != want {
			t.Errorf("%s: %v, want %v", name, d.StaleAfter, want)
		}
	}
}

func TestRegistryWithoutChanges(t *testing.T) {
	got, err := Default().Registry()
	if err != nil {
		t.Fatal(err)
	}
	want, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	for d := range want.All() {
		if found, ok := got.Lookup(d.Pattern); !ok || found != d {
			t.Errorf("%s is %+v, want %+v", d.Pattern, found, d)
		}
	}
}
