package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/client"
)

// What a file may contain after its aliases are followed, so that a small file cannot cost much.
const (
	maxNodes = 200_000
	maxDepth = 32
)

// readYAML reads the file into the configuration.
func (l *loader) readYAML(data []byte) {
	var root *yaml.Node
	line, why := checkCharacters(data)
	if why == "" {
		var err error
		if root, err = parseYAML(data); err != nil {
			line, why = explainYAML(err)
		}
	}
	if why != "" {
		l.broken = true
		l.report(Problem{Severity: SeverityError, File: l.file, Line: line, Text: why})
		return
	}
	if root == nil {
		return
	}
	l.section("", root)
}

// parseYAML returns the root of the only document, and nil for an empty file.
func parseYAML(data []byte) (root *yaml.Node, err error) {
	// The parser reports what it does not understand of itself by a panic.
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf("this is not YAML: %v", r)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return nil, fmt.Errorf("yaml: line %d: a second document begins here: a file holds one configuration", max(second.Line, 1))
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// explainYAML splits the parser's message into its line and a text that shows nothing of the file: what it could show is
// part of a password.
func explainYAML(err error) (line int, text string) {
	text = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, why, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				line, text = n, why
			}
		}
	}
	switch text {
	case "did not find expected node content", "did not find expected '-' indicator", "did not find expected ',' or ']'",
		"did not find expected ',' or '}'", "did not find expected <document start>":
		line++ // these the parser counts from 0
	case "did not find expected key":
		line++
		text += ": look for a wrong indentation here and in the lines below"
	case "found character that cannot start any token":
		text += ": put quotes around a text that begins with a special character, and indent with spaces"
	}
	if strings.HasPrefix(text, "unknown anchor") {
		return line, "an alias (*name) of an anchor (&name) that is not above it: put quotes around a text that begins with *"
	}
	return max(line, 1), text
}

// checkCharacters returns the line of the first character that no YAML file may contain, with the reason.
func checkCharacters(data []byte) (line int, why string) {
	line = 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			return line, "this is not UTF-8"
		case r == '\n':
			line++
		case unicode.IsControl(r) && r != '\t' && r != '\r' && r != '\u0085':
			return line, fmt.Sprintf("a control character, %U, is not allowed", r)
		}
		data = data[size:]
	}
	return 0, ""
}

// An entry is a key of a mapping with its value.
type entry struct {
	key         string
	node, value *yaml.Node
}

// entries returns the keys of a mapping: its own in their order, then those that it merges (<<) and does not have itself.
func (l *loader) entries(path string, n *yaml.Node, depth int) []entry {
	seen := map[string]int{} // line of the key
	var own, merged []entry
	var sources []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if !l.spend(n) {
			return nil
		}
		if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge" {
			sources = append(sources, l.mergeSources(path, v)...)
			continue
		}
		k = follow(k)
		if k.Kind != yaml.ScalarNode {
			l.report(l.inFile(k, SeverityError, path, "a key must be a text"))
			continue
		}
		if first, ok := seen[k.Value]; ok {
			l.report(l.inFile(k, SeverityError, joinPath(path, shorten(k.Value)), "this key stands in line "+strconv.Itoa(first)+" already"))
			continue
		}
		seen[k.Value] = k.Line
		own = append(own, entry{key: k.Value, node: k, value: v})
	}
	for _, src := range sources {
		if depth >= maxDepth {
			l.exhausted(src)
			break
		}
		for _, e := range l.entries(path, src, depth+1) {
			if _, ok := seen[e.key]; !ok {
				seen[e.key] = e.node.Line
				merged = append(merged, e)
			}
		}
	}
	return append(own, merged...)
}

