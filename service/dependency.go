package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/client"
)

// DependencyError names the dependencies that did not come.
type DependencyError struct {
	Service string
	Missing []Missing
	Waited  time.Duration
	Cycle   []string // a, b, a when a and b wait for each other; nil otherwise
	Cause   error    // what ended the wait: context.DeadlineExceeded after DependencyTimeout, or ctx's error
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

// awaitDependencies waits until all dependencies are healthy, and from then on watches them.
func (s *Service) awaitDependencies(ctx context.Context) error {
	deps := s.o.Dependencies
	if len(deps) == 0 {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, s.o.DependencyTimeout)
	defer cancel()
	var warned bool
	err := s.await(wait, s.done, errStopping, deps, func(missing []Missing) {
		if cycle := s.registry.cycle(s.o.ID, deps); cycle != nil && !warned {
			warned = true
			s.log.Warn("services wait for each other", "cycle", strings.Join(cycle, " -> "))
		}
	})
	if err != nil {
		return err
	}
	s.OnService(func(i Info, _ State) {
		if slices.Contains(deps, i.ID) {
			s.update(func() {})
		}
	})
	return nil
}

// await waits until all ids are healthy, the error of ctx, or ended (which gives endErr). waiting is called whenever
// something changed and some are still missing; without it the ids are nobody's dependencies.
func (s *Service) await(ctx context.Context, ended <-chan struct{}, endErr error, ids []string, waiting func([]Missing)) error {
	began := time.Now()
	for {
		states, changed := s.registry.states(ids)
		missing := slices.DeleteFunc(states, func(m Missing) bool { return m.State == Healthy })
		if len(missing) == 0 {
			return nil
		}
		if waiting != nil {
			waiting(missing)
		}
		select {
		case <-changed:
			continue
		case <-ended:
			return endErr
		case <-ctx.Done():
		}
		for i := range missing {
			if seen := missing[i].LastSeen; !seen.IsZero() {
				missing[i].Ago = time.Since(seen)
			}
		}
		err := &DependencyError{Service: s.o.ID, Missing: missing, Waited: time.Since(began), Cause: ctx.Err()}
		if waiting != nil {
			err.Cycle = s.registry.cycle(s.o.ID, ids)
		}
		return err
	}
}

// dependencyVerdict is degraded while a dependency is lost: neither healthy nor degraded itself.
func (s *Service) dependencyVerdict() verdict {
	var lost []string
	states, _ := s.registry.states(s.o.Dependencies)
	for _, m := range states {
		switch m.State {
		case Healthy, Degraded:
		case "":
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
