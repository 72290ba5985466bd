package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// ErrCycle is the cause of a [DependencyError] when services wait for each other in a circle.
var ErrCycle = errors.New("services wait for each other")

// cyclePatience is how long a circle of services that wait for each other must last before Start gives up: long enough for all
// of them to have seen it, so that each can name it.
const cyclePatience = time.Second

// DependencyError names the dependencies that did not come.
type DependencyError struct {
	Service string
	Missing []Missing
	Waited  time.Duration
	Cycle   []string // a, b, a when a and b wait for each other; nil otherwise
	Cause   error    // what ended the wait: context.DeadlineExceeded after DependencyTimeout, ErrCycle, or ctx's error
}

// Missing is one dependency that is not healthy.
type Missing struct {
	ID       string
	State    State         // "" when never seen
	LastSeen time.Time     // as in Info
	Ago      time.Duration // from LastSeen to the end of the wait; 0 when LastSeen is zero
}

// Error says who waited how long for whom: "navigation: dependency not ready after 60s: hardware_interface (never seen),
// sensor_fusion (offline, last seen 12s ago)".
func (e *DependencyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: dependency not ready after %s", e.Service, readable(e.Waited))
	if e.Cause == context.Canceled {
		b.WriteString(", when cancelled")
	}
	for i, m := range e.Missing {
		b.WriteString([]string{": ", ", "}[min(i, 1)])
		b.WriteString(m.String())
	}
	if e.Cycle != nil {
		fmt.Fprintf(&b, "; they wait for each other (%s): remove one of these dependencies", strings.Join(e.Cycle, " -> "))
	}
	return b.String()
}

// Unwrap returns Cause, so that errors.Is(err, context.DeadlineExceeded) tells a timeout.
func (e *DependencyError) Unwrap() error { return e.Cause }

// String returns id and state: "sensor_fusion (offline, last seen 12s ago)".
func (m Missing) String() string {
	switch {
	case m.State == "":
		return m.ID + " (never seen)"
	case m.State == Offline && !m.LastSeen.IsZero():
		return fmt.Sprintf("%s (%s, last seen %s ago)", m.ID, m.State, readable(m.Ago))
	}
	return fmt.Sprintf("%s (%s)", m.ID, m.State)
}

// readable rounds d to what a person wants to read: 350ms, 12s, 90s, 5m0s.
func readable(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Round(time.Second).Seconds()))
	}
	return d.Round(time.Second).String()
}

// WaitFor waits until the named service is healthy. When ctx ends first the error is a *[DependencyError], when this service
// stops it is [client.ErrClosed].
func (s *Service) WaitFor(ctx context.Context, id string) error {
	return s.await(ctx, s.stopped, client.ErrClosed, []string{id}, nil)
}

// awaitDependencies waits until all dependencies are healthy, and watches them, and the optional ones, from now on.
func (s *Service) awaitDependencies(ctx context.Context) error {
	deps := s.o.Dependencies
	s.watchDependencies()
	if len(deps) == 0 {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, s.o.DependencyTimeout)
	defer cancel()
	return s.await(wait, s.done, errStopping, deps, &circle{self: s.o.ID, deps: deps, log: s.log})
}

// watchDependencies judges this service anew whenever a dependency changes, and tells Options.OnDependency, which may take its
// time.
func (s *Service) watchDependencies() {
	if deps := s.o.Dependencies; len(deps) > 0 {
		s.OnService(func(i Info, _ State) {
			if slices.Contains(deps, i.ID) {
				s.update(func() {})
			}
		})
	}
	all := slices.Concat(s.o.Dependencies, s.o.Optional)
	if s.o.OnDependency == nil || len(all) == 0 {
		return
	}
	s.observe(func(i Info, _ State) {
		if slices.Contains(all, i.ID) {
			s.update(func() {})
			s.o.OnDependency(i.ID, i.State)
		}
	}, all...)
}

