package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// One malformed packet ends its connection, at once and with the right code, and no other's [MQTT-4.13.1-1, MQTT-4.8.0-1].
func TestMQTT_4_13_1_1_MalformedPackets(t *testing.T) {
	for _, test := range []struct {
		name  string
		v     packet.Version
		bytes string
		code  packet.Code
	}{
		{"SUBSCRIBE that ends in its filter", packet.V5, "\x82\x06\x00\x01\x00\x00\x01\x61", packet.MalformedPacket},
		{"SUBSCRIBE that ends in its filter", packet.V311, "\x82\x06\x00\x01\x00\x00\x01\x61", 0},
		{"SUBSCRIBE without a filter", packet.V5, "\x82\x03\x00\x01\x00", packet.ProtocolError},
		{"SUBSCRIBE without a filter", packet.V311, "\x82\x02\x00\x01", 0},
		{"SUBSCRIBE with reserved flags", packet.V5, "\x80\x07\x00\x01\x00\x00\x01a\x00", packet.MalformedPacket},
		{"SUBSCRIBE with QoS 3", packet.V5, "\x82\x07\x00\x01\x00\x00\x01a\x03", packet.ProtocolError},
		{"SUBSCRIBE with QoS 3", packet.V311, "\x82\x06\x00\x01\x00\x01a\x03", 0},
		{"SUBSCRIBE with retain handling 3", packet.V5, "\x82\x07\x00\x01\x00\x00\x01a\x30", packet.ProtocolError},
		{"SUBSCRIBE with reserved options", packet.V5, "\x82\x07\x00\x01\x00\x00\x01a\x40", packet.MalformedPacket},
		{"SUBSCRIBE with identifier 0", packet.V5, "\x82\x07\x00\x00\x00\x00\x01a\x00", packet.ProtocolError},
		{"SUBSCRIBE with subscription identifier 0", packet.V5, "\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00", packet.ProtocolError},
		{"SUBSCRIBE with two subscription identifiers", packet.V5, "\x82\x0b\x00\x01\x04\x0b\x01\x0b\x02\x00\x01a\x00", packet.ProtocolError},
		{"SUBSCRIBE with bad UTF-8", packet.V5, "\x82\x07\x00\x01\x00\x00\x01\xff\x00", packet.MalformedPacket},
		{"UNSUBSCRIBE without a filter", packet.V5, "\xa2\x03\x00\x01\x00", packet.ProtocolError},
		{"UNSUBSCRIBE with reserved flags", packet.V311, "\xa0\x05\x00\x01\x00\x01a", 0},
		{"PUBLISH with QoS 3", packet.V5, "\x36\x06\x00\x01a\x00\x01\x00", packet.MalformedPacket},
		{"PUBLISH with QoS 3", packet.V311, "\x36\x05\x00\x01a\x00\x01", 0},
		{"PUBLISH with DUP at QoS 0", packet.V5, "\x38\x04\x00\x01a\x00", packet.MalformedPacket},
		{"PUBLISH with identifier 0", packet.V5, "\x32\x06\x00\x01a\x00\x00\x00", packet.ProtocolError},
		{"PUBLISH without a topic", packet.V5, "\x30\x03\x00\x00\x00", packet.ProtocolError},
		{"PUBLISH without a topic", packet.V311, "\x30\x02\x00\x00", 0},
		{"PUBLISH with a wildcard", packet.V5, "\x30\x04\x00\x01#\x00", packet.TopicNameInvalid},
		{"PUBLISH with a wildcard", packet.V311, "\x30\x03\x00\x01+", 0},
		{"PUBLISH with NUL", packet.V5, "\x30\x04\x00\x01\x00\x00", packet.MalformedPacket},
		{"PUBLISH with a surrogate", packet.V5, "\x30\x06\x00\x03\xed\xa0\x80\x00", packet.MalformedPacket},
		{"PUBLISH shorter than its topic", packet.V5, "\x30\x03\x00\x05a", packet.MalformedPacket},
		{"PUBLISH with a subscription identifier", packet.V5, "\x30\x06\x00\x01a\x02\x0b\x01", packet.ProtocolError},
		{"PUBLISH with an unknown property", packet.V5, "\x30\x06\x00\x01a\x02\x7f\x01", packet.MalformedPacket},
		{"PUBLISH with a property of CONNECT", packet.V5, "\x30\x09\x00\x01a\x05\x11\x00\x00\x00\x01", packet.MalformedPacket},
		{"PUBLISH with two payload formats", packet.V5, "\x30\x08\x00\x01a\x04\x01\x01\x01\x01", packet.ProtocolError},
		{"PUBLISH with payload format 2", packet.V5, "\x30\x06\x00\x01a\x02\x01\x02", packet.ProtocolError},
		{"PUBLISH with properties beyond its end", packet.V5, "\x30\x04\x00\x01a\x09", packet.MalformedPacket},
		{"PUBREL with flags 0", packet.V5, "\x60\x02\x00\x01", packet.MalformedPacket},
		{"PUBACK with flags 2", packet.V5, "\x42\x02\x00\x01", packet.MalformedPacket},
		{"PUBACK without identifier", packet.V5, "\x40\x00", packet.MalformedPacket},
		{"PUBACK with a reason code of others", packet.V5, "\x40\x03\x00\x01\x8e", packet.ProtocolError},
		{"PUBACK that is too long", packet.V311, "\x40\x03\x00\x01\x00", 0},
		{"PINGREQ with a body", packet.V5, "\xc0\x01\x00", packet.MalformedPacket},
		{"PINGREQ with flags", packet.V5, "\xc1\x00", packet.MalformedPacket},
		{"DISCONNECT with flags", packet.V5, "\xe1\x00", packet.MalformedPacket},
		{"DISCONNECT with a body", packet.V311, "\xe0\x01\x00", 0},
		{"DISCONNECT with a code of PUBACK", packet.V5, "\xe0\x01\x10", packet.ProtocolError},
		{"packet type 0", packet.V5, "\x00\x00", packet.MalformedPacket},
		{"packet type 15", packet.V311, "\xf0\x00", 0},
		{"CONNACK from a client", packet.V5, "\x20\x03\x00\x00\x00", packet.ProtocolError},
		{"SUBACK from a client", packet.V5, "\x90\x04\x00\x01\x00\x00", packet.ProtocolError},
		{"PINGRESP from a client", packet.V5, "\xd0\x00", packet.ProtocolError},
		{"remaining length of five bytes", packet.V5, "\x30\xff\xff\xff\xff\x01", packet.MalformedPacket},
		{"remaining length longer than necessary", packet.V5, "\xc0\x80\x00", packet.MalformedPacket},
		{"a packet larger than allowed", packet.V5, "\x30\xff\xff\xff\x7f", packet.PacketTooLarge},
	} {
		t.Run(fmt.Sprint(test.name, " ", test.v), func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			other, c := connect(t, b, test.v, "other"), connect(t, b, test.v, "c")
			other.subscribe("#", 0)
			begun := time.Now()
			c.write([]byte(test.bytes))
			c.ends(test.code)
			t.Logf("gone after %v", time.Since(begun))
			other.nothing()
		})
	}
}

