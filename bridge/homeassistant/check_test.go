package homeassistant_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/bridge/homeassistant"
)

// seen is a mower with all that the document can have.
func seen() homeassistant.Seen {
	return homeassistant.Seen{
		Services: []string{"navigation", "power", "weather", "odd id (1)"},
		Sources:  map[string]string{"power/battery": "power", "power/solar": "power", "weather/current": "weather", "navigation/position": "unheard"},
		Position: true,
	}
}

func document(t testing.TB, s homeassistant.Settings) map[string]any {
	t.Helper()
	raw, err := s.Document(seen())
	check(t, err)
	var d map[string]any
	check(t, json.Unmarshal(raw, &d))
	return d
}

// at returns a part of a document.
func at(t testing.TB, d map[string]any, path ...string) map[string]any {
	t.Helper()
	for _, p := range path {
		next, ok := d[p].(map[string]any)
		if !ok {
			t.Fatalf("no %s in %v", strings.Join(path, "."), d)
		}
		d = next
	}
	return d
}

func TestDocument(t *testing.T) {
	for name, s := range map[string]homeassistant.Settings{
		"standard": {},
		"chosen": {
			Prefix: "ha/x", DeviceID: "Mower-2", DeviceName: "Rasen\"mäher", Version: "1.2.3", MowerService: "mission",
			Activities: map[string]string{"cutting": "mowing"}, Origin: &homeassistant.Origin{Latitude: 47, Longitude: 8},
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := s.Document(seen())
			check(t, err)
			if problems := homeassistant.Check(raw); len(problems) > 0 {
				t.Errorf("problems:\n%s", strings.Join(problems, "\n"))
			}
			again, err := s.Document(seen())
			if err != nil || string(again) != string(raw) {
				t.Error("the document is another each time", err)
			}
		})
	}
	d := document(t, homeassistant.Settings{})
	if got := slices.Sorted(maps.Keys(d)); !slices.Equal(got, []string{"availability", "availability_mode", "components", "device", "origin", "qos"}) {
		t.Errorf("root has %v", got)
	}
	components := at(t, d, "components")
	for _, key := range []string{
		"mower", "activity", "progress", "battery", "battery_voltage", "battery_temperature", "solar", "consumption", "temperature", "rain", "location",
		"emergency_stop", "problem", "alert", "command", "engage", "acknowledge", "ping", "version", "latency", "link_quality", "message_rate",
		"service_navigation", "service_power", "service_weather",
	} {
		if components[key] == nil {
			t.Errorf("there is no %s", key)
		}
	}
	if got := components["mower"].(map[string]any)["name"]; got != nil {
		t.Errorf("the mower is called %v, not as the device", got)
	}
	if got := fmt.Sprint(at(t, components, "solar")["availability"]); !strings.Contains(got, "service_power/state") {
		t.Errorf("solar does not depend on its service: %s", got)
	}
	if _, own := at(t, components, "location")["availability"]; own {
		t.Error("a source that is no service decides")
	}
	if _, own := at(t, components, "engage")["availability"]; own {
		t.Error("the emergency stop depends on a service")
	}
	without, err := homeassistant.Settings{}.Document(homeassistant.Seen{})
	check(t, err)
	if strings.Contains(string(without), "device_tracker") {
		t.Error("a position is shown that is not known")
	}
	if homeassistant.Check(without) != nil {
		t.Error(homeassistant.Check(without))
	}
}

// What a document asks to be sent cannot release the emergency stop: nothing in it speaks of that, and no command goes to the bus itself.
func TestDocumentReleasesNothing(t *testing.T) {
	raw, err := homeassistant.Settings{}.Document(seen())
	check(t, err)
	if strings.Contains(string(raw), "release") {
		t.Error("the document speaks of releasing")
	}
	for key, c := range at(t, document(t, homeassistant.Settings{}), "components") {
		for name, v := range c.(map[string]any) {
			if strings.HasSuffix(name, "command_topic") && !strings.HasPrefix(v.(string), "homeassistant/lawnberry/lawnberry/") {
				t.Errorf("%s.%s is %v", key, name, v)
			}
		}
	}
}

