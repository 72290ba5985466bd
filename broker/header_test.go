package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What all packets have in common: flags, lengths, packet identifiers.

// [MQTT-1.5.5-1]: a variable byte integer takes no more bytes than it needs.
func TestMQTT_1_5_5_1_ShortestLengths(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	t.Run("received", func(t *testing.T) {
		for name, bytes := range map[string]string{
			"remaining length":          "\x30\x85\x00\x00\x01a\x00x",
			"remaining length of 0":     "\xc0\x80\x00",
			"remaining length, 4":       "\xc0\x80\x80\x80\x00",
			"property length":           "\x30\x06\x00\x01a\x80\x00x",
			"property length, 3":        "\x82\x09\x00\x01\x80\x80\x00\x00\x01a\x00",
			"subscription identifier":   "\x82\x0a\x00\x01\x03\x0b\x81\x00\x00\x01a\x00",
			"property length of PUBACK": "\x40\x05\x00\x01\x00\x80\x00",
		} {
			c := connect(t, b, packet.V5, "c")
			c.write([]byte(bytes))
			t.Log(name)
			c.ends(packet.MalformedPacket)
		}
		for name, bytes := range map[string][]byte{
			"property length":       connectWith(packet.V5, 0x02, "\x80\x00", field("c")),
			"Will property length":  connectBytes(packet.V5, 0x06, field("c"), "\x80\x00", field("w"), field("gone")),
			"property length of 15": connectWith(packet.V5, 0x02, "\x85\x00\x11\x00\x00\x00\x0f", field("c")),
		} {
			c := dial(t, b, "tcp")
			c.write(bytes)
			t.Log("CONNECT:", name)
			c.refused(packet.MalformedPacket)
		}
		c := dial(t, b, "tcp")
		c.write([]byte("\x10\x8f\x00\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02ab"))
		c.refused(packet.MalformedPacket) // where it ends is in doubt, its version is not
	})
	t.Run("sent", func(t *testing.T) {
		pub := connect(t, b, packet.V5, "pub")
		for _, length := range []int{4, 127, 128, 16_383, 16_384} {
			sub := connect(t, b, packet.V5, "sub")
			sub.subscribe("a", 0)
			payload := strings.Repeat("x", length-4)
			pub.publish("a", payload, 0)
			want := string(whole(0x30, field("a"), "\x00", payload))
			if got := sub.read(len(want)); got != want {
				t.Errorf("remaining length %d: %x...", length, got[:8])
			}
			sub.nothing()
		}
		for _, id := range []int{1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455} {
			sub := connect(t, b, packet.V5, "sub")
			sub.subscribeID("a", 0, uint32(id))
			pub.publish("a", "x", 0)
			want := string(whole(0x30, field("a"), properties(packet.V5, "\x0b", varint(id)), "x"))
			if got := sub.read(len(want)); got != want {
				t.Errorf("subscription identifier %d: %x", id, got)
			}
			sub.nothing()
		}
		for _, length := range []int{127, 128} { // of all properties
			sub := connect(t, b, packet.V5, "sub")
			sub.subscribe("a", 0)
			kind := strings.Repeat("x", length-3)
			pub.publish("a", "x", 0, func(p *packet.Publish) { p.Properties.ContentType = []byte(kind) })
			want := string(whole(0x30, field("a"), properties(packet.V5, "\x03", field(kind)), "x"))
			if got := sub.read(len(want)); got != want {
				t.Errorf("property length %d: %x", length, got[:16])
			}
			sub.nothing()
		}
	})
}

// fixedFlags are the packets of a client whose flags are fixed, each whole and right but for the flags.
var fixedFlags = []struct {
	kind  packet.Type
	right byte
	body  func(v packet.Version) string
}{
	{packet.PUBACK, 0, func(packet.Version) string { return "\x00\x01" }},
	{packet.PUBREC, 0, func(packet.Version) string { return "\x00\x01" }},
	{packet.PUBREL, 2, func(packet.Version) string { return "\x00\x01" }},
	{packet.PUBCOMP, 0, func(packet.Version) string { return "\x00\x01" }},
	{packet.SUBSCRIBE, 2, func(v packet.Version) string { return "\x00\x01" + properties(v) + field("a") + "\x00" }},
	{packet.UNSUBSCRIBE, 2, func(v packet.Version) string { return "\x00\x01" + properties(v) + field("a") }},
	{packet.PINGREQ, 0, func(packet.Version) string { return "" }},
	{packet.DISCONNECT, 0, func(packet.Version) string { return "" }},
	{packet.CONNECT, 0, func(v packet.Version) string { return string(connectBytes(v, 0x02, field("c"))[2:]) }},
}

