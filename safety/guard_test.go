package safety_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// TestPermitIsLost takes away each thing that a permit needs, and sees it lost for that cause, the machine stopped, and nothing come back
// by itself. To trust it: let Permit ignore until, or weighLocked the latch.
func TestPermitIsLost(t *testing.T) {
	type world struct {
		b        *bus
		m        *machine
		proxy    *faultnet.Proxy
		tilt     func()
		watchdog *service.Service
	}
	for name, c := range map[string]struct {
		take  func(t *testing.T, w *world)
		cause string
	}{
		"emergency stop":   {func(t *testing.T, w *world) { check(t, w.b.latch("x").Engage(testContext(t), "test")) }, "emergency stop: test (x)"},
		"own stop":         {func(t *testing.T, w *world) { check(t, w.m.latch.Engage(testContext(t), "test")) }, "emergency stop: test (hardware)"},
		"link is cut":      {func(_ *testing.T, w *world) { w.proxy.Close() }, "connection to the broker is lost"},
		"broker is silent": {func(_ *testing.T, w *world) { w.proxy.Set(faultnet.Down, faultnet.Faults{Lose: true}) }, ""},
		"broker is deaf":   {func(_ *testing.T, w *world) { w.proxy.Set(faultnet.Up, faultnet.Faults{Lose: true}) }, ""},
		"sensor is silent": {func(_ *testing.T, w *world) { w.tilt() }, "nothing on sensors/tilt/data for 1s"},
		"safety fails":     {func(_ *testing.T, w *world) { w.watchdog.SetState(service.Failing, "test") }, "safety is error"},
		"safety ends": {func(t *testing.T, w *world) {
			if err := w.watchdog.Stop(testContext(t)); err != nil {
				t.Error(err)
			}
		}, "safety is shutting_down"},
		"itself fails": {func(_ *testing.T, w *world) { w.m.svc.SetState(service.Degraded, "test") }, "this service is degraded"},
		"hub ends":     {func(_ *testing.T, w *world) { w.b.stopHub() }, "emergency stop: not known: the hub is "},
		"disarmed":     {func(_ *testing.T, w *world) { w.m.guard.Disarm("test") }, "test"},
		"closed":       {func(_ *testing.T, w *world) { w.m.guard.Close() }, "the guard is closed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBus(t)
			ctx := testContext(t)
			w := &world{b: b, proxy: b.proxy()}
			w.tilt = b.tilt(50 * time.Millisecond)
			var err error
			w.watchdog, err = service.Start(ctx, service.Options{ID: "safety", HeartbeatTimeout: time.Second, Client: client.Options{URL: b.url()}})
			check(t, err)
			t.Cleanup(func() { _ = w.watchdog.Stop(context.Background()) })
			var mu sync.Mutex
			var told []string
			w.m = b.machine("hardware", machineOptions{
				url: "tcp://" + w.proxy.Addr(), require: time.Second, safety: []string{"safety"},
				onChange: func(permit bool, cause string) {
					mu.Lock()
					defer mu.Unlock()
					if permit {
						cause = "permit"
					}
					told = append(told, cause)
				},
			})
			release(t, b.latch("operator"))
			eventually(t, "armed", func() bool { return w.m.guard.Arm(ctx) == nil })
			eventually(t, "it drives", func() bool { d, _ := w.m.counts(); return d > 3 })
			_, stops := w.m.counts()
			c.take(t, w)
			eventually(t, "lost", func() bool { return !w.m.guard.Permit() })
			eventually(t, "stopped", func() bool { _, s := w.m.counts(); return s > stops })
			eventually(t, "told", func() bool { mu.Lock(); defer mu.Unlock(); return len(told) == 2 })
			mu.Lock()
			if told[0] != "permit" || !strings.Contains(told[1], c.cause) {
				t.Errorf("told %q, want a permit, and then %q", told, c.cause)
			}
			mu.Unlock()
			drives, _ := w.m.counts()
			w.proxy.Set(faultnet.Down, faultnet.Faults{})
			w.proxy.Set(faultnet.Up, faultnet.Faults{})
			w.m.svc.SetState(service.Healthy, "")
			w.watchdog.SetState(service.Healthy, "")
			b.tilt(50 * time.Millisecond)
			// All that may come back by itself has, when the sensors of a second have come.
			eventually(t, "sensors again", func() bool { return name == "closed" || name == "link is cut" || len(w.m.guard.Causes()) <= 1 })
			if now, _ := w.m.counts(); now > drives+1 || w.m.guard.Permit() {
				t.Errorf("%d calls of drive after the permit was lost, permit %v", now-drives, w.m.guard.Permit())
			}
		})
	}
}

