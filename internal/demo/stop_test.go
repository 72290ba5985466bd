package demo

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/message"
	estop "github.com/lawnberry/lawnberry/safety"
)

// A terminal is somebody beside the demo, with a latch.
type terminal struct {
	t      *testing.T
	client *client.Client
	latch  *estop.Latch
}

func newTerminal(t *testing.T, b *broker.Broker) *terminal {
	t.Helper()
	c, err := client.Connect(t.Context(), client.Options{URL: b.URL(), ID: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := estop.OpenLatch(t.Context(), c, estop.LatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = l.Close(context.Background()), c.Close(context.Background()) })
	return &terminal{t, c, l}
}

// release releases the emergency stop as soon as nothing stands against it.
func (p *terminal) release() {
	p.t.Helper()
	last := errors.New("never tried")
	defer func() {
		if p.t.Failed() {
			p.t.Log(last)
		}
	}()
	await(p.t, "released", func() bool {
		if p.latch.Released() {
			return true
		}
		ctx, cancel := context.WithTimeout(p.t.Context(), patience)
		defer cancel()
		s, err := estop.ReadStatus(ctx, p.client)
		if err == nil && s.Engaged {
			if err = errors.New(strings.Join(s.Against, "; ")); len(s.Against) == 0 {
				err = p.latch.Release(ctx, s.Sequence)
			}
		}
		if err != nil {
			last = err
		}
		return p.latch.Released()
	})
}

// awaitMowing waits until the mower mows. An interrupted mission is resumed: on a machine that has a lot to do, whoever is watched may be
// silent for too long at any time.
func (p *terminal) awaitMowing(d *Demo) {
	p.t.Helper()
	await(p.t, "the mower mows", func() bool {
		if d.observer.interrupted() {
			p.release()
			if err := p.call("navigation", "resume", nil); err != nil {
				p.t.Log(err)
			}
		}
		_, v, _ := d.world.truth()
		return v > 0.2 && !d.world.bladeStands()
	})
}

func (p *terminal) call(target, command string, parameters any) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	return p.client.Call(ctx, target, command, parameters, nil)
}

func (d *Demo) hardware() *hardware {
	for _, n := range d.nodes {
		if h, ok := n.role.(*hardware); ok {
			return h
		}
	}
	return nil
}

// halted reports whether the motors are told to stand: nothing is wanted of them, and the brakes are on.
func (w *world) halted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wantV == 0 && w.wantW == 0 && !w.wantBlade && w.braking
}

// rolled is how far the wheels have turned.
func (w *world) rolled() [2]float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return [2]float64{w.leftWheel, w.rightWheel}
}

func (w *world) bladeStands() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blade == 0
}

