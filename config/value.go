package config

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/client"
)

// setText puts a scalar written as text into the key's field, for every type that a scalar can have. It returns what is
// wrong, and "" when it is set.
func (s *spec) setText(c *Config, text string) string {
	if !utf8.ValidString(text) {
		return "this is not UTF-8"
	}
	switch p := s.at(c).(type) {
	case *string:
		if why := s.checkText(text); why != "" {
			return why
		}
		*p = s.canonical(text)
	case *client.Secret:
		*p = client.Secret(text)
	case *bool:
		v, ok := parseBool(text)
		if !ok {
			return s.mismatch(text)
		}
		*p = v
	case **bool:
		v, ok := parseBool(text)
		if !ok {
			return s.mismatch(text)
		}
		*p = &v
	case *int:
		v, ok := parseInt(text)
		if !ok {
			return s.mismatch(text)
		}
		if !s.within(float64(v)) {
			return s.outOfRange(text)
		}
		*p = int(v)
	case *float64:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return s.mismatch(text)
		}
		if !s.within(v) {
			return s.outOfRange(text)
		}
		*p = v
	case *time.Duration:
		return s.setDuration(p, text)
	default:
		return s.mismatch(text)
	}
	return ""
}

// setDuration reads a number of the key's unit, or a number with units of its own such as 1m30s.
func (s *spec) setDuration(p *time.Duration, text string) string {
	scale := s.scale()
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		d, err := time.ParseDuration(text)
		off, isBool := parseBool(text)
		switch {
		case err == nil:
			n = float64(d) / float64(scale)
		case isBool && !off && s.min == 0:
			n = 0
		default:
			return s.mismatch(text)
		}
	}
	switch {
	case math.IsNaN(n) || math.IsInf(n, 0):
		return s.mismatch(text)
	case !s.within(n):
		return s.outOfRange(text)
	case s.whole && n != math.Trunc(n):
		return quote(text) + " has a fraction, want whole " + s.unitName()
	}
	// Microseconds: what a float64 can hold exactly over all that the bounds allow, so that a written value reads the same.
	*p = time.Duration(math.Round(n*float64(scale/time.Microsecond))) * time.Microsecond
	return ""
}

// checkText says what is wrong with a text of the key: alone, in a list, or as a key of a mapping.
func (s *spec) checkText(text string) string {
	if !utf8.ValidString(text) {
		return "this is not UTF-8"
	}
	if s.oneOf != nil && !slices.ContainsFunc(s.oneOf, func(o string) bool { return strings.EqualFold(o, text) }) {
		return quote(text) + " is unknown, want " + words(s.oneOf)
	}
	if s.item != nil {
		return s.item(text)
	}
	return ""
}

// canonical returns text in the spelling of oneOf.
func (s *spec) canonical(text string) string {
	for _, o := range s.oneOf {
		if strings.EqualFold(o, text) {
			return o
		}
	}
	return text
}

func (s *spec) within(v float64) bool {
	return s.min == 0 && s.max == 0 || v >= s.min && v <= s.max
}

func (s *spec) outOfRange(text string) string {
	why := shorten(text) + " is out of range, want " + s.allowed()
	if _, ok := s.at(&Config{}).(*time.Duration); ok {
		why += " " + s.unitName()
	}
	return why
}

// mismatch says that text is not of the key's type.
func (s *spec) mismatch(text string) string {
	return quote(text) + " does not fit, want " + s.wanted()
}

// wanted says what a value of the key looks like.
func (s *spec) wanted() string {
	switch s.at(&Config{}).(type) {
	case *bool, **bool:
		return "true or false"
	case *int:
		return "a whole number, " + s.allowed()
	case *float64:
		return "a number, " + s.allowed()
	case *time.Duration:
		return "a number of " + s.unitName() + ", " + s.allowed()
	case *[]string:
		return "a list, such as [a, b]"
	case *[]any:
		return "a list"
	case *map[string]int, *map[string]bool, *map[string]string, *map[string]ServiceDefinition:
		return "a mapping, such as " + s.example
	default:
		if s.oneOf != nil {
			return words(s.oneOf)
		}
		return "text"
	}
}

func parseBool(text string) (v, ok bool) {
	switch strings.ToLower(text) {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	}
	return false, false
}

