package service

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// A schema is a JSON Schema (draft 2020-12) of a Go type as encoding/json reads or writes it. It is made here because the
// libraries at hand do not describe what that package does: bytes as base64, raw JSON, embedding, recursion, and that no
// field is required when reading.
type schema struct {
	Ref             string     `json:"$ref,omitempty"`
	Type            types      `json:"type,omitempty"`
	Format          string     `json:"format,omitempty"`
	ContentEncoding string     `json:"contentEncoding,omitempty"`
	Description     string     `json:"description,omitempty"`
	Default         any        `json:"default,omitempty"`
	Minimum         *int       `json:"minimum,omitempty"`
	Properties      properties `json:"properties,omitempty"`
	Required        []string   `json:"required,omitempty"`
	Items           *schema    `json:"items,omitempty"`
	MinItems        *int       `json:"minItems,omitempty"`
	MaxItems        *int       `json:"maxItems,omitempty"`
	Values          *schema    `json:"additionalProperties,omitempty"`
	AnyOf           []*schema  `json:"anyOf,omitempty"`
	Defs            properties `json:"$defs,omitempty"`
}

// types are the names of JSON types; a single one is written as a string.
type types []string

func (t types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

// properties are an object that keeps its order.
type properties []property

type property struct {
	name string
	s    *schema
}

func (p properties) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, f := range p {
		if i > 0 {
			out = append(out, ',')
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(f.s)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), value...)
	}
	return append(out, '}'), nil
}

// schemaOf returns the JSON Schema of t: of what can be decoded into it or, with written, of what it encodes to. sample, if
// valid, is a t whose values other than zero are the defaults.
func schemaOf(t reflect.Type, written bool, sample reflect.Value) json.RawMessage {
	g := generator{written: written, open: make(map[reflect.Type]string)}
	s := g.of(t)
	if sample.IsValid() {
		addDefaults(s, sample)
	}
	s.Defs = g.defs
	raw, err := json.Marshal(s)
	if err != nil { // a default that is no JSON
		return json.RawMessage("{}")
	}
	return raw
}

// A generator makes one schema.
type generator struct {
	written bool
	open    map[reflect.Type]string // structs on the way to where we are, with their name if they were met again
	names   []string                // in defs
	defs    properties
}

