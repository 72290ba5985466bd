package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// A schema is what people need of a JSON Schema.
type schema struct {
	Ref             string          `json:"$ref"`
	Type            jsonTypes       `json:"type"`
	Format          string          `json:"format"`
	ContentEncoding string          `json:"contentEncoding"`
	Description     string          `json:"description"`
	Default         json.RawMessage `json:"default"`
	Properties      properties      `json:"properties"`
	Items           *schema         `json:"items"`
	Values          json.RawMessage `json:"additionalProperties"`
	AnyOf           []schema        `json:"anyOf"`
	Defs            properties      `json:"$defs"`
}

// parseSchema reads a schema as far as it is one; anything else says nothing.
func parseSchema(raw json.RawMessage) schema {
	var s schema
	if json.Unmarshal(raw, &s) != nil {
		return schema{}
	}
	if len(s.Properties) == 0 { // one that contains itself
		if i := slices.IndexFunc(s.Defs, func(p namedSchema) bool { return s.Ref == "#/$defs/"+p.name }); i >= 0 {
			s.Properties = s.Defs[i].Properties
		}
	}
	return s
}

// jsonTypes are one name or several.
type jsonTypes []string

func (t *jsonTypes) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*t = jsonTypes{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(t))
}

// properties are an object in the order in which it is written.
type properties []namedSchema

type namedSchema struct {
	name string
	schema
}

func (p *properties) UnmarshalJSON(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("properties must be an object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		var s namedSchema
		s.name, _ = t.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		_ = json.Unmarshal(value, &s.schema) // true and false are schemas too
		*p = append(*p, s)
	}
	return nil
}

// kind says what values a schema describes.
func (s *schema) kind() string {
	switch {
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case len(s.AnyOf) > 0:
		var kinds []string
		for i := range s.AnyOf {
			kinds = append(kinds, s.AnyOf[i].kind())
		}
		return strings.Join(kinds, " or ")
	case len(s.Type) == 0:
		return "any"
	}
	var kinds []string
	for _, name := range s.Type {
		switch {
		case name == "array" && s.Items != nil:
			name = "array of " + s.Items.kind()
		case name == "string" && s.Format == "date-time":
			name = "time"
		case name == "string" && s.ContentEncoding != "":
			name = s.ContentEncoding
		case name == "object" && s.values() != nil:
			name = "object of " + s.values().kind()
		}
		kinds = append(kinds, name)
	}
	return strings.Join(kinds, " or ")
}

// values returns the schema of an object's values, nil if there is none.
func (s *schema) values() *schema {
	var v schema
	if len(s.Values) == 0 || json.Unmarshal(s.Values, &v) != nil {
		return nil
	}
	return &v
}

// deepest is how far the fields of objects in objects are listed.
const deepest = 4

// fields adds a row for each field of an object: its name, what it is, and what is said about it.
func (s *schema) fields(rows *table, prefix string, depth int) {
	for i := range s.Properties {
		p := &s.Properties[i]
		about := p.Description
		if len(p.Default) > 0 {
			about = strings.TrimSpace(about + " (default " + compact(p.Default) + ")")
		}
		rows.add(cell{prefix + p.name, bold}, cell{p.kind(), cyan}, text(about))
		inner, in := &p.schema, prefix+p.name+"."
		if inner.Items != nil {
			inner, in = inner.Items, prefix+p.name+"[]."
		}
		if depth < deepest {
			inner.fields(rows, in, depth+1)
		}
	}
}

// example is a value that a schema describes, to start from.
func (s *schema) example(depth int) json.RawMessage {
	if len(s.Default) > 0 {
		return s.Default
	}
	name := ""
	if len(s.Type) > 0 {
		name = s.Type[0]
	}
	switch {
	case name == "object" || len(s.Properties) > 0:
		out := []byte{'{'}
		for i := range s.Properties {
			if depth >= deepest {
				break
			}
			if i > 0 {
				out = append(out, ", "...)
			}
			key, _ := json.Marshal(s.Properties[i].name)
			out = append(append(append(out, key...), ": "...), s.Properties[i].example(depth+1)...)
		}
		return append(out, '}')
	case name == "string" && s.Format == "date-time":
		return json.RawMessage(`"2026-05-01T08:00:00Z"`)
	case name == "string":
		return json.RawMessage(`"..."`)
	case name == "number", name == "integer":
		return json.RawMessage("0")
	case name == "boolean":
		return json.RawMessage("true")
	case name == "array":
		return json.RawMessage("[]")
	}
	return json.RawMessage("null")
}
