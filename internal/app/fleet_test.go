package app

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/message"
)

func inFleet(c *config.Config, url string) *config.Config {
	f := &c.Integration.Fleet
	f.Enabled, f.URL, f.MowerID, f.BatchInterval = true, url, "m-1", 100*time.Millisecond
	return c
}

// TestFleet: with a fleet in the configuration what happens on the bus goes up, with access control and without, and after a restart too.
func TestFleet(t *testing.T) {
	servers := natstest.Start(t)
	nc, err := nats.Connect(servers.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := fleet.Setup(ctx, js, fleet.Limits{Mowers: 1}, 1); err != nil {
		t.Fatal(err)
	}
	states, err := js.KeyValue(ctx, fleet.BucketState)
	if err != nil {
		t.Fatal(err)
	}
	latest := func(topic string) (id string) {
		e, err := states.Get(ctx, fleet.StateKey("m-1", topic))
		if err != nil {
			return ""
		}
		var m struct {
			Metadata struct {
				ID string `json:"message_id"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(e.Value(), &m); err != nil {
			t.Error(err)
		}
		return m.Metadata.ID
	}
	events := func() uint64 {
		s, err := js.Stream(ctx, fleet.StreamEvents)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	for name, c := range map[string]*config.Config{"with access control": inFleet(ruled(), servers.URL()), "without": inFleet(settings(), servers.URL())} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			withRoles(t, dir, map[string]string{"olga": "operator"})
			for range 2 {
				a := start(t, Options{Config: c, DataDir: dir, Version: "1.2.3"})
				o, err := a.within(c, "tester")
				if err != nil {
					t.Fatal(err)
				}
				speaker, err := client.Connect(ctx, o)
				if err != nil {
					t.Fatal(err)
				}
				before := events()
				m, err := message.NewEvent("tester", message.Event{EventType: "tried"})
				if err != nil {
					t.Fatal(err)
				}
				for _, topic := range []string{"system/events/tried", "power/battery"} {
					if err := speaker.Publish(ctx, topic, m); err != nil {
						t.Fatal(err)
					}
				}
				eventually(t, "the latest value", func() bool { return latest("power/battery") == m.Metadata.ID })
				eventually(t, "the event", func() bool { return events() > before })
				eventually(t, "the state of a service", func() bool { return latest("system/services/fleet/status") != "" })
				if f, ok := a.fleetFigures(); !ok || !f.Connected || f.Latest == 0 {
					t.Errorf("figures: %+v, %v", f, ok)
				}
				if err := speaker.Close(ctx); err != nil {
					t.Error(err)
				}
				if err := a.Stop(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFleetIsNoCondition: a mower runs whole when its fleet's engine is not there, its credentials are missing, or the disk of the outbox is of no use.
func TestFleetIsNoCondition(t *testing.T) {
	for _, tt := range []struct {
		name    string
		uplink  bool
		prepare func(c *config.Config, dir string)
	}{
		{"no engine", true, func(*config.Config, string) {}},
		{"no credentials", false, func(c *config.Config, dir string) { c.Integration.Fleet.Credentials = filepath.Join(dir, "none") }},
		{"no disk", true, func(c *config.Config, dir string) {
			c.Integration.Fleet.Up = []any{map[string]any{"filter": "system/events/tried", "class": "event"}} // not what serve itself says of the disk
			if err := os.WriteFile(filepath.Join(dir, fleetDir), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, dir := inFleet(settings(), "nats://127.0.0.1:1"), t.TempDir()
			tt.prepare(c, dir)
			a := start(t, Options{Config: c, DataDir: dir})
			if _, ok := a.fleetFigures(); ok != tt.uplink {
				t.Errorf("an uplink: %v, want %v", ok, tt.uplink)
			}
			o, err := a.within(c, "tester")
			if err != nil {
				t.Fatal(err)
			}
			speaker, err := client.Connect(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if err := speaker.Publish(t.Context(), "system/events/tried", message.NewRaw([]byte("x"))); err != nil {
				t.Error(err)
			}
			if err := speaker.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if tt.name == "no disk" {
				eventually(t, "the figures say so", func() bool { f, _ := a.fleetFigures(); return f.DiskFailed && f.Backlog == 1 })
				if err := os.Remove(filepath.Join(dir, fleetDir)); err != nil { // then nothing is lost
					t.Error(err)
				}
			}
		})
	}
}
