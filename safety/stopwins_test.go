package safety_test

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestStopWhileArming disarms while one Arm waits for a topic, and another for its turn: neither may give a permit afterwards.
func TestStopWhileArming(t *testing.T) {
	b := newBus(t)
	release(t, b.latch("operator"))
	m := b.machine("hardware", machineOptions{require: 5 * time.Second})
	eventually(t, "released, and nothing but the topic is missing", func() bool { return m.latch.Released() && len(m.guard.Causes()) == 1 })
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- m.guard.Arm(testContext(t)) }()
	}
	eventually(t, "one waits for its turn", func() bool { return waits("(*Guard).Arm(", "sync.Mutex.Lock") })
	m.guard.Disarm("stopped by a person")
	b.tilt(10 * time.Millisecond)
	for range 2 {
		if err := <-errs; err == nil || !strings.Contains(err.Error(), "stopped by a person") {
			t.Errorf("a command from before the stop: %v", err)
		}
	}
	if m.guard.Permit() {
		t.Error("a permit after the stop")
	}
}

// TestStopWhileTaking is that for drivers: one waits for a topic, another for its turn, and somebody stops the machine.
func TestStopWhileTaking(t *testing.T) {
	b := newBus(t)
	release(t, b.latch("operator"))
	m := b.machine("hardware", machineOptions{require: 5 * time.Second, seat: true})
	eventually(t, "released, and nothing but topic and driver are missing", func() bool { return m.latch.Released() && len(m.guard.Causes()) == 2 })
	ctx := testContext(t)
	errs := make(chan error, 2)
	for _, id := range []string{"one", "two"} {
		c := b.client(id)
		go func() { errs <- c.Call(ctx, "hardware", "take_control", nil, nil) }()
	}
	eventually(t, "one waits for its turn", func() bool { return waits("(*Seat).take(", "sync.Mutex.Lock") })
	if err := b.client("anybody").Call(ctx, "hardware", "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	b.tilt(10 * time.Millisecond)
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("control was given to who asked before the stop")
		}
	}
	if m.guard.Permit() || m.seat.Driver() != "" {
		t.Error("a permit after the stop")
	}
}

// waits reports whether a goroutine that is in f is in that state.
func waits(f, state string) bool {
	buf := make([]byte, 1<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if head, _, _ := strings.Cut(g, "\n"); strings.Contains(head, state) && strings.Contains(g, f) {
			return true
		}
	}
	return false
}
