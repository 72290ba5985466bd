package config

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/topic"
)

// maxPatterns bounds topics.retained, topics.rate_limits, topics.compress and service_definitions: more is no configuration of a mower.
const maxPatterns = 1000

// Registry returns the standard topics with the changes of topics:
//
//   - qos sets the quality of service of every topic of a type, but never lowers it below safety/;
//   - retained makes topics retained, commands and responses excepted;
//   - rate_limits sets the limit of topics, those below safety/ excepted, which have none.
//
// The status of a service is stale after services.heartbeat_timeout.
//
// A pattern changes every standard topic that it matches; a pattern that no standard topic has becomes a topic of its own,
// like the standard topic that matches it otherwise. The more specific of two patterns wins.
//
// The error is of type [Problems].
func (c *Config) Registry() (*topic.Registry, error) {
	r, problems := c.registry()
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return r, nil
}

func (c *Config) registry() (*topic.Registry, Problems) {
	r, err := topic.New(c.Topics.Namespace)
	if err != nil {
		return nil, Problems{{Severity: SeverityError, Key: "topics.namespace", Text: err.Error()}}
	}
	o := &overrides{registry: r}
	for _, d := range slices.Collect(r.All()) {
		if d.Pattern == "system/services/+/status" {
			d.StaleAfter = c.Services.HeartbeatTimeout
			o.register("services.heartbeat_timeout", d)
		}
	}
	o.qos(c.Topics.QoS)
	o.retained(c.Topics.Retained)
	o.rates(c.Topics.RateLimits)
	o.compress(c.Topics.Compress)
	return r, o.problems
}

type overrides struct {
	registry *topic.Registry
	problems Problems
}

func (o *overrides) report(sev Severity, key, text, near string) {
	o.problems = append(o.problems, Problem{Severity: sev, Key: key, Text: text, Nearest: near})
}

// register puts a definition in; it is a changed one of the registry's, or has a pattern from the configuration.
func (o *overrides) register(key string, d topic.Definition) {
	if err := o.registry.Register(d); err != nil {
		o.report(SeverityError, key, err.Error(), "")
	}
}

func (o *overrides) qos(byType map[string]int) {
	for _, name := range sortedKeys(byType) {
		key, types := "topics.qos."+shorten(name), map[string]bool{}
		found, kept, changed := false, false, false
		for _, d := range slices.Collect(o.registry.All()) {
			types[d.Type] = true
			// Message types are singular where the types of topics are plural: command, response, event, alert.
			if d.Type != name && d.Type != name+"s" {
				continue
			}
			found = true
			if d.Class == topic.Safety && byType[name] < int(d.QoS) {
				kept = true
				continue
			}
			d.QoS, changed = byte(byType[name]), true
			o.register(key, d)
		}
		switch {
		case !found:
			all := slices.Sorted(maps.Keys(types))
			o.report(SeverityWarning, key, "no topic has this type, it is ignored: want "+words(all), nearest(name, slices.Values(all)))
		case kept && !changed:
			o.report(SeverityWarning, key, "topics below safety/ keep their QoS of 2", "")
		}
	}
}

func (o *overrides) retained(patterns []string) {
	for _, pattern := range o.sorted("topics.retained", patterns) {
		refused := o.change("topics.retained", pattern, func(d *topic.Definition) bool {
			if d.Class == topic.Command {
				return false
			}
			d.Retain = true
			return true
		})
		if refused {
			o.report(SeverityWarning, "topics.retained", quote(pattern)+": commands and responses are never retained, or they would be run again", "")
		}
	}
}

func (o *overrides) rates(limits map[string]int) {
	for _, pattern := range o.sorted("topics.rate_limits", sortedKeys(limits)) {
		key := "topics.rate_limits." + shorten(pattern)
		refused := o.change(key, pattern, func(d *topic.Definition) bool {
			if d.Class == topic.Safety {
				return false
			}
			d.Rate = limits[pattern]
			return true
		})
		if refused {
			o.report(SeverityWarning, key, "topics below safety/ have no limit, nothing may hold them back", "")
		}
	}
}

// compress changes no definition; it checks what [Config.ClientOptions] passes on.
func (o *overrides) compress(patterns map[string]bool) {
	for _, pattern := range o.sorted("topics.compress", sortedKeys(patterns)) {
		if _, err := o.registry.Resolve(pattern); err != nil {
			o.report(SeverityError, "topics.compress."+shorten(pattern), err.Error(), "")
		}
	}
}

// sorted returns patterns from the general to the specific.
func (o *overrides) sorted(key string, patterns []string) []string {
	if len(patterns) > maxPatterns {
		o.report(SeverityError, key, "has "+formatInt(int64(len(patterns)))+" patterns, want at most "+formatInt(maxPatterns), "")
		return nil
	}
	specific := func(p string) int {
		n := 2 * strings.Count(p, "/")
		if strings.HasSuffix(p, "#") {
			return n - 100_000 // whatever ends in # is more general
		}
		return n - strings.Count(p, "+")
	}
	list := slices.Clone(patterns)
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(specific(a), specific(b)) })
	return list
}

// change applies edit to the definitions that pattern matches, and to one of its own when none has it. It reports whether
// edit refused one.
func (o *overrides) change(key, pattern string, edit func(*topic.Definition) bool) (refused bool) {
	relative, _ := o.registry.Relative(pattern)
	exact := false
	apply := func(d topic.Definition) {
		if edit(&d) {
			o.register(key, d)
		} else {
			refused = true
		}
	}
	for _, d := range slices.Collect(o.registry.All()) {
		// A pattern's levels compare as a name's do: + in the pattern matches + in the definition.
		if topic.Match(relative, d.Pattern) {
			exact = exact || d.Pattern == relative
			apply(d)
		}
	}
	if !exact {
		d, ok := o.registry.Lookup(relative)
		if !ok {
			top, _, _ := strings.Cut(relative, "/")
			d = topic.Definition{Type: top, QoS: 1, Class: topic.Event}
			if top == "safety" {
				d.QoS, d.Class = 2, topic.Safety
			}
		}
		d.Pattern = relative
		if d.Description == "" {
			d.Description = "Named by the configuration"
		}
		apply(d)
	}
	return refused
}
