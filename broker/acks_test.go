package broker

import (
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// The four acknowledgements: their codes, and their sizes.

// [MQTT-3.5.2-1]: the codes of PUBREC are those of the table, and the one that fits.
func TestMQTT_3_5_2_1_CodesOfPUBREC(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub, c := connect(t, b, packet.V5, "sub"), connect(t, b, packet.V5, "c")
	sub.subscribe("somebody", 0)
	for id, test := range []struct {
		topic string
		want  packet.Code
	}{
		{"somebody", packet.Success},
		{"nobody", packet.NoMatchingSubscribers},
		{"$SYS/x", packet.NotAuthorized},
		{"$share/g/a", packet.NotAuthorized},
		{strings.Repeat("/", maxLevels), packet.TopicNameInvalid},
	} {
		c.send(outgoing(test.topic, "x", 2, uint16(id+1)))
		if code := c.expectAck(packet.PUBREC, uint16(id+1)); code != test.want {
			t.Errorf("%.20s: %v, want %v", test.topic, code, test.want)
		}
	}
}

// PUBREL and PUBCOMP say success, or that the identifier is not in use.
func TestMQTT_3_6_2_1_CodesOfPUBRELAndPUBCOMP(t *testing.T) {
	t.Run("[MQTT-3.6.2-1] PUBREL", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		c := connect(t, b, packet.V5, "c")
		c.subscribe("a", 2)
		connect(t, b, packet.V5, "pub").publish("a", "x", 2)
		p := c.getsFirst("a", "x", 2)
		for range 2 {
			c.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
			if code := c.expectAck(packet.PUBREL, p.ID); code != packet.Success {
				t.Errorf("%v", code)
			}
		}
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID}, &packet.Ack{Kind: packet.PUBREC, ID: p.ID})
		if code := c.expectAck(packet.PUBREL, p.ID); code != packet.PacketIDNotFound {
			t.Errorf("after PUBCOMP: %v", code)
		}
	})
	t.Run("[MQTT-3.7.2-1] PUBCOMP", func(t *testing.T) {
		t.Parallel()
		c := connect(t, start(t, Options{}), packet.V5, "c")
		c.send(outgoing("a", "x", 2, 7))
		c.expectAck(packet.PUBREC, 7)
		for _, want := range []packet.Code{packet.Success, packet.PacketIDNotFound} {
			c.send(&packet.Ack{Kind: packet.PUBREL, ID: 7})
			if code := c.expectAck(packet.PUBCOMP, 7); code != want {
				t.Errorf("%v, want %v", code, want)
			}
		}
	})
}

// Reason strings and user properties do not make an acknowledgement larger than what the client takes. The acknowledgements
// here all have something to explain.
func TestMQTT_3_4_2_2_AcknowledgementsFit(t *testing.T) {
	fits := func(first byte, ask packet.Packet) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			for most := uint32(16); most < 80; most++ { // 16 is what CONNACK needs
				c := connect(t, b, packet.V5, "c", maximumPacket(most))
				c.send(ask)
				head := c.read(2)
				if size := 2 + int(head[1]); head[0] != first || size > int(most) {
					t.Fatalf("a packet %02x of %d bytes for a client that takes %d", head[0], size, most)
				}
				if body := c.read(int(head[1])); body[2] < 0x80 {
					t.Fatalf("code %02x", body[2])
				}
				c.nothing()
			}
		}
	}
	t.Run("[MQTT-3.4.2-2] [MQTT-3.4.2-3] PUBACK", fits(0x40, outgoing("$SYS/x", "x", 1, 1)))
	t.Run("[MQTT-3.5.2-2] [MQTT-3.5.2-3] PUBREC", fits(0x50, outgoing("$SYS/x", "x", 2, 1)))
	t.Run("[MQTT-3.6.2-2] [MQTT-3.6.2-3] PUBREL", fits(0x62, &packet.Ack{Kind: packet.PUBREC, ID: 1}))
	t.Run("[MQTT-3.7.2-2] [MQTT-3.7.2-3] PUBCOMP", fits(0x70, &packet.Ack{Kind: packet.PUBREL, ID: 1}))
}

// The identifier alone is an acknowledgement that says success, with or without its code; a code that the packet does not
// have is a protocol error.
func TestShortAcknowledgements(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c")
	c.subscribe("a", 2)
	for _, rest := range []string{"", "\x00", "\x00\x00", "\x00\x03\x1f\x00\x00"} {
		pub.publish("a", "x", 1)
		id := c.getsFirst("a", "x", 1).ID
		c.write(whole(0x40, string([]byte{byte(id >> 8), byte(id)}), rest))
		pub.publish("a", "x", 2)
		id = c.getsFirst("a", "x", 2).ID
		c.write(whole(0x50, string([]byte{byte(id >> 8), byte(id)}), rest))
		c.expectAck(packet.PUBREL, id)
		c.write(whole(0x70, string([]byte{byte(id >> 8), byte(id)}), rest))
		c.send(outgoing("b", "x", 2, 3))
		c.expectAck(packet.PUBREC, 3)
		c.write(whole(0x62, "\x00\x03", rest))
		c.expectAck(packet.PUBCOMP, 3)
	}
	c.nothing()
	for _, bytes := range []string{"\x40\x03\x00\x01\x92", "\x50\x03\x00\x01\x01", "\x62\x03\x00\x01\x80", "\x70\x03\x00\x01\x10"} {
		c := connect(t, b, packet.V5, "bad")
		c.write([]byte(bytes))
		c.ends(packet.ProtocolError)
	}
}
