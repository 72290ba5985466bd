package client

import (
	"context"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/topic"
)

// Of a foreign broker everything comes as it was, also what breaks a rule of the wire format, and nothing is subscribed to for answers.
func TestForeign(t *testing.T) {
	b := startBroker(t)
	sender := connect(t, Options{URL: b.URL()})
	c := connect(t, Options{URL: b.URL(), Foreign: true})
	k := newCollector()
	subscribe(t, c, topic.Absolute("far/#"), k.handle)
	for _, text := range []string{`{"metadata":{"message_id":"x"},"payload":1}`, `{"metadata":`, "\x1f\x8bno gzip"} {
		publish(t, sender, topic.Absolute("far/a"), text, WithQoS(1))
	}
	k.wait(t, 3)
	for _, d := range k.all() {
		if !d.Message.Raw || d.Invalid != nil {
			t.Errorf("%+v", d)
		}
	}
	publish(t, sender, "responses/"+c.ID(), "no answer", WithQoS(1))
	if r := sender.PublishAsync("responses/"+c.ID(), raw("x"), WithQoS(1)); !unheard(t, r) {
		t.Error("it is subscribed to answers")
	}
}

func unheard(t testing.TB, r *Receipt) bool {
	t.Helper()
	select {
	case <-r.Delivered():
	case <-testContext(t).Done():
		t.Fatal("no acknowledgement")
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return r.Unheard()
}

func TestUnheard(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	for _, qos := range []byte{1, 2} {
		says := qos == 1 || !brokertest.IsMosquitto(t) // Mosquitto 2.0.11 does not say it in PUBREC
		if unheard(t, c.PublishAsync("far/b", raw("x"), WithQoS(qos))) != says {
			t.Errorf("QoS %d: unheard %v, want %v", qos, !says, says)
		}
	}
	subscribe(t, c, "far/b", func(context.Context, *Delivery) {})
	for _, qos := range []byte{1, 2} {
		if unheard(t, c.PublishAsync("far/b", raw("x"), WithQoS(qos))) {
			t.Errorf("QoS %d: nobody has heard it", qos)
		}
	}
}

// What is held is not acknowledged before it is released, and comes again to the next process.
func TestHold(t *testing.T) {
	b := startBroker(t)
	sender := connect(t, Options{URL: b.URL()})
	o := Options{URL: b.URL(), ID: "holder", SessionExpiry: time.Hour}
	c := connect(t, o)
	releases := make(chan func(), 2)
	subscribe(t, c, "far/c", func(_ context.Context, d *Delivery) { releases <- c.Hold(d) })
	publish(t, sender, "far/c", "done", WithQoS(1))
	publish(t, sender, "far/c", "open", WithQoS(1))
	(<-releases)()
	<-releases
	eventually(t, "one is acknowledged", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.acks[0].len() == 1
	})
	if err := c.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	k := newCollector()
	next := connect(t, o)
	subscribe(t, next, "far/c", k.handle)
	if got := k.wait(t, 1); got[0] != "open" {
		t.Errorf("%q", got)
	}
	if got := k.settle(t, next); len(got) != 1 {
		t.Errorf("%q", got)
	}
}
