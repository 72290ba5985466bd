package app

import (
	"fmt"
	"maps"
	"slices"

	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/access"
)

// AccessOf returns what a configuration says about who may do what, whether or not that is checked.
func AccessOf(c *config.Config) (*access.Bus, error) {
	topics, err := c.Registry()
	if err != nil {
		return nil, err
	}
	own, err := c.AccessRules()
	if err != nil {
		return nil, err
	}
	rules := make([]access.Rule, 0, len(own))
	for i, r := range own {
		var verbs access.Verb
		for _, name := range r.Verbs {
			v, err := access.ParseVerb(name)
			if err != nil {
				return nil, err
			}
			verbs |= v
		}
		rules = append(rules, access.Rule{
			Identity: r.Identity, Role: r.Role, Allow: r.Allow, Verbs: verbs, Filter: r.Filter,
			Source: fmt.Sprintf("security.access_control.rules, rule %d", i+1),
		})
	}
	var services []access.Service
	for _, id := range slices.Sorted(maps.Keys(c.ServiceDefinitions)) {
		d := c.ServiceDefinitions[id]
		services = append(services, access.Service{
			ID: id, Type: d.ServiceType, Dependencies: d.Dependencies, Publish: d.Topics.Publish, Subscribe: d.Topics.Subscribe,
		})
	}
	return access.NewBus(topics, services, rules)
}
