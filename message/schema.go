package message

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Types yields all types of message, in the order of the wire format.
func Types() iter.Seq[Type] {
	return slices.Values([]Type{TypeSensorData, TypeCommand, TypeResponse, TypeStatus, TypeEvent, TypeAlert, TypeHeartbeat})
}

// MetadataSchema returns a JSON Schema (draft 7, and what came after it) of an envelope's metadata: what Decode takes, with t as the only
// message_type; "" is all of them.
func MetadataSchema(t Type) json.RawMessage {
	var fields []schemaField
	for i, r := range metadataRules {
		fields = append(fields, metadataDoc(i).as(strings.TrimPrefix(r.name, "metadata."), r.kind, r.required))
	}
	kind := &fields[metaType]
	if t != "" {
		kind.more = `"const":` + strconv.Quote(string(t))
	} else {
		var names []string
		for known := range Types() {
			names = append(names, strconv.Quote(string(known)))
		}
		kind.more = `"enum":[` + strings.Join(names, ",") + `]`
	}
	return objectSchema("Who says it, when, and what it answers", fields)
}

// PayloadSchema returns a JSON Schema (draft 7, and what came after it) of the payload of a message of type t: what Decode takes, with what
// the constructors send by default.
func PayloadSchema(t Type) json.RawMessage {
	if t == TypeHeartbeat {
		return json.RawMessage(`{"description":"Free"}`)
	}
	rules := payloadRules(t)
	var fields []schemaField
	for _, d := range payloadDocs(t) {
		f := d.as(d.name, absent, false)
		for _, r := range rules {
			if r.name == d.name {
				f = d.as(d.name, r.kind, r.required)
			}
		}
		fields = append(fields, f)
	}
	return objectSchema("", fields)
}

// A schemaDoc is what a schema says of a field beside its rule.
type schemaDoc struct{ name, text, more string }

// A schemaField is one property of a schema.
type schemaField struct {
	schemaDoc
	kind     kind // absent is any
	required bool
}

func (d schemaDoc) as(name string, k kind, required bool) schemaField {
	d.name = name
	return schemaField{d, k, required}
}

func metadataDoc(field int) schemaDoc {
	switch field {
	case metaTimestamp:
		return schemaDoc{text: "when it was sent; Unix seconds", more: `"exclusiveMinimum":0`}
	case metaID:
		return schemaDoc{text: "a UUID on what we send", more: `"minLength":1`}
	case metaSender:
		return schemaDoc{text: "the id of the service or client", more: `"minLength":1`}
	case metaPriority:
		return schemaDoc{text: "0 low, 1 normal, 2 high, 3 critical", more: `"minimum":0,"maximum":3,"multipleOf":1`}
	case metaCorrelationID:
		return schemaDoc{text: "of a command, and of its response"}
	case metaExpiresAt:
		return schemaDoc{text: "after that it is of no use; Unix seconds", more: `"exclusiveMinimum":0`}
	case metaRetryCount:
		return schemaDoc{text: "how often it was sent again", more: fmt.Sprintf(`"minimum":0,"maximum":%d,"multipleOf":1`, maxRetryCount)}
	}
	return schemaDoc{text: "which payload it has"}
}

// payloadDocs are the fields of a payload in the order of the wire format.
func payloadDocs(t Type) []schemaDoc {
	switch t {
	case TypeSensorData:
		return []schemaDoc{
			{"sensor_type", "what was measured", ""}, {"device_id", "which device has measured it", `"default":null`},
			{"data", "the readings; an object on what we send", ""}, {"units", "of the readings, by key", `"default":{}`},
			{"quality", "of the readings, 0 to 1", `"minimum":0,"maximum":1,"default":1`}, {"status", "of the sensor", `"default":"healthy"`},
		}
	case TypeCommand:
		return []schemaDoc{
			{"target", "id of a service, or a type of services", ""}, {"command", "its name", ""}, {"parameters", "see the command", `"default":{}`},
			{"timeout", "seconds", `"default":30`}, {"require_ack", "the sender waits for a response", `"default":true`},
		}
	case TypeResponse:
		return []schemaDoc{
			{"success", "the command was run", ""}, {"result", "see the command; null if it has none", ""},
			{"error", "why it was not run, or failed", ""}, {"execution_time", "seconds", ""},
		}
	case TypeStatus:
		return []schemaDoc{
			{"status", "the state", ""}, {"uptime", "seconds", ""}, {"version", "of the sender", ""}, {"details", "an object", `"default":{}`},
			{"resources", "cpu_usage, memory_usage, disk_usage; percent", ""},
		}
	case TypeEvent:
		return []schemaDoc{
			{"event_type", "what has happened", ""}, {"event_data", "an object", `"default":{}`}, {"source", "who has noticed it", ""},
			{"category", "for whom it matters", `"default":"system"`},
		}
	case TypeAlert:
		return []schemaDoc{
			{"alert_type", "what it is about", ""}, {"severity", "", `"enum":["info","warning","error","critical",null]`}, {"message", "for people", ""},
			{"acknowledged", "somebody has seen it", `"default":false`}, {"auto_resolve", "it ends by itself", `"default":false`},
			{"context", "an object", `"default":{}`},
		}
	}
	return nil
}

func objectSchema(text string, fields []schemaField) json.RawMessage {
	var b bytes.Buffer
	b.WriteString(`{"type":"object"`)
	if text != "" {
		fmt.Fprintf(&b, `,"description":%q`, text)
	}
	var required []string
	for _, f := range fields {
		if f.required {
			required = append(required, strconv.Quote(f.name))
		}
	}
	if required != nil {
		fmt.Fprintf(&b, `,"required":[%s]`, strings.Join(required, ","))
	}
	b.WriteString(`,"properties":{`)
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:{%s}", f.name, f.keywords())
	}
	b.WriteString("}}")
	return b.Bytes()
}

// keywords returns what stands in a property's schema.
func (f schemaField) keywords() string {
	var words []string
	if name := f.kind.schemaType(); name != "" {
		if f.required {
			words = append(words, `"type":`+strconv.Quote(name))
		} else {
			words = append(words, `"type":[`+strconv.Quote(name)+`,"null"]`)
		}
	}
	if f.more != "" {
		words = append(words, f.more)
	}
	if f.text != "" {
		words = append(words, `"description":`+strconv.Quote(f.text))
	}
	return strings.Join(words, ",")
}

// schemaType returns what JSON Schema calls a kind, "" for any.
func (k kind) schemaType() string {
	switch k {
	case text:
		return "string"
	case number:
		return "number"
	case boolean:
		return "boolean"
	case object:
		return "object"
	}
	return ""
}
