package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What a client says of its own limits, and how the broker keeps to it.

// [MQTT-3.1.2-24]: no packet is larger than what the client takes, of whatever kind; what does not fit is not sent.
func TestMQTT_3_1_2_24_NoPacketIsTooLarge(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	const most = 40
	for n := 1; n < 60; n += 7 {
		c := connect(t, b, packet.V5, "c", maximumPacket(most), aliasMaximum(uint16(n%2)))
		s := &packet.Subscribe{ID: 1}
		u := &packet.Unsubscribe{ID: 2}
		for i := range n {
			s.Subscriptions = append(s.Subscriptions, packet.Subscription{Filter: []byte(fmt.Sprint(i)), QoS: 2})
			u.Filters = append(u.Filters, []byte(fmt.Sprint(i)))
		}
		c.send(s)
		waitFor(t, "the subscriptions", func() bool { return b.Stats().Subscriptions == n })
		for i := range 50 {
			pub.publish("0", strings.Repeat("x", i), byte(i%3))
		}
		c.send(u, &packet.Pingreq{})
		kinds := map[packet.Type]int{}
		for done := false; !done; {
			head := c.read(2)
			if size := 2 + int(head[1]); head[1] > 127 || size > most {
				t.Fatalf("%d filters: a packet %02x of %d bytes or more", n, head[0], size)
			}
			c.read(int(head[1]))
			kind := packet.Type(head[0] >> 4)
			kinds[kind]++
			if kind == packet.PINGRESP { // everything else has come
				c.send(&packet.Connect{}) // DISCONNECT would have a reason
			}
			done = kind == packet.DISCONNECT
		}
		if fits := n+5 <= most; kinds[packet.PUBLISH] < 30 || kinds[packet.PINGRESP] != 1 || (kinds[packet.SUBACK] == 1) != fits || (kinds[packet.UNSUBACK] == 1) != fits {
			t.Errorf("%d filters: %v", n, kinds)
		}
		c.closes()
		waitFor(t, "the session to end", func() bool { return b.Stats().Subscriptions == 0 })
	}
}

// [MQTT-3.1.2-25]: a message that is too large for a client is as good as sent to it: it takes no place in the receive
// maximum, does not come later, and others get theirs.
func TestMQTT_3_1_2_25_TooLargeIsAsGoodAsSent(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, other := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "other")
	other.subscribe("a", 2)
	c := connect(t, b, packet.V5, "c", keep, receiveMaximum(1), maximumPacket(100))
	c.subscribe("a", 2)
	large := strings.Repeat("x", 200)
	for qos := range byte(3) {
		for range 3 {
			if code := pub.publish("a", large, qos); code != packet.Success {
				t.Errorf("the publisher is told %v", code)
			}
			other.gets("a", large, qos)
		}
		c.nothing()
		pub.publish("a", "small", qos)
		other.gets("a", "small", qos)
		c.gets("a", "small", qos)
	}
	c.hangUp("c")
	c = connect(t, b, packet.V5, "c", keep) // which takes anything
	c.nothing()
	if n := b.Stats().Queued; n != 0 {
		t.Errorf("%d are queued", n)
	}
}

// [MQTT-3.1.3-7]: a client without an id is treated as if it had sent the one that it is told.
func TestMQTT_3_1_3_7_AssignedClientIDIsUsed(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	c, ack := connected(t, b, packet.V5, "", keep)
	id := string(ack.Properties.AssignedClientID)
	c.subscribe("a", 1)
	c.hangUp(id)
	pub.publish("a", "x", 1)
	c, ack = connected(t, b, packet.V5, id, keep)
	if !ack.SessionPresent || ack.Properties.AssignedClientID != nil {
		t.Errorf("session present %t, assigned %q", ack.SessionPresent, ack.Properties.AssignedClientID)
	}
	c.gets("a", "x", 1)
	c.nothing() // and the broker has its PUBACK
	again := connect(t, b, packet.V5, id, keep)
	c.ends(packet.SessionTakenOver)
	again.nothing()
}

// [MQTT-3.3.4-5]: where two copies are sent, one of them for a shared subscription, each has the identifier of its own.
func TestMQTT_3_3_4_5_EachCopyHasItsIdentifier(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := connect(t, b, packet.V5, "c")
	c.subscribeID("a", 1, 1)
	c.subscribeID("$share/g/a", 1, 2)
	c.subscribeID("$share/h/+", 1, 3)
	c.subscribe("$share/i/#", 1)
	connect(t, b, packet.V5, "pub").publish("a", "x", 1)
	seen := map[string]int{}
	for range 4 {
		seen[fmt.Sprint(c.gets("a", "x", 1).Properties.SubscriptionIDs)]++
	}
	c.nothing()
	if seen["[1]"] != 1 || seen["[2]"] != 1 || seen["[3]"] != 1 || seen["[]"] != 1 {
		t.Errorf("identifiers %v", seen)
	}
}
