package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

type drive struct {
	X     float64 `json:"x" doc:"metres east of the dock"`
	Speed float64 `json:"speed" doc:"metres a second"`
	Tags  []string
}

func (d *drive) SetDefaults() { d.Speed = 0.4 }

type driven struct {
	At   time.Time `json:"at"`
	Note *string   `json:"note,omitempty"`
}

// described returns the commands that a topic tree describes now, by name, and how many messages there are.
func described(t *testing.T, p *peer, id string) (commands map[string]service.Command, messages int) {
	t.Helper()
	pages := map[string]service.Commands{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.seen {
		if !strings.HasPrefix(d.Topic, "system/services/"+id+"/commands") {
			continue
		}
		messages++
		if len(d.Message.Payload) == 0 {
			delete(pages, d.Topic)
			continue
		}
		c, ok := service.ReadCommands(d)
		if !ok || c.ServiceID != id {
			t.Errorf("%+v %s", d, d.Message.Payload)
		}
		pages[d.Topic] = c
	}
	commands = map[string]service.Command{}
	for _, c := range pages {
		if c.Pages != len(pages) {
			return nil, messages // in between
		}
		for _, one := range c.Commands {
			commands[one.Name] = one
		}
	}
	return commands, messages
}

func awaitCommands(t *testing.T, p *peer, id string, want ...string) map[string]service.Command {
	t.Helper()
	var got map[string]service.Command
	eventually(t, fmt.Sprintf("%s describes %.200v", id, want), func() bool {
		got, _ = described(t, p, id)
		return got != nil && slices.Equal(slices.Sorted(maps.Keys(got)), want)
	})
	return got
}

// A service describes its commands once Setup has returned, in one message; later ones are added, also together.
func TestCommandsAreDescribed(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "peer", "system/services/#")
	handle := func(s *service.Service, name string) {
		service.Handle(s, name, func(context.Context, struct{}) (any, error) { return nil, nil })
	}
	svc := start(t, b, service.Options{ID: "nav", Type: "navigation", Setup: func(_ context.Context, s *service.Service) error {
		service.Handle(s, "drive", func(_ context.Context, d drive) (driven, error) {
			return driven{Note: new(fmt.Sprint(d.Speed))}, nil
		}, service.Description("Drives somewhere."))
		handle(s, "a")
		handle(s, "b")
		return nil
	}})
	got := awaitCommands(t, p, "nav", "a", "b", "drive")
	if _, n := described(t, p, "nav"); n != 1 {
		t.Errorf("%d messages", n)
	}
	if first := p.on("system/services/nav/commands")[0]; first.Message.Metadata.Type != message.TypeEvent || first.QoS != 1 {
		t.Errorf("%+v", first)
	}
	// Before anybody can see the service healthy.
	p.mu.Lock()
	at := slices.IndexFunc(p.seen, func(d *client.Delivery) bool { return d.Topic == "system/services/nav/commands" })
	healthy := slices.IndexFunc(p.seen, func(d *client.Delivery) bool { return strings.Contains(string(d.Message.Payload), `"healthy"`) })
	p.mu.Unlock()
	if healthy >= 0 && healthy < at {
		t.Error("healthy before its commands were described")
	}
	c := got["drive"]
	want := service.Command{Name: "drive", Description: "Drives somewhere.",
		Parameters: json.RawMessage(`{"type":"object","properties":{"x":{"type":"number","description":"metres east of the dock"},"speed":{"type":"number","description":"metres a second","default":0.4},"Tags":{"type":"array","items":{"type":"string"}}}}`),
		Result:     json.RawMessage(`{"type":"object","properties":{"at":{"type":"string","format":"date-time"},"note":{"type":["string","null"]}},"required":["at"]}`)}
	if c.Name != want.Name || c.Description != want.Description || string(c.Parameters) != string(want.Parameters) || string(c.Result) != string(want.Result) {
		t.Errorf("%+v\nparameters %s\nresult %s", c, c.Parameters, c.Result)
	}
	var r driven
	if err := svc.Call(testContext(t), "nav", "drive", map[string]any{"x": 1}, &r); err != nil || *r.Note != "0.4" {
		t.Error(r, err)
	}
	for i := range 10 {
		handle(svc, fmt.Sprint("later", i))
	}
	awaitCommands(t, p, "nav", "a", "b", "drive", "later0", "later1", "later2", "later3", "later4", "later5", "later6", "later7", "later8", "later9")
	if _, n := described(t, p, "nav"); n > 6 { // it may be busy, but not once for each
		t.Errorf("%d messages", n)
	}
	stop(t, svc)
	late := newPeer(t, b, "late", "system/services/#")
	awaitCommands(t, late, "nav", "a", "b", "drive", "later0", "later1", "later2", "later3", "later4", "later5", "later6", "later7", "later8", "later9")
}