// wrongFlags sends packets of a kind with every flags but the right ones.
func wrongFlags(t *testing.T, v packet.Version, kind packet.Type) {
	t.Helper()
	b := start(t, Options{})
	for _, p := range fixedFlags {
		for flags := range byte(16) {
			if p.kind != kind || flags == p.right {
				continue
			}
			bytes := whole(byte(kind)<<4|flags, p.body(v))
			if kind == packet.CONNECT {
				c := dial(t, b, "tcp")
				c.v = v
				c.write(bytes)
				c.closes() // it may be no CONNECT, so nothing is answered
				continue
			}
			c := connect(t, b, v, "c")
			c.write(bytes)
			c.ends(packet.MalformedPacket)
		}
	}
}

// [MQTT-2.1.3-1]: reserved flags have their value, or the packet is malformed.
func TestMQTT_2_1_3_1_ReservedFlags(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		for _, p := range fixedFlags {
			t.Run(p.kind.String(), func(t *testing.T) { wrongFlags(t, v, p.kind) })
		}
		t.Run("those of the broker", func(t *testing.T) {
			b := start(t, Options{})
			c := connect(t, b, v, "c")
			c.subscribe("a", 2)
			c.send(outgoing("a", "x", 2, 9))
			first := func(want byte, rest int) {
				t.Helper()
				if got := c.read(2); got[0] != want || int(got[1]) < rest {
					t.Fatalf("got %x, want %x first", got, want)
				} else {
					c.read(int(got[1]))
				}
			}
			// PUBREC and PUBLISH come in either order.
			for range 2 {
				got := c.read(2)
				if got[0] != 0x50 && got[0] != 0x34 {
					t.Fatalf("got %x", got)
				}
				c.read(int(got[1]))
			}
			c.send(&packet.Ack{Kind: packet.PUBREC, ID: 1})
			first(0x62, 2)
			c.send(&packet.Ack{Kind: packet.PUBREL, ID: 9})
			first(0x70, 2)
			c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: 1})
			c.send(&packet.Unsubscribe{ID: 2, Filters: [][]byte{[]byte("a")}})
			first(0xB0, 2)
			c.send(&packet.Subscribe{ID: 2, Subscriptions: []packet.Subscription{{Filter: []byte("a")}}})
			first(0x90, 3)
			c.send(outgoing("b", "x", 1, 9))
			first(0x40, 2)
			c.send(&packet.Pingreq{})
			first(0xD0, 0)
			if v == packet.V5 {
				c.send(&packet.Connect{})
				first(0xE0, 1)
			}
		})
	})
}

// [MQTT-3.6.1-1]: PUBREL has the flags 0010, and with any others it is malformed and the connection ends.
func TestMQTT_3_6_1_1_FlagsOfPUBREL(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) { wrongFlags(t, v, packet.PUBREL) })
}

// [MQTT-2.2.1-2]: at QoS 0 a PUBLISH has no packet identifier, neither from a client nor to one.
func TestMQTT_2_2_1_2_NoIdentifierAtQoS0(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := connect(t, b, v, "c")
		c.subscribe("a", 2)
		// What might be taken for an identifier is payload, and comes back as such.
		sent := string(whole(0x30, field("a"), properties(v), "\x00\x01x"))
		c.write([]byte(sent))
		if got := c.read(len(sent)); got != sent {
			t.Errorf("got %x, want %x", got, sent)
		}
		c.nothing()
	})
}

// [MQTT-2.2.1-3]: SUBSCRIBE, UNSUBSCRIBE and PUBLISH with QoS 1 or 2 have a packet identifier that is not 0.
func TestMQTT_2_2_1_3_IdentifierIsNot0(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		witness := connect(t, b, v, "witness")
		witness.subscribe("#", 0)
		for name, bytes := range map[string][]byte{
			"SUBSCRIBE":   whole(0x82, "\x00\x00", properties(v), field("a"), "\x00"),
			"UNSUBSCRIBE": whole(0xA2, "\x00\x00", properties(v), field("a")),
			"QoS 1":       whole(0x32, field("a"), "\x00\x00", properties(v), "x"),
			"QoS 2":       whole(0x34, field("a"), "\x00\x00", properties(v), "x"),
		} {
			t.Run(name, func(t *testing.T) {
				c := connect(t, b, v, "c")
				c.write(bytes)
				c.ends(packet.ProtocolError)
			})
		}
		witness.nothing()
	})
}

