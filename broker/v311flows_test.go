package broker

import (
	"fmt"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Sessions and flows of messages as MQTT 3.1.1 numbers them: where 5.0 has a number for each step, it has one for a side.

// [MQTT-4.3.1-1] of 3.1.1: QoS 0 is one PUBLISH without DUP, and nothing else.
func TestMQTT311_4_3_1_1_QoS0(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := connect(t, b, packet.V311, "c")
	c.subscribe("a", 2)
	c.write([]byte("\x30\x04\x00\x01ax"))
	if got := c.read(6); got != "\x30\x04\x00\x01ax" {
		t.Errorf("%x", got)
	}
	c.nothing()
}

// Each side of QoS 1, step by step.
func TestMQTT311_4_3_2_1_QoS1(t *testing.T) {
	t.Run("[MQTT-4.3.2-1] of 3.1.1: the broker sends", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		pub, c := connect(t, b, packet.V311, "pub"), connect(t, b, packet.V311, "c", keep)
		c.subscribe("a", 1)
		var ids []uint16
		for i := range 3 {
			pub.publish("a", fmt.Sprint(i), 1)
			p := c.getsFirst("a", fmt.Sprint(i), 1)
			if p.Dup {
				t.Errorf("first sent as %s", describe(p))
			}
			for _, id := range ids {
				if id == p.ID {
					t.Errorf("identifier %d is in use", id)
				}
			}
			ids = append(ids, p.ID)
		}
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: ids[1]})
		c.nothing()
		c.hangUp("c") // only what was acknowledged is over
		c = connect(t, b, packet.V311, "c", keep)
		for _, i := range []int{0, 2} {
			if p := c.gets("a", fmt.Sprint(i), 1); !p.Dup || p.ID != ids[i] {
				t.Errorf("sent again as %s", describe(p))
			}
		}
		c.nothing()
		c.hangUp("c")
		connect(t, b, packet.V311, "c", keep).nothing()
	})
	t.Run("[MQTT-4.3.2-2] of 3.1.1: the broker receives", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		sub, c := connect(t, b, packet.V311, "sub"), connect(t, b, packet.V311, "c", keep)
		sub.subscribe("a", 1)
		for i := range 4 {
			p := outgoing("a", fmt.Sprint(i), 1, 77)
			p.Dup = i%2 == 1
			c.send(p)
			c.expectAck(packet.PUBACK, 77)
			sub.gets("a", fmt.Sprint(i), 1) // a new one every time, whatever DUP says
			if i == 1 {
				c.hangUp("c")
				c = connect(t, b, packet.V311, "c", keep)
			}
		}
		sub.nothing()
	})
}

// Each side of QoS 2, step by step.
func TestMQTT311_4_3_3_1_QoS2(t *testing.T) {
	t.Run("[MQTT-4.3.3-1] of 3.1.1: the broker sends", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		pub, c := connect(t, b, packet.V311, "pub"), connect(t, b, packet.V311, "c", keep)
		again := func() {
			c.hangUp("c")
			c = connect(t, b, packet.V311, "c", keep)
		}
		c.subscribe("a", 2)
		pub.publish("a", "x", 2)
		first := c.getsFirst("a", "x", 2)
		if first.Dup {
			t.Errorf("first sent as %s", describe(first))
		}
		again() // before PUBREC the PUBLISH comes again
		if p := c.getsFirst("a", "x", 2); !p.Dup || p.ID != first.ID {
			t.Errorf("sent again as %s", describe(p))
		}
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: first.ID})
		c.expectAck(packet.PUBREL, first.ID)
		again() // after it only PUBREL
		c.expectAck(packet.PUBREL, first.ID)
		c.nothing()
		pub.publish("a", "y", 2)
		if p := c.gets("a", "y", 2); p.ID == first.ID {
			t.Error("its identifier is in use until PUBCOMP")
		}
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: first.ID})
		again() // and then nothing
		c.nothing()
	})
	t.Run("[MQTT-4.3.3-2] of 3.1.1: the broker receives", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		sub, c := connect(t, b, packet.V311, "sub"), connect(t, b, packet.V311, "c", keep)
		sub.subscribe("a", 2)
		for i := range 3 {
			p := outgoing("a", fmt.Sprint(i), 2, 77)
			for n := range 3 {
				p.Dup = n > 0
				c.send(p)
				c.expectAck(packet.PUBREC, 77)
				c.hangUp("c")
				c = connect(t, b, packet.V311, "c", keep)
			}
			sub.gets("a", fmt.Sprint(i), 2)
			sub.nothing() // once
			c.release(77)
			c.release(77) // PUBREL is answered also when there is nothing to release
		}
		sub.nothing()
	})
}

// [MQTT-4.1.0-1], [MQTT-4.1.0-2] of 3.1.1: a session has all its state from its beginning to its end, and does not end
// while its client is connected.
func TestMQTT311_4_1_0_1_SessionState(t *testing.T) {
	t.Run("[MQTT-4.1.0-1] of 3.1.1: all its state", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		pub, c := connect(t, b, packet.V311, "pub"), connect(t, b, packet.V311, "c", keep)
		c.subscribe("a", 2)
		c.subscribe("b/+", 1)
		pub.publish("a", "in flight", 1)
		id := c.getsFirst("a", "in flight", 1).ID
		c.send(outgoing("x", "", 2, 9))
		c.expectAck(packet.PUBREC, 9)
		for range 3 {
			c.hangUp("c")
			c = connect(t, b, packet.V311, "c", keep)
			if p := c.getsFirst("a", "in flight", 1); p.ID != id {
				t.Errorf("got %s", describe(p))
			}
			pub.publish("b/1", "live", 1)
			c.gets("b/1", "live", 1)
		}
		c.release(9)
	})
	t.Run("[MQTT-4.1.0-2] of 3.1.1: as long as its connection", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		pub, c := connect(t, b, packet.V311, "pub"), connect(t, b, packet.V311, "c", clean)
		c.subscribe("a", 1)
		clock := connect(t, b, packet.V5, "clock", expiry(1))
		clock.hangUp("clock")
		waitFor(t, "another session to end", func() bool { return b.find("clock") == nil })
		pub.publish("a", "x", 1)
		c.gets("a", "x", 1)
	})
}

// [MQTT-4.4.0-1] of 3.1.1: without clean session everything that is not acknowledged comes again, PUBLISH and PUBREL, with its
// identifier; with it nothing does.
func TestMQTT311_4_4_0_1_SentAgain(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, c := connect(t, b, packet.V311, "pub"), connect(t, b, packet.V311, "c", keep)
	c.subscribe("a", 2)
	for _, qos := range []byte{1, 2, 2} {
		pub.publish("a", "x", qos)
	}
	one, two, three := c.getsFirst("a", "x", 1), c.getsFirst("a", "x", 2), c.getsFirst("a", "x", 2)
	c.send(&packet.Ack{Kind: packet.PUBREC, ID: two.ID})
	c.expectAck(packet.PUBREL, two.ID)
	c.hangUp("c")
	c = connect(t, b, packet.V311, "c", keep)
	if p := c.getsFirst("a", "x", 1); p.ID != one.ID {
		t.Errorf("got %s", describe(p))
	}
	c.expectAck(packet.PUBREL, two.ID)
	if p := c.getsFirst("a", "x", 2); p.ID != three.ID {
		t.Errorf("got %s", describe(p))
	}
	c.nothing()
	c.hangUp("c")
	connect(t, b, packet.V311, "c", clean).nothing()
}
