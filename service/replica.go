package service

import (
	"context"

	"github.com/lawnberry/lawnberry/client"
)

// serveCommands subscribes to the commands to this service. Those to its type come through a shared subscription, so that the
// broker gives each to one of the services of that type. A service whose id is its type is one of them.
func (s *Service) serveCommands(ctx context.Context) error {
	accept := func(target string) bool { return target == s.o.ID || target == s.o.Type }
	repeatable := client.WithRepeatable(s.repeatable)
	if s.o.Type != s.o.ID {
		if _, err := s.client.ServeCommands(ctx, s.o.ID, accept, s.dispatch, repeatable); err != nil {
			return err
		}
	}
	sub, err := s.client.ServeCommands(ctx, s.o.Type, accept, s.dispatch, repeatable, client.AsReplica(client.Replicas{
		Group:    s.o.Type,
		Siblings: func() []string { return s.registry.sharing(s.o.ID, s.o.Type) },
		Turn:     func() bool { return s.registry.leads(s.o.ID, s.o.Type) },
	}))
	if err != nil {
		return err
	}
	s.shares.Store(sub.Shared())
	return nil
}

// repeatable reports whether a crash may run a command twice.
func (s *Service) repeatable(command string) bool {
	if isBuiltin(command) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.described[command].Repeatable
}

// sharing returns the ids of the other services of a type that share its commands and are there.
func (r *registry) sharing(self, serviceType string) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.services {
		if id != self && e.shares && e.info.Type == serviceType && e.info.State != Offline && e.info.State != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// leads reports whether the service of that id answers a command to its type which all services of the type hear: the one
// whose id is the type or, if that is not there, the running one with the smallest id.
func (r *registry) leads(self, serviceType string) bool {
	if self == serviceType {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.services {
		if id != self && e.info.State.running() && (id == serviceType || e.info.Type == serviceType && id < self) {
			return false
		}
	}
	return true
}