// Many commands need several messages, each within the payload limit. What the next process of the service does not have any
// more is cleared. Seen failing without onCommands: old pages stay.
func TestManyCommands(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "peer", "system/services/#")
	with := func(n int) service.Options {
		return service.Options{ID: "nav", Setup: func(_ context.Context, s *service.Service) error {
			for i := range n {
				service.Handle(s, fmt.Sprintf("command%02d", i), func(context.Context, drive) (driven, error) { return driven{}, nil },
					service.Description(strings.Repeat("many words ", 80)))
			}
			return nil
		}}
	}
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("command%02d", i))
	}
	svc := start(t, b, with(20))
	for _, c := range awaitCommands(t, p, "nav", names...) {
		if len(c.Parameters) == 0 || len(c.Result) == 0 {
			t.Errorf("%+v", c)
		}
	}
	if len(p.on("system/services/nav/commands/2")) == 0 || len(p.on("system/services/nav/commands/3")) == 0 {
		t.Error("all in fewer than three messages")
	}
	stop(t, svc)
	svc = start(t, b, with(2))
	awaitCommands(t, p, "nav", names[:2]...)
	stop(t, svc)
	svc = start(t, b, with(0))
	awaitCommands(t, p, "nav")
	stop(t, svc)

	// A command whose description is too large for a message keeps its text at least, and one with too much text is left out.
	svc = start(t, b, service.Options{ID: "nav", Setup: func(_ context.Context, s *service.Service) error {
		service.Handle(s, "fits", func(context.Context, drive) (driven, error) { return driven{}, nil }, service.Description(strings.Repeat("x", 8600)))
		service.Handle(s, "large", func(context.Context, drive) (driven, error) { return driven{}, nil }, service.Description(strings.Repeat("x", 20_000)))
		return nil
	}})
	if c := awaitCommands(t, p, "nav", "fits")["fits"]; len(c.Result) > 0 || len(c.Description) != 8600 {
		t.Errorf("%+v", c)
	}
	if err := svc.Call(testContext(t), "nav", "large", nil, nil); err != nil {
		t.Error(err)
	}
}

// Nobody can pretend to be another service, or say nonsense.
func TestReadCommands(t *testing.T) {
	t.Parallel()
	m, err := message.NewEvent("evil", message.Event{EventType: "service_commands", EventData: []byte(`{"service_id":"other","page":7,"pages":1,"commands":[{"name":"a"},{}]}`)})
	if err != nil {
		t.Fatal(err)
	}
	other, err := message.NewEvent("evil", message.Event{EventType: "mowed"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		topic string
		m     message.Message
		page  int
	}{
		{"system/services/nav/commands", m, 1},
		{"system/services/nav/commands/2", m, 2},
		{"system/services/nav/commands/1", m, 0},
		{"system/services/nav/commands/02", m, 0},
		{"system/services/nav/commands/x", m, 0},
		{"system/services/nav/commands/2/3", m, 0},
		{"system/services/nav/status", m, 0},
		{"system/services//commands", m, 0},
		{"x", m, 0},
		{"system/services/nav/commands", other, 0},
		{"system/services/nav/commands", message.NewRaw([]byte("{}")), 0},
		{"system/services/nav/commands", message.NewRaw(nil), 0},
	}
	for _, tt := range tests {
		c, ok := service.ReadCommands(&client.Delivery{Topic: tt.topic, Message: tt.m})
		if ok != (tt.page > 0) || ok && (c.ServiceID != "nav" || c.Page != tt.page || len(c.Commands) != 1) {
			t.Errorf("%s: %+v %v", tt.topic, c, ok)
		}
	}
}