// TestArmIsRefused names everything that stands against it.
func TestArmIsRefused(t *testing.T) {
	b := newBus(t)
	m := b.machine("hardware", machineOptions{require: 100 * time.Millisecond, safety: []string{"safety"}})
	err := m.guard.Arm(testContext(t))
	var blocked *safety.BlockedError
	if !errors.As(err, &blocked) || !strings.Contains(err.Error(), "it has never been released") {
		t.Fatalf("a bus that is new: %v", err)
	}
	release2(t, b, m)
	err = m.guard.Arm(testContext(t))
	if !errors.As(err, &blocked) {
		t.Fatalf("without a sensor and safety: %v", err)
	}
	if all := strings.Join(m.guard.Causes(), "\n"); !strings.Contains(all, "nothing on sensors/tilt/data") || !strings.Contains(all, "safety is offline") {
		t.Fatalf("causes: %s", all)
	}
}

// release2 releases though the guard misses something, by forgetting nothing: it makes what is missing appear for a moment.
func release2(t *testing.T, b *bus, m *machine) {
	t.Helper()
	stop := b.tilt(10 * time.Millisecond)
	s, err := service.Start(testContext(t), service.Options{ID: "safety", Client: client.Options{URL: b.url()}})
	check(t, err)
	release(t, b.latch("operator"))
	eventually(t, "released", m.latch.Released)
	stop()
	check(t, s.Stop(testContext(t)))
	eventually(t, "silent again", func() bool { return len(m.guard.Causes()) == 2 })
}

// TestGuardNeedsAShortLease refuses a service that would notice a dead link after a minute and a half.
func TestGuardNeedsAShortLease(t *testing.T) {
	b := newBus(t)
	s, err := service.Start(testContext(t), service.Options{ID: "slow", Client: client.Options{URL: b.url()}})
	check(t, err)
	defer func() { _ = s.Stop(context.Background()) }()
	l, err := safety.OpenLatch(testContext(t), s.Client(), safety.LatchOptions{})
	check(t, err)
	defer func() { _ = l.Close(context.Background()) }()
	if _, err := safety.NewGuard(testContext(t), s, l, safety.GuardOptions{}); err == nil || !strings.Contains(err.Error(), "set Safety") {
		t.Fatalf("want an error that says what to do: %v", err)
	}
}

// TestDriveHangs has the permit lost while drive hangs: stop is called nevertheless, and again when drive returns at last, before anything is driven.
func TestDriveHangs(t *testing.T) {
	b := newBus(t)
	hang := make(chan struct{})
	hung := make(chan struct{})
	var once sync.Once
	m := b.machine("hardware", machineOptions{drive: func(context.Context) error {
		once.Do(func() {
			close(hung)
			<-hang
		})
		return nil
	}})
	release(t, b.latch("operator"))
	check(t, m.guard.Arm(testContext(t)))
	<-hung
	_, before := m.counts()
	check(t, m.latch.Engage(testContext(t), "test"))
	eventually(t, "stopped while drive hangs", func() bool { _, s := m.counts(); return s == before+1 })
	eventually(t, "confirmed", func() bool { return b.hub.Status().Participants[0].Confirmed })
	close(hang)
	eventually(t, "stopped again", func() bool { _, s := m.counts(); return s == before+2 })
	if d, _ := m.counts(); d != 1 {
		t.Fatalf("drive was called %d times", d)
	}
}

// TestDriveHangsByItself takes the permit from a drive that does not return.
func TestDriveHangsByItself(t *testing.T) {
	b := newBus(t)
	m := b.machine("hardware", machineOptions{drive: func(ctx context.Context) error {
		<-ctx.Done() // which comes with the loss
		return nil
	}})
	release(t, b.latch("operator"))
	check(t, m.guard.Arm(testContext(t)))
	_, before := m.counts()
	eventually(t, "stopped, and stopped again", func() bool { _, s := m.counts(); return s == before+2 })
	m.mu.Lock()
	defer m.mu.Unlock()
	if last := m.stops[len(m.stops)-1]; !strings.Contains(last, "drive hangs") {
		t.Fatalf("stopped because of %q", last)
	}
}

