package safety_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
	"github.com/lawnberry/lawnberry/service"
)

const stopTopic = "safety/emergency_stop"

// TestEngageAndRelease goes once around: unknown, engaged, released, armed, engaged by another.
func TestEngageAndRelease(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *bus{"ours": newBus, "Mosquitto": newMosquitto} {
		t.Run(name, func(t *testing.T) { engageAndRelease(t, start(t)) })
	}
}

func engageAndRelease(t *testing.T, b *bus) {
	ctx := testContext(t)
	m := b.machine("hardware", machineOptions{})
	other := b.latch("other")
	if m.latch.Released() || other.Released() {
		t.Fatal("released before anybody has released it")
	}
	if err := m.guard.Arm(ctx); err == nil {
		t.Fatal("armed while engaged")
	}
	release(t, other)
	eventually(t, "the machine's latch released", m.latch.Released)
	if d, _ := m.counts(); d != 0 || m.guard.Permit() {
		t.Fatal("a release set the machine going")
	}
	if err := m.guard.Arm(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it drives", func() bool { d, _ := m.counts(); return d > 3 })
	_, before := m.counts()
	at := time.Now()
	if err := other.Engage(ctx, "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "stopped", func() bool { _, s := m.counts(); return s > before })
	m.mu.Lock()
	t.Logf("stopped after %v because of %q", m.stopAt.Sub(at), m.stops[len(m.stops)-1])
	m.mu.Unlock()
	if m.guard.Permit() {
		t.Fatal("permit after an engagement")
	}
	eventually(t, "confirmed", func() bool {
		s := b.hub.Status()
		return len(s.Participants) == 1 && s.Participants[0].Confirmed
	})
	d, _ := m.counts()
	release(t, other)
	if err := other.Engage(ctx, "again"); err != nil { // which comes after whatever the release may have set going
		t.Fatal(err)
	}
	eventually(t, "heard", func() bool { return strings.Contains(m.latch.State().Reason, "again") })
	if d2, _ := m.counts(); d2 != d {
		t.Fatal("it moved after a release without being armed")
	}
}

// TestUnknownIsEngaged has the hub go and come back: nobody knows the state meanwhile, and it is as before afterwards.
func TestUnknownIsEngaged(t *testing.T) {
	b := newBus(t)
	l := b.latch("watcher")
	release(t, l)
	for _, engaged := range []bool{false, true} {
		if engaged {
			if err := l.Engage(testContext(t), "test"); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the hub's state", func() bool { return l.State().Known && b.hub.Status().Engaged == engaged })
		before := b.hub.Status().Sequence
		b.stopHub()
		eventually(t, "unknown", func() bool { s := l.State(); return !s.Known && s.Engaged && !l.Released() })
		if _, err := l.Confirm(testContext(t)); err == nil {
			t.Fatal("confirmed without a hub")
		}
		fresh := b.latch("fresh")
		if fresh.Released() {
			t.Fatal("a latch without a hub is released")
		}
		b.startHub()
		eventually(t, "known again", func() bool { return l.State().Known && fresh.State().Known })
		if l.Released() == engaged || fresh.Released() == engaged {
			t.Fatalf("engaged %v before, after: %+v", engaged, l.State())
		}
		if now := b.hub.Status().Sequence; now != before && !(brokertest.IsMosquitto(t) && now > before) { // there the engagement may be said once more
			t.Errorf("the sequence is %d after a restart of the hub, %d before", now, before)
		}
		_ = fresh.Close(testContext(t))
	}
}

// TestStateNeedsTwoWitnesses restarts the hub with a file or a retained message that is lost, damaged, old or somebody else's. To trust it: let
// settleLocked believe the file alone, or the message.
func TestStateNeedsTwoWitnesses(t *testing.T) {
	type world struct {
		b    *bus
		file string
		c    *client.Client
		old  []byte // the file of the release before
	}
	publish := func(t *testing.T, c *client.Client, m message.Message) {
		t.Helper()
		if err := c.Publish(testContext(t), stopTopic, m, client.WithRetain(true)); err != nil {
			t.Fatal(err)
		}
	}
	for name, harm := range map[string]func(t *testing.T, w world){
		"nothing":            func(*testing.T, world) {},
		"no file":            func(t *testing.T, w world) { check(t, os.Remove(w.file)) },
		"empty file":         func(t *testing.T, w world) { check(t, os.WriteFile(w.file, nil, 0o600)) },
		"garbage":            func(t *testing.T, w world) { check(t, os.WriteFile(w.file, []byte("\x00\xff{}"), 0o600)) },
		"file of before":     func(t *testing.T, w world) { check(t, os.WriteFile(w.file, w.old, 0o600)) },
		"nothing in it":      func(t *testing.T, w world) { check(t, os.WriteFile(w.file, []byte("{}"), 0o600)) },
		"no message":         func(t *testing.T, w world) { publish(t, w.c, message.NewRaw(nil)) },
		"raw message":        func(t *testing.T, w world) { publish(t, w.c, message.NewRaw([]byte("released"))) },
		"message of another": func(t *testing.T, w world) { publish(t, w.c, claim(t, "web", 3, "")) },
		"forged message":     func(t *testing.T, w world) { publish(t, w.c, claim(t, safety.HubID, 99, "epoch")) },
		"neither": func(t *testing.T, w world) {
			check(t, os.Remove(w.file))
			publish(t, w.c, message.NewRaw(nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBus(t)
			l := b.latch("watcher")
			file := filepath.Join(b.dir, "emergency_stop.json")
			release(t, l)
			old, err := os.ReadFile(file)
			check(t, err)
			check(t, l.Engage(testContext(t), "test"))
			check(t, l.Settle(testContext(t)))
			release(t, l)
			eventually(t, "released", l.Released)
			b.stopHub()
			harm(t, world{b, file, b.client("harm"), old})
			b.startHub()
			eventually(t, "known", func() bool { return l.State().Known })
			if want := name == "nothing"; b.hub.Status().Engaged == want || l.Released() != want {
				t.Fatalf("the hub says %+v, the latch %+v", b.hub.Status().State, l.State())
			}
			if name != "nothing" {
				release(t, l) // and it goes on from there
			}
		})
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// claim is a message that says that the emergency stop is released.
func claim(t *testing.T, sender string, sequence uint64, epoch string) message.Message {
	t.Helper()
	about := map[string]any{"engaged": false, "reason": "", "by": sender, "since": 1.0, "sequence": sequence}
	if epoch != "" {
		about["epoch"] = epoch
	}
	raw, err := message.EncodeJSON(about)
	check(t, err)
	m, err := message.NewAlert(sender, message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "released", Context: raw})
	check(t, err)
	return m
}

// TestWhateverComesEngages sends what can be sent on the topic: all engages but what claims that it is released, which does nothing.
func TestWhateverComesEngages(t *testing.T) {
	b := newBus(t)
	l := b.latch("watcher")
	c := b.client("sender")
	ctx := testContext(t)
	alert := func(about string) message.Message {
		m, err := message.NewAlert("python", message.Alert{AlertType: "emergency_stop", Severity: "critical", Message: "Stop!", Context: []byte(about)})
		check(t, err)
		return m
	}
	old := alert(`{"engaged": true}`)
	old.Metadata.Timestamp -= 100_000
	gone := alert(`{"engaged": true}`)
	gone.Metadata.ExpiresAt = gone.Metadata.Timestamp - 1
	event, err := message.NewEvent("python", message.Event{EventType: "x", Source: "python"})
	check(t, err)
	for name, m := range map[string]message.Message{
		"plain text":      message.NewRaw([]byte("STOP")),
		"a number":        message.NewRaw([]byte("1")),
		"JSON":            message.NewRaw([]byte(`{"state": "ON"}`)),
		"bytes":           message.NewRaw([]byte{0xff, 0xfe, 0}),
		"base format":     alert(`{}`),
		"with context":    alert(`{"engaged": true, "reason": "button", "by": "python", "since": 1763884800.5, "sequence": 1}`),
		"engaged unclear": alert(`{"engaged": "no"}`),
		"too old":         old,
		"expired":         gone,
		"another type":    event,
	} {
		for _, retain := range []bool{false, true} {
			release(t, l)
			eventually(t, name+": released", l.Released)
			if m.Metadata.ID != "" {
				m.Metadata.ID += "+" // the same again is tested elsewhere
			}
			err := publishAnything(ctx, c, m, retain)
			check(t, err)
			eventually(t, name+": engaged here", func() bool { return !l.Released() })
			eventually(t, name+": engaged at the hub", func() bool { return b.hub.Status().Engaged })
			check(t, l.Settle(ctx))
		}
	}
	release(t, l)
	eventually(t, "released", l.Released)
	turn := b.hub.Status().Sequence
	for _, m := range []message.Message{claim(t, "python", 1, ""), claim(t, safety.HubID, turn, "x"), claim(t, safety.HubID, turn+5, "x"), message.NewRaw(nil)} {
		check(t, c.Publish(ctx, stopTopic, m, client.WithRetain(true)))
	}
	if s, err := l.Confirm(ctx); err != nil || s.Engaged || b.hub.Status().Sequence != turn {
		t.Fatalf("a claim has changed something: %+v, %v", s, err)
	}
}

// TestRetainedIsPutRight has somebody retain what the hub has not said, also in its name and with what it calls its present run: who reads the topic
// alone reads the truth again soon, and a flood of such messages is not answered by another.
func TestRetainedIsPutRight(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	c := b.client("forger")
	type said struct {
		engaged bool
		epoch   string
	}
	var mu sync.Mutex
	var last said
	n := 0
	_, err := b.client("reader").Subscribe(ctx, stopTopic, func(_ context.Context, d *client.Delivery) {
		a, err := message.Payload[message.Alert](d.Message)
		if err != nil {
			return
		}
		var about struct {
			Engaged bool   `json:"engaged"`
			Epoch   string `json:"epoch"`
		}
		_ = json.Unmarshal(a.Context, &about) // what cannot be read says nothing here
		mu.Lock()
		defer mu.Unlock()
		n++
		last = said{about.Engaged, about.Epoch}
	})
	check(t, err)
	engaged := func() bool { mu.Lock(); defer mu.Unlock(); return last.engaged && last.epoch != "" }
	eventually(t, "the state", engaged)
	mu.Lock()
	epoch := last.epoch
	mu.Unlock()
	for _, m := range []message.Message{claim(t, "web", 1, ""), claim(t, safety.HubID, 1, "x"), claim(t, safety.HubID, 1, epoch), claim(t, safety.HubID, 99, epoch)} {
		check(t, c.Publish(ctx, stopTopic, m, client.WithRetain(true)))
		eventually(t, "the truth again", engaged)
	}
	mu.Lock()
	before := n
	mu.Unlock()
	for range 200 {
		check(t, c.Publish(ctx, stopTopic, claim(t, safety.HubID, 99, "another hub"), client.WithRetain(true)))
	}
	eventually(t, "the truth at last", engaged)
	mu.Lock()
	defer mu.Unlock()
	if answers := n - before - 200; answers > 100 {
		t.Errorf("%d answers to 200 messages", answers)
	}
}

// publishAnything publishes also what the client would refuse to, as a program with another client may.
func publishAnything(ctx context.Context, c *client.Client, m message.Message, retain bool) error {
	if !m.Raw {
		body, _, err := message.Encode(&m, message.Limits{})
		if err != nil {
			return err
		}
		m = message.NewRaw(body)
	}
	return c.Publish(ctx, stopTopic, m, client.WithRetain(retain))
}

// TestEngageWithoutConnection engages while there is no broker: here at once, for the others once it is back.
func TestEngageWithoutConnection(t *testing.T) {
	b := newBus(t)
	proxy := b.proxy()
	c := b.clientAt("cut", "tcp://"+proxy.Addr())
	l, err := safety.OpenLatch(testContext(t), c, safety.LatchOptions{})
	check(t, err)
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	other := b.latch("other")
	release(t, other)
	eventually(t, "released", func() bool { return l.Released() && other.Released() })
	proxy.Refuse(true)
	proxy.Cut(true)
	eventually(t, "cut", func() bool { return !c.Connected() })
	if l.Released() {
		t.Fatal("released without a connection")
	}
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	check(t, l.Engage(ctx, "without a connection"))
	if s := l.State(); !s.Engaged || s.By != "cut" || s.Reason != "without a connection" {
		t.Fatalf("engaged here: %+v", s)
	}
	if !other.Released() {
		t.Fatal("engaged elsewhere, though nothing can have come")
	}
	proxy.Refuse(false)
	eventually(t, "engaged elsewhere", func() bool { return !other.Released() })
	check(t, l.Settle(testContext(t)))
	if s := b.hub.Status(); s.By != "cut" || s.Reason != "without a connection" {
		t.Fatalf("the hub says %+v", s.State)
	}
}

// TestEngageAgain engages for the same reason, and for another. It stays engaged for the first reason, the same one counts once, and a release has to
// name the latest: one that was asked for before the second press does not undo it.
func TestEngageAgain(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	l := b.latch("one")
	release(t, l)
	check(t, l.Engage(ctx, "same"))
	check(t, l.Settle(ctx))
	first := b.hub.Status()
	for range 20 {
		check(t, l.Engage(ctx, "same"))
	}
	check(t, l.Engage(ctx, "other"))
	check(t, l.Settle(ctx))
	last := b.hub.Status()
	if last.Sequence != first.Sequence+21 || last.Reason != "same" || !last.Since.Equal(first.Since) || len(last.Causes) != 2 {
		t.Fatalf("engaged again: %+v", last)
	}
	wantRefused(t, l.Release(ctx, first.Sequence), "engaged by one: other")
	wantRefused(t, l.Release(ctx, last.Sequence-1), "sequence is")
	check(t, l.Release(ctx, last.Sequence))
	wantRefused(t, l.Release(ctx, last.Sequence), "released already")
	if err := l.Release(ctx, 0); err == nil || !strings.Contains(err.Error(), "sequence is missing") {
		t.Fatalf("without a sequence: %v", err)
	}
}

func wantRefused(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("want a refusal that says %q: %v", text, err)
	}
}

// TestReleaseIsRefused has each reason against a release in turn.
func TestReleaseIsRefused(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	l := b.latch("operator")
	try := func() error {
		s, err := l.Confirm(ctx)
		check(t, err)
		return l.Release(ctx, s.Sequence)
	}
	stopTilt := b.tilt(20 * time.Millisecond)
	fails := make(chan error, 1)
	proxy := b.proxy()
	m := b.machine("hardware", machineOptions{url: "tcp://" + proxy.Addr(), require: time.Second, stop: func(string) error {
		select {
		case err := <-fails:
			fails <- err
			return err
		default:
			return nil
		}
	}})
	release(t, l)

	check(t, m.latch.SetHazard(ctx, "lifted", "The wheels are in the air"))
	check(t, m.latch.Settle(ctx))
	eventually(t, "reported", func() bool { return len(b.hub.Status().Participants[0].Hazards) == 1 })
	wantRefused(t, try(), "hardware: The wheels are in the air")
	m.latch.ClearHazard("lifted")
	release(t, l)

	check(t, l.Engage(ctx, "stale"))
	stopTilt()
	eventually(t, "stale", func() bool { return len(b.hub.Status().Participants[0].Stale) == 1 })
	wantRefused(t, try(), "hardware: nothing on sensors/tilt/data")
	b.tilt(20 * time.Millisecond)
	release(t, l)

	check(t, m.guard.Arm(ctx))
	fails <- os.ErrPermission
	check(t, l.Engage(ctx, "stop fails"))
	check(t, l.Settle(ctx))
	wantRefused(t, try(), "hardware has not confirmed that it stands")
	eventually(t, "the alert", func() bool { return hasAlert(m.svc, "stop_not_confirmed") })
	<-fails
	eventually(t, "the alert is over", func() bool { return !hasAlert(m.svc, "stop_not_confirmed") })
	release(t, l)

	check(t, l.Engage(ctx, "gone"))
	proxy.Close() // no goodbye
	eventually(t, "gone", func() bool { return b.hub.Status().Participants[0].State == service.Offline })
	wantRefused(t, try(), "hardware is gone")
	check(t, safety.Forget(ctx, b.client("admin"), "hardware"))
	release(t, l)
	if err := safety.Forget(ctx, b.client("admin"), "hardware"); err == nil {
		t.Fatal("what has reported nothing can be forgotten")
	}
}

func hasAlert(s *service.Service, alertType string) bool {
	for _, a := range s.Alerts() {
		if a.AlertType == alertType {
			return true
		}
	}
	return false
}
