package fleet

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/message"
)

// TestUplink: what goes up is where the fleet looks for it.
func TestUplink(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	c := newControl(t, s, 1)
	m := newMower(t)
	u := m.up(s.URLs(), nil)
	eventually(t, "the mower is there", func() bool { _, ok := c.presence(); return ok })
	for range 20 {
		m.say("system/events/said")
		m.say("safety/alerts/tilt")
		m.say("power/battery")
		m.say("navigation/position")
	}
	last := m.say("system/health")
	m.say("commands/navigation")
	delete(m.said, "commands/navigation")
	delete(m.said, "system/health")
	c.sameHistory(m, fleet.HistoryStreams()...)
	eventually(t, "the latest values are there", func() bool {
		ok := c.latest("system/health") == last
		for _, name := range []string{"safety/alerts/tilt", "power/battery", "navigation/position"} {
			ok = ok && c.latest(name) == m.said[name][len(m.said[name])-1]
		}
		return ok
	})
	if id := c.latest("system/events/said"); id != "" {
		t.Error("an event is among the latest values")
	}
	eventually(t, "the service of the uplink is among the latest values", func() bool { return c.latest("system/services/fleet/status") != "" })
	// A cleared alert is none of the latest values any more.
	check(t, m.c.Publish(testContext(t), "safety/alerts/tilt", message.NewRaw(nil), client.WithRetain(true)))
	eventually(t, "the alert is gone", func() bool { return c.latest("safety/alerts/tilt") == "" })
	// What came over a bridge goes no further.
	check(t, m.c.Publish(testContext(t), "system/events/said", message.NewRaw([]byte("x")), client.WithUser(fleet.HeaderHops, "1")))
	eventually(t, "what came over a bridge is seen", func() bool { return u.Stats().Looped > 0 })
	p, _ := c.presence()
	if p.Mower != "m-1" || p.Version != "1.2.3" || p.Session == "" || p.Interval != 10 || p.Commands == nil || p.Since.IsZero() {
		t.Errorf("presence: %+v", p)
	}
	if st := u.Stats(); !st.Connected || st.Sent < 80 || st.Latest == 0 || len(st.Lost) > 0 || st.Disk != nil {
		t.Errorf("stats: %+v", st)
	}
	check(t, u.Stop(testContext(t)))
	if _, ok := c.presence(); ok {
		t.Error("the mower has stopped, and is still there")
	}
}

// TestUplinkAway: without its engine the uplink starts, the bus goes on, and what is said meanwhile arrives later: also what was said while
// no uplink ran.
func TestUplinkAway(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	c := newControl(t, s, 1)
	s.Kill(0)
	m := newMower(t)
	began := time.Now()
	u := m.up(s.URLs(), nil)
	t.Logf("started in %v", time.Since(began))
	speak := func() {
		for i := range 30 {
			m.say(fmt.Sprint("system/events/e", i%3))
			m.say("safety/alerts/a")
			m.say("power/battery")
		}
	}
	speak()
	eventually(t, "it is on the disk", func() bool { st := u.Stats(); return st.Backlog.Records == 90 && st.Memory == 0 })
	if st := u.Stats(); st.Connected || st.Backlog.ByClass[fleet.Telemetry] != 30 || st.Backlog.Oldest == nil {
		t.Errorf("stats: %+v", st)
	}
	check(t, u.Stop(testContext(t)))
	speak() // nobody listens; the bus keeps it
	u = m.up(s.URLs(), nil)
	speak()
	s.Restart(0)
	c.sameHistory(m, fleet.HistoryStreams()...)
	eventually(t, "nothing waits", func() bool { return u.Stats().Backlog.Records == 0 })
	eventually(t, "the latest value is there", func() bool { return c.latest("power/battery") == m.said["power/battery"][89] })
}

// TestUplinkLosses: an outbox that is full drops the oldest telemetry, and the fleet is told.
func TestUplinkLosses(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	c := newControl(t, s, 1)
	s.Kill(0)
	m := newMower(t)
	u := m.up(s.URLs(), func(o *Options) { o.Outbox.Bytes = 20_000 })
	for range 40 {
		m.say("system/events/e")
		m.say("power/battery")
		u.seal(true) // a record of its own
	}
	eventually(t, "something is dropped", func() bool {
		return u.Stats().Lost[fleet.Telemetry].Count > 0 && u.Stats().Backlog.ByClass[fleet.Event] == 40
	})
	s.Restart(0)
	eventually(t, "the fleet is told", func() bool { return len(c.history(fleet.StreamEvents)[fleet.OwnLosses]) > 0 })
	eventually(t, "nothing waits", func() bool { return u.Stats().Backlog.Records == 0 })
	got := c.history(fleet.StreamEvents)
	if len(got["system/events/e"]) != 40 || len(got[fleet.OwnLosses]) != 1 {
		t.Errorf("the fleet has %d events and %d reports of losses, want 40 and 1", len(got["system/events/e"]), len(got[fleet.OwnLosses]))
	}
	lost := int(u.Stats().Lost[fleet.Telemetry].Count)
	if n := len(c.history(fleet.StreamTelemetry)["power/battery"]); n+lost != 40 {
		t.Errorf("%d readings are lost, and the fleet has %d of 40", lost, n)
	}
}

// TestUplinkRefused: a topic that no stream takes waits, and others do not wait for it.
func TestUplinkRefused(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, "max_payload: 20000")
	c := newControl(t, s, 1)
	m := newMower(t)
	u := m.up(s.URLs(), func(o *Options) {
		o.Up = []fleet.Filter{{Filter: "system/events/+", Class: fleet.Event}, {Filter: "nowhere/+", Class: fleet.Event}}
		o.Client.Limits.MaxPayload = 1 << 20
	})
	m.say("nowhere/a")
	for range 10 {
		m.say("system/events/e")
	}
	eventually(t, "the others go", func() bool { return len(c.history(fleet.StreamEvents)["system/events/e"]) == 10 })
	if n := u.Stats().Backlog.Records; n != 1 {
		t.Errorf("%d wait, want the one that no stream takes", n)
	}
	eventually(t, "it is said", func() bool { return u.Stats().Refused == 1 })
	_, err := c.js.CreateStream(testContext(t), jetstream.StreamConfig{Name: "OWN", Subjects: []string{"lawnberry.*.nowhere.>"}, AllowDirect: true})
	check(t, err)
	eventually(t, "it goes when there is one", func() bool { return u.Stats().Backlog.Records == 0 && u.Stats().Refused == 0 })
	// What the engine will never take is lost, and does not hold up what follows.
	check(t, u.box.add(&record{topic: "nowhere/a", class: fleet.Event, id: "large", body: make([]byte, 30_000), count: 1}))
	m.say("nowhere/a")
	c.sameHistory(m, "OWN", fleet.StreamEvents)
	if l := u.Stats().Lost[fleet.Event]; l.Count != 1 || l.Why != "size" {
		t.Errorf("lost: %+v", l)
	}
}