// [MQTT-2.2.1-4]: what the broker sends has an identifier that is not 0 and not in use, however many it has used.
func TestMQTT_2_2_1_4_IdentifiersInUseAreNotUsedAgain(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, sub := connect(t, b, v, "pub"), connect(t, b, v, "sub")
		sub.subscribe("a", 2)
		open := map[uint16]bool{} // three that are never acknowledged
		for i := range 3 {
			pub.publish("a", "open", byte(1+i%2))
			p := sub.getsFirst("a", "open", byte(1+i%2))
			if p.ID == 0 || open[p.ID] {
				t.Fatalf("identifier %d, in use are %v", p.ID, open)
			}
			open[p.ID] = true
		}
		const batch, all = 500, 70_000 // more than there are identifiers
		for n := 0; n < all; n += batch {
			var out, acks []packet.Packet
			for i := range batch {
				out = append(out, outgoing("a", "x", 1, uint16(i+1)))
			}
			pub.send(out...)
			used := map[uint16]bool{}
			for range batch {
				p := expect[*packet.Publish](sub)
				if p.ID == 0 || open[p.ID] || used[p.ID] {
					t.Fatalf("message %d: identifier %d is in use", n, p.ID)
				}
				used[p.ID] = true
				acks = append(acks, &packet.Ack{Kind: packet.PUBACK, ID: p.ID})
			}
			for i := range batch {
				pub.expectAck(packet.PUBACK, uint16(i+1))
			}
			sub.send(acks...)
			sub.nothing()
		}
	})
}

// [MQTT-2.2.1-5]: PUBACK, PUBREC, PUBREL and PUBCOMP carry the identifier of their PUBLISH, in both directions.
func TestMQTT_2_2_1_5_AcknowledgementsHaveTheIdentifierOfThePUBLISH(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := connect(t, b, v, "c")
		for _, id := range []uint16{65535, 256, 1} { // in no order
			c.send(outgoing("a", "x", 1, id), outgoing("a", "x", 2, id^0x5555))
			c.expectAck(packet.PUBACK, id)
			c.expectAck(packet.PUBREC, id^0x5555)
			c.send(&packet.Ack{Kind: packet.PUBREL, ID: id ^ 0x5555})
			c.expectAck(packet.PUBCOMP, id^0x5555)
		}
		c.subscribe("b", 2)
		pub := connect(t, b, v, "pub")
		for i := range 3 {
			pub.publish("b", fmt.Sprint(i), 2)
		}
		var ids []uint16
		for i := range 3 {
			ids = append(ids, c.getsFirst("b", fmt.Sprint(i), 2).ID)
		}
		for _, i := range []int{2, 0, 1} {
			c.send(&packet.Ack{Kind: packet.PUBREC, ID: ids[i]})
			c.expectAck(packet.PUBREL, ids[i])
		}
	})
}

// [MQTT-2.2.1-6]: SUBACK and UNSUBACK carry the identifier of what they answer.
func TestMQTT_2_2_1_6_SUBACKAndUNSUBACKHaveTheIdentifier(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		c := connect(t, start(t, Options{}), v, "c")
		filter := []packet.Subscription{{Filter: []byte("a")}}
		for _, id := range []uint16{65535, 7, 256, 1} {
			c.send(&packet.Subscribe{ID: id, Subscriptions: filter}, &packet.Unsubscribe{ID: id ^ 0x1234, Filters: [][]byte{[]byte("a")}})
			if ack := expect[*packet.Suback](c); ack.ID != id {
				t.Errorf("SUBACK %d, want %d", ack.ID, id)
			}
			if ack := expect[*packet.Unsuback](c); ack.ID != id^0x1234 {
				t.Errorf("UNSUBACK %d, want %d", ack.ID, id^0x1234)
			}
		}
	})
}

// [MQTT-2.2.2-1]: where there are no properties stands a property length of 0, also in what the broker sends.
func TestMQTT_2_2_2_1_NoPropertiesIsALengthOf0(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	t.Run("received", func(t *testing.T) {
		for name, bytes := range map[string]string{
			"PUBLISH":          "\x30\x03\x00\x01a",
			"PUBLISH at QoS 1": "\x32\x05\x00\x01a\x00\x01",
			"SUBSCRIBE":        "\x82\x02\x00\x01",
			"UNSUBSCRIBE":      "\xa2\x02\x00\x01",
		} {
			c := connect(t, b, packet.V5, "c")
			c.write([]byte(bytes))
			t.Log(name)
			c.ends(packet.MalformedPacket)
		}
		c := dial(t, b, "tcp")
		c.write(connectWith(packet.V5, 0x02, ""))
		c.refused(packet.MalformedPacket)
	})
	t.Run("sent", func(t *testing.T) {
		c := connect(t, b, packet.V5, "c")
		for _, step := range []struct{ send, want string }{
			{"\x82\x07\x00\x05\x00\x00\x01a\x02", "\x90\x04\x00\x05\x00\x02"},
			{"\x30\x05\x00\x01a\x00x", "\x30\x05\x00\x01a\x00x"},
			{"\xa2\x06\x00\x06\x00\x00\x01a", "\xb0\x04\x00\x06\x00\x00"},
		} {
			c.write([]byte(step.send))
			if got := c.read(len(step.want)); got != step.want {
				t.Errorf("got %x, want %x", got, step.want)
			}
		}
		c.nothing()
	})
}
