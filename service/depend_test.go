package service_test

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/service"
)

func TestDependencyInEitherOrder(t *testing.T) {
	b := newBroker(t)
	hardware := service.Options{ID: "hardware", Client: client.Options{URL: b.URL()}}
	navigation := service.Options{ID: "navigation", Client: client.Options{URL: b.URL()}, Dependencies: []string{"hardware"}}
	for _, order := range [][]service.Options{{hardware, navigation}, {navigation, hardware}} {
		t.Run(order[0].ID+" first", func(t *testing.T) {
			p := newPeer(t, b, "watcher")
			first := make(chan *service.Service, 1)
			announced := make(chan struct{}, 10)
			if _, err := p.Subscribe(testContext(t), "system/services/"+order[0].ID+"/status", func(_ context.Context, d *client.Delivery) {
				if !d.Retained {
					announced <- struct{}{}
				}
			}); err != nil {
				t.Fatal(err)
			}
			go func() {
				svc, err := service.Start(testContext(t), order[0])
				if err != nil {
					t.Error(err)
				}
				first <- svc
			}()
			<-announced
			second := start(t, b, order[1])
			svc := <-first
			if svc == nil {
				return
			}
			for _, s := range []*service.Service{svc, second} {
				if s.State() != service.Healthy {
					t.Errorf("%s is %s", s.ID(), s.State())
				}
			}
			for _, s := range []*service.Service{svc, second} {
				if err := s.WaitFor(testContext(t), "navigation"); err != nil {
					t.Error(err)
				}
			}
			if i, _ := svc.Service("navigation"); !slices.Equal(i.Dependencies, []string{"hardware"}) {
				t.Errorf("known of navigation: %+v", i)
			}
			stop(t, second)
			stop(t, svc)
		})
	}
}

func TestMissingDependency(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	fusion := start(t, b, service.Options{ID: "sensor_fusion"})
	stop(t, fusion)
	p := newPeer(t, b, "python")
	p.say("system/services/camera/status", envelope("camera", "status", map[string]any{"status": "degraded"}), client.WithRetain(true))
	awaitState(t, other, "camera", service.Degraded)

	began := time.Now()
	_, err := tryStart(t, b, service.Options{
		ID: "navigation", Dependencies: []string{"hardware_interface", "other", "sensor_fusion", "camera"}, DependencyTimeout: 300 * time.Millisecond,
	})
	var missing *service.DependencyError
	if !errors.As(err, &missing) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	if time.Since(began) < 300*time.Millisecond {
		t.Error("gave up early")
	}
	want := regexp.MustCompile(`^navigation: dependency not ready after [0-9.]+m?s: hardware_interface \(never seen\), ` +
		`sensor_fusion \(offline, last seen [0-9.]+m?s ago\), camera \(degraded\)$`)
	if !want.MatchString(err.Error()) {
		t.Errorf("%v", err)
	}
	if len(missing.Missing) != 3 || missing.Missing[0].ID != "hardware_interface" || missing.Missing[0].State != "" || missing.Missing[1].State != service.Offline {
		t.Errorf("%+v", missing)
	}
	awaitState(t, other, "navigation", service.Offline)
	if i, _ := other.Service("navigation"); i.Reason != "did not start" {
		t.Errorf("a service that did not start says: %+v", i)
	}
}

func TestDependencyWaitEndsWithContext(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	ctx, cancel := context.WithCancel(context.Background())
	_, err := service.Start(ctx, service.Options{
		ID: "a", Client: client.Options{URL: b.URL()}, Dependencies: []string{"never"},
		Setup: func(context.Context, *service.Service) error { cancel(); return nil },
	})
	if missing := (*service.DependencyError)(nil); !errors.As(err, &missing) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "never (never seen)") {
		t.Errorf("%v", err)
	}
	awaitState(t, other, "a", service.Offline)
}

