package access_test

import (
	"testing"

	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/topic"
)

func newBus(t *testing.T) *access.Bus {
	t.Helper()
	topics, err := topic.New("")
	if err != nil {
		t.Fatal(err)
	}
	bus, err := access.NewBus(topics, []access.Service{{ID: "navigation", Type: "navigation"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return bus
}

func newClient(t *testing.T, bus *access.Bus, identity string, roles ...string) *access.Client {
	t.Helper()
	c, err := bus.Client(bus.Subject(identity, identity, roles...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCommandsToTheHub has everybody ask and engage, and only who may release send what anybody could read as another command.
func TestCommandsToTheHub(t *testing.T) {
	bus := newBus(t)
	const name = "lawnberry/commands/" + safety.HubID
	command := func(sender, payload string) []byte {
		return []byte(`{"metadata": {"timestamp": 1763884800.5, "message_id": "x", "sender": "` + sender + `", "message_type": "command", "priority": 1}, "payload": ` + payload + `}`)
	}
	for _, who := range []struct {
		identity string
		roles    []string
		may      bool // release
	}{
		{"root", []string{access.Admin}, true},
		{"olga", []string{access.Operator}, false},
		{"vera", []string{access.Viewer}, false},
		{"navigation", nil, false},
		{"nobody", nil, false},
		{safety.HubID, nil, true},
	} {
		c := newClient(t, bus, who.identity, who.roles...)
		if !c.MayPublish(name) {
			t.Errorf("%s may not ask the hub", who.identity)
		}
		for _, harmless := range []string{"confirm", "get_status", "engage", "ping", "status"} {
			if err := c.MaySend(name, command(who.identity, `{"target": "emergency_stop", "command": "`+harmless+`", "parameters": {}}`), true); err != nil {
				t.Errorf("%s, %s: %v", who.identity, harmless, err)
			}
		}
		for _, body := range [][]byte{
			command(who.identity, `{"target": "emergency_stop", "command": "release", "parameters": {"sequence": 2}}`),
			command(who.identity, `{"target": "emergency_stop", "command": "forget", "parameters": {"service_id": "x"}}`),
			command(who.identity, `{"target": "emergency_stop", "command": "shutdown"}`),
			command(who.identity, `{"target": "emergency_stop", "command": "confirm", "command": "release"}`),
			command(who.identity, `{"target": "emergency_stop", "command": "release", "command": "confirm"}`),
			command(who.identity, `{"target": "emergency_stop", "COMMAND": "release"}`),
			command(who.identity, `{"target": "emergency_stop", "command": 1}`),
			command(who.identity, `{"target": "emergency_stop"}`),
			[]byte(`{"command": "release", "target": "emergency_stop", "parameters": {"sequence": 2}}`),
			[]byte(`{"payload": {"command": "release", "target": "emergency_stop"}}`),
			[]byte(`release`),
			{0x1f, 0x8b, 1, 2, 3},
		} {
			if err := c.MaySend(name, body, true); (err == nil) != who.may && !(who.may && err != nil && body[0] != '{') {
				t.Errorf("%s: %s: %v", who.identity, body, err)
			}
		}
	}
}

// TestNameOfTheHub keeps others from speaking as the hub, or answering in its place.
func TestNameOfTheHub(t *testing.T) {
	bus := newBus(t)
	if !bus.IsService(safety.HubID) {
		t.Fatal("the name of the hub is free")
	}
	if _, err := bus.Client(bus.Subject("olga", safety.HubID, access.Admin)); err == nil {
		t.Error("another may have its client id")
	}
	m, err := message.NewAlert(safety.HubID, message.Alert{AlertType: "emergency_stop", Severity: "critical", Context: []byte(`{"engaged": true}`)})
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := message.Encode(&m, message.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*access.Client{
		newClient(t, bus, "root", access.Admin), newClient(t, bus, "olga", access.Operator), newClient(t, bus, "navigation"),
	} {
		if c.MaySend("lawnberry/safety/emergency_stop", body, false) == nil {
			t.Error("another may speak as the hub")
		}
	}
	if newClient(t, bus, "navigation").MayReceive("lawnberry/commands/" + safety.HubID) {
		t.Error("a service hears what others ask the hub, and could answer them")
	}
	if newClient(t, bus, "olga", access.Operator).MayPublish("lawnberry/responses/navigation") {
		t.Error("an operator, who hears what others ask the hub, could answer them")
	}
	hub := newClient(t, bus, safety.HubID)
	for _, name := range []string{"safety/emergency_stop", "safety/reports/navigation", "safety/alerts/stop_not_confirmed", "system/services/emergency_stop/status", "responses/cli"} {
		if !hub.MayPublish("lawnberry/" + name) {
			t.Errorf("the hub may not publish on %s", name)
		}
	}
	for _, name := range []string{"safety/emergency_stop", "safety/reports/navigation", "commands/emergency_stop", "system/services/navigation/status"} {
		if !hub.MayReceive("lawnberry/" + name) {
			t.Errorf("the hub may not hear %s", name)
		}
	}
	if hub.MayPublish("lawnberry/commands/navigation") {
		t.Error("the hub may send commands to others")
	}
}

// Operators may send set points, which count with the token of a lease; viewers, and services that are not meant to, may not.
func TestSetPoints(t *testing.T) {
	const velocity = "lawnberry/navigation/velocity"
	bus := newBus(t)
	for name, want := range map[string]bool{access.Admin: true, access.Operator: true, access.Viewer: false, "": false} {
		if got := newClient(t, bus, "x", name).MayPublish(velocity); got != want {
			t.Errorf("role %q: %v, want %v", name, got, want)
		}
	}
}