// await waits until all ids are healthy, the error of ctx, or ended (which gives endErr). With a circle to look for it also
// ends when that has been found and has lasted.
func (s *Service) await(ctx context.Context, ended <-chan struct{}, endErr error, ids []string, c *circle) error {
	began := time.Now()
	lasted := time.NewTimer(time.Hour)
	defer lasted.Stop()
	lasted.Stop()
	for {
		states, changed := s.registry.states(ids)
		missing := slices.DeleteFunc(states, func(m Missing) bool { return m.State == Healthy })
		if len(missing) == 0 {
			return nil
		}
		if c.look(s.registry) {
			lasted.Reset(cyclePatience)
		}
		var cause error
		select {
		case <-changed:
			continue
		case <-ended:
			return endErr
		case <-lasted.C:
			if c.path == nil {
				continue
			}
			cause = ErrCycle
		case <-ctx.Done():
			cause = ctx.Err()
		}
		for i := range missing {
			if seen := missing[i].LastSeen; !seen.IsZero() {
				missing[i].Ago = time.Since(seen)
			}
		}
		err := &DependencyError{Service: s.o.ID, Missing: missing, Waited: time.Since(began), Cause: cause}
		if c != nil {
			err.Cycle = c.path
		}
		return err
	}
}

// circle looks for services that wait for each other, self among them. One that was found is kept while its members still
// announce these dependencies and none is healthy: the first that gives up goes offline, and the others have to name the circle as well.
type circle struct {
	self string
	deps []string
	log  *slog.Logger
	path []string // self, ..., self; nil while there is none
}

// look brings c up to date. It reports whether a circle has appeared.
func (c *circle) look(r *registry) (appeared bool) {
	if c == nil || c.path != nil && r.closed(c.path) {
		return false
	}
	if c.path = r.cycle(c.self, c.deps); c.path == nil {
		return false
	}
	c.log.Warn("services wait for each other", "cycle", strings.Join(c.path, " -> "))
	return true
}

// cycle returns a path from id, which is starting, over services that keep each other from becoming healthy back to id, or nil.
func (r *registry) cycle(id string, dependencies []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	visited := make(map[string]bool)
	var walk func(path, deps []string, from State) []string
	walk = func(path, deps []string, from State) []string {
		for _, d := range deps {
			if d == id {
				return append(path, d)
			}
			e := r.services[d]
			if visited[d] || e == nil || severity(e.info.State) < 0 && e.info.State != Starting || !from.waitsFor(e.info.State) {
				continue
			}
			visited[d] = true
			if found := walk(append(slices.Clone(path), d), e.info.Dependencies, e.info.State); found != nil {
				return found
			}
		}
		return nil
	}
	return walk([]string{id}, dependencies, Starting)
}

// closed reports whether the members of a circle still depend on each other, and none is healthy.
func (r *registry) closed(path []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, id := range path[1 : len(path)-1] {
		e := r.services[id]
		if e == nil || e.info.State == Healthy || !slices.Contains(e.info.Dependencies, path[i+2]) {
			return false
		}
	}
	return true
}

// waitsFor reports whether a service in state s cannot become healthy while one that it depends on is in state dep: to start it
// needs a healthy one, to run one that is not lost.
func (s State) waitsFor(dep State) bool {
	if s == Starting {
		return dep != Healthy
	}
	return dep.lost()
}

// lost reports whether a service that depends on one in state s has to do without it.
func (s State) lost() bool { return s != Healthy && s != Degraded }

// dependencyVerdict is degraded while a dependency is lost: neither healthy nor degraded itself.
func (s *Service) dependencyVerdict() verdict {
	var lost []string
	states, _ := s.registry.states(s.o.Dependencies)
	for _, m := range states {
		switch {
		case !m.State.lost():
		case m.State == "":
			lost = append(lost, "dependency "+m.ID+" is gone")
		default:
			lost = append(lost, fmt.Sprintf("dependency %s is %s", m.ID, m.State))
		}
	}
	if lost == nil {
		return verdict{state: Healthy}
	}
	return verdict{Degraded, strings.Join(lost, ", ")}
}
