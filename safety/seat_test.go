package safety_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
)

// TestOneDriver has drivers come and go: one at a time, refused while the machine must not move, and commands without its token are not admitted.
func TestOneDriver(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	m := b.machine("hardware", machineOptions{seat: true})
	one, two := b.client("one"), b.client("two")
	_, err := safety.TakeLease(ctx, one, "hardware")
	wantRefused(t, err, "emergency stop")
	operator := b.latch("operator")
	release(t, operator)
	eventually(t, "released", m.latch.Released)
	if err := m.guard.Arm(ctx); err == nil || !strings.Contains(err.Error(), "nobody drives") {
		t.Fatalf("armed without a driver: %v", err)
	}
	l, err := safety.TakeLease(ctx, one, "hardware")
	check(t, err)
	eventually(t, "it drives", func() bool { d, _ := m.counts(); return d > 0 })
	check(t, m.seat.Admit("one", l.Token()))
	for _, wrong := range [][2]string{{"one", ""}, {"one", "x"}, {"two", l.Token()}, {"", l.Token()}, {"two", ""}} {
		if m.seat.Admit(wrong[0], wrong[1]) == nil {
			t.Errorf("admitted: sender %q, token %q", wrong[0], wrong[1])
		}
	}
	_, err = safety.TakeLease(ctx, two, "hardware")
	wantRefused(t, err, "one drives")

	// Who has it may take it again, as after a crash. The old token is worth nothing then.
	again, err := safety.TakeLease(ctx, one, "hardware")
	check(t, err)
	<-l.Done()
	if m.seat.Admit("one", l.Token()) == nil || l.Err() == nil {
		t.Error("the token from before is admitted")
	}
	check(t, m.seat.Admit("one", again.Token()))

	// Given back, the next one gets it.
	check(t, again.Leave(ctx))
	if m.guard.Permit() || m.seat.Admit("one", again.Token()) == nil {
		t.Error("a permit without a driver")
	}
	l2, err := safety.TakeLease(ctx, two, "hardware")
	check(t, err)

	// Anybody may stop it.
	var was struct{ Driver string }
	check(t, one.Call(ctx, "hardware", "stop", map[string]string{"reason": "enough"}, &was))
	<-l2.Done()
	if was.Driver != "two" || m.guard.Permit() || !strings.Contains(l2.Err().Error(), "stopped by one: enough") {
		t.Errorf("stopped %q, permit %v, and its driver was told %v", was.Driver, m.guard.Permit(), l2.Err())
	}

	// An emergency stop ends it, and its release does not bring it back.
	l3, err := safety.TakeLease(ctx, two, "hardware")
	check(t, err)
	check(t, operator.Engage(ctx, "test"))
	<-l3.Done()
	if !strings.Contains(l3.Err().Error(), "emergency stop: test (operator)") {
		t.Errorf("its driver was told %v", l3.Err())
	}
	release(t, operator)
	eventually(t, "released", m.latch.Released)
	if m.guard.Permit() || m.seat.Driver() != "" || m.seat.Admit("two", l3.Token()) == nil {
		t.Error("a release has set the machine going")
	}
	l4, err := safety.TakeLease(ctx, two, "hardware")
	check(t, err)
	check(t, l4.Leave(ctx))
	check(t, l4.Leave(ctx))
}

