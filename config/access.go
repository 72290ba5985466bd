package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lawnberry/lawnberry/topic"
)

// AccessRule is one of security.access_control.rules. The first that fits decides, before those that follow from the topics and
// from service_definitions.
type AccessRule struct {
	Identity string // user name; "" is everyone
	Role     string // of the user; "" is every role
	Allow    bool
	Verbs    []string // publish, subscribe, release, or all
	Filter   string   // full; %u is the user name and %c the client id
}

// accessVerbs are what a rule can allow or deny.
func accessVerbs() []string { return []string{"publish", "subscribe", "release", "all"} }

// AccessRules returns security.access_control.rules. The error is of type [Problems].
func (c *Config) AccessRules() ([]AccessRule, error) {
	rules, problems := c.accessRules()
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return rules, nil
}

func (c *Config) accessRules() (rules []AccessRule, ps Problems) {
	bus, err := topic.New(c.Topics.Namespace)
	if err != nil {
		return nil, Problems{{Severity: SeverityError, Key: "topics.namespace", Text: err.Error()}}
	}
	const key = "security.access_control.rules"
	for i, item := range c.Security.AccessControl.Rules {
		if i == maxPatterns {
			ps = append(ps, Problem{Severity: SeverityError, Key: key, Text: "more than " + formatInt(maxPatterns) + " rules"})
			break
		}
		rule, near, why := accessRule(bus, item)
		if why != "" {
			ps = append(ps, Problem{Severity: SeverityError, Key: key, Text: fmt.Sprintf("rule %d: %s", i+1, why), Nearest: near})
			continue
		}
		rules = append(rules, rule)
	}
	return rules, ps
}

func accessRule(bus *topic.Registry, item any) (r AccessRule, near, why string) {
	m, ok := item.(map[string]any)
	if !ok {
		return r, "", `want a mapping, such as {allow: publish, role: operator, filter: "commands/+"}`
	}
	known := []string{"identity", "role", "allow", "deny", "filter"}
	for _, k := range sortedKeys(m) {
		if !slices.Contains(known, k) {
			return r, nearest(k, slices.Values(known)), "unknown key " + quote(k) + ": a rule has " + strings.Join(known, ", ")
		}
	}
	text := func(key string) string {
		v, set := m[key]
		s, isText := v.(string)
		if set && why == "" && (!isText || s == "") {
			why = key + " has to be a text"
		}
		return s
	}
	r.Identity, r.Role = text("identity"), text("role")
	filter := text("filter")
	if why != "" {
		return r, "", why
	}
	allow, allows := m["allow"]
	deny, denies := m["deny"]
	if allows == denies {
		return r, "", "want one of allow and deny, with the verbs: " + strings.Join(accessVerbs(), ", ")
	}
	r.Allow = allows
	verbs := allow
	if denies {
		verbs = deny
	}
	if r.Verbs, near, why = readVerbs(verbs); why != "" {
		return r, near, why
	}
	if filter == "" {
		return r, "", "filter is missing"
	}
	full, err := bus.Resolve(filter)
	if err != nil {
		return r, "", err.Error()
	}
	if _, _, shared := topic.SplitShared(full); shared {
		return r, "", "a rule is about topics, however they are subscribed: leave $share out"
	}
	r.Filter = full
	return r, "", ""
}

func readVerbs(v any) (verbs []string, near, why string) {
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, item := range list {
		verb, _ := item.(string)
		if !slices.Contains(accessVerbs(), verb) {
			return nil, nearest(verb, slices.Values(accessVerbs())), "unknown verb " + quote(fmt.Sprint(item)) + ": want " + strings.Join(accessVerbs(), ", ")
		}
		verbs = append(verbs, verb)
	}
	if len(verbs) == 0 {
		return nil, "", "no verb: want " + strings.Join(accessVerbs(), ", ")
	}
	return verbs, "", ""
}