// mergeSources returns the mappings that << names: one, or a list of them.
func (l *loader) mergeSources(path string, v *yaml.Node) []*yaml.Node {
	v = follow(v)
	list := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		list = v.Content
	}
	var sources []*yaml.Node
	for _, n := range list {
		n = follow(n)
		if !l.spend(n) {
			return nil
		}
		if n.Kind != yaml.MappingNode {
			l.report(l.inFile(n, SeverityError, path, "<< merges mappings, and this is none"))
			continue
		}
		sources = append(sources, n)
	}
	return sources
}

// follow returns the node that an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

// spend takes one from the budget and reports whether there was one.
func (l *loader) spend(n *yaml.Node) bool {
	if l.budget--; l.budget < 0 {
		l.exhausted(n)
		return false
	}
	return true
}

func (l *loader) exhausted(n *yaml.Node) {
	if !l.tooBig {
		l.tooBig = true
		l.report(l.inFile(n, SeverityError, "", "this file is too large, or its aliases repeat or nest too much"))
	}
	l.budget = 0
}

// inFile returns a problem at a node.
func (l *loader) inFile(n *yaml.Node, sev Severity, path, text string) Problem {
	return Problem{Severity: sev, File: l.file, Line: n.Line, Column: n.Column, Key: path, Text: text}
}

// section reads a mapping of keys and sections.
func (l *loader) section(path string, n *yaml.Node) {
	n = follow(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		text := describe(n) + ", want a mapping of keys to values"
		if path == "" {
			text = "the file is " + text
		} else {
			text = "this is " + text
		}
		l.report(l.inFile(n, SeverityError, path, text))
		return
	}
	for _, e := range l.entries(path, n, 0) {
		child := joinPath(path, e.key)
		switch {
		case strings.ContainsRune(e.key, '.'):
			l.unknown(path, e, child)
		case l.byPath[child] != nil:
			l.value(l.byPath[child], e)
		case l.sections[child] && e.key != "":
			l.section(child, e.value)
		case path == "" && strings.HasPrefix(e.key, "x-"):
			// A place for anchors, as other programs have it.
		default:
			l.unknown(path, e, child)
		}
	}
}

func (l *loader) unknown(path string, e entry, child string) {
	if len(l.problems) > maxProblems { // to find the nearest key costs too much for one that is not shown
		return
	}
	p := l.inFile(e.node, SeverityWarning, joinPath(path, shorten(e.key)), "this key is unknown, it is ignored")
	if l.byPath[child] != nil || l.sections[child] { // "broker.port: 1" written flat
		p.Text = "this key is unknown, it is ignored: write a section of its own for each part of the name"
	} else {
		p.Nearest = l.nearest(path, e.key)
	}
	l.report(p)
}

// value reads the value of a key.
func (l *loader) value(s *spec, e entry) {
	n := follow(e.value)
	if isNull(n) {
		text := "there is no value, the default stays"
		if d := yamlText(s.effective(Default(), true)); d != `""` {
			text += ": " + d
		}
		l.report(l.inFile(e.node, SeverityWarning, s.path, text))
		return
	}
	if s.path == "broker.persistence_sync" && n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Value == "interval" {
		n = follow(n.Content[1]) // {interval: 1s} is the interval
	}
	switch p := s.at(l.config).(type) {
	case *[]string:
		if list, ok := l.texts(s.path, n, s.checkText); ok {
			*p = list
		}
	case *map[string]int:
		l.numbers(s, n, p)
	case *map[string]bool:
		l.exceptions(s, n, p)
	case *map[string]string:
		l.named(s, n, p)
	case *map[string]ServiceDefinition:
		l.definitions(s, n, p)
	case *[]any:
		if n.Kind != yaml.SequenceNode {
			l.report(l.inFile(n, SeverityError, s.path, "this is "+describe(n)+", want "+s.wanted()))
		} else if list, ok := l.tree(n, 0).([]any); ok {
			*p = list
		}
	default:
		if why := s.setScalar(l.config, n); why != "" {
			l.report(l.inFile(n, SeverityError, s.path, why))
		} else if p, ok := p.(*string); ok && s.isPath {
			if *p, why = absolute(l.dir, *p); why != "" {
				l.report(l.inFile(n, SeverityError, s.path, why))
			}
		}
	}
	l.origins[s.path] = Origin{File: l.file, Line: n.Line, column: n.Column}
}

