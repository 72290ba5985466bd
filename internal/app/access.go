package app

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/config"
	"github.com/lawnberry/lawnberry/internal/access"
	"github.com/lawnberry/lawnberry/safety"
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

// SetAccess makes the broker go by what c says about who may do what, from now on and for everyone who is connected.
func (a *App) SetAccess(c *config.Config) error {
	bus, err := AccessOf(c)
	if err != nil {
		return err
	}
	all := bus
	if !c.Security.AccessControl.Enabled {
		bus = nil
	} else if t := c.Broker.TLS; a.users != nil && !a.users.Any() && !(t.Enabled && t.RequireCertificate) {
		return errors.New("security.access_control.enabled needs to know who is who: add users with \"lawnberry user add\", one for each service " +
			"by its name, or set broker.tls.require_certificate")
	}
	if a.mosquitto != nil {
		if err := a.relog(c, bus); err != nil {
			return err
		}
	}
	a.roles.Store(all)
	a.access.Store(bus)
	if a.broker != nil {
		a.broker.Reauthorize()
	}
	return nil
}

// authorize says what a client may do. Who could read the broker's memory anyway, as what runs in this process, may do everything, unless it
// comes as one of the services: then it is meant to be no more than that.
func (a *App) authorize(l broker.Login, who broker.Identity) (broker.Rights, error) {
	if a.keepsStop && !who.Trusted && l.ClientID == safety.HubID { // who took its place would keep everybody from moving
		return nil, fmt.Errorf("the client id %s is that of the emergency stop's hub, which runs in this process: want another one", safety.HubID)
	}
	bus := a.access.Load()
	if bus == nil || who.Trusted && !bus.IsService(who.User) {
		return nil, nil //nolint:nilnil // no rights to look at are all rights
	}
	var roles []string
	if role := a.users.Role(who.User); role != "" {
		roles = append(roles, role)
	}
	return bus.Client(bus.Subject(who.User, l.ClientID, roles...))
}
