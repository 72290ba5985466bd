package safety_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

// TestOddIDs engages with ids that are too long to be asked about, or that a latch uses for itself: it can be released all the same.
func TestOddIDs(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	l := b.latch("latch")
	c := b.client("odd")
	for _, id := range []string{strings.Repeat("x", 9_600), "hub", "-hub", "-further", "\xff"} {
		release(t, l)
		m, err := message.NewAlert("odd", message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "stop", Context: []byte(`{"engaged":true}`)})
		check(t, err)
		m.Metadata.ID = "ID"
		raw, _, err := message.Encode(&m, message.Limits{})
		check(t, err)
		raw = []byte(strings.Replace(string(raw), `"ID"`, `"`+id+`"`, 1))
		check(t, c.Publish(ctx, "safety/emergency_stop", message.NewRaw(raw)))
		eventually(t, "engaged", func() bool { return l.State().Engaged && b.hub.Status().Engaged })
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := l.Settle(limited); err != nil {
			t.Errorf("id of %d bytes: %v", len(id), err)
		}
		cancel()
	}
}

// TestOddNames engages in names that no message can carry as they are.
func TestOddNames(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	c := b.client("odd")
	operator := b.latch("operator")
	for _, by := range []string{"\xff", "a\x00b", strings.Repeat("x", 3_000_000), "Anna Müller/+#"} {
		release(t, operator)
		if _, err := safety.Engage(ctx, c, by, "stop"); err != nil {
			t.Errorf("by %.10q: %v", by, err)
		}
		l, err := safety.OpenLatch(ctx, c, safety.LatchOptions{By: by})
		check(t, err)
		if err := l.Engage(ctx, "stop"); err != nil {
			t.Errorf("latch by %.10q: %v", by, err)
		}
		check(t, l.Close(ctx))
		eventually(t, "engaged", func() bool { return b.hub.Status().Engaged })
	}
}

// TestReleaseSentToADeadHub sends the command to release, without a deadline, while the hub is down: when it comes back, that releases nothing.
func TestReleaseSentToADeadHub(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	sequence := b.hub.Status().Sequence
	b.stopHub()
	c := b.client("python")
	raw, err := json.Marshal(map[string]any{"command": "release", "target": "emergency_stop", "parameters": map[string]any{"sequence": sequence}})
	check(t, err)
	for range 3 {
		check(t, c.Publish(ctx, "commands/emergency_stop", message.NewRaw(raw)))
		m, err := message.NewCommand("python", message.Command{Command: "release", Target: "emergency_stop", Parameters: []byte(fmt.Sprintf(`{"sequence":%d}`, sequence))})
		check(t, err)
		check(t, c.Publish(ctx, "commands/emergency_stop", m))
	}
	b.startHub()
	for range 20 {
		if _, err := safety.ReadStatus(ctx, c); err != nil {
			t.Fatal(err)
		}
		if s := b.hub.Status(); !s.Engaged {
			t.Fatalf("released by %s", s.By)
		}
	}
}

// TestHazardOfARunBefore has a service that had a hazard start again without it: when it says so, it no longer stands against a release.
func TestHazardOfARunBefore(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	start := func() (*service.Service, *safety.Latch) {
		svc, err := service.Start(ctx, service.Options{ID: "watcher", Client: client.Options{URL: b.broker.URL()}})
		check(t, err)
		l, err := safety.OpenLatch(ctx, svc.Client(), safety.LatchOptions{})
		check(t, err)
		return svc, l
	}
	svc, l := start()
	check(t, l.SetHazard(ctx, "tilt", "tilted"))
	against := func(what string) bool { return strings.Contains(strings.Join(b.hub.Status().Against, ";"), what) }
	eventually(t, "the hub knows", func() bool { return against("tilted") })
	check(t, l.Close(ctx)) // a hazard that stands is left
	check(t, svc.Stop(ctx))
	svc, l = start()
	l.ClearHazard("tilt")
	eventually(t, "nothing stands against it", func() bool { return len(b.hub.Status().Against) == 0 })
	check(t, l.Close(ctx))
	check(t, svc.Stop(ctx))
}

// TestStateThatCannotBeWritten engages while the file cannot be written, and starts the hub with a broker that has forgotten it too, as when the
// disk is full: what both still have is no release.
func TestStateThatCannotBeWritten(t *testing.T) {
	b := &bus{t: t, dir: t.TempDir()}
	b.startBroker()
	t.Cleanup(func() { b.stopBroker() })
	ctx := testContext(t)
	file := filepath.Join(b.dir, "state", "emergency_stop.json")
	start := func() *safety.Hub {
		h, err := safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: b.broker.URL()}, File: file})
		check(t, err)
		return h
	}
	h := start()
	l := b.latch("operator")
	release(t, l)
	// What both have of the release is put aside, and comes back afterwards.
	var released []byte
	got := make(chan []byte, 100)
	sub, err := b.client("spy").Subscribe(ctx, "safety/emergency_stop", func(_ context.Context, d *client.Delivery) {
		raw, _, _ := message.Encode(&d.Message, message.Limits{})
		got <- raw
	})
	check(t, err)
	released = <-got
	check(t, sub.Unsubscribe(ctx))
	// A file of so long a name cannot be written: that of the temporary one is longer.
	long := filepath.Join(b.dir, "state", strings.Repeat("n", 250))
	check(t, h.Stop(ctx))
	check(t, os.Rename(file, long))
	file = long
	h = start()
	eventually(t, "released", l.Released)
	check(t, l.Engage(ctx, "stop"))
	check(t, l.Settle(ctx))
	check(t, h.Stop(ctx))
	check(t, b.client("disk").Publish(ctx, "safety/emergency_stop", message.NewRaw(released), client.WithRetain(true)))
	h = start()
	if s := h.Status(); !s.Engaged {
		t.Errorf("released, sequence %d", s.Sequence)
	}
	check(t, h.Stop(ctx))
}
