package fleet

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
)

// TestTapUnderLoad: events that have come to an uplink whose disk is slow, and are not written, are the bus's still: when that uplink ends as a crash would
// end it, the next one has them.
//
// It was seen to fail while the bus had acknowledgements for what waited for the disk.
func TestTapUnderLoad(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	c := newControl(t, s, 1)
	m := newMower(t)
	u := m.up(s.URLs(), nil)
	u.box.mu.Lock() // the disk takes its time
	const n = 900
	for range n {
		m.say("system/events/e")
	}
	eventually(t, "all have come", func() bool { return u.tap.c.Stats().Received >= n })
	ctx, cancel := context.WithTimeout(testContext(t), time.Second)
	_ = u.tap.close(ctx) // it waits for a handler that cannot return
	cancel()
	u.box.closed = true // nothing of it is written
	u.box.unlock()
	check(t, u.tap.close(testContext(t)))
	u.box.mu.Lock()
	u.box.closed = false
	u.box.unlock()
	check(t, u.Stop(testContext(t)))
	m.dir = t.TempDir()
	m.up(s.URLs(), nil)
	c.sameHistory(m, fleet.StreamEvents)
}

// TestOverlappingFilters: what the bus has kept for an uplink goes to the most specific of the filters that match, whatever their order.
//
// It was seen to fail while filters were subscribed in the order of the configuration: what another filter knew more about was acknowledged and forgotten.
func TestOverlappingFilters(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	c := newControl(t, s, 1)
	m := newMower(t)
	filters := func(o *Options) {
		o.Up = []fleet.Filter{
			{Filter: "system/#", Class: fleet.Telemetry}, {Filter: "system/events/+", Class: fleet.Event}, {Filter: "system/events/critical", Class: fleet.Alert},
		}
	}
	u := m.up(s.URLs(), filters)
	check(t, u.Stop(testContext(t)))
	for range 20 {
		m.say("system/events/critical")
		m.say("system/events/other")
	}
	m.up(s.URLs(), filters)
	c.sameHistory(m, fleet.StreamEvents)
}

// TestBySpecificity: of two filters that match the same topic the more specific one is first.
func TestBySpecificity(t *testing.T) {
	var s selection
	for _, f := range []string{"#", "a/#", "b", "a/+", "+/b", "a", "a/b", "+/+/c", "a/b/#", "+/#", "a/+/c", "a/b/c"} {
		s.filters = append(s.filters, fleet.Filter{Filter: f})
	}
	order := s.bySpecificity()
	for _, topic := range []string{"a", "b", "a/b", "x/b", "a/x", "a/b/c", "x/y/c", "a/x/c", "a/b/x", "x"} {
		best, ok := s.of(topic)
		if !ok {
			t.Fatalf("%s matches nothing", topic)
		}
		for i, f := range s.filters {
			if other := (selection{[]fleet.Filter{f}}); i != best {
				if _, too := other.of(topic); too && slices.Index(order, i) < slices.Index(order, best) {
					t.Errorf("%s: %s is before %s", topic, f.Filter, s.filters[best].Filter)
				}
			}
		}
	}
}