// TestDriverIsLost cuts the driver off, and freezes it as a browser's tab is: the machine stops when the lease runs out, and both sides know.
func TestDriverIsLost(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	m := b.machine("hardware", machineOptions{seat: true})
	release(t, b.latch("operator"))
	eventually(t, "released", m.latch.Released)
	kept := false
	for name, harm := range map[string]func(p *faultnet.Proxy, cancel context.CancelFunc){
		"cut":    func(p *faultnet.Proxy, _ context.CancelFunc) { p.Refuse(true); p.Cut(true) },
		"deaf":   func(p *faultnet.Proxy, _ context.CancelFunc) { p.Set(faultnet.Down, faultnet.Faults{Lose: true}) },
		"dumb":   func(p *faultnet.Proxy, _ context.CancelFunc) { p.Set(faultnet.Up, faultnet.Faults{Lose: true}) },
		"closed": func(_ *faultnet.Proxy, cancel context.CancelFunc) { cancel() },
	} {
		p := b.proxy()
		c := b.clientAt("driver-"+name, "tcp://"+p.Addr())
		driving, cancel := context.WithCancel(ctx)
		t.Cleanup(cancel)
		var l *safety.Lease
		eventually(t, name+": taken", func() (ok bool) {
			var err error
			l, err = safety.TakeLease(driving, c, "hardware")
			return err == nil
		})
		begun := time.Now()
		for !kept && m.guard.Permit() && time.Since(begun) < 1500*time.Millisecond { // longer than a lease
			time.Sleep(10 * time.Millisecond)
		}
		if kept = true; !m.guard.Permit() {
			t.Fatalf("%s: lost while the driver is there: %v", name, l.Err())
		}
		harm(p, cancel)
		eventually(t, name+": the machine stops", func() bool { return !m.guard.Permit() })
		select {
		case <-l.Done():
		case <-ctx.Done():
			t.Fatalf("%s: the driver does not notice", name)
		}
		if err := m.seat.Admit(c.ID(), l.Token()); err == nil {
			t.Errorf("%s: its set points are admitted", name)
		}
	}
	if s := b.hub.Status(); s.Engaged {
		t.Errorf("a driver that is lost has engaged the emergency stop: %+v", s.State)
	}
}

// TestLateRenewal has a renewal come after the lease has run out: it does not bring it back. To trust it: let keep touch the condition before it asks who
// holds the lease, without weighing.
func TestLateRenewal(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	m := b.machine("hardware", machineOptions{seat: true})
	release(t, b.latch("operator"))
	eventually(t, "released", m.latch.Released)
	c := b.client("driver")
	var lease struct{ Token string }
	check(t, c.Call(ctx, "hardware", "take_control", nil, &lease))
	eventually(t, "run out", func() bool { return !m.guard.Permit() })
	err := c.Call(ctx, "hardware", "keep_control", map[string]string{"token": lease.Token}, nil)
	wantRefused(t, err, "the lease is over: the driver is silent for 1s")
	if m.guard.Permit() {
		t.Fatal("it is back")
	}
	var said *client.CommandError
	if err := c.Call(ctx, "hardware", "keep_control", nil, nil); !errors.As(err, &said) || said.Code != client.CodeBadParameters {
		t.Errorf("without a token: %v", err)
	}
}

// TestSlowlyGiven has a lease that takes longer to be given than it lasts, because a source has to be heard first: it is a lease all the same.
func TestSlowlyGiven(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	m := b.machine("hardware", machineOptions{seat: true, require: 1900 * time.Millisecond})
	stop := b.tilt(50 * time.Millisecond)
	release(t, b.latch("operator"))
	eventually(t, "released", m.latch.Released)
	stop()
	eventually(t, "stale", func() bool { return len(m.guard.Causes()) > 1 }) // besides that nobody drives
	c := b.client("driver")
	say, err := message.NewSensorData("hardware", message.SensorData{SensorType: "tilt", Data: map[string]float64{"tilt": 1}, Quality: 1, Status: "healthy"})
	check(t, err)
	keeps := time.AfterFunc(1200*time.Millisecond, func() { m.svc.Client().PublishAsync("sensors/tilt/data", say, client.Unlimited()) })
	defer keeps.Stop()
	l, err := safety.TakeLease(ctx, c, "hardware")
	check(t, err)
	defer l.Leave(ctx)
	eventually(t, "over", func() bool { return l.Err() != nil })
	if why := l.Err(); why == nil || !strings.Contains(why.Error(), "nothing on sensors/tilt/data") { // as nobody says it again
		t.Errorf("lost early: %v, %v", why, m.guard.Causes())
	}
}