// guarded starts a demo whose operator is the test, with proxies between the broker and hardware_interface and safety.
func guarded(t *testing.T, seed uint64) (d *Demo, p *terminal, hardware, safety *faultnet.Proxy) {
	t.Helper()
	b := startBroker(t)
	startHub(t, b)
	p = newTerminal(t, b)
	p.release()
	urls := map[string]string{}
	proxy := func(id string) *faultnet.Proxy {
		x, err := faultnet.Start(strings.TrimPrefix(b.URL(), "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.Close)
		urls[id] = "tcp://" + x.Addr()
		return x
	}
	hardware, safety = proxy("hardware_interface"), proxy("safety")
	d, err := Start(t.Context(), Options{
		Client: client.Options{URL: b.URL()}, Seed: seed, Speed: 4, urls: urls,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDemo(t, d) })
	d.world.visitNever()
	return d, p, hardware, safety
}

// stopBound is far more than any guard here may take, for machines that have a lot to do. What it takes is logged: a message or two for
// hazards once they are seen, the lease of half a second for what falls silent.
const stopBound = 3 * time.Second

func TestEachDangerStopsTheMower(t *testing.T) {
	t.Parallel()
	for i, test := range []struct {
		name   string
		begin  func(d *Demo, p *terminal, hardware, safety *faultnet.Proxy) error
		end    func(d *Demo, p *terminal, hardware, safety *faultnet.Proxy) error
		engage bool   // the emergency stop
		says   string // why the mission was interrupted, or what refuses to go on
	}{
		{"person", func(d *Demo, p *terminal, _, _ *faultnet.Proxy) error {
			return p.call("hardware_interface", "simulate", simulation{Person: true})
		}, func(d *Demo, _ *terminal, _, _ *faultnet.Proxy) error { d.world.visitNever(); return nil }, true, "A person is "},
		{"tilt", func(d *Demo, p *terminal, _, _ *faultnet.Proxy) error {
			return p.call("hardware_interface", "simulate", json.RawMessage(`{"tilt": 40}`))
		}, func(d *Demo, p *terminal, _, _ *faultnet.Proxy) error {
			return p.call("hardware_interface", "simulate", json.RawMessage(`{"tilt": 0}`))
		}, true, "The mower leans by "},
		{"lifted", func(d *Demo, p *terminal, _, _ *faultnet.Proxy) error {
			return p.call("hardware_interface", "simulate", json.RawMessage(`{"lifted": true}`))
		}, func(d *Demo, p *terminal, _, _ *faultnet.Proxy) error {
			return p.call("hardware_interface", "simulate", json.RawMessage(`{"lifted": false}`))
		}, true, "The wheels are off the ground"},
		{"link cut", func(_ *Demo, _ *terminal, hardware, _ *faultnet.Proxy) error {
			hardware.Refuse(true)
			hardware.Cut(true)
			return nil
		}, func(_ *Demo, _ *terminal, hardware, _ *faultnet.Proxy) error { hardware.Refuse(false); return nil }, true, ""},
		{"link half open", func(_ *Demo, _ *terminal, hardware, _ *faultnet.Proxy) error {
			hardware.Set(faultnet.Up, faultnet.Faults{Lose: true})
			hardware.Set(faultnet.Down, faultnet.Faults{Lose: true})
			return nil
		}, func(_ *Demo, _ *terminal, hardware, _ *faultnet.Proxy) error {
			hardware.Set(faultnet.Up, faultnet.Faults{})
			hardware.Set(faultnet.Down, faultnet.Faults{})
			return nil
		}, true, ""},
		{"safety killed", func(_ *Demo, _ *terminal, _, safety *faultnet.Proxy) error {
			safety.Refuse(true)
			safety.Cut(true)
			return nil
		}, func(_ *Demo, _ *terminal, _, safety *faultnet.Proxy) error { safety.Refuse(false); return nil }, false, "safety is "},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, p, hardware, safety := guarded(t, uint64(20+i))
			p.awaitMowing(d)
			await(t, "the view says so", func() bool {
				v := d.Snapshot().Stop
				return !v.Engaged && v.Wheels && v.Blade && v.Driver == "navigation" && v.Cause == ""
			})

			began := time.Now()
			if err := test.begin(d, p, hardware, safety); err != nil {
				t.Fatal(err)
			}
			await(t, "the motors are told to stand", d.world.halted)
			told := time.Since(began)
			await(t, "the wheels stand", d.world.stands)
			stood := time.Since(began)
			await(t, "the blade stands", d.world.bladeStands)
			t.Logf("told after %v, wheels stand after %v, the blade after %v", told.Round(time.Millisecond), stood.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			if stood > stopBound {
				t.Errorf("it took %v to stop", stood)
			}

			// While it lasts nothing moves it, and the view says why.
			rolled := d.world.rolled()
			want := paused
			if test.engage {
				want = stopped
				await(t, "engaged", func() bool { return d.Snapshot().Stop.Engaged })
			}
			await(t, "navigation knows", func() bool { return d.Snapshot().Activity == want })
			if err := p.call("navigation", "resume", nil); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("resume: %v, want %q", err, test.says)
			}
			if test.says != "" {
				await(t, "the view says why", func() bool {
					v := d.Snapshot().Stop
					return !v.Wheels && !v.Blade && v.Driver == "" && strings.Contains(v.Cause+v.Reason, test.says)
				})
			}

			// It is over, and released: nothing moves until somebody commands it.
			if err := test.end(d, p, hardware, safety); err != nil {
				t.Fatal(err)
			}
			p.release()
			at := d.world.realSince()
			await(t, "a second more", func() bool { return d.world.realSince() > at+time.Second })
			if now := d.world.rolled(); now != rolled {
				t.Errorf("the wheels have turned from %v to %v without a command", rolled, now)
			}
			p.awaitMowing(d)
			await(t, "the view says so", func() bool { v := d.Snapshot(); return v.Stop.Driver == "navigation" && v.Activity == mowing })
			if s := d.Summary().EmergencyStops; test.engage && s.Engaged == 0 {
				t.Errorf("summary %+v", s)
			}
		})
	}
}

