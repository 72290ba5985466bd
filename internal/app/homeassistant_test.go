package app

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// shown returns settings with the bridge to Home Assistant.
func shown(c *config.Config) *config.Config {
	c.Integration.HomeAssistant.Enabled = true
	return c
}

// Home Assistant has a login of its own, and under access control the rights that a rule gives it: to see what is for it, and to command what the
// bridge lets it.
func TestHomeAssistant(t *testing.T) {
	allowed := ruled()
	allowed.Security.AccessControl.Rules = []any{map[string]any{"identity": "ha", "allow": []any{"publish", "subscribe"}, "filter": topic.Absolute("homeassistant/#")}}
	for name, c := range map[string]*config.Config{"with access control": shown(allowed), "without": shown(settings())} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			withRoles(t, dir, map[string]string{"ha": ""})
			a := start(t, Options{Config: c, DataDir: dir, Version: "1.2.3"})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			o := as(a, "ha")
			o.Limits.MaxPayload = homeassistant.MaxPayload
			h, err := client.Connect(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close(context.WithoutCancel(ctx))
			var mu sync.Mutex // guards heard
			heard := map[string]string{}
			if _, err := h.Subscribe(ctx, topic.Absolute("homeassistant/#"), func(_ context.Context, d *client.Delivery) {
				mu.Lock()
				defer mu.Unlock()
				heard[d.Topic] = string(d.Message.Payload)
			}); err != nil {
				t.Fatal(err)
			}
			on := func(name string) string {
				mu.Lock()
				defer mu.Unlock()
				return heard[name]
			}
			eventually(t, "the document", func() bool {
				return strings.Contains(on("homeassistant/device/lawnberry/config"), `"sw_version":"1.2.3"`)
			})
			if problems := homeassistant.Check([]byte(on("homeassistant/device/lawnberry/config"))); len(problems) > 0 {
				t.Error(problems)
			}
			const base = "homeassistant/lawnberry/lawnberry/"
			eventually(t, "it is there", func() bool { return on(base+"availability") == "online" })
			eventually(t, "the emergency stop is engaged", func() bool { return on(base+"emergency_stop/state") == `{"engaged":"ON"}` })
			before := a.Hub().Status().Sequence
			if err := h.Publish(ctx, topic.Absolute(base+"engage/set"), message.NewRaw([]byte("PRESS"))); err != nil {
				t.Fatal(err)
			}
			eventually(t, "engaged again", func() bool { return a.Hub().Status().Sequence > before })
			if err := h.Publish(ctx, topic.Absolute(base+"mower/set"), message.NewRaw([]byte("dock"))); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the failure of a command", func() bool { return strings.Contains(on(base+"command/state"), `"event_type":"failed"`) })
			if err := a.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// Who may not command the mower cannot do so by way of the bridge either.
func TestHomeAssistantIsForWhoMay(t *testing.T) {
	dir := t.TempDir()
	withRoles(t, dir, map[string]string{"ha": "", "vera": "viewer", "olga": "operator"})
	a := start(t, Options{Config: shown(ruled()), DataDir: dir})
	for _, who := range []string{"ha", "vera", "olga"} {
		c, err := client.Connect(t.Context(), as(a, who))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Publish(t.Context(), topic.Absolute("homeassistant/lawnberry/lawnberry/mower/set"), message.NewRaw([]byte("dock")), client.WithQoS(1)); err == nil {
			t.Errorf("%s commands the mower", who)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