// What is malformed does not undo what came before it.
func TestPacketsBeforeAMalformedOneAreHandled(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub, c := connect(t, b, v, "sub"), connect(t, b, v, "c")
		sub.subscribe("a", 1)
		out, _ := outgoing("a", "x", 1, 5).Append(nil, v)
		c.write(append(out, 0, 0))
		c.expectAck(packet.PUBACK, 5)
		c.ends(packet.MalformedPacket)
		sub.gets("a", "x", 1)
	})
}

// [MQTT-3.1.4-1]: a malformed CONNECT gets a CONNACK in version 5, and nothing in 3.1.1.
func TestMQTT_3_1_4_1_MalformedCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, test := range []struct {
		name, bytes string
		v           packet.Version
		code        packet.Code // 0 is closed without a word
	}{
		{"reserved flag", "\x10\x0f\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x02ab", packet.V5, packet.MalformedPacket},
		{"reserved flag", "\x10\x0e\x00\x04MQTT\x04\x03\x00\x00\x00\x02ab", packet.V311, 0},
		{"Will QoS 3", "\x10\x0f\x00\x04MQTT\x05\x1e\x00\x00\x00\x00\x02ab", packet.V5, packet.MalformedPacket},
		{"Will flag without Will", "\x10\x0f\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x02ab", packet.V5, packet.MalformedPacket},
		{"too long", "\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02abc", packet.V5, packet.MalformedPacket},
		{"receive maximum 0", "\x10\x12\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x02ab", packet.V5, packet.ProtocolError},
		{"maximum packet size 0", "\x10\x14\x00\x04MQTT\x05\x02\x00\x00\x05\x27\x00\x00\x00\x00\x00\x02ab", packet.V5, packet.ProtocolError},
		{"authentication data alone", "\x10\x13\x00\x04MQTT\x05\x02\x00\x00\x04\x16\x00\x01x\x00\x02ab", packet.V5, packet.ProtocolError},
		{"client id with NUL", "\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02a\x00", packet.V5, packet.MalformedPacket},
		{"password without user name", "\x10\x11\x00\x04MQTT\x04\x42\x00\x00\x00\x02ab\x00\x01x", packet.V311, 0},
	} {
		c := dial(t, b, "tcp")
		c.v = test.v
		c.write([]byte(test.bytes))
		if test.code != 0 {
			if ack := expect[*packet.Connack](c); ack.Code != test.code {
				t.Errorf("%s: %v, want %v", test.name, ack.Code, test.code)
			}
		}
		c.closes()
	}
}