func TestOneDriver(t *testing.T) {
	t.Parallel()
	d, p, _, _ := guarded(t, 30)
	var said *client.CommandError
	await(t, "a second driver is refused", func() bool {
		p.awaitMowing(d)
		l, err := estop.TakeLease(t.Context(), p.client, "hardware_interface")
		if err == nil { // which may be when navigation has lost it just now
			h := d.hardware()
			if h.seat.Admit("navigation", "") == nil {
				t.Error("two drive")
			}
			_ = l.Leave(t.Context())
			return false
		}
		return errors.As(err, &said) && said.Code == client.CodeRefused && strings.Contains(said.Message, "navigation drives")
	})

	// Set points of somebody else, and in navigation's name without its token, move nothing.
	h := d.hardware()
	for i, sender := range []string{"operator", "navigation", "navigation"} {
		for range 5 {
			before := h.refused.Load()
			m, err := message.NewSensorData(sender, message.SensorData{SensorType: "velocity", Data: setPoint{Linear: -0.6, Token: strings.Repeat("x", i)}})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.client.Publish(t.Context(), velocityTopic, m); err != nil {
				t.Fatal(err)
			}
			await(t, "it is refused", func() bool { return h.refused.Load() > before })
		}
	}
	h.mu.Lock()
	if h.want.Linear == -0.6 {
		t.Error("the set point of a stranger was taken")
	}
	h.mu.Unlock()

	// Anybody may stop it, and then it stands until somebody commands it to go on.
	await(t, "stopped, and the view says why", func() bool {
		p.awaitMowing(d)
		if err := p.call("hardware_interface", "stop", map[string]string{"reason": "a hedgehog"}); err != nil {
			t.Log(err)
			return false
		}
		await(t, "it stands", func() bool { return d.world.stands() && d.Snapshot().Activity != mowing })
		await(t, "the view says so", func() bool { v := d.Snapshot().Stop; return !v.Wheels && v.Driver == "" && v.Cause != "" })
		return d.Snapshot().Stop.Cause == "stopped by operator: a hedgehog" // not if the permit was lost just before
	})
	// Now the other may drive, and navigation may not.
	await(t, "resume is refused while another drives", func() bool {
		p.release()
		l, err := estop.TakeLease(t.Context(), p.client, "hardware_interface")
		if err != nil {
			t.Log(err)
			return false
		}
		err = p.call("navigation", "resume", nil)
		_ = l.Leave(t.Context())
		return errors.As(err, &said) && said.Code == client.CodeRefused && strings.Contains(said.Message, "operator drives")
	})
	p.awaitMowing(d)
}

func TestSetPointsThatAreRefused(t *testing.T) {
	t.Parallel()
	d, p, _, _ := guarded(t, 31)
	if err := p.call("navigation", "pause", nil); err != nil {
		t.Fatal(err)
	}
	var token string
	delivery := func(age time.Duration, linear float64) *client.Delivery {
		m, err := message.NewSensorData("operator", message.SensorData{SensorType: "velocity", Data: setPoint{Linear: linear, Token: token}})
		if err != nil {
			t.Fatal(err)
		}
		m.Metadata.Timestamp -= age.Seconds()
		return &client.Delivery{Topic: velocityTopic, Message: m, Received: time.Now()}
	}
	h := d.hardware()
	for _, test := range []struct {
		name string
		in   func() []*client.Delivery
		want float64 // m/s that the motors should make
	}{
		{"fresh", func() []*client.Delivery { return []*client.Delivery{delivery(0, 0.4)} }, 0.4},
		{"too old", func() []*client.Delivery { return []*client.Delivery{delivery(deadMan+50*time.Millisecond, 0.4)} }, 0},
		{"retained", func() []*client.Delivery {
			d := delivery(0, 0.4)
			d.Retained = true
			return []*client.Delivery{d}
		}, 0},
		{"broken", func() []*client.Delivery {
			d := delivery(0, 0.4)
			d.Message.Payload = json.RawMessage(`{"sensor_type":"velocity","data":{"linear":"fast"}}`)
			return []*client.Delivery{d}
		}, 0},
		{"of another", func() []*client.Delivery {
			d := delivery(0, 0.4)
			d.Message.Metadata.Sender = "navigation"
			return []*client.Delivery{d}
		}, 0},
		{"without the token", func() []*client.Delivery { token = ""; return []*client.Delivery{delivery(0, 0.4)} }, 0},
		{"with the token of before", func() []*client.Delivery { token = token[1:]; return []*client.Delivery{delivery(0, 0.4)} }, 0},
		{"overtaken", func() []*client.Delivery {
			return []*client.Delivery{delivery(0, 0.1), delivery(100*time.Millisecond, 0.4)}
		}, 0.1},
		{"in order", func() []*client.Delivery {
			return []*client.Delivery{delivery(100*time.Millisecond, 0.4), delivery(0, 0.1)}
		}, 0.1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := 0.0
			await(t, "a lease that stands meanwhile", func() bool {
				l, err := estop.TakeLease(t.Context(), p.client, "hardware_interface")
				if err != nil {
					return false
				}
				token = l.Token()
				h.mu.Lock()
				h.want = order{}
				h.mu.Unlock()
				for _, d := range test.in() {
					h.take(d, slog.New(slog.DiscardHandler))
				}
				h.mu.Lock()
				got = h.want.Linear
				h.mu.Unlock()
				held := l.Err() == nil && h.guard.Permit()
				_ = l.Leave(t.Context())
				return held
			})
			if got != test.want {
				t.Errorf("the motors should make %v m/s, want %v", got, test.want)
			}
		})
	}
}

