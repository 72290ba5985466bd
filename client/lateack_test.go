package client

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/brokertest"
)

// What waits for a handler WithLateAck is acknowledged when that has it, and not before, however much waits.
//
// It was seen to fail with an option that does nothing.
func TestLateAck(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	publisher := connect(t, Options{URL: b.URL()})
	hang, k := make(chan struct{}), newCollector()
	subscribe(t, c, "x", func(ctx context.Context, d *Delivery) {
		<-hang
		k.handle(ctx, d)
	}, WithLateAck())
	const n = receiveMaximum - 100
	for i := range n {
		publisher.PublishAsync("x", raw(strconv.Itoa(i)), WithQoS(byte(1+i%2)))
	}
	eventually(t, "all of them wait", func() bool { return c.Stats().Received >= n })
	if err := c.Publish(testContext(t), "y", raw("behind all acknowledgements"), WithQoS(1)); err != nil {
		t.Fatal(err)
	}
	if own, ok := b.(*broker.Broker); ok {
		for x := range own.Sessions() {
			if x.ClientID == c.ID() && x.InFlight != n {
				t.Errorf("%d of %d were acknowledged while they waited for their handler", n-x.InFlight, n)
			}
		}
	}
	close(hang)
	eventually(t, "all are handled", func() bool { return len(k.once(t)) == n })
	eventually(t, "all is acknowledged", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Queued == 0 }) })
}

// What the broker has kept waits for its handler as long as the program is still subscribing.
func TestParkedWhileSubscribing(t *testing.T) {
	b := startBroker(t)
	o := Options{URL: b.URL(), ID: "parked", SessionExpiry: time.Hour}
	c := connect(t, o)
	subscribe(t, c, "x", func(context.Context, *Delivery) {})
	if err := c.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	publisher := connect(t, Options{URL: b.URL()})
	if err := publisher.Publish(testContext(t), "x", raw("kept"), WithQoS(1)); err != nil {
		t.Fatal(err)
	}
	c = connect(t, o)
	eventually(t, "it waits", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.parked) == 1 })
	over := func(settling int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.until = time.Now().Add(-time.Second)
		c.settling += settling
		c.parkingOver()
		c.settling -= settling
	}
	over(1) // as while a broker takes its time to confirm
	c.mu.Lock()
	c.until = time.Now().Add(-time.Second)
	c.mu.Unlock()
	subscribe(t, c, "y", func(context.Context, *Delivery) {})
	c.mu.Lock()
	left := time.Until(c.until)
	c.mu.Unlock()
	if left <= 0 {
		t.Error("a subscription does not extend the time that it waits")
	}
	k := newCollector()
	subscribe(t, c, "x", k.handle)
	eventually(t, "it comes", func() bool { return len(k.once(t)) == 1 })
	over(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.parking {
		t.Error("what comes later waits for ever")
	}
}
