package config

import (
	"maps"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/lawnberry/lawnberry/client"
)

// exceptions reads a mapping of texts to false.
func (l *loader) exceptions(s *spec, n *yaml.Node, p *map[string]bool) {
	if n.Kind != yaml.MappingNode {
		l.report(l.inFile(n, SeverityError, s.path, "this is "+describe(n)+", want "+s.wanted()))
		return
	}
	m := map[string]bool{}
	for _, e := range l.entries(s.path, n, 0) {
		if why := s.checkText(e.key); why != "" {
			l.report(l.inFile(e.node, SeverityError, s.path, why))
			continue
		}
		v := follow(e.value)
		path, on, ok := joinPath(s.path, shorten(e.key)), false, false
		if v.Kind == yaml.ScalarNode {
			on, ok = parseBool(v.Value)
		}
		switch {
		case on:
			l.report(l.inFile(v, SeverityError, path, quote(v.Value)+" does not fit, want false: true is what a topic is that is not named"))
			continue
		case !ok:
			l.report(l.inFile(v, SeverityError, path, "this is "+describe(v)+", want false"))
			continue
		}
		m[e.key] = false
		l.origins[joinPath(s.path, e.key)] = Origin{File: l.file, Line: v.Line, column: v.Column}
	}
	*p = m
}

// named reads a mapping of texts to some of the key's values, or to ways to verify.
func (l *loader) named(s *spec, n *yaml.Node, p *map[string]string) {
	if n.Kind != yaml.MappingNode {
		l.report(l.inFile(n, SeverityError, s.path, "this is "+describe(n)+", want "+s.wanted()))
		return
	}
	read, allowed := func(text string) (string, bool) { return text, slices.Contains(s.values, text) }, s.values
	if s.values == nil {
		read, allowed = func(text string) (string, bool) {
			v, err := client.ParseVerification(text)
			return v.String(), err == nil
		}, []string{"off", "verify", "require"}
	}
	m := map[string]string{}
	if s.merged {
		m = maps.Clone(*p)
	}
	for _, e := range l.entries(s.path, n, 0) {
		path := joinPath(s.path, shorten(e.key))
		v := follow(e.value)
		value, known := read(v.Value)
		switch why := s.checkText(e.key); {
		case why != "":
			l.report(l.inFile(e.node, SeverityError, s.path, why))
		case v.Kind != yaml.ScalarNode:
			l.report(l.inFile(v, SeverityError, path, "this is "+describe(v)+", want "+words(allowed)))
		case !known:
			l.report(l.inFile(v, SeverityError, path, quote(v.Value)+" is unknown, want "+words(allowed)))
		case len(m) >= maxPatterns:
			l.report(l.inFile(v, SeverityError, s.path, "has more than "+formatInt(maxPatterns)+" entries"))
			return
		default:
			m[e.key] = value
			l.origins[joinPath(s.path, e.key)] = Origin{File: l.file, Line: v.Line, column: v.Column}
		}
	}
	*p = m
}
