package homeassistant

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/lawnberry/lawnberry/topic"
)

//go:embed schema.json
var schemaText []byte

// Schema returns the JSON Schema of a discovery document, without abbreviations. The caller owns it.
func Schema() []byte { return bytes.Clone(schemaText) }

// maxDocument bounds a document, bytes: what the broker takes as a packet, less room for the rest.
const maxDocument = 240 << 10

// A ruleBook is the schema, and the keys that it knows, by platform.
type ruleBook struct {
	schema *jsonschema.Schema
	entity map[string]bool
	known  map[string]map[string]bool // platforms that it describes
}

var rules = sync.OnceValues(func() (*ruleBook, error) {
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaText))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("document.json", parsed); err != nil {
		return nil, err
	}
	r := &ruleBook{entity: map[string]bool{"platform": true, "state_topic": true, "command_topic": true}, known: map[string]map[string]bool{}}
	if r.schema, err = c.Compile("document.json"); err != nil {
		return nil, err
	}
	var keys struct {
		Defs map[string]struct {
			Properties map[string]json.RawMessage `json:"properties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(schemaText, &keys); err != nil {
		return nil, err
	}
	for k := range keys.Defs["entity"].Properties {
		r.entity[k] = true
	}
	for _, platform := range []string{"lawn_mower", "sensor", "binary_sensor", "device_tracker", "event", "button", "update"} {
		r.known[platform] = map[string]bool{}
		for k := range keys.Defs[platform].Properties {
			r.known[platform][k] = true
		}
	}
	return r, nil
})

// Check returns what is wrong with a discovery document, for people; nothing if it is in order. Keys may be abbreviated.
func Check(document []byte) []string {
	if len(document) > maxDocument {
		return []string{fmt.Sprintf("the document has %d bytes, want at most %d", len(document), maxDocument)}
	}
	book, err := rules()
	if err != nil {
		return []string{"the schema itself is broken: " + err.Error()}
	}
	decoded, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return []string{"this is no JSON: " + err.Error()}
	}
	root, ok := decoded.(map[string]any)
	if !ok {
		return []string{"this is no JSON object"}
	}
	expandDocument(root)
	problems := book.checkKeys(root)
	merged := withShared(root)
	if err := book.schema.Validate(merged); err != nil {
		if invalid, ok := err.(*jsonschema.ValidationError); ok {
			problems = append(problems, explain(invalid)...)
		} else {
			problems = append(problems, err.Error())
		}
	}
	problems = append(problems, checkComponents(merged)...)
	slices.Sort(problems)
	return slices.Compact(problems)
}

// withShared returns a document whose components have the options of the root, as Home Assistant puts them there.
func withShared(root map[string]any) map[string]any {
	components, ok := root["components"].(map[string]any)
	if !ok {
		return root
	}
	shared := []string{
		"availability", "availability_mode", "availability_template", "availability_topic", "command_topic", "encoding", "message_expiry_interval",
		"payload_available", "payload_not_available", "qos", "state_topic",
	}
	merged := map[string]any{}
	for key, value := range components {
		c, ok := value.(map[string]any)
		if !ok || len(c) <= 1 { // one that is removed
			merged[key] = value
			continue
		}
		c = maps.Clone(c)
		for _, name := range shared {
			if v, set := root[name]; set {
				if _, own := c[name]; !own {
					c[name] = v
				}
			}
		}
		merged[key] = c
	}
	root = maps.Clone(root)
	root["components"] = merged
	return root
}

// checkKeys finds keys of components that Home Assistant would ignore.
func (r *ruleBook) checkKeys(root map[string]any) (problems []string) {
	components, _ := root["components"].(map[string]any)
	for key, value := range components {
		c, _ := value.(map[string]any)
		platform, _ := c["platform"].(string)
		known := r.known[platform]
		if known == nil {
			continue
		}
		for name := range c {
			if !known[name] && !r.entity[name] {
				problems = append(problems, fmt.Sprintf("components.%s.%s: a %s has no such key, Home Assistant ignores it", key, name, platform))
			}
		}
	}
	return problems
}

// checkComponents applies the rules between components, and those that a schema cannot say.
func checkComponents(root map[string]any) (problems []string) {
	components, _ := root["components"].(map[string]any)
	owner := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(components)) {
		c, _ := components[key].(map[string]any)
		platform, _ := c["platform"].(string)
		report := func(field, text string) {
			problems = append(problems, fmt.Sprintf("components.%s.%s: %s", key, field, text))
		}
		if id, ok := c["unique_id"].(string); ok {
			if other, taken := owner[platform+" "+id]; taken {
				report("unique_id", fmt.Sprintf("%q is that of %s too", id, other))
			}
			owner[platform+" "+id] = key
		}
		if unit, ok := c["unit_of_measurement"].(string); ok && platform == "sensor" {
			class, _ := c["device_class"].(string)
			if allowed := units()[class]; allowed != nil && !slices.Contains(allowed, unit) {
				report("unit_of_measurement", fmt.Sprintf("%q is no unit of %s, want one of %s", unit, class, strings.Join(allowed, ", ")))
			}
		}
		if (platform == "sensor" || platform == "binary_sensor") && c["entity_category"] == "config" {
			report("entity_category", "config is for what can be set, Home Assistant does not add it")
		}
		if id, ok := c["default_entity_id"].(string); ok && !strings.HasPrefix(id, platform+".") {
			report("default_entity_id", fmt.Sprintf("%q does not begin with %q", id, platform+"."))
		}
		for name, value := range c {
			text, ok := value.(string)
			if !ok {
				continue
			}
			if strings.HasSuffix(name, "_template") && strings.Count(text, "{{")+strings.Count(text, "{%") != strings.Count(text, "}}")+strings.Count(text, "%}") {
				report(name, "a {{ or {% is not closed")
			}
			if strings.HasSuffix(name, "_topic") && text != "" {
				if err := topic.CheckFilter(text); err != nil {
					report(name, err.Error())
				}
			}
			if strings.HasSuffix(name, "command_topic") && platform == "lawn_mower" && text == c["activity_state_topic"] {
				report(name, "is activity_state_topic too: a command would come back as a state")
			}
		}
	}
	return problems
}

// units are those of some classes of sensors.
func units() map[string][]string {
	return map[string][]string{
		"battery": {"%"}, "humidity": {"%"}, "temperature": {"°C", "°F", "K"}, "voltage": {"V", "mV", "μV", "kV", "MV"}, "current": {"A", "mA"},
		"power": {"W", "mW", "kW", "MW", "GW", "TW", "BTU/h"}, "duration": {"d", "h", "min", "s", "ms", "μs"}, "frequency": {"Hz", "mHz", "kHz", "MHz", "GHz"},
		"signal_strength": {"dB", "dBm"},
	}
}

// reserved are attributes that Home Assistant keeps to itself, and drops from those that it is sent.
func reserved(platform string) []string {
	names := []string{
		"assumed_state", "available", "device_class", "device_info", "entity_category", "entity_picture", "entity_registry_enabled_default",
		"extra_state_attributes", "force_update", "icon", "name", "should_poll", "state", "supported_features", "unique_id", "unit_of_measurement",
	}
	switch platform {
	case "sensor":
		names = append(names, "last_reset", "state_class")
	case "event":
		names = append(names, "event_type", "event_types")
	}
	return names
}

// CheckAttributes returns what is wrong with a payload for json_attributes_topic of an entity.
func CheckAttributes(platform string, payload []byte) []string {
	var attributes map[string]json.RawMessage
	if json.Unmarshal(payload, &attributes) != nil || attributes == nil {
		return []string{"attributes must be a JSON object"}
	}
	var problems []string
	for _, name := range reserved(platform) {
		if _, set := attributes[name]; set {
			problems = append(problems, fmt.Sprintf("the attribute %q is reserved, Home Assistant drops it", name))
		}
	}
	return problems
}

// explain returns the leaves of a validation error.
func explain(invalid *jsonschema.ValidationError) (problems []string) {
	if len(invalid.Causes) > 0 {
		for _, cause := range invalid.Causes {
			problems = append(problems, explain(cause)...)
		}
		return problems
	}
	place := strings.Join(invalid.InstanceLocation, ".")
	text := ""
	if o := invalid.BasicOutput(); o.Error != nil {
		text = o.Error.String()
	} else if len(o.Errors) > 0 && o.Errors[len(o.Errors)-1].Error != nil {
		text = o.Errors[len(o.Errors)-1].Error.String()
	}
	switch last := invalid.InstanceLocation; {
	case text == "'not' failed":
		text = "availability and availability_topic exclude each other"
	case len(last) > 0 && last[len(last)-1] == "object_id":
		text = "is not used any more, want default_entity_id"
	case len(last) > 0 && last[len(last)-1] == "retain":
		text = "must be false: a command that is retained would be executed again"
	case text == "false schema":
		text = "is not used any more, want json_attributes_topic alone"
	}
	if place == "" {
		place = "document"
	}
	return []string{place + ": " + text}
}
