package config

import (
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/lawnberry/lawnberry/client"
)

// anyObject is a schema, or a part of one.
type anyObject = map[string]any

// durationPattern fits a time with its units.
const durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`

// WriteJSONSchema writes a JSON Schema (draft 2020-12) of the file, for editors: they complete keys with it, show what they mean, and mark what
// does not fit. What follows from several keys together is left to Load.
func WriteJSONSchema(w io.Writer) error {
	root := object("Lawnberry's configuration.")
	for _, sec := range sections() {
		parent, name := splitPath(sec.path)
		place(root, parent)[name] = object(sec.doc)
	}
	for _, s := range specs() {
		parent, name := splitPath(s.path)
		place(root, parent)[name] = s.jsonSchema()
	}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Lawnberry"
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(root)
}

func object(doc string) anyObject {
	return anyObject{"type": []string{"object", "null"}, "description": doc, "properties": anyObject{}, "additionalProperties": false}
}

// place returns the properties of a section.
func place(root anyObject, path string) anyObject {
	at := root["properties"].(anyObject)
	if path == "" {
		return at
	}
	for level := range strings.SplitSeq(path, ".") {
		at = at[level].(anyObject)["properties"].(anyObject)
	}
	return at
}

func (s *spec) jsonSchema() anyObject {
	k := s.key()
	m := s.jsonType()
	doc := k.Description
	if k.Unit != "" {
		doc += " In " + k.Unit + "."
	}
	if k.Unsupported != "" {
		doc += " Not supported yet: " + k.Unsupported + "."
		m["deprecated"] = true // editors strike it through
	}
	m["description"] = doc
	if !k.Secret {
		m["default"] = s.effective(Default(), true)
	}
	return m
}

// jsonType is what the key's reader takes.
func (s *spec) jsonType() anyObject {
	text := anyObject{"type": "string"}
	if s.oneOf != nil {
		text = oneOfTexts(s.oneOf)
	}
	number := func(kind string) anyObject {
		m := anyObject{"type": kind}
		if s.min != 0 || s.max != 0 {
			m["minimum"], m["maximum"] = s.min, s.max
		}
		return m
	}
	list := func(of anyObject) anyObject { return anyObject{"type": "array", "items": of} }
	mapping := func(of anyObject) anyObject { return anyObject{"type": "object", "additionalProperties": of} }
	switch s.at(&Config{}).(type) {
	case *bool, **bool:
		return anyObject{"enum": []any{true, false, "yes", "no", "on", "off"}}
	case *int:
		return number("integer")
	case *float64:
		return number("number")
	case *time.Duration:
		forms := []any{number("number"), anyObject{"type": "string", "pattern": durationPattern}}
		if s.min == 0 {
			forms = append(forms, anyObject{"enum": []any{false, "no", "off"}})
		}
		return anyObject{"anyOf": forms}
	case *[]string:
		return list(text)
	case *[]any:
		if s.path == fleetUp {
			return list(fleetFilterSchema())
		}
		return list(accessRuleSchema())
	case *map[string]int:
		return mapping(number("integer"))
	case *map[string]bool:
		return mapping(anyObject{"enum": []any{false, "no", "off"}})
	case *map[string]string:
		if s.values != nil {
			return mapping(anyObject{"enum": s.values})
		}
		policies := []string{client.VerifyOff.String(), client.VerifySigned.String(), client.VerifyRequired.String()}
		return mapping(anyObject{"anyOf": []any{anyObject{"enum": append(anyList(policies), false)}, oneOfTexts(policies)}}) // off is false to many
	case *map[string]ServiceDefinition:
		return mapping(definitionSchema())
	}
	if s.path == "broker.persistence_sync" {
		interval := anyObject{"type": "string", "pattern": durationPattern}
		return anyObject{"anyOf": []any{anyObject{"enum": []any{"always", "off", false}}, interval, anyObject{
			"type": "object", "properties": anyObject{"interval": interval}, "required": []string{"interval"}, "additionalProperties": false,
		}}}
	}
	return text
}

// oneOfTexts fits names, which editors offer, in small and capital letters.
func oneOfTexts(names []string) anyObject {
	return anyObject{"anyOf": []any{anyObject{"enum": names}, anyObject{"type": "string", "pattern": anyCase(names)}}}
}

// anyCase is a pattern that fits names in small and capital letters.
func anyCase(names []string) string {
	var b strings.Builder
	b.WriteString("^(")
	for i, name := range names {
		if i > 0 {
			b.WriteByte('|')
		}
		for _, r := range name {
			if lower, upper := unicode.ToLower(r), unicode.ToUpper(r); lower != upper {
				b.WriteString("[" + string(lower) + string(upper) + "]")
			} else {
				b.WriteString(regexp.QuoteMeta(string(r)))
			}
		}
	}
	b.WriteString(")$")
	return b.String()
}

func accessRuleSchema() anyObject {
	verb := anyObject{"enum": accessVerbs()}
	verbs := anyObject{"anyOf": []any{verb, anyObject{"type": "array", "items": verb, "minItems": 1}}}
	text := anyObject{"type": "string", "minLength": 1}
	return anyObject{
		"type": "object", "additionalProperties": false, "required": []string{"filter"},
		"properties": anyObject{"identity": text, "role": text, "allow": verbs, "deny": verbs, "filter": text},
		"oneOf":      []any{anyObject{"required": []string{"allow"}}, anyObject{"required": []string{"deny"}}},
	}
}

func definitionSchema() anyObject {
	texts := anyObject{"type": "array", "items": anyObject{"type": "string"}}
	return anyObject{"type": "object", "additionalProperties": false, "properties": anyObject{
		"service_type": anyObject{"type": "string"}, "dependencies": texts,
		"topics": anyObject{"type": "object", "additionalProperties": false, "properties": anyObject{"subscribe": texts, "publish": texts}},
	}}
}
