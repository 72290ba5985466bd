package client

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
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

// A broker that has more messages unacknowledged than it was allowed breaks the protocol; one that completes them may
// go on.
func TestReceiveMaximumExceeded(t *testing.T) {
	const completed = 100
	ready, said := make(chan struct{}), make(chan packet.Code, 1)
	sent := func(id int) packet.Packet {
		return &packet.Publish{Topic: []byte("lawnberry/a/b"), QoS: 2, ID: uint16(id)}
	}
	dial := scripted(t, func(n int, s *script) {
		if s.accept(packet.Connack{}) == nil || n > 0 {
			s.drain()
			return
		}
		<-ready
		more := make(chan struct{})
		go func() {
			for id := 1; id <= receiveMaximum; id++ {
				s.send(sent(id))
			}
			for id := 1; id <= completed; id++ {
				s.send(&packet.Ack{Kind: packet.PUBREL, ID: uint16(id)})
			}
			<-more
			for id := 1; id <= completed+1; id++ {
				s.send(sent(receiveMaximum + id))
			}
		}()
		received, done := 0, 0
		for {
			first, body, err := s.rd.Next()
			switch {
			case err != nil:
				t.Error(err)
				close(said)
				return
			case packet.Type(first>>4) == packet.PUBREC:
				received++
			case packet.Type(first>>4) == packet.PUBCOMP:
				if done++; done == completed {
					close(more)
				}
			case packet.Type(first>>4) == packet.DISCONNECT:
				if received != receiveMaximum+completed {
					t.Errorf("%d PUBREC, want %d", received, receiveMaximum+completed)
				}
				said <- packet.Code(body[0])
				return
			}
		}
	})
	cause := make(chan error, 4)
	c := connect(t, Options{Dial: dial, OnState: func(up bool, err error) {
		if !up {
			cause <- err
		}
	}})
	close(ready)
	if code := <-said; code != packet.ReceiveMaximumExceeded {
		t.Errorf("DISCONNECT with %v", code)
	}
	var e *DisconnectError
	if err := <-cause; !errors.As(err, &e) || !e.Ours {
		t.Error(err)
	}
	eventually(t, "it is back", c.Connected)
}

// A delivery says how much came over the wire, and on which topic there.
func TestSizeAndFullTopic(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL(), ID: "x"})
	k, outside := newCollector(), newCollector()
	subscribe(t, c, "system/events/+", k.handle)
	subscribe(t, c, topic.Absolute("other/#"), outside.handle)
	text := strings.Repeat("mow ", 500)
	m, err := message.NewEvent("x", message.Event{EventType: "long", EventData: json.RawMessage(`{"text":"` + text + `"}`)})
	if err != nil {
		t.Fatal(err)
	}
	body, compressed, err := message.Encode(&m, message.Limits{})
	if err != nil || !compressed {
		t.Fatalf("compressed %v: %v", compressed, err)
	}
	if err := c.Publish(testContext(t), "system/events/long", m); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(testContext(t), topic.Absolute("other/x"), message.NewRaw([]byte("12345"))); err != nil {
		t.Fatal(err)
	}
	k.wait(t, 1)
	outside.wait(t, 1)
	if d := k.all()[0]; d.Size != len(body) || d.Size >= len(d.Message.Payload) || d.FullTopic() != "lawnberry/system/events/long" {
		t.Errorf("%d bytes on %s, want %d", d.Size, d.FullTopic(), len(body))
	}
	if d := outside.all()[0]; d.Size != 5 || d.FullTopic() != "other/x" {
		t.Errorf("%d bytes on %s", d.Size, d.FullTopic())
	}
	if got := (&Delivery{Topic: "a"}).FullTopic(); got != "a" {
		t.Errorf("of none that was received: %q", got)
	}
}
