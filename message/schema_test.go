package message

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// envelopeSchema compiles the schema of a whole message.
func envelopeSchema(t *testing.T, typ Type) *jsonschema.Schema {
	t.Helper()
	const envelope = `{"$schema":"http://json-schema.org/draft-07/schema#",
		"type":"object","required":["metadata","payload"],"properties":{"metadata":%s,"payload":%s}}`
	whole := fmt.Sprintf(envelope,
		MetadataSchema(typ), PayloadSchema(typ))
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(whole))
	if err != nil {
		t.Fatalf("%v\n%s", err, whole)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mem:///envelope", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///envelope")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchema puts every value into every field, of all types of message: the schema takes what Decode takes, and nothing else.
func TestSchema(t *testing.T) {
	values := []any{nil, true, "", "x", "info", "status", 1, 0, -1, 2.5, 3, 4, 0.5, 1e12, map[string]any{}, []any{}}
	base := map[Type]map[string]any{
		TypeSensorData: {"sensor_type": "x", "data": map[string]any{}}, TypeCommand: {"target": "x", "command": "y"},
		TypeResponse: {"success": true}, TypeStatus: {}, TypeEvent: {}, TypeAlert: {}, TypeHeartbeat: {},
	}
	tried, refused := 0, 0
	for typ := range Types() {
		schema := envelopeSchema(t, typ)
		metadata := map[string]any{"timestamp": 1.5, "message_id": "i", "sender": "s", "message_type": string(typ), "priority": 1}
		compare := func(m, p map[string]any) {
			t.Helper()
			body, err := json.Marshal(map[string]any{"metadata": m, "payload": p})
			if err != nil {
				t.Fatal(err)
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			got, wrong := Decode(body, Limits{})
			taken := wrong == nil && !got.Raw && got.Metadata.Type == typ
			if fits := schema.Validate(doc) == nil; fits != taken {
				t.Errorf("%s: the schema takes it: %v; Decode: %v", body, fits, wrong)
			}
			tried++
			if !taken {
				refused++
			}
		}
		each := func(names []string, in map[string]any, try func()) {
			for _, name := range names {
				before, there := in[name]
				delete(in, name)
				if name != "message_type" { // without it this is no envelope
					try()
				}
				for _, v := range values {
					in[name] = v
					try()
				}
				if delete(in, name); there {
					in[name] = before
				}
			}
		}
		payload := maps.Clone(base[typ])
		try := func() { compare(metadata, payload) }
		var names []string
		for _, r := range metadataRules {
			names = append(names, strings.TrimPrefix(r.name, "metadata."))
		}
		each(names, metadata, try)
		names = nil
		documented := payloadDocs(typ)
		for _, r := range payloadRules(typ) {
			if !slices.ContainsFunc(documented, func(d schemaDoc) bool { return d.name == r.name }) {
				t.Errorf("%s.%s has a rule, and is in no schema", typ, r.name)
			}
		}
		for _, d := range documented {
			names = append(names, d.name)
		}
		each(names, payload, try)
	}
	t.Logf("%d messages, %d of them refused", tried, refused)
	if tried < 1000 || refused < 300 {
		t.Errorf("only %d messages were tried, %d refused", tried, refused)
	}
}