// parseInt reads a whole number as YAML writes it: 1883, 1_000, 0x75b, and 60.0, which is whole too.
func parseInt(text string) (int64, bool) {
	digits := strings.ReplaceAll(text, "_", "")
	if v, err := strconv.ParseInt(digits, 10, 64); err == nil {
		return v, true
	}
	if len(digits) > 2 && digits[0] == '0' && strings.ContainsRune("xob", rune(digits[1])) {
		v, err := strconv.ParseInt(digits, 0, 64)
		return v, err == nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int64(f), true
	}
	// A whole number too long for 64 bits is out of every range rather than of another type.
	if len(digits) > 18 && strings.Trim(strings.TrimLeft(digits, "+-"), "0123456789") == "" {
		return math.MaxInt64, true
	}
	return 0, false
}

// effective returns the value of the key as plain data: bool, int64, float64, string, []any and map[string]any. With
// hide a password shows as a placeholder.
func (s *spec) effective(c *Config, hide bool) any {
	switch p := s.at(c).(type) {
	case *string:
		return *p
	case *client.Secret:
		if hide && *p != "" {
			return "(hidden)"
		}
		return string(*p)
	case *bool:
		return *p
	case **bool: // the only one is broker.allow_anonymous
		return c.Broker.Anonymous()
	case *int:
		return int64(*p)
	case *float64:
		return *p
	case *time.Duration:
		n := float64(p.Microseconds()) / float64(s.scale()/time.Microsecond)
		if n == math.Trunc(n) {
			return int64(n)
		}
		return n
	case *[]string:
		return anyList(*p)
	case *[]any:
		return append([]any{}, *p...)
	case *map[string]int:
		m := make(map[string]any, len(*p))
		for k, v := range *p {
			m[k] = int64(v)
		}
		return m
	case *map[string]bool:
		m := make(map[string]any, len(*p))
		for k, v := range *p {
			m[k] = v
		}
		return m
	case *map[string]string:
		m := make(map[string]any, len(*p))
		for k, v := range *p {
			m[k] = v
		}
		return m
	case *map[string]ServiceDefinition:
		m := make(map[string]any, len(*p))
		for id, d := range *p {
			m[id] = map[string]any{
				"service_type": d.ServiceType,
				"dependencies": anyList(d.Dependencies),
				"topics":       map[string]any{"subscribe": anyList(d.Topics.Subscribe), "publish": anyList(d.Topics.Publish)},
			}
		}
		return m
	}
	return nil
}

func anyList(texts []string) []any {
	list := make([]any, len(texts))
	for i, t := range texts {
		list[i] = t
	}
	return list
}

// yamlText writes plain data as YAML on one line.
func yamlText(v any) string {
	var b strings.Builder
	writeYAML(&b, v)
	return b.String()
}

func writeYAML(b *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int64:
		b.WriteString(formatInt(v))
	case float64:
		b.WriteString(yamlFloat(v))
	case string:
		b.WriteString(yamlString(v))
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			writeYAML(b, item)
		}
		b.WriteByte(']')
	case map[string]any:
		b.WriteByte('{')
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for i, k := range keys {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(yamlString(k) + ": ")
			writeYAML(b, v[k])
		}
		b.WriteByte('}')
	}
}

func formatInt(v int64) string { return strconv.FormatInt(v, 10) }

func formatFloat(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// yamlFloat writes v so that it reads as a float again.
func yamlFloat(v float64) string {
	switch {
	case math.IsNaN(v):
		return ".nan"
	case math.IsInf(v, 1):
		return ".inf"
	case math.IsInf(v, -1):
		return "-.inf"
	}
	text := formatFloat(v)
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return text
}

// yamlString writes text without quotes where it means itself, in a list too.
func yamlString(text string) string {
	special := func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_/.+-", r)
	}
	if text != "" && !strings.ContainsFunc(text, special) && !strings.ContainsRune("+-0123456789", rune(text[0])) {
		n := yaml.Node{Kind: yaml.ScalarNode, Value: text}
		if _, isBool := parseBool(text); !isBool && n.ShortTag() == "!!str" {
			return text
		}
	}
	// Go's escapes are YAML's too.
	return strconv.Quote(text)
}

// words joins alternatives: "a, b or c".
func words(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " or " + list[len(list)-1]
}

// shorten bounds a text from outside that goes into a message, and takes what would disturb a terminal out of it.
func shorten(text string) string {
	const most = 60
	if utf8.RuneCountInString(text) > most {
		text = string([]rune(text)[:most]) + "…"
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		text = strings.Trim(strconv.Quote(text), `"`)
	}
	return text
}

func quote(text string) string { return `"` + strings.ReplaceAll(shorten(text), `"`, `\"`) + `"` }
