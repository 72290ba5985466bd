package client

import (
	"context"
	"testing"
)

// A delivery belongs to its handler: what one does to it no other sees.
func TestDeliveryBelongsToHandler(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	const handlers, messages = 3, 100
	k := newCollector()
	for range handlers {
		subscribe(t, c, "a/b", func(ctx context.Context, d *Delivery) {
			if d.Topic != "a/b" {
				t.Errorf("topic %q", d.Topic)
			}
			d.Topic = "changed"
			k.handle(ctx, d)
		})
	}
	for range messages {
		publish(t, c, "a/b", "x")
	}
	k.wait(t, handlers*messages)
}