// setScalar puts a scalar of the file into the key's field. It returns what is wrong, and "" when it is set.
func (s *spec) setScalar(c *Config, n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		return "this is " + describe(n) + ", want " + s.wanted()
	}
	if why := foreignTag(n); why != "" {
		return why
	}
	field := s.at(c)
	switch field.(type) {
	case *string, *client.Secret:
		return s.setText(c, n.Value)
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		_, isBool := parseBool(n.Value)
		_, err := strconv.ParseFloat(n.Value, 64)
		_, isDuration := field.(*time.Duration)
		if err == nil || isBool || !isDuration {
			why := quote(n.Value) + " is a text, want " + s.wanted()
			if s.setText(Default(), n.Value) == "" {
				why += ": take the quotes away"
			}
			return why
		}
	}
	return s.setText(c, n.Value)
}

// foreignTag says that a scalar has a YAML tag of someone's own, such as !secret, which has no meaning here.
func foreignTag(n *yaml.Node) string {
	switch n.ShortTag() {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!merge":
		return ""
	}
	return "a tag (a word that begins with !) has no meaning here: put quotes around a text that begins with !"
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" || n.Kind == 0
}

// describe says what kind of thing a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "empty"
	}
	return "a text"
}

// texts reads a list of texts, and reports whether all are right.
func (l *loader) texts(path string, n *yaml.Node, check func(string) string) ([]string, bool) {
	if n.Kind != yaml.SequenceNode {
		l.report(l.inFile(n, SeverityError, path, "this is "+describe(n)+", want a list, such as [a, b]"))
		return nil, false
	}
	list, ok := make([]string, 0, len(n.Content)), true
	for _, item := range n.Content {
		if !l.spend(n) {
			return nil, false
		}
		// The place of an alias is where it is used.
		place := item
		item = follow(item)
		why := ""
		switch {
		case item.Kind != yaml.ScalarNode || isNull(item):
			why = "this is " + describe(item) + ", want a text in the list"
		case foreignTag(item) != "":
			why = foreignTag(item)
		case check != nil:
			why = check(item.Value)
		}
		if why != "" {
			l.report(l.inFile(place, SeverityError, path, why))
			ok = false
			continue
		}
		list = append(list, item.Value)
	}
	return list, ok
}

// numbers reads a mapping of texts to whole numbers.
func (l *loader) numbers(s *spec, n *yaml.Node, p *map[string]int) {
	if n.Kind != yaml.MappingNode {
		l.report(l.inFile(n, SeverityError, s.path, "this is "+describe(n)+", want "+s.wanted()))
		return
	}
	m := map[string]int{}
	for _, e := range l.entries(s.path, n, 0) {
		path := joinPath(s.path, shorten(e.key))
		if why := s.checkText(e.key); why != "" {
			l.report(l.inFile(e.node, SeverityError, s.path, why))
			continue
		}
		v := follow(e.value)
		number, ok := parseInt(v.Value)
		switch {
		case v.Kind != yaml.ScalarNode || isNull(v):
			l.report(l.inFile(v, SeverityError, path, "this is "+describe(v)+", want a whole number, "+s.allowed()))
		case !ok || v.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
			l.report(l.inFile(v, SeverityError, path, quote(v.Value)+" does not fit, want a whole number, "+s.allowed()))
		case !s.within(float64(number)):
			l.report(l.inFile(v, SeverityError, path, s.outOfRange(v.Value)))
		default:
			m[e.key] = int(number)
			l.origins[joinPath(s.path, e.key)] = Origin{File: l.file, Line: v.Line, column: v.Column}
		}
	}
	*p = m
}

