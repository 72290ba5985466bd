package config

import (
	"bytes"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// compiled returns the schema that editors get.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	var body bytes.Buffer
	if err := WriteJSONSchema(&body); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(&body)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("lawnberry.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("lawnberry.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fits says whether an editor would take a file.
func fits(t *testing.T, s *jsonschema.Schema, file string) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(file), &v); err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

// What Load takes without a word an editor takes too, and the other way round, as far as one key decides.
func TestJSONSchema(t *testing.T) {
	t.Parallel()
	s := compiled(t)
	if err := fits(t, s, everyKey); err != nil {
		t.Errorf("every key: %v", err)
	}
	var template bytes.Buffer
	if err := WriteTemplate(&template); err != nil {
		t.Fatal(err)
	}
	if err := fits(t, s, template.String()); err != nil {
		t.Errorf("the template: %v", err)
	}
	var effective bytes.Buffer
	l, ps := loadText(everyKey)
	if err := ps.Err(); err != nil {
		t.Fatal(err)
	}
	if err := l.WriteEffective(&effective); err != nil {
		t.Fatal(err)
	}
	if err := fits(t, s, effective.String()); err != nil {
		t.Errorf("effective values: %v", err)
	}
	for _, file := range []string{
		"broker: {port: 70000}", "broker: {port: many}", "broker: {prot: 1883}", "broker: {persistence: maybe}", "broker: {log_level: loud}", "services: {heartbeat_interval: [1]}",
		"services: {heartbeat_interval: soon}", "topics: {qos: {sensor_data: 3}}", "topics: {retained: power/battery}", "topics: {compress: {a: true}}",
		"security: {signing: {policies: {a: perhaps}}}", "security: {access_control: {rules: [{allow: publish}]}}",
		"security: {access_control: {rules: [{allow: publish, deny: all, filter: a}]}}", "security: {access_control: {rules: [{allow: fly, filter: a}]}}",
		"service_definitions: {gps: {service_type: sensor, needs: []}}", "brokers: {}", "broker: {persistence_sync: {every: 1s}}",
	} {
		_, ps := loadText(file)
		if len(ps) == 0 {
			t.Errorf("Load has nothing against %s", file)
		}
		if fits(t, s, file) == nil {
			t.Errorf("the schema has nothing against %s", file)
		}
	}
	for _, file := range []string{
		"services: {heartbeat_interval: 1m30s, heartbeat_timeout: 100}", "monitoring: {logging: {log_level: WARNING}}", "broker:\n", "broker: {persistence: on, persistence_sync: off}",
		"development: {debug: {latency_simulation: off}}", "security: {signing: {policies: {a/+: Require, b/+: off}}}",
	} {
		_, problems := loadText(file)
		if problems.Err() != nil {
			t.Errorf("Load: %s: %v", file, problems)
		}
		if err := fits(t, s, file); err != nil {
			t.Errorf("schema: %s: %v", file, err)
		}
	}
}

// Every key is in the schema with its meaning and, but for secrets, its default.
func TestJSONSchemaKeys(t *testing.T) {
	t.Parallel()
	s := compiled(t)
	for k := range Keys() {
		at := s
		for level := range strings.SplitSeq(k.Path, ".") {
			if at = at.Properties[level]; at == nil {
				t.Fatalf("%s is not in the schema", k.Path)
			}
		}
		if at.Description == "" || (at.Default == nil) != k.Secret {
			t.Errorf("%s: description %q, default %v", k.Path, at.Description, at.Default)
		}
	}
}