// TestDriveFails stops for an error and for a panic.
func TestDriveFails(t *testing.T) {
	b := newBus(t)
	var how func() error
	m := b.machine("hardware", machineOptions{drive: func(context.Context) error { return how() }})
	release(t, b.latch("operator"))
	for want, f := range map[string]func() error{
		"motor bus: broken pipe": func() error { return errors.New("motor bus: broken pipe") },
		"it panicked: boom":      func() error { panic("boom") },
	} {
		how = f
		_, before := m.counts()
		check(t, m.guard.Arm(testContext(t)))
		eventually(t, "stopped", func() bool { _, s := m.counts(); return s == before+1 })
		m.mu.Lock()
		if last := m.stops[len(m.stops)-1]; last != "drive failed: "+want {
			t.Errorf("stopped because of %q", last)
		}
		m.mu.Unlock()
	}
}

// TestStopIsTriedAgain has stop fail and panic a few times: it is called until it succeeds, nobody hears that the machine stands before, and
// nothing is driven before.
func TestStopIsTriedAgain(t *testing.T) {
	b := newBus(t)
	var mu sync.Mutex
	fails := 0
	m := b.machine("hardware", machineOptions{stop: func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if fails == 0 {
			return nil
		}
		if fails--; fails%2 == 0 {
			panic("boom")
		}
		return errors.New("motor bus is busy")
	}})
	release(t, b.latch("operator"))
	check(t, m.guard.Arm(testContext(t)))
	eventually(t, "it drives", func() bool { d, _ := m.counts(); return d > 0 })
	mu.Lock()
	fails = 1_000_000
	mu.Unlock()
	check(t, m.latch.Engage(testContext(t), "test"))
	check(t, m.latch.Settle(testContext(t)))
	eventually(t, "the alert", func() bool { return hasAlert(m.svc, "stop_not_confirmed") })
	if b.hub.Status().Participants[0].Confirmed {
		t.Fatal("confirmed though stop has failed")
	}
	mu.Lock()
	fails = 3
	mu.Unlock()
	eventually(t, "confirmed", func() bool { return b.hub.Status().Participants[0].Confirmed })
	eventually(t, "the alert is over", func() bool { return !hasAlert(m.svc, "stop_not_confirmed") })
}

// TestRunEnds has Run say what it leaves behind.
func TestRunEnds(t *testing.T) {
	b := newBus(t)
	m := b.machine("hardware", machineOptions{})
	eventually(t, "it runs", func() bool { _, s := m.counts(); return s > 0 })
	if err := m.guard.Run(testContext(t), time.Second, nil, nil); err == nil {
		t.Fatal("a second Run of one guard")
	}
	m.end()
	eventually(t, "no actuator any more", func() bool {
		p := b.hub.Status().Participants
		return len(p) == 1 && !p[0].Actuator
	})
	var driving atomic.Bool
	run := func(drive func(context.Context) error, stop func(string) error) error {
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		result := make(chan error, 1)
		go func() { result <- m.guard.Run(ctx, 5*time.Millisecond, drive, stop) }()
		if drive != nil {
			release(t, b.latch("operator"))
			eventually(t, "armed", func() bool { return m.guard.Arm(ctx) == nil })
			eventually(t, "driving", driving.Load)
		}
		cancel()
		return <-result
	}
	hang := make(chan struct{})
	defer close(hang)
	quick := func(string) error { return nil }
	if err := run(nil, func(string) error { <-hang; return nil }); err == nil || !strings.Contains(err.Error(), "stop hangs, the machine may move") {
		t.Errorf("stop hangs: %v", err)
	}
	if err := run(nil, func(string) error { return errors.New("no motor") }); err == nil || !strings.Contains(err.Error(), "may move: no motor") {
		t.Errorf("stop fails: %v", err)
	}
	if err := run(func(context.Context) error { driving.Store(true); <-hang; return nil }, quick); err == nil || !strings.Contains(err.Error(), "drive hangs") {
		t.Errorf("drive hangs: %v", err)
	}
}

func BenchmarkPermit(b *testing.B) {
	bus := newBus(b)
	m := bus.machine("hardware", machineOptions{})
	release(b, bus.latch("operator"))
	check(b, m.guard.Arm(testContext(b)))
	for b.Loop() {
		if !m.guard.Permit() {
			b.Fatal("no permit")
		}
	}
}