// Random bytes and mangled packets after a good CONNECT: no panic, everybody else undisturbed, nothing left behind.
func TestHostileBytes(t *testing.T) {
	t.Parallel()
	b := start(t, Options{tune: func(l *limits) { l.farewell = 20 * time.Millisecond }})
	witness, probe := connect(t, b, packet.V5, "witness"), connect(t, b, packet.V5, "probe")
	witness.subscribe("witness", 2)
	rnd := rand.New(rand.NewPCG(7, 7))
	var seeds [][]byte
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		full := outgoing("hostile/topic", "payload", 2, 5)
		full.Properties = packet.Properties{PayloadFormat: packet.Some(byte(1)), MessageExpiry: packet.Some(uint32(9)), ContentType: []byte("x"),
			CorrelationData: []byte("y"), TopicAlias: packet.Some(uint16(2)), User: []packet.UserProperty{{Key: []byte("k"), Value: []byte("v")}}}
		for _, p := range []packet.Packet{
			full, outgoing("$SYS/x", "", 1, 1), outgoing("hostile", "", 0, 0),
			&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("hostile/#"), QoS: 2}, {Filter: []byte("$share/g/hostile/+"), QoS: 1}}},
			&packet.Unsubscribe{ID: 2, Filters: [][]byte{[]byte("hostile/#")}},
			&packet.Ack{Kind: packet.PUBACK, ID: 1}, &packet.Ack{Kind: packet.PUBREC, ID: 1}, &packet.Ack{Kind: packet.PUBREL, ID: 5}, &packet.Ack{Kind: packet.PUBCOMP, ID: 1},
			&packet.Pingreq{}, &packet.Disconnect{Code: packet.DisconnectWithWill}, &packet.Connect{ClientID: []byte("x")},
		} {
			out, err := p.Append(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds, out)
		}
	}
	for round := range 400 {
		v := []packet.Version{packet.V311, packet.V5}[round%2]
		how := []choice{clean, withWill(aWill())}
		if round%7 == 0 {
			how = append(how, keep)
		}
		c := connect(t, b, v, fmt.Sprint("h", round%5), how...)
		var out []byte
		if round%3 == 0 {
			for range 1 + rnd.IntN(300) {
				out = append(out, byte(rnd.Uint32()))
			}
		} else {
			for range 1 + rnd.IntN(20) {
				p := append([]byte(nil), seeds[rnd.IntN(len(seeds))]...)
				if rnd.IntN(3) == 0 {
					p[rnd.IntN(len(p))] = byte(rnd.Uint32())
				}
				out = append(out, p...)
			}
		}
		_, _ = c.nc.Write(out)
		if round%2 == 0 {
			_ = c.nc.Close()
		}
		if round%20 == 0 {
			probe.publish("witness", "still here", 2)
			witness.gets("witness", "still here", 2)
			witness.nothing()
		}
	}
	for i := range 5 {
		c := connect(t, b, packet.V5, fmt.Sprint("h", i))
		c.leave(fmt.Sprint("h", i))
	}
	waitFor(t, "nothing to be left behind", func() bool {
		s := b.Stats()
		return s.Sessions == 2 && s.Connections == 2 && s.Subscriptions == 1
	})
}
