package app

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

func ruled() *config.Config {
	c := settings()
	c.Security.AccessControl.Enabled = true
	c.ServiceDefinitions = map[string]config.ServiceDefinition{
		"blade":      {ServiceType: "actuator"},
		"blade2":     {ServiceType: "actuator"},
		"gps":        {ServiceType: "sensors", Topics: config.ServiceTopics{Publish: []string{"sensors/gps/data"}}},
		"navigation": {ServiceType: "navigation", Dependencies: []string{"blade", "gps"}, Topics: config.ServiceTopics{Subscribe: []string{"sensors/+/data"}}},
	}
	return c
}

func withRoles(t testing.TB, dir string, roles map[string]string) {
	t.Helper()
	err := identity.Edit(dir, func(b *identity.Book) error {
		for name, role := range roles {
			if err := b.Add(name, role, identity.Hash("password of "+name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func as(a *App, name string) client.Options {
	return client.Options{URL: urls(a)["tcp"], Username: name, Password: client.Secret("password of " + name), FailFast: true}
}

type spin struct {
	RPM int `json:"rpm"`
}

// Services do all that services do, each with no more rights than follow from its definition; and nothing else.
func TestServicesUnderAccessControl(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	withRoles(t, dir, map[string]string{"blade": "", "blade2": "", "gps": "", "navigation": "", "ann": "operator", "vic": "viewer", "root": "admin"})
	a := start(t, Options{Config: ruled(), DataDir: dir})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	run := func(id string, o service.Options) *service.Service {
		o.ID, o.Client = id, as(a, id)
		d := ruled().ServiceDefinitions[id]
		o.Type, o.Dependencies = d.ServiceType, d.Dependencies
		s, err := service.Start(ctx, o)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := s.Stop(ctx); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
		return s
	}
	blade, blade2, gps := run("blade", service.Options{}), run("blade2", service.Options{}), run("gps", service.Options{})
	for _, s := range []*service.Service{blade, blade2} {
		service.Handle(s, "spin", func(_ context.Context, p spin) (spin, error) { return p, nil })
	}
	navigation := run("navigation", service.Options{})
	heard := make(chan string, 16)
	hear := func(_ context.Context, d *client.Delivery) { heard <- d.Topic }
	for _, f := range []string{"sensors/+/data", "safety/emergency_stop"} {
		if _, err := navigation.Subscribe(ctx, f, hear); err != nil {
			t.Fatal(err)
		}
	}
	var result spin
	for _, target := range []string{"blade", "actuator", "actuator", "actuator"} { // by the type, whoever has it answers or passes it on
		if err := navigation.Call(ctx, target, "spin", spin{7}, &result); err != nil || result.RPM != 7 {
			t.Errorf("%s: %v %v", target, result, err)
		}
	}
	if err := gps.PublishSensor(ctx, message.SensorData{SensorType: "gps", Data: map[string]any{"latitude": 48.1}}); err != nil {
		t.Error(err)
	}
	if err := navigation.EmitEvent(ctx, "mowing", map[string]any{}); err != nil {
		t.Error(err)
	}
	alert, err := message.NewAlert("gps", message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "lifted"})
	if err != nil {
		t.Fatal(err)
	}
	if err := gps.Publish(ctx, "safety/emergency_stop", alert); err != nil { // a right of everyone
		t.Error(err)
	}
	for range 2 {
		select {
		case <-heard:
		case <-ctx.Done():
			t.Fatal("navigation did not hear it")
		}
	}

	denied := func(what string, err error) {
		t.Helper()
		var code *client.RefusedError
		if !errors.As(err, &code) || code.Code != 0x87 {
			t.Errorf("%s: %v, want a refusal", what, err)
		}
	}
	raw := message.NewRaw([]byte("x"))
	if err := navigation.Call(ctx, "blade2", "spin", spin{7}, &result); err == nil {
		t.Error("it commands what it does not depend on")
	}
	denied("a reading of another sensor", gps.Publish(ctx, "sensors/imu/data", raw))
	denied("the status of another", gps.Publish(ctx, "system/services/blade/status", raw))
	denied("a command to no dependency", gps.Publish(ctx, "commands/blade", raw))
	denied("in the name of another", gps.Publish(ctx, "system/events/x", func() message.Message {
		m, err := message.NewEvent("navigation", message.Event{EventType: "x", Source: "navigation"})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}()))
	denied("to release", gps.Publish(ctx, "safety/emergency_stop", message.NewRaw(nil)))
	_, err = gps.Subscribe(ctx, "commands/blade", hear)
	denied("commands to another", err)

	// People, and changes while they are connected.
	vic, err := client.Connect(ctx, as(a, "vic"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = vic.Close(context.Background()) }()
	denied("a viewer's command", vic.Publish(ctx, "commands/blade", raw))
	if err := identity.Edit(dir, func(b *identity.Book) error {
		for i := range b.Users {
			if b.Users[i].Name == "vic" {
				b.Users[i].Role = "operator"
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an operator's command", func() bool { return vic.Publish(ctx, "commands/blade", raw) == nil })
	c := ruled()
	c.Security.AccessControl.Rules = []any{map[string]any{"deny": "publish", "role": "operator", "filter": "commands/#"}}
	if err := a.SetAccess(c); err != nil {
		t.Fatal(err)
	}
	denied("after a rule against it", vic.Publish(ctx, "commands/blade", raw))

	// Who runs the broker may do everything at its socket.
	local, err := client.Connect(ctx, client.Options{URL: urls(a)["unix"], FailFast: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = local.Close(context.Background()) }()
	if err := local.Publish(ctx, "safety/emergency_stop", message.NewRaw(nil)); err != nil {
		t.Error(err)
	}
}

// Nobody is asked who does not say who they are: that is said instead of shutting everyone out, or letting everyone in.
func TestAccessControlNeedsUsers(t *testing.T) {
	t.Parallel()
	a, err := Start(t.Context(), Options{Config: ruled(), DataDir: t.TempDir()})
	if err == nil {
		_ = a.Stop(context.Background())
	}
	if err == nil || !strings.Contains(err.Error(), "lawnberry user add") {
		t.Errorf("got %v", err)
	}
}