var (
	timeType        = reflect.TypeFor[time.Time]()
	durationType    = reflect.TypeFor[time.Duration]()
	rawType         = reflect.TypeFor[json.RawMessage]()
	numberType      = reflect.TypeFor[json.Number]()
	marshaler       = reflect.TypeFor[json.Marshaler]()
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// codes reports whether t reads or writes itself by an interface.
func (g *generator) codes(t, write, read reflect.Type) bool {
	if g.written {
		return t.Implements(write)
	}
	return t.Implements(read) || reflect.PointerTo(t).Implements(read)
}

func typed(name string) *schema { return &schema{Type: types{name}} }

// of returns the schema of t.
func (g *generator) of(t reflect.Type) *schema {
	switch t {
	case timeType:
		return &schema{Type: types{"string"}, Format: "date-time"}
	case durationType:
		return &schema{Type: types{"integer"}, Description: "nanoseconds"}
	case rawType:
		return &schema{}
	case numberType:
		return typed("number")
	}
	if t.Kind() == reflect.Pointer {
		return g.nullable(g.of(t.Elem()))
	}
	switch {
	case g.codes(t, marshaler, unmarshaler): // whatever it makes of itself
		return &schema{}
	case g.codes(t, textMarshaler, textUnmarshaler):
		return typed("string")
	}
	switch t.Kind() {
	case reflect.String:
		return typed("string")
	case reflect.Bool:
		return typed("boolean")
	case reflect.Float32, reflect.Float64:
		return typed("number")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return typed("integer")
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return &schema{Type: types{"integer"}, Minimum: new(0)}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 && !g.codes(t.Elem(), textMarshaler, textUnmarshaler) {
			return g.nullable(&schema{Type: types{"string"}, ContentEncoding: "base64"})
		}
		return g.nullable(&schema{Type: types{"array"}, Items: g.of(t.Elem())})
	case reflect.Array:
		n := t.Len()
		return &schema{Type: types{"array"}, Items: g.of(t.Elem()), MinItems: &n, MaxItems: &n}
	case reflect.Map:
		return g.nullable(&schema{Type: types{"object"}, Values: g.of(t.Elem())})
	case reflect.Struct:
		return g.object(t)
	}
	return &schema{} // an interface; others do not encode
}

// nullable adds null to what may be written, as which Go writes nil. Reading it changes nothing, so nobody need be told.
func (g *generator) nullable(s *schema) *schema {
	switch {
	case !g.written:
	case s.Ref != "":
		return &schema{AnyOf: []*schema{s, typed("null")}}
	case len(s.Type) > 0 && !slices.Contains(s.Type, "null"):
		s.Type = append(s.Type, "null")
	}
	return s
}

// object returns the schema of a struct, or a reference to it where it contains itself.
func (g *generator) object(t reflect.Type) *schema {
	if name, inside := g.open[t]; inside {
		if name == "" {
			name = g.name(t)
			g.open[t] = name
		}
		return &schema{Ref: "#/$defs/" + name}
	}
	g.open[t] = ""
	s := &schema{Type: types{"object"}}
	for _, f := range fieldsOf(t) {
		p := g.of(f.Type)
		if f.text {
			p = typed("string")
		}
		if doc := f.Tag.Get("doc"); doc != "" {
			p.Description = doc
		}
		s.Properties = append(s.Properties, property{f.name, p})
		if g.written && !f.optional {
			s.Required = append(s.Required, f.name)
		}
	}
	name := g.open[t]
	delete(g.open, t)
	if name == "" {
		return s
	}
	g.defs = append(g.defs, property{name, s})
	return &schema{Ref: "#/$defs/" + name}
}

// name returns a name for t that no other type in defs has.
func (g *generator) name(t reflect.Type) string {
	name := strings.Map(func(r rune) rune { // of a type with parameters
		if strings.ContainsRune("[]*/., ", r) {
			return '_'
		}
		return r
	}, t.Name())
	for i := 2; slices.Contains(g.names, name); i++ {
		name = fmt.Sprintf("%s_%d", t.Name(), i)
	}
	g.names = append(g.names, name)
	return name
}

// A structField is a field as encoding/json sees it.
type structField struct {
	reflect.StructField
	name     string
	tagged   bool
	optional bool  // omitted when empty
	text     bool  // number or boolean as a string
	index    []int // of the field in the outermost struct
}

// fieldsOf returns the fields of a struct that encoding/json reads and writes, those of embedded structs included: of several
// with one name the least deeply embedded counts or, among equals, the only one with a name in its tag, else none.
func fieldsOf(t reflect.Type) []structField {
	type level struct {
		t     reflect.Type
		index []int
	}
	var out []structField
	taken := make(map[string]bool)
	seen := map[reflect.Type]bool{t: true}
	for now := []level{{t, nil}}; len(now) > 0; {
		var next []level
		var here []structField
		for _, l := range now {
			for i := range l.t.NumField() {
				f := structField{StructField: l.t.Field(i), index: append(slices.Clone(l.index), i)}
				tag := f.Tag.Get("json")
				if tag == "-" {
					continue
				}
				name, options, _ := strings.Cut(tag, ",")
				inner := f.Type
				if inner.Kind() == reflect.Pointer {
					inner = inner.Elem()
				}
				if f.Anonymous && name == "" && inner.Kind() == reflect.Struct {
					if !seen[inner] {
						seen[inner] = true
						next = append(next, level{inner, f.index})
					}
					continue
				}
				if !f.IsExported() {
					continue
				}
				f.name, f.tagged = name, name != ""
				if name == "" {
					f.name = f.Name
				}
				for o := range strings.SplitSeq(options, ",") {
					f.optional = f.optional || o == "omitempty" || o == "omitzero"
					f.text = f.text || o == "string"
				}
				here = append(here, f)
			}
		}
		for _, f := range here {
			if !taken[f.name] && dominates(f, here) {
				out = append(out, f)
			}
		}
		for _, f := range here {
			taken[f.name] = true
		}
		now = next
	}
	slices.SortStableFunc(out, func(a, b structField) int { return slices.Compare(a.index, b.index) })
	return out
}

// dominates reports whether f is the one of its name among fields of the same depth.
func dominates(f structField, fields []structField) bool {
	for _, other := range fields {
		if other.name == f.name && !slices.Equal(other.index, f.index) && (other.tagged || !f.tagged) {
			return false
		}
	}
	return true
}

// addDefaults notes the values of a struct that are not zero as the defaults of its fields.
func addDefaults(s *schema, sample reflect.Value) {
	for sample.Kind() == reflect.Pointer {
		if sample.IsNil() {
			return
		}
		sample = sample.Elem()
	}
	if sample.Kind() != reflect.Struct || len(s.Properties) == 0 {
		return
	}
	for _, f := range fieldsOf(sample.Type()) {
		v, err := sample.FieldByIndexErr(f.index)
		if err != nil || v.IsZero() {
			continue
		}
		i := slices.IndexFunc(s.Properties, func(p property) bool { return p.name == f.name })
		if p := s.Properties[i].s; len(p.Properties) > 0 {
			addDefaults(p, v)
		} else {
			p.Default = v.Interface()
		}
	}
}