// definitions reads service_definitions.
func (l *loader) definitions(s *spec, n *yaml.Node, p *map[string]ServiceDefinition) {
	if n.Kind != yaml.MappingNode {
		l.report(l.inFile(n, SeverityError, s.path, "this is "+describe(n)+", want "+s.wanted()))
		return
	}
	m := map[string]ServiceDefinition{}
	for _, e := range l.entries(s.path, n, 0) {
		if len(m) == maxPatterns {
			l.report(l.inFile(e.node, SeverityError, s.path, "more than "+formatInt(maxPatterns)+" services are defined"))
			break
		}
		path := joinPath(s.path, shorten(e.key))
		if why := checkServiceID(e.key); why != "" {
			l.report(l.inFile(e.node, SeverityError, s.path, why))
			continue
		}
		l.origins[joinPath(s.path, e.key)] = Origin{File: l.file, Line: e.node.Line, column: e.node.Column}
		m[e.key] = l.definition(path, e.value)
	}
	*p = m
}

func (l *loader) definition(path string, n *yaml.Node) ServiceDefinition {
	var d ServiceDefinition
	l.members(path, n, map[string]func(path string, v *yaml.Node){
		"service_type": func(path string, v *yaml.Node) {
			if v.Kind != yaml.ScalarNode {
				l.report(l.inFile(v, SeverityError, path, "this is "+describe(v)+", want a text"))
				return
			}
			why := foreignTag(v)
			if why == "" && v.Value != "" {
				why = checkServiceID(v.Value)
			}
			if why != "" {
				l.report(l.inFile(v, SeverityError, path, why))
			}
			d.ServiceType = v.Value
		},
		"dependencies": func(path string, v *yaml.Node) { d.Dependencies, _ = l.texts(path, v, checkServiceID) },
		"topics": func(path string, v *yaml.Node) {
			l.members(path, v, map[string]func(path string, v *yaml.Node){
				"subscribe": func(path string, v *yaml.Node) { d.Topics.Subscribe, _ = l.texts(path, v, checkFilter) },
				"publish":   func(path string, v *yaml.Node) { d.Topics.Publish, _ = l.texts(path, v, checkFilter) },
			})
		},
	})
	return d
}

// members reads a mapping with known keys; one without a value stays as it is.
func (l *loader) members(path string, n *yaml.Node, known map[string]func(path string, v *yaml.Node)) {
	n = follow(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		l.report(l.inFile(n, SeverityError, path, "this is "+describe(n)+", want a mapping of keys to values"))
		return
	}
	for _, e := range l.entries(path, n, 0) {
		child := joinPath(path, shorten(e.key))
		read, ok := known[e.key]
		if !ok {
			p := l.inFile(e.node, SeverityWarning, child, "this key is unknown, it is ignored")
			if near := nearest(e.key, slices.Values(sortedKeys(known))); near != "" {
				p.Nearest = joinPath(path, near)
			}
			l.report(p)
			continue
		}
		if v := follow(e.value); !isNull(v) {
			read(child, v)
		}
	}
}

// tree reads a value of any shape as plain data; see effective.
func (l *loader) tree(n *yaml.Node, depth int) any {
	n = follow(n)
	if depth > maxDepth {
		l.exhausted(n)
	}
	if !l.spend(n) {
		return nil
	}
	switch n.Kind {
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			list = append(list, l.tree(item, depth+1))
		}
		return list
	case yaml.MappingNode:
		m := map[string]any{}
		for _, e := range l.entries("", n, depth) {
			m[e.key] = l.tree(e.value, depth+1)
		}
		return m
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		v, _ := parseBool(n.Value)
		return v
	case "!!int":
		if v, ok := parseInt(n.Value); ok {
			return v
		}
	case "!!float":
		var f float64
		if n.Decode(&f) == nil {
			return f
		}
	}
	return n.Value
}
