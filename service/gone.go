package service

import (
	"cmp"
	"time"
)

// lastAnswers is how long answers of a service that went offline may still be on their way.
const lastAnswers = time.Second

// watchTargets ends the calls to services that go offline, since nobody will answer them.
func (s *Service) watchTargets() {
	o, _ := s.registry.observe(func(i Info, _ State) {
		if i.State == Offline && i.ID != s.o.ID {
			time.AfterFunc(lastAnswers, func() { s.endCalls(i) })
		}
	})
	s.wg.Go(func() { o.run(s.ctx) })
}

func (s *Service) endCalls(i Info) {
	for _, target := range []string{i.ID, i.Type} {
		if target == "" || !s.registry.gone(target) {
			continue
		}
		s.client.EndCalls(target, target+" went offline ("+cmp.Or(i.Reason, "no reason given")+") before it answered: outcome unknown")
		if i.ID == i.Type {
			return
		}
	}
}

// gone reports whether all services of that id or type are offline, and there are some.
func (r *registry) gone(target string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := false
	for id, e := range r.services {
		if id != target && e.info.Type != target {
			continue
		}
		if e.info.State != Offline {
			return false
		}
		known = true
	}
	return known
}

// announced reports whether there is a service of that id or type.
func (r *registry) announced(target string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.services[target] != nil {
		return true
	}
	for _, e := range r.services {
		if e.info.Type == target {
			return true
		}
	}
	return false
}
