package service_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// Each of three services that wait for each other is told so, by its own Start and long before DependencyTimeout. With the circle not
// kept when its first member gives up, the others waited to the end; so they did with circles that are only found at the end.
func TestCycleIsNamedEarly(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	ring := []string{"a", "b", "c", "a"}
	failed := make(chan error, 3)
	for i, id := range ring[:3] {
		go func() {
			_, err := service.Start(testContext(t), service.Options{
				ID: id, Client: client.Options{URL: b.URL()}, Dependencies: []string{ring[i+1]}, DependencyTimeout: time.Hour,
			})
			failed <- err
		}()
	}
	named := map[string]bool{}
	for range ring[:3] {
		err := <-failed
		var missing *service.DependencyError
		if !errors.As(err, &missing) || !errors.Is(err, service.ErrCycle) || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v", err)
		}
		at := slices.Index(ring, missing.Service)
		want := strings.Join([]string{ring[at], ring[(at+1)%3], ring[(at+2)%3], ring[at]}, " -> ")
		if !strings.Contains(err.Error(), "wait for each other ("+want+")") {
			t.Errorf("%s: %v", missing.Service, err)
		}
		named[missing.Service] = true
	}
	if len(named) != 3 {
		t.Errorf("named by %v", named)
	}
}

// Who runs degraded for its own reason keeps nobody waiting for ever: that is no circle, though the dependencies are one.
func TestNoCycleThroughWhoRuns(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "python")
	say := func(id, state, dep string) {
		p.say("system/services/"+id+"/status", envelope(id, "status", map[string]any{
			"status": state, "details": map[string]any{"dependencies": []string{dep}},
		}), client.WithRetain(true))
	}
	say("b", "degraded", "c")
	say("c", "degraded", "a")
	began := make(chan error, 1)
	go func() {
		a, err := service.Start(testContext(t), service.Options{
			ID: "a", Client: client.Options{URL: b.URL()}, Dependencies: []string{"b"}, DependencyTimeout: 3 * time.Second,
		})
		if err == nil {
			err = a.Stop(testContext(t))
		}
		began <- err
	}()
	select {
	case err := <-began: // while c, by its own account, can do without a
		if errors.Is(err, service.ErrCycle) {
			t.Fatalf("%v", err)
		}
		t.Fatalf("a began: %v", err)
	case <-time.After(1500 * time.Millisecond): // longer than a circle needs to be named
	}
	say("b", "healthy", "c")
	if err := <-began; err != nil {
		t.Error(err)
	}
}

// calls are those of OnDependency.
type calls struct {
	mu  sync.Mutex
	got []string // guarded by mu
}

func (c *calls) add(id string, state service.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, id+" "+string(state))
}

func (c *calls) await(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, "calls "+strings.Join(want, ", "), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.Equal(c.got, want)
	})
}

func TestOptionalDependency(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	var got calls
	camera := start(t, b, service.Options{ID: "camera"})
	awaitState(t, other, "camera", service.Healthy)
	svc := start(t, b, service.Options{ID: "navigation", Dependencies: []string{"other"}, Optional: []string{"camera", "weather", "other", "camera"}, OnDependency: got.add})
	got.await(t, "other healthy", "camera healthy") // not weather, which nobody knows
	awaitState(t, other, "navigation", service.Healthy)
	if i, _ := other.Service("navigation"); !slices.Equal(i.Optional, []string{"camera", "weather"}) || !slices.Equal(i.Dependencies, []string{"other"}) {
		t.Errorf("known of navigation: %+v", i)
	}
	stop(t, camera)
	got.await(t, "other healthy", "camera healthy", "camera shutting_down", "camera offline")
	if svc.State() != service.Healthy {
		t.Errorf("without what it can do without it is %s", svc.State())
	}
	start(t, b, service.Options{ID: "camera"})
	got.await(t, "other healthy", "camera healthy", "camera shutting_down", "camera offline", "camera starting", "camera healthy")
}

// A lost dependency has degraded its dependent when that is told of it, also while an earlier call hangs.
func TestOnDependencyIsToldAfterTheState(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	hardware := start(t, b, service.Options{ID: "hardware"})
	other := start(t, b, service.Options{ID: "other"})
	var svc *service.Service
	ready, release, told := make(chan struct{}), make(chan struct{}), make(chan service.State, 10)
	svc = start(t, b, service.Options{ID: "navigation", Dependencies: []string{"hardware"}, OnDependency: func(_ string, st service.State) {
		<-ready
		if st == service.Offline {
			told <- svc.State()
		}
		if st == service.Healthy {
			<-release
		}
	}})
	close(ready)
	stop(t, hardware)
	awaitState(t, other, "navigation", service.Degraded) // though the call for healthy has not returned
	close(release)
	if st := <-told; st != service.Degraded {
		t.Errorf("told of the loss while %s", st)
	}
	start(t, b, service.Options{ID: "hardware"})
	awaitState(t, other, "navigation", service.Healthy)
}

func TestOptionalDependencyOnItself(t *testing.T) {
	t.Parallel()
	_, err := service.Start(testContext(t), service.Options{ID: "a", Optional: []string{"a", "x/y"}})
	if err == nil || !strings.Contains(err.Error(), "depends on itself") || !strings.Contains(err.Error(), "x/y") {
		t.Errorf("%v", err)
	}
}