func TestDependencyCycle(t *testing.T) {
	b := newBroker(t)
	failed := make(chan error, 2)
	begin := func(id, dep string) {
		go func() {
			_, err := service.Start(testContext(t), service.Options{
				ID: id, Client: client.Options{URL: b.URL()}, Dependencies: []string{dep}, DependencyTimeout: time.Second,
			})
			failed <- err
		}()
	}
	begin("a", "b")
	begin("b", "a")
	var text []string
	for range 2 {
		err := <-failed
		if missing := (*service.DependencyError)(nil); !errors.As(err, &missing) {
			t.Fatalf("%v", err)
		}
		text = append(text, err.Error())
	}
	if all := strings.Join(text, "\n"); !strings.Contains(all, "wait for each other (a -> b -> a)") && !strings.Contains(all, "wait for each other (b -> a -> b)") {
		t.Errorf("no cycle named:\n%s", all)
	}
}

// A service that waits for others answers already.
func TestAnswersWhileWaiting(t *testing.T) {
	b := newBroker(t)
	other := start(t, b, service.Options{ID: "other"})
	started := make(chan *service.Service, 1)
	go func() {
		svc, err := service.Start(testContext(t), service.Options{
			ID: "a", Client: client.Options{URL: b.URL()}, Dependencies: []string{"hardware"}, Heartbeat: 5 * time.Millisecond,
		})
		if err != nil {
			t.Error(err)
		}
		started <- svc
	}()
	awaitState(t, other, "a", service.Starting)
	var status struct {
		State service.State `json:"state"`
	}
	if err := other.Call(testContext(t), "a", "status", nil, &status); err != nil || status.State != service.Starting {
		t.Errorf("%+v, %v", status, err)
	}
	if err := other.Call(testContext(t), "a", "ping", nil, nil); err != nil {
		t.Error(err)
	}
	first, _ := other.Service("a")
	eventually(t, "heartbeats while it waits", func() bool {
		i, _ := other.Service("a")
		return i.State == service.Starting && i.LastSeen.After(first.LastSeen)
	})
	start(t, b, service.Options{ID: "hardware"})
	if svc := <-started; svc != nil {
		stop(t, svc)
	}
}

func TestLostDependency(t *testing.T) {
	b := newBroker(t)
	p := newPeer(t, b, "watcher", "system/services/+/status", "system/events/+")
	hardware := start(t, b, service.Options{ID: "hardware"})
	svc := start(t, b, service.Options{ID: "navigation", Dependencies: []string{"hardware"}})
	hardware.SetState(service.Degraded, "one sensor of two") // not lost
	awaitState(t, svc, "hardware", service.Degraded)
	hardware.SetState(service.Healthy, "")
	awaitState(t, svc, "hardware", service.Healthy)
	stop(t, hardware)
	awaitState(t, svc, "navigation", service.Degraded)
	eventually(t, "the reason is that hardware is offline", func() bool {
		i, _ := svc.Service("navigation")
		return i.Reason == "dependency hardware is offline"
	})
	start(t, b, service.Options{ID: "hardware"})
	awaitState(t, svc, "navigation", service.Healthy)
	svc.SetState(service.Failing, "blade")
	if svc.State() != service.Failing {
		t.Error("the worst does not count")
	}
	svc.SetState(service.Healthy, "")
	p.awaitStates("navigation", "starting", "healthy", "degraded", "healthy", "error", "healthy")
}

func TestWaitFor(t *testing.T) {
	b := newBroker(t)
	svc := start(t, b, service.Options{ID: "a"})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := svc.WaitFor(ctx, "b")
	if missing := (*service.DependencyError)(nil); !errors.As(err, &missing) || !strings.Contains(err.Error(), "b (never seen)") {
		t.Errorf("%v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- svc.WaitFor(testContext(t), "b") }()
	start(t, b, service.Options{ID: "b"})
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := svc.WaitFor(context.Background(), "a"); err != nil {
		t.Errorf("for itself: %v", err)
	}
}
