package broker

import (
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// When a session is made, kept and taken up again.

// [MQTT-3.1.3-2]: state belongs to a client id: who has the same one finds it, and nobody else does.
func TestMQTT_3_1_3_2_StateBelongsToAClientID(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		c := connect(t, b, v, "c", keep)
		c.subscribe("a", 1)
		c.hangUp("c")
		pub.publish("a", "x", 1)
		for _, id := range []string{"C", "c ", "cc", "\ufeffc"} {
			other, ack := connected(t, b, v, id, keep)
			if ack.SessionPresent {
				t.Errorf("%q finds the session of c", id)
			}
			other.nothing()
		}
		c, ack := connected(t, b, v, "c", keep)
		if !ack.SessionPresent {
			t.Error("c does not find its session")
		}
		c.gets("a", "x", 1)
	})
}

// [MQTT-3.1.2-5]: without clean start the session goes on: subscriptions, what was queued, what was in flight both ways.
func TestMQTT_3_1_2_5_SessionGoesOn(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
		sub := connect(t, b, v, "sub")
		sub.subscribe("b", 2)
		c.subscribe("a", 2)
		pub.publish("a", "sent", 1)
		first := c.getsFirst("a", "sent", 1)
		c.send(outgoing("b", "x", 2, 3))
		c.expectAck(packet.PUBREC, 3)
		sub.gets("b", "x", 2)
		c.hangUp("c")
		pub.publish("a", "queued", 2)

		c, ack := connected(t, b, v, "c", keep)
		if !ack.SessionPresent {
			t.Fatal("no session")
		}
		if p := c.gets("a", "sent", 1); !p.Dup || p.ID != first.ID {
			t.Errorf("sent again as %s", describe(p))
		}
		c.gets("a", "queued", 2)
		pub.publish("a", "live", 1)
		c.gets("a", "live", 1)
		c.send(outgoing("b", "x", 2, 3)) // known already
		c.expectAck(packet.PUBREC, 3)
		c.release(3)
		sub.nothing()
	})
}

// [MQTT-3.1.2-6]: without clean start, and without a session, a new one is made, which is kept from then on.
func TestMQTT_3_1_2_6_SessionIsMade(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		c, ack := connected(t, b, v, "c", keep)
		if ack.SessionPresent {
			t.Error("a session was there")
		}
		pub.publish("a", "x", 1)
		c.nothing() // it begins without subscriptions
		c.subscribe("a", 1)
		c.hangUp("c")
		pub.publish("a", "y", 1)
		if c, ack = connected(t, b, v, "c", keep); !ack.SessionPresent {
			t.Error("the session was not kept")
		}
		c.gets("a", "y", 1)
	})
}

// [MQTT-3.1.2-23]: a session with an expiry above 0 is stored when the connection ends, however it ends; one without is not.
func TestMQTT_3_1_2_23_SessionIsStored(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		for _, test := range []struct {
			how  choice
			end  func(c *raw)
			kept bool
		}{
			{keep, func(c *raw) { c.leave("c") }, true},
			{keep, func(c *raw) { c.hangUp("c") }, true},
			{keep, func(c *raw) { c.write([]byte{0, 0}); c.ends(packet.MalformedPacket); c.hangUp("c") }, true},
			{clean, func(c *raw) { c.leave("c") }, false},
			{clean, func(c *raw) { c.hangUp("c") }, false},
			{clean, func(c *raw) { c.write([]byte{0, 0}); c.ends(packet.MalformedPacket); c.hangUp("c") }, false},
		} {
			connect(t, b, v, "c").leave("c")
			waitFor(t, "the session before to end", func() bool { return b.find("c") == nil })
			c := connect(t, b, v, "c", test.how)
			c.subscribe("a", 1)
			test.end(c)
			if !test.kept {
				waitFor(t, "the session to end", func() bool { return b.find("c") == nil })
			}
			pub.publish("a", "x", 1)
			c, ack := connected(t, b, v, "c", func(p *packet.Connect) { p.CleanStart = false })
			if ack.SessionPresent != test.kept {
				t.Errorf("session present: %t, want %t", ack.SessionPresent, test.kept)
			}
			if test.kept {
				c.gets("a", "x", 1)
			}
			c.nothing()
			connect(t, b, v, "c", clean).leave("c")
		}
	})
}

// [MQTT-3.1.4-4]: what clean start asks for is done also when the session is taken from a connection that is still there.
func TestMQTT_3_1_4_4_CleanStartAtATakeover(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		one := connect(t, b, v, "c", keep)
		one.subscribe("a", 1)
		two, ack := connected(t, b, v, "c", keep)
		if !ack.SessionPresent {
			t.Error("without clean start the session is gone")
		}
		pub.publish("a", "x", 1)
		two.getsFirst("a", "x", 1)
		three, ack := connected(t, b, v, "c", clean)
		if ack.SessionPresent {
			t.Error("with clean start the session is present")
		}
		pub.publish("a", "y", 1)
		three.nothing()
	})
}
