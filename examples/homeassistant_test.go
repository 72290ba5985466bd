package examples

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// An entityDoc is an entity of the discovery document, as far as the example names what it says.
type entityDoc struct {
	Platform   string   `json:"platform"`
	ID         string   `json:"default_entity_id"`
	EventTypes []string `json:"event_types"`
	Command    string   `json:"command_topic"`
	Dock       string   `json:"dock_command_topic"`
	Activity   string   `json:"activity_state_topic"`
}

var entityName = regexp.MustCompile(`\b(?:lawn_mower|sensor|binary_sensor|button|event|device_tracker|update)\.[a-z][a-z0-9_]*`)

// TestHomeAssistant compares what the files name with the document that the bridge publishes of the simulated mower.
func TestHomeAssistant(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	loaded, err := config.Load(filepath.Join("homeassistant", "lawnberry.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	url := simulate(t)
	ha := loaded.Config.Integration.HomeAssistant
	bridge, err := homeassistant.Start(ctx, homeassistant.Options{
		Settings: homeassistant.Settings{DeviceID: ha.DeviceID, DeviceName: ha.DeviceName}, Client: client.Options{URL: url},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bridge.Stop(context.WithoutCancel(ctx)) }()

	c, err := client.Connect(ctx, client.Options{URL: url, Limits: message.Limits{MaxPayload: homeassistant.MaxPayload, MaxAge: -1}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	documents := make(chan []byte, 100)
	if _, err := c.Subscribe(ctx, topic.Absolute("homeassistant/device/mower/config"), func(_ context.Context, d *client.Delivery) {
		documents <- d.Message.Payload
	}); err != nil {
		t.Fatal(err)
	}
	var text string
	for _, name := range []string{"configuration.yaml", "card.yaml"} {
		b, err := os.ReadFile(filepath.Join("homeassistant", name))
		if err != nil {
			t.Fatal(err)
		}
		var any map[string]any
		if err := yaml.Unmarshal(b, &any); err != nil || len(any) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		text += string(b)
	}
	// The actions of the files are not entities.
	named := slices.DeleteFunc(entityName.FindAllString(text, -1), func(s string) bool { return s == "lawn_mower.dock" })
	if len(named) < 15 {
		t.Errorf("only %q are named", named)
	}

	var missing []string
	entities := map[string]entityDoc{}
	for late := time.After(patience); ; { // the document grows with the services that are found
		var d struct {
			Components map[string]entityDoc `json:"components"`
		}
		select {
		case b := <-documents:
			if err := json.Unmarshal(b, &d); err != nil {
				t.Fatal(err)
			}
		case <-late:
			t.Fatalf("the bridge never published %q", missing)
		}
		clear(entities)
		for _, e := range d.Components {
			entities[e.ID] = e
		}
		missing = slices.DeleteFunc(slices.Clone(named), func(s string) bool { _, is := entities[s]; return is })
		if len(missing) == 0 {
			break
		}
	}
	if e := entities["event.mower_alert"]; !slices.Contains(e.EventTypes, "raised") {
		t.Errorf("an alert is %q", e.EventTypes)
	}
	if e := entities["event.mower_command"]; !slices.Contains(e.EventTypes, "failed") {
		t.Errorf("a command is %q", e.EventTypes)
	}
	if e := entities["lawn_mower.mower"]; e.Dock == "" {
		t.Error("the mower cannot be sent home")
	}

	// The topic of the script is that of the button, and stops the mower.
	var file struct {
		Script map[string]struct {
			Sequence []struct {
				Data struct {
					Topic, Payload string
				}
			}
		}
	}
	b, err := os.ReadFile(filepath.Join("homeassistant", "configuration.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &file); err != nil || len(file.Script["mower_stop"].Sequence) != 1 {
		t.Fatalf("%+v, %v", file, err)
	}
	press := file.Script["mower_stop"].Sequence[0].Data
	if want := entities["button.mower_engage"].Command; press.Topic != want {
		t.Errorf("the script publishes on %q, the button on %q", press.Topic, want)
	}
	if err := c.Publish(ctx, topic.Absolute(press.Topic), message.NewRaw([]byte(press.Payload)), client.WithQoS(1)); err != nil {
		t.Fatal(err)
	}
	awaitEngaged(t, c, "")
	if !strings.Contains(text, "state_attr('event.mower_alert', 'message')") {
		t.Error("nobody is told what the alert says")
	}
}
