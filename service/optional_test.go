package service_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

// Each of three services that wait for each other is told so, by its own Start and long before DependencyTimeout.
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

// lines is a log, line by line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// The first of a circle that gives up goes offline: the others name the circle all the same. With the circle not kept they waited
// for the one that had gone until DependencyTimeout.
func TestCycleIsNamedByWhoIsLeft(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPeer(t, b, "python")
	say := func(state string) {
		p.say("system/services/b/status", envelope("b", "status", map[string]any{
			"status": state, "details": map[string]any{"dependencies": []string{"a"}, "reason": "did not start"},
		}), client.WithRetain(true))
	}
	log, failed := make(lines, 1000), make(chan error, 1)
	say("starting")
	go func() {
		_, err := service.Start(testContext(t), service.Options{
			ID: "a", Client: client.Options{URL: b.URL()}, Dependencies: []string{"b"}, DependencyTimeout: 15 * time.Second,
			Logger: slog.New(slog.NewTextHandler(log, nil)),
		})
		failed <- err
	}()
	for seen := false; !seen; {
		select {
		case line := <-log:
			seen = strings.Contains(line, "wait for each other")
		case err := <-failed:
			t.Fatalf("no circle seen: %v", err)
		}
	}
	say("offline")
	if err := <-failed; !errors.Is(err, service.ErrCycle) || !strings.Contains(err.Error(), "b (offline, ") || !strings.Contains(err.Error(), "(a -> b -> a)") {
		t.Errorf("%v", err)
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

// A call of OnDependency that hangs does not keep the state from what it should be.
func TestOnDependencyHangs(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	hardware := start(t, b, service.Options{ID: "hardware"})
	other := start(t, b, service.Options{ID: "other"})
	release, called := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(called) })
	start(t, b, service.Options{ID: "navigation", Dependencies: []string{"hardware"}, OnDependency: func(string, service.State) {
		once()
		<-release
	}})
	t.Cleanup(func() { close(release) }) // before the service is stopped
	<-called
	stop(t, hardware)
	awaitState(t, other, "navigation", service.Degraded)
	start(t, b, service.Options{ID: "hardware"})
	awaitState(t, other, "navigation", service.Healthy)
}

// A lost dependency has degraded its dependent when that is told. With that left to who watches beside, it was
// still healthy.
func TestOnDependencyIsToldAfterTheState(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	hardware := start(t, b, service.Options{ID: "hardware"})
	told := make(chan service.State)
	svc := start(t, b, service.Options{ID: "navigation", Dependencies: []string{"hardware"}, OnDependency: func(_ string, st service.State) { told <- st }})
	await := func(want, own service.State) {
		t.Helper()
		for {
			select {
			case st := <-told:
				if st != want {
					continue // of its beginning
				}
				if svc.State() != own {
					t.Fatalf("told that it is %s while %s", st, svc.State())
				}
				return
			case <-testContext(t).Done():
				t.Fatalf("never told that it is %s", want)
			}
		}
	}
	await(service.Healthy, service.Healthy)
	for range 200 {
		hardware.SetState(service.Failing, "")
		await(service.Failing, service.Degraded)
		hardware.SetState(service.Healthy, "")
		await(service.Healthy, service.Healthy)
	}
}

func TestOptionalDependencyOnItself(t *testing.T) {
	t.Parallel()
	_, err := service.Start(testContext(t), service.Options{ID: "a", Optional: []string{"a", "x/y"}})
	if err == nil || !strings.Contains(err.Error(), "depends on itself") || !strings.Contains(err.Error(), "x/y") {
		t.Errorf("%v", err)
	}
}