// TestNotTheOperator shows that a demo which is not told to does not release an emergency stop.
func TestNotTheOperator(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	startHub(t, b)
	o := Options{Client: client.Options{URL: b.URL()}, Seed: 32}
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "lawnberry estop release") {
		t.Fatalf("on a bus whose emergency stop is engaged: %v", err)
	}
	p := newTerminal(t, b)
	p.release()
	d, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDemo(t, d) })
	d.world.visitNever()
	p.awaitMowing(d)
	if err := p.latch.Engage(t.Context(), "a test"); err != nil {
		t.Fatal(err)
	}
	await(t, "it stands", func() bool { return d.world.stands() && d.Snapshot().Activity == stopped })
	at := d.world.realSince()
	await(t, "two seconds more", func() bool { return d.world.realSince() > at+2*time.Second })
	if !d.world.stands() || p.latch.Released() {
		t.Error("somebody has released it")
	}
	v := d.Snapshot().Stop
	if !v.Engaged || v.Reason != "a test" || v.By != "operator" || v.Engagements != 1 || v.Last <= 0 {
		t.Errorf("the view says %+v", v)
	}
	stopDemo(t, d)
	if s := d.Summary(); !s.OK() || s.EmergencyStops.Engaged != 1 || s.EmergencyStops.Stopped != 1 || s.EmergencyStops.SlowestMS <= 0 {
		t.Errorf("summary %+v", s)
	}
	// What the demo leaves behind does not stand against a release.
	p.release()
}

// TestOperator shows what the person whom the demo plays does, and does not.
func TestOperator(t *testing.T) {
	t.Parallel()
	d, c := startDemo(t, Options{Seed: 33})
	d.world.visitNever()
	await(t, "the mower moves", func() bool { return !d.world.stands() })
	l, err := estop.OpenLatch(t.Context(), c, estop.LatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	for range 2 {
		if err := l.Engage(t.Context(), "a test"); err != nil {
			t.Fatal(err)
		}
		await(t, "stopped", func() bool { return d.Snapshot().Activity == stopped && d.world.stands() })
		await(t, "it goes on", func() bool { return !d.world.stands() && d.Snapshot().Activity == mowing })
	}
	// What somebody has paused is not set going.
	if err := c.Call(t.Context(), "navigation", "pause", nil, nil); err != nil {
		t.Fatal(err)
	}
	await(t, "it stands", d.world.stands)
	rolled := d.world.rolled()
	if err := l.Engage(t.Context(), "another test"); err != nil {
		t.Fatal(err)
	}
	await(t, "released again", func() bool { s := l.State(); return s.Known && !s.Engaged })
	at := d.world.realSince()
	await(t, "two seconds more", func() bool { return d.world.realSince() > at+2*time.Second })
	if d.world.rolled() != rolled {
		t.Error("it was paused, and has moved")
	}
	stopDemo(t, d)
	if s := d.Summary(); !s.OK() || s.EmergencyStops.Engaged != 3 {
		t.Errorf("summary %+v", s)
	}
}