func TestSettings(t *testing.T) {
	for name, s := range map[string]homeassistant.Settings{
		"device id":    {DeviceID: "a b"},
		"long id":      {DeviceID: strings.Repeat("a", 65)},
		"prefix":       {Prefix: "a/+"},
		"broker's":     {Prefix: "$SYS"},
		"slash":        {Prefix: "a/"},
		"activity":     {Activities: map[string]string{"x": "flying"}},
		"origin":       {Origin: &homeassistant.Origin{Latitude: 91}},
		"mower":        {MowerService: "a/b"},
		"name":         {DeviceName: strings.Repeat("a", 200)},
		"birth":        {BirthTopic: "a#"},
		"not UTF-8":    {DeviceName: "\xff"},
		"many of them": {Activities: many()},
	} {
		if _, err := s.Document(homeassistant.Seen{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func many() map[string]string {
	m := map[string]string{}
	for i := range 60 {
		m[fmt.Sprint(i)] = "mowing"
	}
	return m
}

// Each violation of a rule is found, and named.
func TestViolations(t *testing.T) {
	c := func(d map[string]any, key string) map[string]any {
		return d["components"].(map[string]any)[key].(map[string]any)
	}
	tests := []struct {
		name   string
		change func(d map[string]any)
		want   string
	}{
		{"another key at the root", func(d map[string]any) { d["name"] = "x" }, "'name' not allowed"},
		{"no device", func(d map[string]any) { delete(d, "device") }, "missing property 'device'"},
		{"no origin", func(d map[string]any) { delete(d, "origin") }, "missing property 'origin'"},
		{"no components", func(d map[string]any) { delete(d, "components") }, "missing property 'components'"},
		{"components as a list", func(d map[string]any) { d["components"] = []any{} }, "components: got array, want object"},
		{"a device that nothing identifies", func(d map[string]any) { delete(d["device"].(map[string]any), "identifiers") }, "device: missing property"},
		{"no identifiers", func(d map[string]any) { d["device"].(map[string]any)["identifiers"] = []any{} }, "device.identifiers"},
		{"an unknown key of the device", func(d map[string]any) { d["device"].(map[string]any)["colour"] = "green" }, "device: additional properties 'colour'"},
		{"an origin without a name", func(d map[string]any) { delete(d["origin"].(map[string]any), "name") }, "origin: missing property 'name'"},
		{"a URL that is none", func(d map[string]any) { d["origin"].(map[string]any)["support_url"] = "ftp://x" }, "origin.support_url"},
		{"a component's id", func(d map[string]any) { d["components"].(map[string]any)["a b"] = c(d, "rain") }, "components"},
		{"no platform", func(d map[string]any) { delete(c(d, "rain"), "platform") }, "components.rain: missing property 'platform'"},
		{"an unknown platform", func(d map[string]any) { c(d, "rain")["platform"] = "toaster" }, "components.rain.platform"},
		{"no unique_id", func(d map[string]any) { delete(c(d, "rain"), "unique_id") }, "components.rain: missing property 'unique_id'"},
		{"one unique_id for two", func(d map[string]any) { c(d, "solar")["unique_id"] = c(d, "battery")["unique_id"] }, "is that of battery too"},
		{"a unique_id with a space", func(d map[string]any) { c(d, "rain")["unique_id"] = "a b" }, "components.rain.unique_id"},
		{"object_id", func(d map[string]any) { c(d, "rain")["object_id"] = "rain" }, "components.rain.object_id: is not used any more, want default_entity_id"},
		{"another's default_entity_id", func(d map[string]any) { c(d, "rain")["default_entity_id"] = "sensor.rain" }, `does not begin with "binary_sensor."`},
		{"a key that is ignored", func(d map[string]any) { c(d, "rain")["state_topc"] = "x" }, "components.rain.state_topc: a binary_sensor has no such key"},
		{"no state topic", func(d map[string]any) { delete(c(d, "rain"), "state_topic") }, "components.rain: missing property 'state_topic'"},
		{"no command topic", func(d map[string]any) { delete(c(d, "ping"), "command_topic") }, "components.ping: missing property 'command_topic'"},
		{"a command on a wildcard", func(d map[string]any) { c(d, "ping")["command_topic"] = "a/#" }, "components.ping.command_topic"},
		{"a command that is retained", func(d map[string]any) { c(d, "mower")["retain"] = true }, "components.mower.retain: must be false"},
		{"a command as a state", func(d map[string]any) { c(d, "mower")["activity_state_topic"] = c(d, "mower")["dock_command_topic"] }, "would come back as a state"},
		{"enum without options", func(d map[string]any) { delete(c(d, "activity"), "options") }, "components.activity: missing property 'options'"},
		{"enum with a unit", func(d map[string]any) { c(d, "activity")["unit_of_measurement"] = "%" }, "components.activity.unit_of_measurement"},
		{"enum with a state class", func(d map[string]any) { c(d, "activity")["state_class"] = "measurement" }, "components.activity.state_class"},
		{"options without enum", func(d map[string]any) { c(d, "battery")["options"] = []any{"a"} }, "components.battery.device_class"},
		{"no options", func(d map[string]any) { c(d, "activity")["options"] = []any{} }, "components.activity.options"},
		{"an unknown device class", func(d map[string]any) { c(d, "battery")["device_class"] = "accu" }, "components.battery.device_class"},
		{"an unknown category", func(d map[string]any) { c(d, "latency")["entity_category"] = "other" }, "components.latency.entity_category"},
		{"a unit of another class", func(d map[string]any) { c(d, "battery")["unit_of_measurement"] = "V" }, `"V" is no unit of battery, want one of %`},
		{"a sensor to be set", func(d map[string]any) { c(d, "latency")["entity_category"] = "config" }, "components.latency.entity_category: config is for"},
		{"an expiry of text", func(d map[string]any) { c(d, "battery")["expire_after"] = "60" }, "components.battery.expire_after"},
		{"no event types", func(d map[string]any) { delete(c(d, "alert"), "event_types") }, "components.alert: missing property 'event_types'"},
		{"a tracker with a state", func(d map[string]any) { c(d, "location")["state_topic"] = "x" }, "components.location.state_topic: is not used any more"},
		{"a tracker without attributes", func(d map[string]any) { delete(c(d, "location"), "json_attributes_topic") }, "missing property 'json_attributes_topic'"},
		{"both kinds of availability", func(d map[string]any) { d["availability_topic"] = "x" }, "exclude each other"},
		{"an availability mode", func(d map[string]any) { d["availability_mode"] = "most" }, "availability_mode"},
		{"availability without a topic", func(d map[string]any) { d["availability"] = []any{map[string]any{}} }, "missing property 'topic'"},
		{"a QoS", func(d map[string]any) { d["qos"] = 3 }, "qos"},
		{"a filter that is none", func(d map[string]any) { c(d, "rain")["state_topic"] = "a/#/b" }, "components.rain.state_topic: topic filter"},
		{"a template that is not closed", func(d map[string]any) { c(d, "rain")["value_template"] = "{{ value_json.rain }" }, "is not closed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := document(t, homeassistant.Settings{})
			tt.change(d)
			raw, err := json.Marshal(d)
			check(t, err)
			got := strings.Join(homeassistant.Check(raw), "\n")
			if !strings.Contains(got, tt.want) {
				t.Errorf("got\n%s\nwant %s", got, tt.want)
			}
		})
	}
	for text, want := range map[string]string{
		"": "no JSON", "[]": "no JSON object", "{": "no JSON", `"x"`: "no JSON object", strings.Repeat(" ", 1<<20): "bytes, want at most",
	} {
		if got := strings.Join(homeassistant.Check([]byte(text)), "\n"); !strings.Contains(got, want) {
			t.Errorf("%.10q: got %q, want %s", text, got, want)
		}
	}
}

// What others may write, and we do not.
func TestOtherDocuments(t *testing.T) {
	for name, text := range map[string]string{
		"abbreviated": `{"dev": {"ids": "a", "mf": "b", "sw": "1"}, "o": {"name": "c", "sw": "1", "url": "https://x"}, "avty": {"t": "x", "pl_avail": "y"}, "cmps": {
			"t": {"p": "sensor", "dev_cla": "temperature", "unit_of_meas": "°C", "val_tpl": "{{ value_json.t }}", "uniq_id": "u", "stat_t": "s"}}}`,
		"a topic for all": `{"device": {"identifiers": ["a"]}, "origin": {"name": "c"}, "state_topic": "s", "components": {
			"t": {"platform": "sensor", "unique_id": "u"}}}`,
		"one that is removed": `{"device": {"connections": [["mac", "1"]]}, "origin": {"name": "c"}, "components": {"t": {"platform": "sensor"}}}`,
		"a platform not of ours": `{"device": {"identifiers": "a"}, "origin": {"name": "c"}, "components": {
			"t": {"platform": "light", "unique_id": "u", "schema": "json", "command_topic": "x"}}}`,
		"a trigger, which has no id": `{"device": {"identifiers": "a"}, "origin": {"name": "c"}, "components": {
			"t": {"platform": "device_automation", "automation_type": "trigger"}}}`,
	} {
		if problems := homeassistant.Check([]byte(text)); len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
		}
	}
}

func TestAttributes(t *testing.T) {
	for _, tt := range []struct{ platform, text, want string }{
		{"sensor", `{"reason": "x"}`, ""},
		{"sensor", `[]`, "must be a JSON object"},
		{"sensor", `null`, "must be a JSON object"},
		{"sensor", `x`, "must be a JSON object"},
		{"binary_sensor", `{"state": 1}`, `"state" is reserved`},
		{"sensor", `{"last_reset": 1}`, `"last_reset" is reserved`},
		{"binary_sensor", `{"last_reset": 1}`, ""},
		{"event", `{"event_type": 1}`, `"event_type" is reserved`},
	} {
		got := strings.Join(homeassistant.CheckAttributes(tt.platform, []byte(tt.text)), "; ")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s %s: got %q, want %q", tt.platform, tt.text, got, tt.want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	raw, err := homeassistant.Settings{}.Document(seen())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"dev": 1, "cmps": {"a": {"p": "sensor", "avty": [1]}}, "avty": {"t": {}}}`))
	f.Fuzz(func(_ *testing.T, text []byte) { homeassistant.Check(text) })
}
